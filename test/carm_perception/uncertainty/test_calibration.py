# SPDX-License-Identifier: Apache-2.0
"""Radii hold as often as they say, answers err no more often than stated, and a calibration stays with its weights."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError, LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import LandmarkEstimate, Localizer, Protocol, Query
from carm_perception.datasets.calibration.patient_views import (
    FIRST_SEED,
    load_views,
    patient_names,
    prepare_views,
    views_folder,
)
from carm_perception.datasets.calibration.synthetic_negatives import strangers
from carm_perception.localizers.compact import CompactLocalizer
from carm_perception.localizers.fused import FusedLocalizer
from carm_perception.localizers.regression import RegressionLocalizer
from carm_perception.networks.loaded_model import LoadedModel
from carm_perception.networks.model_folder import COMPACT_FOLDER
from carm_perception.networks.preprocessing import FIELD_MM, MODEL_PX
from carm_perception.training.calibration import fit as fitting
from carm_perception.training.calibration.commands import report
from carm_perception.training.calibration.fit import check, fit
from carm_perception.training.calibration.samples import Samples
from carm_perception.uncertainty import abstention, calibration_file, conformal, out_of_distribution
from carm_perception.uncertainty.fusion import Fusion
from carm_perception.uncertainty.out_of_distribution import LIMIT, NO_BODY, Familiarity

PATIENTS, VIEWS = 50, 6


def samples(seed: int, patients: int = PATIENTS) -> Samples:
    """Answers whose errors follow the stated standard deviation, up to a factor; the patient's own factor varies."""
    rng = np.random.default_rng(seed)
    n = patients * VIEWS
    patient = np.repeat(np.arange(patients), VIEWS)
    truth = rng.uniform(-250, 250, (n, 48, 2))
    inside = (np.abs(truth) <= FIELD_MM / 2).all(-1)
    std = np.where(inside, rng.uniform(3, 9, (n, 48)), rng.uniform(15, 60, (n, 48)))
    factor = rng.lognormal(0, 0.1, patients)[patient][:, None, None]
    referee = truth + rng.normal(0, 1, (n, 48, 2)) * std[..., None] * factor
    speaker = truth + rng.normal(0, 1.5, (n, 48, 2)) * std[..., None] * factor
    presence = np.where(inside, rng.uniform(0.5, 0.9, (n, 48)), rng.uniform(0.0, 0.1, (n, 48)))
    listed = np.argsort(np.linalg.norm(speaker, axis=-1), axis=1)[:, :3] + 1
    return Samples(patient, truth, speaker, 1.5 * std, referee, std, inside, presence, listed, np.arange(n) % 2 == 0)


def no_body(seed: int, count: int = 40) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return rng.uniform(80, 400, (count, 48)), rng.uniform(0, 0.1, (count, 48))


def familiar() -> Familiarity:
    return Familiarity(np.zeros(100), np.zeros((2, 100)), np.ones(2))


def case(radius: float, thresholds: tuple[float, ...]) -> calibration_file.CaseCalibration:
    table = conformal.RadiusTable(0.0, np.tile([radius, 1.2 * radius, 1.4 * radius], (48, 1)))
    return calibration_file.CaseCalibration(table, thresholds)


def made(version: str, thresholds: tuple[float, ...] = (math.inf,) * 5) -> calibration_file.Calibration:
    one = calibration_file.LocalizerCalibration(
        (case(10.0, thresholds), case(40.0, thresholds), case(90.0, thresholds))
    )
    return calibration_file.Calibration(version, dict.fromkeys(("compact", "regression", "fused"), one), familiar())


@pytest.mark.parametrize(("count", "level", "rank"), [(9, 0.9, 9), (19, 0.9, 18), (99, 0.95, 95), (33, 0.97, 33)])
def test_quantile_is_corrected_for_the_finite_sample(count: int, level: float, rank: int) -> None:
    scores = np.arange(1.0, count + 1)
    assert conformal.conformal_quantile(np.random.default_rng(1).permutation(scores), level) == rank


def test_too_few_samples_give_no_radius() -> None:
    assert conformal.conformal_quantile(np.arange(8.0), 0.9) == math.inf
    assert conformal.conformal_quantile(np.array([]), 0.9) == math.inf


