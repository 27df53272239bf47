# SPDX-License-Identifier: Apache-2.0
"""Suites, their cases and cache, questions, command and report."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carm_core.errors import CarmError, ConfigurationError, UnknownNameError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import LANDMARKS
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Protocol, Query
from carm_core.robot.kinematics import CArm
from carm_perception.evaluation import commands
from carm_perception.evaluation.metrics import closest
from carm_perception.evaluation.scoring.judge import KEPT, evaluate
from carm_perception.evaluation.scoring.records import ListRecord, PointRecord
from carm_perception.evaluation.suites import cache, known_ct, shifts
from carm_perception.evaluation.suites.cases import Case, patient_cases
from carm_perception.evaluation.suites.falsification import KINDS
from carm_perception.evaluation.suites.shifts import RolledCArm
from carm_perception.evaluation.suites.suites import (
    DEFAULT_SUITES,
    FOURTEEN,
    GROUPS,
    SHIFTS,
    SUITE_NAMES,
    Suite,
    resolve,
    suite,
)
from carm_perception.localizers.registry import LocalizerOptions
from carm_sim.patient.patient import Patient, make_patient
from carm_sim.patient.volume import Volume


def test_suites_are_as_large_as_promised() -> None:
    nominal = suite("phantom-nominal")
    assert len(set(nominal.patients)) >= 100
    assert nominal.views == sum(nominal.shares) >= 2000
    assert all(int(name.split(":")[1]) >= 900_000 for name in nominal.patients)
    assert set(SHIFTS) == set(shifts.SHIFTS) - {""}
    assert set(DEFAULT_SUITES) <= set(SUITE_NAMES)
    for name in SHIFTS:
        shifted = suite(f"phantom-shift-{name}")
        assert len(set(shifted.patients)) == len(shifted.patients)
        if name not in ("habitus", "arms"):
            assert shifted.patients == nominal.patients[: len(shifted.patients)]


def test_extreme_bodies_are_extreme() -> None:
    from carm_sim.phantom.body import plan_body

    plans = [plan_body(int(name.split(":")[1])) for name in suite("phantom-shift-habitus", 6).patients]
    assert plans[0].fatness < 0.1 < 0.8 < plans[1].fatness
    assert plans[2].frame_scale < 0.9 < 1.15 < plans[3].frame_scale
    poses = [plan_body(int(name.split(":")[1])).arms for name in suite("phantom-shift-arms", 6).patients]
    assert poses == ["along", "raised", "one_up"] * 2


def test_names_of_suites() -> None:
    assert resolve(["phantom", "phantom-nominal", "chest_ct"]) == ("phantom-nominal", "chest-ct")
    assert resolve(["all"]) == SUITE_NAMES
    assert len(resolve(["phantom-shift"])) == len(SHIFTS) == len(GROUPS["phantom-shift"])
    assert suite("phantom", 3).views == 60
    assert suite("phantom", 3, 7).shares == (3, 2, 2)
    assert suite("chest-ct", 5, 9).patients == ("chest_ct",)
    with pytest.raises(UnknownNameError) as caught:
        suite("phantom-shift-nose")
    assert caught.value.suggestion == "phantom-shift-noise"
    with pytest.raises(ConfigurationError, match="2 views for 3 patients"):
        suite("phantom", 3, 2)


def test_options_import_nothing_heavy() -> None:
    code = (
        "import sys, argparse, carm_perception.evaluation.commands as c;"
        "[add(argparse.ArgumentParser()) for add in"
        " (c.add_localize_arguments, c.add_published_arguments, c.add_correction_arguments)];"
        "print(sorted({'torch', 'numba', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def box_patient(name: str) -> Patient:
    """A box of water with a bead of bone at each of fourteen landmarks."""
    hu = np.full((60, 36, 90), -1000, np.int16)
    hu[4:56, 4:32, 2:88] = 20
    places = {m.id: np.array([12 + 12 * (n % 4), 18, 10 + 18 * (n // 4)]) for n, m in enumerate(LANDMARKS)}
    for i, j, k in places.values():
        hu[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] = 2500
    volume = Volume(hu, np.diag([6.0, 6.0, 6.0, 1.0]))
    marks = {key: volume.lps_from_voxel(place.astype(float)) for key, place in places.items()}
    return make_patient(name, volume, marks, "box")


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shifts, "load_patient", box_patient)
    monkeypatch.setattr(shifts, "_truncated", _truncated_box)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def _truncated_box(
    name: str, seed: int
) -> tuple[Patient, dict[int, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]]:
    del seed
    whole = box_patient(name)
    cut = Volume(whole.volume.hu[:, :, :60].copy(), whole.volume.transform_voxel_to_lps)
    inside = {key: p for key, p in whole.landmarks_mm.items() if bool(cut.contains(p))}
    patient = make_patient(name, cut, inside, "box")
    to_table = patient.transform_lps_to_table
    return patient, {key: np.asarray(to_table.apply(p)) for key, p in whole.landmarks_mm.items()}


def few(name: str) -> Suite:
    return replace(suite(name, 2, 4), patients=("phantom:900000", "phantom:900001"))


def brightest(case: Case, landmark_id: int) -> float:
    """Distance of the brightest (or darkest) spot near a landmark from where it should be, mm."""
    frame, scale = case.frame, case.frame.mm_per_px_at_isocenter
    rows, columns = np.indices(frame.image.shape)
    middle = (frame.image.shape[0] - 1) / 2
    right, up = (columns - middle) * scale, (middle - rows) * scale
    place = case.displacement_mm[landmark_id - 1]
    near = np.hypot(right - place[0], up - place[1]) < 16
    value = np.where(near, frame.image.astype(float), np.nan)
    bright = value >= np.nanpercentile(value, 90)
    return float(np.hypot(right[bright].mean() - place[0], up[bright].mean() - place[1]))


@pytest.mark.usefixtures("boxes")
def test_truth_is_where_the_image_shows_it() -> None:
    """Of each view, also of a turned and of a moved one: the bead of bone is at the true displacement."""
    for name in ("phantom-nominal", "phantom-shift-rotation", "phantom-shift-motion-blur", "phantom-shift-cropping"):
        for number in (0, 1):
            case = patient_cases(few(name), number, seed=5)[0]
            assert case.centered_on
            assert brightest(case, case.centered_on) < 4, name


@pytest.mark.usefixtures("boxes")
def test_shifts_change_what_they_say_and_nothing_else() -> None:
    nominal = [case for number in (0, 1) for case in patient_cases(few("phantom-nominal"), number, 0)]
    assert [bool(case.centered_on) for case in nominal] == [True, False, True, False]
    for name in ("noise", "low-dose", "motion-blur", "rotation", "inverted"):
        shifted = [c for number in (0, 1) for c in patient_cases(few(f"phantom-shift-{name}"), number, 0)]
        for one, other in zip(nominal, shifted, strict=True):
            assert one.centered_on == other.centered_on
            radii = [np.linalg.norm(case.displacement_mm, axis=1) for case in (one, other)]
            np.testing.assert_allclose(radii[0], radii[1], atol=1e-6)
            assert (one.frame.image != other.frame.image).mean() > 0.1
    turned = patient_cases(few("phantom-shift-rotation"), 0, 0)[0]
    angles = [np.arctan2(*case.displacement_mm[::-1].T) for case in (nominal[0], turned)]
    difference = np.degrees(np.angle(np.exp(1j * (angles[1] - angles[0]))))
    known = difference[np.isfinite(difference)]
    assert len(known) >= 3
    assert np.ptp(known) < 1e-6
    assert 10 <= abs(known[0]) <= 25
    inverted = patient_cases(few("phantom-shift-inverted"), 0, 0)[0]
    np.testing.assert_array_equal(inverted.frame.image, 255 - nominal[0].frame.image)
    collimated = patient_cases(few("phantom-shift-cropping"), 1, 0)[0]
    assert max(collimated.half_field_mm) < 0.9 * nominal[0].half_field_mm[0]
    assert len(collimated.in_view) <= len(nominal[2].in_view)


@pytest.mark.usefixtures("boxes")
def test_hardware_that_does_not_fit_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from carm_core.errors import PatientError

    def equip(patient: Patient, names: list[str]) -> Patient:
        if names[0].startswith(("tubes", "catheter", "ecg")):
            raise PatientError("does not fit")
        return replace(patient, name=f"{patient.name}+{names[0]}")

    monkeypatch.setattr(shifts, "equip", equip)
    for seed in range(5):
        placed = shifts.equipped(box_patient("p"), 4, np.random.default_rng(seed)).name.split("+")[1:]
        assert len({name.split(":")[0] for name in placed}) == 4


@pytest.mark.usefixtures("boxes")
def test_cases_come_from_the_cache_the_second_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = few("phantom-shift-rotation")
    first = list(cache.cases(chosen, 0))
    stale = cache.folder(chosen, 0)
    other = stale.with_name(stale.name[:-12] + "0" * 12)
    assert other.name.startswith("phantom-shift-rotation-seed0-v")

    def fail(*_: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(cache, "patient_cases", fail)
    for one, two in zip(first, cache.cases(chosen, 0), strict=True):
        np.testing.assert_array_equal(one.frame.image, two.frame.image)
        np.testing.assert_array_equal(one.displacement_mm, two.displacement_mm)
        assert (one.centered_on, one.half_field_mm, one.in_view) == (two.centered_on, two.half_field_mm, two.in_view)
        assert one.frame.view is not None
        assert two.frame.view is not None
        point = np.array([10.0, 20.0, 130.0])
        np.testing.assert_allclose(one.frame.view.pixel_raw(point), two.frame.view.pixel_raw(point))
    with pytest.raises(AssertionError, match="rendered again"):
        list(cache.cases(chosen, 1))


@pytest.mark.usefixtures("boxes")
def test_damaged_and_stale_files_are_replaced(caplog: pytest.LogCaptureFixture) -> None:
    chosen = few("phantom-nominal")
    folder = cache.folder(chosen, 0)
    stale = folder.with_name(folder.name[:-12] + "0" * 12)
    stale.mkdir(parents=True)
    first = list(cache.cases(chosen, 0))
    assert not stale.exists()
    for file in folder.glob("*.npz"):
        file.write_bytes(b"PK\x03\x04 half a file")
    again = list(cache.cases(chosen, 0))
    assert "unreadable cache file" in caplog.text
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.frame.image, two.frame.image)


def test_images_without_landmarks() -> None:
    carm = CArm.from_config()
    for kind in ("air", "photograph", "noise"):
        frames = KINDS[kind](0, 3, carm, 0)
        assert [f.image.shape for f in frames] == [(512, 512)] * 3
        assert all(f.image.dtype == np.uint8 for f in frames)
        np.testing.assert_array_equal(frames[1].image, KINDS[kind](0, 3, carm, 0)[1].image)
        assert (KINDS[kind](1, 3, carm, 0)[1].image != frames[1].image).any()
    assert KINDS["noise"](0, 3, carm, 0)[2].image.std() == 0

    for kind in ("objects", "table", "hand"):
        frames = KINDS[kind](0, 2, carm, 0)
        assert all(f.view is not None and f.image.std() > 5 for f in frames)
        assert (frames[0].image != frames[1].image).any()
    chosen = Suite("falsification", ("noise:0",), 2, "")
    for case in patient_cases(chosen, 0, 0):
        assert (case.kind, case.in_view, case.centered_on) == ("noise", (), 0)


def test_processes_render_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = Suite("falsification", ("noise:0", "noise:1"), 4, "")
    rendered: list[int] = []
    found = list(cache.cases(chosen, 0, workers=2, progress=rendered.append))
    assert rendered == [2, 2]
    assert len(list(cache.folder(chosen, 0).glob("*.npz"))) == 2
    expected = [case for number in (0, 1) for case in patient_cases(chosen, number, 0)]
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.frame.image, two.frame.image)
    assert list(cache.cases(chosen, 0, workers=2)) != []


def test_turned_arm_keeps_the_central_ray() -> None:
    carm = CArm.from_config()
    rolled = RolledCArm.of(carm, 0.3)
    plain, turned = carm.view(carm.home), rolled.view(carm.home)
    np.testing.assert_allclose(plain.isocenter_mm, turned.isocenter_mm)
    np.testing.assert_allclose(plain.forward, turned.forward)
    assert float(plain.right @ turned.right) == pytest.approx(np.cos(0.3))


class Scripted(Localizer):
    """Answers with the truth, shifted; abstains, fails or breaks the protocol where told."""

    name = "scripted"

    def __init__(self) -> None:
        self.case: Case | None = None
        self.shift_mm = 0.0
        self.way = "answers"
        self.asked: list[tuple[float, Protocol, int | None]] = []

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        assert self.case is not None
        assert self.case.frame is frame
        self.asked.append((frame.stamp_s, query.protocol, query.target_id))
        assert not query.correction
        assert not query.hint
        if self.way in ("malformed", "internal"):
            return Localization("scripted", "", query, "?", error=self.way, message="no")
        if self.way == "abstains":
            return Localization("scripted", "", query, "", abstained=True)
        order = closest(self.case.displacement_mm, 3)
        marks = {m.id: row for m, row in zip(LANDMARKS, np.nan_to_num(self.case.displacement_mm[:14]), strict=True)}
        ids = (query.target_id,) if query.protocol is Protocol.POINTING else order
        estimates = tuple(LandmarkEstimate(i, (marks[i][0] + self.shift_mm, marks[i][1]), std_mm=5.0) for i in ids if i)
        return Localization("scripted", "", query, "", estimates)


def made_up_cases(localizer: Scripted, chosen: Suite, seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    for index in range(chosen.views):
        marks = np.full((48, 2), np.nan)
        marks[:14] = rng.uniform(-200, 200, (14, 2))
        target = int(rng.integers(1, 15)) if index % 2 == 0 else 0
        if target:
            marks[target - 1] = rng.uniform(-10, 10, 2)
        frame = XrayFrame(rng.integers(0, 255, (64, 64), np.uint8), 2.4, float(index))
        kind = "noise" if chosen.name == "falsification" else ""
        localizer.case = Case("p", frame, marks * np.nan if kind else marks, target * (not kind), (76.8, 76.8), kind)
        yield localizer.case


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    localizer = Scripted()
    monkeypatch.setattr(cache, "cases", lambda chosen, seed, workers=1: made_up_cases(localizer, chosen, seed))
    return localizer


def test_right_answers_count_and_nothing_is_asked_twice(scripted: Scripted) -> None:
    scripted.shift_mm = 3.0
    chosen = suite("phantom", 2, 40)
    result = evaluate(scripted, chosen, 0, made_up_cases(scripted, chosen, 0))
    figures = result.figures()
    assert figures["n"] == 40
    assert figures["hit_1"] == figures["hit_2"] == figures["p_at_1"] == figures["p_at_3"] == figures["ap_at_3"] == 1
    assert figures["mirror_swap"] == figures["malformed"] == figures["abstained"] == figures["failed"] == 0
    assert figures["error_mean_mm"] == figures["error_p95_mm"] == 3
    assert figures["coverage_90"] == 1
    assert len(set(scripted.asked)) == len(scripted.asked) == figures["questions"]
    pointed = [r for r in result.records if isinstance(r, PointRecord)]
    assert sum(r.centered for r in pointed) == 20
    assert sum(w.protocol is Protocol.POINTING for w in result.worst) == KEPT
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize(
    ("way", "figure"), [("malformed", "malformed"), ("abstains", "abstained"), ("internal", "failed")]
)
def test_no_answer_counts_as_a_miss(scripted: Scripted, way: str, figure: str) -> None:
    scripted.way = way
    chosen = suite("phantom", 2, 10)
    figures = evaluate(scripted, chosen, 0, made_up_cases(scripted, chosen, 0)).figures()
    assert figures["hit_2"] == figures["p_at_1"] == 0
    assert figures[figure] == 1
    assert figures["error_mean_mm"] is None
    json.dumps(figures, allow_nan=False)


def parse(add: Callable[[argparse.ArgumentParser], None], text: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add(parser)
    return parser.parse_args(text.split())


def test_command_writes_figures_and_a_page(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("carm_perception.localizers.registry.make_localizer", lambda name, options: scripted)
    scripted.shift_mm = 40.0
    file = tmp_path / "figures.json"
    options = f"--suite phantom --suite validation --suite falsification --views 28 --patients 2 --seed 3 --json {file}"
    options += f" --report {tmp_path / 'report'} --localizer compact --localizer regression"
    assert commands.run_localize(parse(commands.add_localize_arguments, options)) == 0
    document = json.loads(file.read_text(encoding="utf-8"))
    assert {"command", "seed", "commit", "versions", "machine", "results"} <= set(document)
    assert len(document["results"]) == 6
    figures = document["results"]["compact/phantom-nominal"]
    wanted = (
        "n hit_1 hit_2 p_at_1 p_at_3 error_mean_mm error_p95_mm mirror_swap malformed abstained coverage_90"
        " coverage_95 latency_p50_ms latency_p99_ms per_landmark"
    )
    assert set(wanted.split()) <= set(figures)
    assert document["results"]["regression/falsification"]["false_answers"] == 1
    assert document["results"]["compact/validation"]["to_nominal"]["hit_2"] == 0
    assert "to_nominal" not in figures
    assert "hit_2 1.000" in capsys.readouterr().out
    page = (tmp_path / "report" / "localize.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2 + 4 * 3 + 2
    assert "Difference to the nominal suite" in page
    assert "http" not in page
    assert all(f"<td>{mark.name}</td>" in page for mark in LANDMARKS)


def test_the_worst_of_images_without_landmarks_are_of_all_kinds(scripted: Scripted) -> None:
    frame = XrayFrame(np.zeros((64, 64), np.uint8), 2.4, 0.0)
    nothing = np.full((48, 2), np.nan)
    made = [Case("x", frame, nothing, 0, (76.8, 76.8), kind) for kind in KINDS for _ in range(30)]

    def one_by_one() -> Iterator[Case]:
        for scripted.case in made:
            yield scripted.case

    result = evaluate(scripted, suite("falsification"), 0, one_by_one())
    assert {worst.case.kind for worst in result.worst} == set(KINDS)
    assert len(result.worst) == KEPT


def test_a_ct_with_few_landmarks(scripted: Scripted) -> None:
    marks = np.full((48, 2), np.nan)
    marks[[9, 10]] = [[5.0, 60.0], [1.0, 0.0]]
    frame = XrayFrame(np.zeros((64, 64), np.uint8), 2.4, 0.0)
    scripted.case = Case("p", frame, marks, 11, (76.8, 76.8))
    result = evaluate(scripted, suite("chest-ct", 1, 1), 0, [scripted.case])
    first = result.records[0]
    assert isinstance(first, ListRecord)
    assert first.truth_ids == (11, 10)
    assert len(first.unknown_ids) == 12
    assert [r.target for r in result.records if isinstance(r, PointRecord)] == [10, 11]


def test_commands_refuse_bad_input_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        parse(commands.add_localize_arguments, f"--json {tmp_path}/nowhere/a.json")
    with pytest.raises(CarmError, match="did you mean 'compact'"):
        commands.run_localize(parse(commands.add_localize_arguments, "--localizer compcat"))
    with pytest.raises(CarmError, match="did you mean 'chest"):
        commands.run_localize(parse(commands.add_localize_arguments, "--suite chest"))
    with pytest.raises(SystemExit):
        parse(commands.add_correction_arguments, "--cases 0")
    with pytest.raises(SystemExit):
        parse(commands.add_localize_arguments, "--maximum-std -1")
    with pytest.raises(SystemExit):
        parse(commands.add_localize_arguments, "--maximum-risk 1")


def test_the_cts_of_a_lab(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[str, object]] = []

    def make(name: str, options: LocalizerOptions) -> Localizer:
        told.append((name, options.ct))
        return scripted

    monkeypatch.setattr("carm_perception.localizers.registry.make_localizer", make)
    monkeypatch.setattr(known_ct, "with_landmarks", lambda path: box_patient(Path(path).name))
    monkeypatch.setattr("carm_sim.patient_loader.load_patient", lambda path: box_patient(Path(path).name))
    file = tmp_path / "figures.json"
    words = f"--ct a/ct --ct b/ct --ct b/other --views 4 --json {file} --localizer registered --localizer fused"
    assert commands.run_localize(parse(commands.add_localize_arguments, words)) == 0
    results = json.loads(file.read_text(encoding="utf-8"))["results"]
    names = ["a/ct", "b/ct", "other"]
    assert list(results) == [f"{who}/{name}" for who in ("registered", "fused") for name in names]
    assert results["registered/other"]["n"] == 4
    assert [(name, bool(ct)) for name, ct in told] == [("registered", True)] * 3 + [("fused", False)]
    told.clear()
    words = "--ct b/other --views 4 --localizer fused --ct-known"
    assert commands.run_localize(parse(commands.add_localize_arguments, words)) == 0
    ((_, ct),) = told
    assert isinstance(ct, Patient)
    assert ct.volume.shape != box_patient("other").volume.shape
    assert "fused/other" in capsys.readouterr().out


def test_images_of_another_ct_of_the_same_name_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(shift_mm: float) -> Patient:
        box = box_patient("ct")
        return replace(box, landmarks_mm={key: point + shift_mm for key, point in box.landmarks_mm.items()})

    folders = []
    for shift_mm in (0.0, 0.0, 3.0):
        monkeypatch.setattr(known_ct, "with_landmarks", lambda path, by=shift_mm: at(by))
        (chosen,) = known_ct.ct_suites(["ct.nii.gz"])
        assert (chosen.name, chosen.views, chosen.inside_fraction) == ("ct", 400, 0.8)
        folders.append(cache.folder(chosen, 0))
    assert folders[0] == folders[1] != folders[2]


def test_a_ct_is_asked_for_all_landmarks_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    box = box_patient("ct")
    lumbar = replace(box, landmarks_mm={}, extra_landmarks_mm={119: next(iter(box.landmarks_mm.values()))})
    monkeypatch.setattr("carm_sim.patient_loader.load_patient", lambda path: lumbar)
    (chosen,) = known_ct.ct_suites(["ct.nii.gz"], views=4)
    assert chosen.ids == (*FOURTEEN, 119)
    monkeypatch.setattr("carm_perception.evaluation.suites.shifts.load_patient", lambda path: lumbar)
    shown = patient_cases(chosen, 0, 0)
    assert [case.centered_on for case in shown] == [119, 0, 119, 0]
    (fourteen,) = known_ct.ct_suites(["ct.nii.gz"], views=4, fourteen=True)
    assert fourteen.ids == FOURTEEN
    assert cache.folder(fourteen, 0) != cache.folder(chosen, 0)
    assert known_ct.another_scan(lumbar, 0).imaged_landmarks_mm.keys() == {119}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--localizer registered", "needs the patient's CT: --ct PATH"),
        ("--localizer registered --ct chest_ct --suite phantom", "without --suite"),
        ("--ct-known", "needs the CT: --ct PATH"),
        ("--ct chest_ct --ct-known --localizer compact", "compact takes no CT"),
        ("--ct nowhere/ct.nii.gz", "no such file"),
    ],
)
def test_cts_that_nobody_can_use_are_one_line(words: str, line: str) -> None:
    with pytest.raises(CarmError, match=line):
        commands.run_localize(parse(commands.add_localize_arguments, words))


def test_correction_command(scripted: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("carm_perception.localizers.registry.make_localizer", lambda name, options: scripted)
    file = tmp_path / "correction.json"
    options = f"--views 8 --patients 2 --json {file}"
    assert commands.run_correction(parse(commands.add_correction_arguments, options)) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))["results"]["compact/phantom-nominal"]
    assert (figures["asked"], figures["wrong"], figures["fixed_told"]) == (4, 0, None)
