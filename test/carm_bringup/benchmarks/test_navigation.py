# SPDX-License-Identifier: Apache-2.0
"""`carm bench nav` on the chest CT with localizers that know, or do not."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from carm_bringup.benchmarks.navigation import command as bench_nav
from carm_bringup.benchmarks.navigation import suites as nav_suites
from carm_bringup.benchmarks.navigation import varied_body
from carm_bringup.benchmarks.navigation.episode import (
    Outcome,
    Room,
    SimulatedArm,
    SimulatedClock,
    draw_episodes,
    exceeds_limits,
)
from carm_bringup.benchmarks.navigation.report import metrics
from carm_bringup.benchmarks.registration.conditions import breathed, breathed_landmarks
from carm_core.errors import CarmError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Query
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory
from carm_perception.evaluation.scoring.figures import wilson_interval
from carm_perception.localizers.registry import LocalizerOptions
from carm_perception.registration.model import averaged
from carm_sim.patient.patient import Patient
from carm_sim.patient_loader import load_patient

CONTRACT = {
    "episodes", "success_5mm", "success_10mm", "success_20mm", "success_30mm", "false_success", "exposures_median",
    "dap_median", "path_median_m", "time_median_s", "collisions", "limit_violations", "aborted", "per_landmark",
}  # fmt: skip


class Knowing(Localizer):
    """Knows the truth, or a truth that is beside it by a fixed distance."""

    name = "knowing"

    def __init__(self, patient: Patient, beside_mm: float = 0.0) -> None:
        self.points = patient.landmarks_table_mm
        self.beside_mm = beside_mm

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        assert frame.view is not None
        assert query.target_id is not None
        x, y = frame.view.displacement_mm(self.points[query.target_id])
        estimate = LandmarkEstimate(query.target_id, (float(x) + self.beside_mm, float(y)), 4.0, 8.0, 0.9)
        return Localization("knowing", "", query, "", (estimate,), 0.01)


@pytest.fixture(scope="module")
def patient() -> Patient:
    return load_patient("chest_ct")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, patient: Patient) -> Callable[..., int]:
    def run(*words: str, beside_mm: float = 0.0) -> int:
        monkeypatch.setattr(bench_nav, "make_localizer", lambda *_: Knowing(patient, beside_mm))
        parser = argparse.ArgumentParser()
        bench_nav.add_arguments(parser)
        return bench_nav.run(parser.parse_args(["--suite", "chest_ct", *words]))

    return run


def test_who_knows_arrives(bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, plot = tmp_path / "nav.json", tmp_path / "nav.png"
    assert bench("--episodes", "4", "--json", str(file), "--plot", str(plot)) == 0
    document = json.loads(file.read_text(encoding="utf-8"))
    found = document["results"]["chest_ct"]
    assert set(found) >= CONTRACT
    assert set(document) >= {"command", "seed", "commit", "versions", "machine", "results"}
    assert found["episodes"] == 4
    assert found["success_20mm"] == 1.0
    assert found["false_success"] == found["aborted"] == 0.0
    assert found["limit_violations"] == 0
    assert 2 <= found["exposures_median"] <= 4
    assert found["dap_median"] > 0.0
    assert plot.stat().st_size > 10_000
    assert "success within 20 mm" in capsys.readouterr().out


def test_same_seed_same_figures(bench: Callable[..., int], tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        bench("--episodes", "2", "--seed", str(seed), "--json", str(tmp_path / name))
        results.append(json.loads((tmp_path / name).read_text(encoding="utf-8"))["episodes"])
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_workers_make_the_same_figures(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    bench_nav.add_arguments(parser)
    results = []
    for workers in ("1", "2"):
        file = tmp_path / f"nav{workers}.json"
        words = ["--suite", "phantoms", "--patients", "2", "--episodes", "2", "--localizer", "oracle"]
        assert bench_nav.run(parser.parse_args([*words, "--workers", workers, "--json", str(file)])) == 0
        results.append(json.loads(file.read_text(encoding="utf-8"))["episodes"])
    assert results[0] == results[1]
    assert len(results[0]["phantoms"]) == 2


def test_a_confident_error_is_counted_as_false_success(bench: Callable[..., int], tmp_path: Path) -> None:
    bench("--episodes", "2", "--json", str(tmp_path / "nav.json"), beside_mm=50.0)
    found = json.loads((tmp_path / "nav.json").read_text(encoding="utf-8"))["results"]["chest_ct"]
    assert found["false_success"] == 1.0
    assert found["success_30mm"] == 0.0


def test_trace_shows_each_decision(bench: Callable[..., int], tmp_path: Path) -> None:
    bench("--episodes", "1", "--trace", str(tmp_path / "trace"))
    pictures = sorted((tmp_path / "trace").glob("*.png"))
    assert len(pictures) >= 2
    with Image.open(next((tmp_path / "trace").glob("*.gif"))) as film:
        assert film.n_frames == len(pictures)  # type: ignore[attr-defined]


def test_bad_output_is_refused_before_anything_runs(bench: Callable[..., int], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        bench("--json", str(tmp_path / "missing" / "nav.json"))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        bench("--trace", str(tmp_path / "file" / "trace"))


@pytest.mark.parametrize("words", [["--episodes", "0"], ["--patients", "x"], ["--suite", "moon"]])
def test_bad_options_end_with_code_2(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    bench_nav.add_arguments(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(words)
    assert caught.value.code == 2


def test_policies_run_on_the_same_episodes(bench: Callable[..., int], tmp_path: Path) -> None:
    file, policies = tmp_path / "nav.json", ("pointing", "coarse", "operator", "xml")
    words = [word for policy in policies for word in ("--policy", policy)]
    bench("--episodes", "3", *words, "--json", str(file), "--report", str(tmp_path))
    document = json.loads(file.read_text(encoding="utf-8"))
    assert list(document["results"]) == [f"chest_ct/{policy}" for policy in policies]
    drawn = [[(e["target"], e["start_distance_mm"]) for e in own] for own in document["episodes"].values()]
    assert all(own == drawn[0] for own in drawn)
    assert document["results"]["chest_ct/pointing"]["success_20mm"] == 1.0
    page = (tmp_path / "nav.html").read_text(encoding="utf-8")
    assert all(f"chest_ct/{policy}" in page for policy in policies)
    assert "data:image/png;base64," in page
    exposures = [document["results"][f"chest_ct/{policy}"]["exposures_median"] for policy in policies]
    assert exposures[2] > exposures[0]  # the operator's trial and error needs more


def test_biplane_keeps_the_target_centered_under_rotation(bench: Callable[..., int], tmp_path: Path) -> None:
    file = tmp_path / "nav.json"
    assert bench("--episodes", "2", "--policy", "default", "--policy", "biplane", "--json", str(file)) == 0
    plain, biplane = json.loads(file.read_text(encoding="utf-8"))["results"].values()
    assert biplane["success_20mm"] == 1.0
    assert biplane["turned_median_mm"] < min(10.0, plain["turned_median_mm"])


@given(st.integers(0, 10_000))
def test_starts_are_where_their_suite_says(seed: int) -> None:
    carm = CArm.from_config()
    points = {i: np.array([300 - 60.0 * i, 40.0 * (-1) ** i, 110.0]) for i in range(1, 15)}
    generator = np.random.default_rng(seed)
    lateral = nav_suites.suite("lateral-start").starts.draw(points, 11, carm, generator)
    if lateral is not None:
        assert 60.0 <= abs(np.degrees(carm.angles(lateral)[0])) <= 90.0
    far = nav_suites.suite("cross-body").starts.draw(points, 1, carm, generator)
    if far is not None:
        assert np.linalg.norm(1000 * carm.isocenter(far)[:2] - points[1][:2]) > 100.0


def test_a_shift_reaches_the_images() -> None:
    carm = CArm.from_config()
    views = []
    for name in ("", "inverted", "rotation"):
        room = Room.shifted("phantom:950000", 0, name, carm, 0)
        clock = SimulatedClock()
        frame = room.imager(SimulatedArm(carm, clock, carm.home), clock, 3).expose().frame
        views.append((frame.image.astype(float), frame.view))
    plain, inverted, rotated = (image for image, _ in views)
    assert abs(np.corrcoef(plain.ravel(), inverted.ravel())[0, 1] + 1) < 0.02
    assert np.corrcoef(plain.ravel(), rotated.ravel())[0, 1] < 0.98
    assert views[2][1] is not None
    turn = views[0][1].rotation.T @ views[2][1].rotation  # type: ignore[union-attr]
    assert 10.0 <= np.degrees(np.arccos((np.trace(turn) - 1) / 2)) <= 25.0


def test_all_targets_have_their_turn(patient: Patient) -> None:
    carm = CArm.from_config()
    episodes = draw_episodes(Room.of(patient, carm), len(patient.landmarks_mm), np.random.default_rng(1))
    assert {episode.target_id for episode in episodes} == set(patient.landmarks_mm)
    for episode in episodes:
        carm.check(episode.start)


def test_limit_violations_are_seen() -> None:
    carm = CArm.from_config()
    times = np.array([0.0, 1.0])
    fast = np.array([carm.home, carm.home + 0.3 * np.eye(6)[0]])
    still = np.zeros_like(fast)
    assert exceeds_limits(carm, Trajectory(carm.joint_names, times, fast, still, still))
    assert not exceeds_limits(carm, Trajectory(carm.joint_names, times * 20.0, fast, still, still))
    slow = np.array([carm.home, carm.home + 0.05 * np.eye(6)[0]])
    assert not exceeds_limits(carm, Trajectory(carm.joint_names, times * 3.0, slow, still, still))
    assert exceeds_limits(carm, Trajectory(carm.joint_names, times * 3.0, slow, still)), "starts with a jolt"


@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_interval_holds_the_rate(successes: int, trials: int) -> None:
    if successes > trials:
        successes, trials = trials, successes
    low, high = wilson_interval(successes, trials)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    if 0 < successes < trials:
        assert low < successes / trials < high


def test_wilson_interval_of_a_known_case() -> None:
    """10 of 10: lower bound n / (n + z^2)."""
    low, high = wilson_interval(10, 10)
    assert low == pytest.approx(10 / (10 + 1.959964**2))
    assert high == pytest.approx(1.0)


def test_no_episodes_have_no_figures() -> None:
    nothing: list[Outcome] = []
    assert metrics(nothing)["success_20mm"] is None


class Forgetful(Knowing):
    """Counts how often it is told that another task begins."""

    forgotten = 0

    def forget(self) -> None:
        Forgetful.forgotten += 1


def test_a_ct_that_is_known_and_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch, patient: Patient, tmp_path: Path
) -> None:
    told: list[object] = []
    bodies: list[tuple[str, int, int]] = []

    def make(name: str, _: str, seed: int, options: LocalizerOptions) -> Localizer:
        told.append(options.ct)
        return Forgetful(patient)

    def body(*which: Any) -> Patient:
        bodies.append(which)
        return patient

    monkeypatch.setattr(bench_nav, "make_localizer", make)
    monkeypatch.setattr(varied_body, "varied_body", body)
    monkeypatch.setattr(varied_body, "EPISODES", 2)
    monkeypatch.setattr(Forgetful, "forgotten", 0)
    parser = argparse.ArgumentParser()
    bench_nav.add_arguments(parser)
    file = tmp_path / "nav.json"
    words = ["--ct", "chest_ct", "--episodes", "3", "--json", str(file)]
    assert bench_nav.run(parser.parse_args(words)) == 0
    document = json.loads(file.read_text(encoding="utf-8"))
    assert list(document["results"]) == ["chest_ct/default", "chest_ct/registered"]
    assert "--ct chest_ct" in document["command"]
    assert document["results"]["chest_ct/registered"]["success_5mm"] <= 1.0
    nothing, ct = told
    assert nothing == ""
    assert isinstance(ct, Patient)
    assert ct.volume.shape[0] == patient.volume.shape[0] // 2
    assert bodies == [("chest_ct", 0, 0), ("chest_ct", 1, 0)] * 2
    assert Forgetful.forgotten == 6


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--suite", "upper-body", "--ct", "chest_ct"], "of suite upper-body it would be"),
        (["--suite", "chest-ct", "--policy", "registered"], "needs the patient's CT: --ct PATH"),
        (["--suite", "chest-ct", "--ct", "chest_ct", "--policy", "oracle"], "not of the body that breathes"),
        (["--suite", "chest-ct", "--ct", "chest_ct", "--localizer", "compact"], "compact takes no CT"),
        (["--suite", "chest-ct", "--localizer", "registered"], "--policy registered --ct PATH"),
        (["--ct", "nowhere/ct.nii.gz"], "no such file"),
    ],
)
def test_cts_that_nobody_can_use_are_one_line(words: list[str], line: str) -> None:
    parser = argparse.ArgumentParser()
    bench_nav.add_arguments(parser)
    with pytest.raises(CarmError, match=line):
        bench_nav.run(parser.parse_args(words))


def test_a_varied_body_breathes_carries_devices_and_lies_elsewhere(
    monkeypatch: pytest.MonkeyPatch, patient: Patient
) -> None:
    coarse = replace(patient, volume=averaged(patient.volume, 6.0))
    monkeypatch.setattr(varied_body, "load_patient", lambda _: coarse)
    varied_body.breathing.cache_clear()
    one, again, two = (varied_body.varied_body("coarse", number, 0) for number in (0, 0, 1))
    varied_body.breathing.cache_clear()
    assert len(one.devices) or (one.volume.hu != coarse.volume.hu).any()
    moved = {key: one.landmarks_mm[key] - point for key, point in patient.landmarks_mm.items()}
    assert moved[12][2] == pytest.approx(-14.0, abs=1.0)
    assert np.allclose(moved[14], 0.0)
    for key in (12, 14):
        np.testing.assert_array_equal(one.landmarks_table_mm[key], again.landmarks_table_mm[key])
        assert np.linalg.norm(one.landmarks_table_mm[key] - two.landmarks_table_mm[key]) > 3.0


def test_landmarks_move_with_what_they_are_in(patient: Patient) -> None:
    coarse = replace(patient, volume=averaged(patient.volume, 3.0))
    hu = np.where(coarse.volume.hu > -400, 0, -1000).astype(np.int16)
    at = np.round(coarse.volume.voxel_from_lps(coarse.landmarks_mm[12])).astype(int)
    hu[tuple(slice(i - 1, i + 2) for i in at)] = 3000
    bead = replace(coarse, volume=replace(coarse.volume, hu=hu))
    bead = replace(bead, landmarks_mm={**coarse.landmarks_mm, 12: coarse.volume.lps_from_voxel(at.astype(float))})
    shown = breathed(bead)
    weights = np.clip(shown.hu.astype(float) - 300, 0, None)
    center = np.array([(weights * axis).sum() for axis in np.indices(shown.shape)]) / weights.sum()
    found = breathed_landmarks(bead)[12]
    np.testing.assert_allclose(shown.lps_from_voxel(center), found, atol=1.5)