@settings(max_examples=10, deadline=None)
@given(st.integers(20, 60), st.sampled_from(conformal.LEVELS), st.integers(0, 2**32 - 1))
def test_coverage_of_exchangeable_scores(count: int, level: float, seed: int) -> None:
    """On average over calibration sets the coverage of a uniform score is its quantile: at least the level."""
    rng = np.random.default_rng(seed)
    sets = rng.random((800, count))
    found = np.array([min(1.0, conformal.conformal_quantile(row, level)) for row in sets])
    exact = min(1.0, math.ceil((count + 1) * level - 1e-9) / (count + 1))
    assert exact >= level
    assert found.mean() == pytest.approx(exact, abs=5 * found.std() / math.sqrt(len(sets)) + 1e-12)


def test_landmarks_with_few_samples_share_theirs() -> None:
    rng = np.random.default_rng(0)
    n = 4 * conformal.MINIMUM_SAMPLES
    error = np.abs(rng.normal(0, 1, (n, 48)))
    used = np.zeros((n, 48), bool)
    used[:, 0] = True
    used[: conformal.MINIMUM_SAMPLES // 2 + 1, 1:3] = True
    used[:5, 5:] = True
    used[:120, 13] = True
    table = conformal.fit_radii(error, np.ones((n, 48)), used)
    assert (table.factors[1] == table.factors[2]).all()
    assert (table.factors[3] == table.factors[4]).all()
    assert not (table.factors[0] == table.factors[1]).any()
    assert np.isfinite(table.factors).all()
    nothing = conformal.fit_radii(error, np.ones((n, 48)), np.zeros((n, 48), bool))
    assert np.isinf(nothing.factors).all()


def test_the_scale_that_gives_the_smallest_radii_is_kept() -> None:
    rng = np.random.default_rng(2)
    std = rng.uniform(2, 60, (800, 48))
    honest = np.abs(rng.normal(0, 1, std.shape)) * std
    everywhere = np.ones(std.shape, bool)
    assert conformal.fit_radii(honest, std, everywhere).power == 1.0
    assert conformal.fit_radii(np.abs(rng.normal(0, 20, std.shape)), std, everywhere).power == 0.0


def test_whole_calibration_holds_on_other_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "FOLDS", 2)
    monkeypatch.setattr(out_of_distribution, "FALSE_ABSTENTION", 0.05)  # fewer samples than a smaller part would need
    figures = check(samples(1, 120), {NO_BODY: no_body(1), "objects": no_body(2)}, {})
    for name in ("compact", "regression", "fused"):
        for which in ("all", "seen", "near", "far"):
            for level in (90, 95, 97):
                assert figures[name][which][f"coverage_{level}"] == pytest.approx(level / 100, abs=0.035), (name, which)
        assert figures[name]["seen"]["radius_90_mean_mm"] < figures[name]["far"]["radius_90_mean_mm"]
    fused, single = figures["fused"]["seen"], figures["regression"]["seen"]
    assert fused["error_mean_mm"] < single["error_mean_mm"]
    assert figures["strange_with_landmark"] < 0.06
    assert figures["strange_without_body"] > 0.95
    assert len(report(figures)) == 3 * len(figures["fused"]) + 1


@pytest.mark.parametrize("risk", [0.02, 0.05, 0.10])
def test_risk_is_kept_with_the_stated_confidence(risk: float) -> None:
    """Of many calibrations, about one in ten at most may exceed the risk."""
    rng = np.random.default_rng(3)
    exceeded = answered = 0.0
    runs = 30
    for _ in range(runs):
        score, patient = rng.random(3000), np.repeat(np.arange(300), 10)
        bad = rng.random(3000) < 0.4 * score**2
        limit = abstention.risk_threshold(score, bad, patient, risk)
        share = min(1.0, max(0.0, limit))
        exceeded += 0.4 * share**2 / 3 > risk
        answered += share
    assert exceeded / runs <= 0.25
    assert answered / runs > 0.7 * min(1.0, math.sqrt(3 * risk / 0.4))


def test_patients_whose_answers_fail_together_count_less() -> None:
    patient = np.repeat(np.arange(50), 20)
    together = np.isin(patient, [3, 7])
    alone = np.arange(1000) % 25 == 0
    assert together.mean() == alone.mean()
    assert abstention.design_effect(together, patient) > 10
    assert abstention.design_effect(alone, patient) < 2
    assert abstention.upper_bound(4, 100, effect=5.0) > abstention.upper_bound(4, 100)


