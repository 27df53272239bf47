# SPDX-License-Identifier: Apache-2.0
"""Views by name, positions by name, and landmarks in depth from two views."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_agent.planning.saved_positions import BEFORE, PositionMemory, PositionNameError, PositionStorageError
from carm_agent.planning.standard_views import STANDARD_VIEWS, described, find_view
from carm_core.errors import ConfigurationError, GoalError, UnknownNameError
from carm_core.imaging.triangulation import MIN_ANGLE_DEG, Sighting, triangulate
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()


@pytest.mark.parametrize(
    ("text", "angles"),
    [
        ("spider", (45, -25)),
        ("the spider view, please", (45, -25)),
        ("AP", (0, 0)),
        ("lateral", (90, 0)),
        ("LAO 30", (30, 0)),
        ("RAO 30 CRAN 20", (-30, 20)),
        ("30° LAO / 20 degrees caudal", (30, -20)),
        ("rao30/cra20", (-30, 20)),
        ("CAUD 12.5", (0, -12.5)),
        ("pelvic inlet", (0, 30)),
        ("Outlet", (0, -40)),
    ],
)
def test_views_are_found(text: str, angles: tuple[float, float]) -> None:
    view = find_view(text)
    assert (view.primary_deg, view.secondary_deg) == angles


def test_names_are_unique_and_lead_back() -> None:
    names = [name for view in STANDARD_VIEWS for name in (view.name.lower(), *view.synonyms)]
    assert len(set(names)) == len(names)
    assert all(find_view(view.name) is view for view in STANDARD_VIEWS)


@given(st.floats(-180, 180), st.floats(-89, 89))
def test_described_angles_are_found_again(primary: float, secondary: float) -> None:
    view = find_view(described(primary, secondary))
    assert (view.primary_deg, view.secondary_deg) == pytest.approx((primary, secondary), abs=0.0501)


@pytest.mark.parametrize("text", ["", "spyder-ish nonsense", "carina", "stop", "30", "LAO"])
def test_what_is_no_view_is_said_so(text: str) -> None:
    if text == "LAO":
        assert find_view(text).primary_deg == 45
        return
    with pytest.raises(UnknownNameError):
        find_view(text)


def test_near_misses_are_suggested_and_contradictions_refused() -> None:
    with pytest.raises(UnknownNameError, match="spider"):
        find_view("spyder")
    with pytest.raises(GoalError, match="twice"):
        find_view("LAO 30 RAO 20")
    with pytest.raises(GoalError, match="beyond"):
        find_view("LAO 500")


def test_positions_survive_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "positions.json"
    memory = PositionMemory(CARM, file)
    assert memory.names == []
    memory.save("Hip  joint", CARM.home)
    memory.note_before(CARM.home + 0.01)
    again = PositionMemory(CARM, file)
    assert again.names == ["hip joint"]
    assert again.recall("HIP JOINT") == pytest.approx(CARM.home)
    assert again.recall(BEFORE) == pytest.approx(CARM.home + 0.01)
    again.forget("hip joint")
    assert PositionMemory(CARM, file).names == []
    with pytest.raises(UnknownNameError):
        again.recall("hip joint")


@pytest.mark.parametrize("name", ["", "   ", "x" * 100, "before", "AP", "spider", "LAO 30", "a\x00b", "LAO 999"])
def test_names_that_mean_something_else_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PositionNameError):
        PositionMemory(CARM, tmp_path / "p.json").save(name, CARM.home)


def test_home_is_the_arms_unless_it_was_saved_before_that_name_was_taken(tmp_path: Path) -> None:
    file = tmp_path / "positions.json"
    np.testing.assert_array_equal(PositionMemory(CARM, file).recall("Home"), CARM.home)
    own = {"version": 1, "joints": list(CARM.joint_names), "positions": {"home": [0.1] * 6}}
    file.write_text(json.dumps(own), encoding="utf-8")
    memory = PositionMemory(CARM, file)
    np.testing.assert_array_equal(memory.recall("home"), [0.1] * 6)
    assert memory.names == ["home"]


def test_recall_suggests_the_nearest_name(tmp_path: Path) -> None:
    memory = PositionMemory(CARM, tmp_path / "p.json")
    memory.save("left hip", CARM.home)
    with pytest.raises(UnknownNameError, match="left hip"):
        memory.recall("left hipp")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"joints": ["a"], "positions": {}}', '{"positions": {}}', "null", '{"joints": 3}']
)
def test_broken_file_is_named_and_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "p.json"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match="p.json"):
        PositionMemory(CARM, file)
    assert file.read_text() == content


def test_unwritable_file_saves_nothing_but_does_not_keep_the_arm_from_moving(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    memory = PositionMemory(CARM, tmp_path / "p.json")
    memory._file = blocker / "positions.json"
    with pytest.raises(PositionStorageError):
        memory.save("here", CARM.home)
    assert memory.names == []
    memory.note_before(CARM.home)
    assert memory.recall(BEFORE) == pytest.approx(CARM.home)


def test_a_full_memory_does_not_keep_the_arm_from_moving(tmp_path: Path) -> None:
    memory = PositionMemory(CARM, tmp_path / "p.json")
    memory._positions = {f"place {number}": CARM.home.tolist() for number in range(200)}
    with pytest.raises(PositionNameError, match="200"):
        memory.save("one more", CARM.home)
    memory.note_before(CARM.home)
    assert memory.recall(BEFORE) == pytest.approx(CARM.home)


def sighting(point: np.ndarray, primary_deg: float, secondary_deg: float, noise: np.ndarray, std: float) -> Sighting:
    view = CARM.view(CARM.inverse((0.1, 0.0, 0.13), *np.radians([primary_deg, secondary_deg]))[0])
    x, y = view.displacement_mm(point) + noise
    return Sighting(view, (float(x), float(y)), std)


points = st.tuples(st.floats(40, 160), st.floats(-60, 60), st.floats(60, 200)).map(np.array)


@settings(max_examples=30)
@given(points)
def test_exact_views_give_the_exact_point(point: np.ndarray) -> None:
    nothing = np.zeros(2)
    views = [sighting(point, 0, 0, nothing, 5.0), sighting(point, 40, 0, nothing, 5.0)]
    found = triangulate(views)
    assert found.point_mm == pytest.approx(point, abs=1e-6)
    assert found.miss_mm == pytest.approx(0.0, abs=1e-6)


def test_covariance_is_that_of_the_errors() -> None:
    generator, std = np.random.default_rng(0), 4.0
    point = np.array([90.0, 30.0, 150.0])
    errors, surprises = [], []
    for _ in range(600):
        noise = generator.normal(0.0, std, (2, 2))
        try:
            found = triangulate([sighting(point, -10, 5, noise[0], std), sighting(point, 35, -5, noise[1], std)])
        except GoalError:
            continue
        error = found.point_mm - point
        errors.append(error)
        surprises.append(error @ np.linalg.solve(found.covariance_mm2, error))
    assert len(errors) > 590
    assert np.linalg.norm(np.mean(errors, axis=0)) < 1.0
    assert np.mean(surprises) == pytest.approx(3.0, abs=0.35)


def test_a_third_view_helps_and_depth_is_the_least_certain() -> None:
    point, nothing = np.array([100.0, 0.0, 180.0]), np.zeros(2)
    two = [sighting(point, angle, 0, nothing, 5.0) for angle in (-16, 16)]
    three = [*two, sighting(point, 50, 0, nothing, 5.0)]
    assert triangulate(three).std_mm < triangulate(two).std_mm
    worst = np.linalg.eigh(triangulate(two).covariance_mm2)[1][:, -1]
    assert abs(worst[2]) > 0.9


@pytest.mark.parametrize("degrees", [0.0, 10.0, MIN_ANGLE_DEG - 1.0])
def test_views_too_much_alike_are_refused(degrees: float) -> None:
    point, nothing = np.array([100.0, 0.0, 130.0]), np.zeros(2)
    with pytest.raises(GoalError, match="differ"):
        triangulate([sighting(point, 0, 0, nothing, 5.0), sighting(point, degrees, 0, nothing, 5.0)])


def test_different_landmarks_single_views_and_nonsense_are_refused() -> None:
    point, nothing = np.array([100.0, 0.0, 130.0]), np.zeros(2)
    first = sighting(point, 0, 0, nothing, 5.0)
    with pytest.raises(GoalError, match="two views"):
        triangulate([first])
    with pytest.raises(GoalError, match="same landmark"):
        triangulate([first, sighting(point + np.array([90.0, 0, 0]), 45, 0, nothing, 5.0)])
    for bad in (np.array([np.nan, 0.0]), np.array([np.inf, 0.0])):
        with pytest.raises(GoalError, match="finite"):
            triangulate([first, sighting(point, 45, 0, bad, 5.0)])


def test_isocenter_on_the_triangulated_point_keeps_it_centered_under_rotation() -> None:
    point, nothing = np.array([120.0, -20.0, 170.0]), np.zeros(2)
    found = triangulate([sighting(point, 0, 0, nothing, 5.0), sighting(point, 45, 0, nothing, 5.0)])
    for primary, secondary in ((0, 0), (30, 0), (-30, 20), (60, -20)):
        q = CARM.inverse(found.point_mm / 1000.0, *np.radians([primary, secondary]))[0]
        assert np.linalg.norm(CARM.view(q).displacement_mm(point)) < 1e-3