def test_upper_bound_is_clopper_and_pearsons() -> None:
    assert abstention.upper_bound(0, 22, 0.9) == pytest.approx(1 - 0.1 ** (1 / 22))
    assert abstention.upper_bound(0, 0) == 1.0
    assert abstention.upper_bound(5, 5) == 1.0


def test_no_threshold_when_nothing_is_good_enough() -> None:
    patient = np.arange(400)
    assert abstention.risk_threshold(np.ones(400), np.ones(400, bool), patient, 0.1) == -math.inf
    assert abstention.risk_threshold(np.arange(400.0), np.zeros(400, bool), patient, 0.1) == math.inf
    assert abstention.risk_threshold(np.array([]), np.array([], bool), np.array([], int), 0.1) == -math.inf


def test_calibration_survives_the_disk(tmp_path: Path) -> None:
    before = fit(samples(5, 24), {NO_BODY: no_body(5)}, "abc")
    before.write(tmp_path)
    after = calibration_file.read_calibration(tmp_path)
    one = LandmarkEstimate(8, (30.0, -20.0), 7.0)
    for name, localizer in before.localizers.items():
        for seen in (True, False):
            ours, theirs = localizer.with_radii(one, seen), after.localizers[name].with_radii(one, seen)
            assert theirs.radius_90_mm == pytest.approx(ours.radius_90_mm, rel=1e-3)
            assert ours.radius_90_mm < ours.radius_95_mm < ours.radius_97_mm
            assert ours.std_mm == 7.0
    assert Fusion.from_dict(after.fusion) == Fusion.from_dict(before.fusion)
    std, presence = no_body(9)
    assert after.familiarity.scores(std, presence) == pytest.approx(before.familiarity.scores(std, presence), rel=1e-3)
    assert calibration_file.load_calibration(tmp_path, "abc") is not None


def test_calibration_of_other_weights_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made("abc").write(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert calibration_file.load_calibration(tmp_path, "def") is None
    assert "belongs to the weights abc, not def" in caplog.text
    assert calibration_file.load_calibration(tmp_path / "nowhere", "abc") is None


@pytest.mark.parametrize("change", ["{", "[]", '{"format": 99}', "drop"])
def test_damaged_calibration_is_refused_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    path = made("abc").write(tmp_path)
    content = json.loads(path.read_text())
    del content["localizers"]["fused"]["seen"]["radii"]["factors"][0]
    path.write_text(json.dumps(content) if change == "drop" else change)
    with pytest.raises(LocalizerError) as error:
        calibration_file.read_calibration(tmp_path)
    assert "\n" not in str(error.value)
    with caplog.at_level(logging.WARNING):
        assert calibration_file.load_calibration(tmp_path, "abc") is None
    assert "carm calibrate" in caplog.text


@pytest.mark.parametrize(("asked", "found"), [(0.01, 0.01), (0.03, 0.02), (0.2, 0.2), (1.0, 0.2)])
def test_a_risk_is_rounded_down(asked: float, found: float) -> None:
    assert calibration_file.tabulated_risk(asked) == found


@pytest.mark.parametrize("asked", [-0.1, 0.001, 1.5, math.nan])
def test_a_risk_without_a_threshold_is_refused(asked: float) -> None:
    with pytest.raises(ConfigurationError, match="maximum risk"):
        calibration_file.tabulated_risk(asked)


def test_families_of_strange_images_are_told_each_on_its_own() -> None:
    rng = np.random.default_rng(5)
    std, presence = rng.lognormal(2.0, 0.3, (600, 48)), rng.uniform(0.2, 0.9, (600, 48))
    vague = (rng.lognormal(5.0, 0.3, (80, 48)), presence[:80])
    absent = (std[:80], rng.uniform(0.0, 0.02, (80, 48)))
    families = {"vague": vague, "absent": absent}
    both = Familiarity.fit((std, presence), np.arange(600) // 10, np.ones(600, bool), families)
    for family in (vague, absent):
        assert (both.scores(*family) > LIMIT).mean() > 0.95
    assert (both.scores(std, presence) > LIMIT).mean() < 0.05
    one = Familiarity.fit((std, presence), np.arange(600) // 10, np.ones(600, bool), {"vague": vague})
    assert (one.scores(*absent) > LIMIT).mean() < 0.5


@pytest.mark.parametrize("thresholds", [None, [], [0.0], [1.0, 1.0]])
def test_damaged_statistics_of_familiar_images_are_refused(thresholds: list[float] | None) -> None:
    with pytest.raises(LocalizerError, match="familiar images"):
        Familiarity.from_dict({"mean": [0.0], "weights": [[1.0]], "thresholds": thresholds})


def test_strangers_are_the_same_each_time() -> None:
    images = strangers(3)
    assert images.shape[1:] == (MODEL_PX, MODEL_PX)
    assert (images == strangers(3)).all()
    assert (images != strangers(4)).any()


def test_calibration_patients_are_of_a_range_of_their_own() -> None:
    names = patient_names(3, 2)
    assert len(set(names)) == 5
    assert all(FIRST_SEED <= int(name.rpartition(":")[2].partition("?")[0]) < 900_000 for name in names)


def test_views_are_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = patient_names(1, 0)
    (path,) = prepare_views(names, 2, 1)
    views = load_views(path)
    assert views is not None
    assert views.images.std() > 10
    assert np.isfinite(views.displacement_mm).any()
    assert path.parent == views_folder(2)
    changed = path.stat().st_mtime_ns
    assert prepare_views(names, 2, 1) == [path]
    assert path.stat().st_mtime_ns == changed
    path.write_bytes(b"half a file")
    assert load_views(path) is None


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(COMPACT_FOLDER, folder, ignore=shutil.ignore_patterns(calibration_file.FILE))
    return LoadedModel(folder)


Kind = Callable[..., Localizer]


@pytest.mark.parametrize("kind", [CompactLocalizer, RegressionLocalizer, FusedLocalizer])
def test_localizers_use_the_calibration_of_their_folder(kind: Kind, loaded: LoadedModel) -> None:
    gray = np.random.default_rng(0).integers(60, 200, (128, 128)).astype(np.uint8)
    frame, query = XrayFrame(gray, FIELD_MM / MODEL_PX, 0.0), Query(Protocol.POINTING, 11)
    (loaded.folder / calibration_file.FILE).unlink(missing_ok=True)
    bare = kind(loaded).localize(frame, query)
    assert math.isnan(bare.estimates[0].radius_90_mm)
    calibration = made(loaded.version, (-math.inf, -math.inf, -math.inf, -math.inf, math.inf))
    calibration.write(loaded.folder)
    given = kind(loaded, maximum_risk=0.2).localize(frame, query).estimates[0]
    assert given.radius_90_mm in (10.0, 40.0, 90.0)
    assert given.radius_97_mm == pytest.approx(1.4 * given.radius_90_mm)
    refused = kind(loaded, maximum_risk=0.1).localize(frame, query)
    assert refused.abstained
    assert not refused.estimates
    assert "10 %" in refused.message
    never = kind(loaded, maximum_risk=0.0).localize(frame, query)
    assert never.ok
    with pytest.raises(ConfigurationError, match="maximum risk"):
        kind(loaded, maximum_risk=0.001)


@pytest.mark.parametrize("kind", [CompactLocalizer, RegressionLocalizer, FusedLocalizer])
@pytest.mark.parametrize("protocol", [Protocol.POINTING, Protocol.LOCALIZATION, Protocol.RETRIEVAL])
def test_strange_images_are_left_alone(kind: Kind, protocol: Protocol, loaded: LoadedModel) -> None:
    calibration = made(loaded.version)
    everything_is_strange = Familiarity(np.full(100, -100.0), np.ones((1, 100)), np.ones(1))
    calibration_file.Calibration(calibration.model_version, calibration.localizers, everything_is_strange).write(
        loaded.folder
    )
    frame = XrayFrame(np.full((128, 128), 90, np.uint8), FIELD_MM / MODEL_PX, 0.0)
    reply = kind(loaded).localize(frame, Query(protocol))
    assert reply.abstained
    assert "no X-ray image" in reply.message
    assert kind(loaded, maximum_risk=0.0).localize(frame, Query(protocol)).ok
