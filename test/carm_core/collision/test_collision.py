# SPDX-License-Identifier: Apache-2.0
"""Distances agree with an independent way to compute them, and no path slips past the check."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from carm_agent.planning.timed_path import JointPath
from carm_core.collision.clearance import CollisionError, Margins, Verdict
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, Surface, staff_zones
from carm_core.errors import ConfigurationError
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import RobotGeometry, link_poses

CARM = CArm.from_config()
LOWER = np.array([joint.lower for joint in CARM.joints])
UPPER = np.array([joint.upper for joint in CARM.joints])
NO_MARGIN = Margins(patient_m=0.0)
MODEL = CollisionModel(CARM, Obstacles(assume_patient=False), NO_MARGIN)
positions = st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6).map(lambda s: LOWER + np.array(s) * (UPPER - LOWER))


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> Surface:
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
    faces = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1), (2, 3, 7), (2, 7, 6)]
    faces += [(0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)]
    return Surface(corners, np.array(faces))


def distance_to_machine(q: NDArray, point: NDArray) -> float:
    """Smallest distance of a point to the machine's boxes, in closed form."""
    poses = link_poses(CARM, q)
    found = []
    for shape in MODEL.geometry.moving:
        local = (poses[shape.link] @ shape.transform_shape_to_link).inverse().apply(point)
        outside = np.abs(local) - shape.half_extent_m
        found.append(np.linalg.norm(np.maximum(outside, 0.0)))
    return float(min(found))


@settings(max_examples=20, deadline=None)
@given(positions, st.tuples(st.floats(-0.8, 0.8), st.floats(-0.6, 0.6), st.floats(0.1, 0.5)))
def test_distance_to_a_small_thing_is_the_closed_form_one(q: NDArray, point: tuple[float, float, float]) -> None:
    half = 0.001
    low, high = tuple(v - half for v in point), tuple(v + half for v in point)
    model = CollisionModel(CARM, Obstacles(box(low, high), assume_patient=False), NO_MARGIN)  # type: ignore[arg-type]
    expected = distance_to_machine(q, np.array(point))
    people = model.clearance(q).people_m
    if expected < 2 * half:
        assert people < 4 * half
    else:
        assert expected - 2.5 * half <= people <= expected + 1e-6


@settings(max_examples=25, deadline=None)
@given(positions)
def test_floor_is_as_far_as_the_lowest_corner(q: NDArray) -> None:
    poses = link_poses(CARM, q)
    lowest = min(
        poses[s.link].apply(s.corners_m)[:, 2].min() for s in MODEL.geometry.moving if not s.link.startswith("cart")
    )
    distance = MODEL.clearance(q).distance_m
    assert distance <= lowest + CARM.table_height_m + 1e-9


@settings(max_examples=40, deadline=None)
@given(positions, positions)
def test_no_point_moves_further_than_the_bound(first: NDArray, second: NDArray) -> None:
    bound = MODEL.motion_bound_m(second - first)
    before, after = link_poses(CARM, first), link_poses(CARM, second)
    moved = max(
        np.linalg.norm(after[s.link].apply(s.corners_m) - before[s.link].apply(s.corners_m), axis=1).max()
        for s in MODEL.geometry.moving
    )
    assert moved <= bound + 1e-9


def test_default_machine_does_not_touch_itself_at_home_and_a_swollen_one_does() -> None:
    assert MODEL.clearance(CARM.home).distance_m > 0.1
    orbital = CARM.home.copy()
    orbital[5] = UPPER[5]
    closest = MODEL.clearance(orbital)
    assert closest.distance_m > MODEL.margins.collision_m
    shapes = []
    for shape in MODEL.geometry.shapes:
        size = tuple(3.0 * v for v in shape.size_m) if shape.name == "source_housing" else shape.size_m
        shapes.append(type(shape)(shape.name, shape.piece, shape.link, shape.kind, size, shape.transform_shape_to_link))
    swollen = CollisionModel(
        CARM, Obstacles(assume_patient=False), NO_MARGIN, RobotGeometry(tuple(shapes), MODEL.geometry.ignored_pairs)
    )
    assert swollen.clearance(orbital).distance_m <= 0.0


def test_margin_is_taken_off_the_distance_to_the_patient() -> None:
    obstacles = Obstacles(box((-0.2, -0.2, 0.0), (0.2, 0.2, 0.25)), assume_patient=False)
    bare = CollisionModel(CARM, obstacles, NO_MARGIN).clearance(CARM.home)
    wide = CollisionModel(CARM, obstacles, Margins(patient_m=0.03)).clearance(CARM.home)
    assert bare.people_m - wide.people_m == pytest.approx(0.03)


def test_what_is_closest_is_named() -> None:
    zone = "-0.1 -0.7 0.5 0.1 -0.5 1.0"
    model = CollisionModel(CARM, Obstacles(assume_patient=False, staff=staff_zones(zone)), NO_MARGIN)
    q = CARM.home.copy()
    q[5] = 0.75
    closest = model.clearance(q)
    assert closest.obstacle == "staff"
    assert closest.part in ("detector housing", "detector mount", "c arc")


def sweep(model: CollisionModel, start: NDArray, goal: NDArray) -> float:
    path = JointPath(CARM, [start, goal])
    return model.check_path(path.position, path.travel, path.knots).bound_m


@settings(max_examples=40, deadline=None)
@given(positions, st.booleans())
def test_clearance_is_the_length_of_its_line_which_begins_at_the_machine(q: NDArray, seen: bool) -> None:
    surface = box((-0.4, -0.2, 0.0), (0.5, 0.2, 0.25)) if seen else None
    found = CollisionModel(CARM, Obstacles(surface)).clearance(q, deepest=True)
    assert found.line_m is not None
    assert np.linalg.norm(found.line_m[0] - found.line_m[1]) == pytest.approx(abs(found.distance_m), abs=1e-5)
    assert distance_to_machine(q, found.line_m[0]) < 1e-4


@pytest.mark.parametrize("thickness_m", [0.05, 0.004, 0.0005])
def test_thin_obstacle_in_the_middle_of_a_path_is_found(thickness_m: float) -> None:
    """Clear at both ends; a plate as thin as a sheet of paper stands where the detector passes."""
    start, goal = CARM.home.copy(), CARM.home.copy()
    start[0], goal[0] = -0.5, 0.5
    plate = Obstacles(box((0.1, -0.1, 0.55), (0.1 + thickness_m, 0.1, 1.2)), assume_patient=False)
    model = CollisionModel(CARM, plate, NO_MARGIN)
    assert min(model.clearance(q).distance_m for q in (start, goal)) > 0.05
    with pytest.raises(CollisionError, match="patient .* along the path"):
        sweep(model, start, goal)


@pytest.mark.parametrize(("gap_m", "clear"), [(0.014, True), (0.0101, True), (0.0099, False), (0.004, False)])
def test_grazing_paths_are_told_apart(gap_m: float, clear: bool) -> None:
    """The detector passes above a block at a fixed distance; 10 mm are needed."""
    start, goal = CARM.home.copy(), CARM.home.copy()
    start[0], goal[0] = -0.3, 0.3
    lowest = CARM.isocenter(CARM.home)[2] + CARM.source_detector_m - CARM.source_isocenter_m - 0.01
    block = Obstacles(box((-0.05, -0.1, 0.3), (0.05, 0.1, lowest - gap_m)), assume_patient=False)
    model = CollisionModel(CARM, block, NO_MARGIN)
    if clear:
        assert model.margins.collision_m <= sweep(model, start, goal) <= gap_m + 1e-6
    else:
        with pytest.raises(CollisionError, match="detector housing"):
            sweep(model, start, goal)


@settings(max_examples=12, deadline=None)
@given(positions, positions, st.integers(0, 2**31))
def test_bound_holds_at_every_sample_of_a_path(start: NDArray, goal: NDArray, seed: int) -> None:
    path = JointPath(CARM, [start, goal])
    model = MODEL.leaving(start, 10.0)  # nothing is too near
    check = model.check_path(path.position, path.travel, path.knots)
    for share in np.random.default_rng(seed).random(15):
        assert model.clearance(path.position(float(share)), deepest=True).distance_m >= check.bound_m - 1e-6


@settings(max_examples=40, deadline=None)
@given(positions, st.lists(st.floats(-0.05, 0.05), min_size=6, max_size=6), st.floats(0.0, 0.01))
def test_what_is_too_near_may_be_left_and_nothing_else_approached(q: NDArray, step: list[float], loss_m: float) -> None:
    """Each pair's limit is its own: as near as at the start less the loss, else the margin."""
    model = CollisionModel(CARM, Obstacles(staff=staff_zones("-0.1 -0.7 0.5 0.1 -0.5 1.0")))
    leaving, there = model.leaving(q, loss_m), np.clip(q + step, LOWER, UPPER)
    now, then = (model.clearance(p, deepest=True) for p in (q, there))
    limit_m = model.margins.collision_m
    start, end = (leaving.clearance(p, deepest=True) for p in (q, there))
    assert (start.people_m, end.people_m) == pytest.approx((now.people_m, then.people_m))
    if now.distance_m >= limit_m + loss_m:
        assert start.distance_m == pytest.approx(now.distance_m, abs=1e-6)
    else:
        assert limit_m + loss_m / 3 - 1e-6 <= start.distance_m <= limit_m + loss_m + 1e-6
    moved_m = model.motion_bound_m(there - q)
    assert end.distance_m >= start.distance_m - moved_m - 1e-6
    assert end.distance_m >= then.distance_m - 1e-9
    again = model.leaving(there, loss_m, leaving)
    assert again.clearance(there, deepest=True).distance_m <= end.distance_m + 1e-9
    assert model.clearance(there, deepest=True) == then


def test_out_of_the_patients_margin_the_table_is_kept_clear_of() -> None:
    """The detector stands too near to a block; the way to one side leaves it, and would touch another."""
    start, goal = CARM.home.copy(), CARM.home.copy()
    goal[0] += 0.4
    low_m = CARM.isocenter(CARM.home)[2] + CARM.source_detector_m - CARM.source_isocenter_m - 0.01
    block = box((-0.05, -0.1, 0.3), (0.05, 0.1, low_m - 0.004))
    zone = f"0.45 -0.2 {low_m - 0.05} 0.6 0.2 {low_m - 0.003}"
    free = CollisionModel(CARM, Obstacles(block, assume_patient=False), NO_MARGIN)
    narrow = CollisionModel(CARM, Obstacles(block, assume_patient=False, staff=staff_zones(zone)), NO_MARGIN)
    assert free.clearance(start).distance_m == pytest.approx(0.004, abs=1e-6)
    with pytest.raises(CollisionError, match="at the start"):
        sweep(free, start, goal)
    assert sweep(free.leaving(start, 0.002), start, goal) >= free.margins.collision_m
    with pytest.raises(CollisionError, match="staff .* at least 10 mm"):
        sweep(narrow.leaving(start, 0.002), start, goal)


def test_verdicts_and_speeds_follow_the_margins() -> None:
    margins = Margins()
    assert [margins.verdict(d) for d in (0.3, 0.03, 0.005, -0.1)] == [
        Verdict.CLEAR,
        Verdict.WARNING,
        Verdict.COLLISION,
        Verdict.COLLISION,
    ]
    shares = [margins.velocity_share(d) for d in (0.5, 0.1, 0.075, 0.05, 0.01, -0.1)]
    assert shares[0] == shares[1] == 1.0
    assert shares[2] == pytest.approx((1.0 + margins.slowest) / 2)
    assert shares[3] == shares[4] == shares[5] == margins.slowest
    assert Margins(warning_m=0.2).velocity_share(0.09) == margins.slowest


def test_a_surface_that_would_take_gigabytes_to_cut_is_refused() -> None:
    ends = np.array([[-4.9, -4.9, -4.9], [4.9, 4.9, 4.9], [4.9, 4.9, 4.9]])
    with pytest.raises(ConfigurationError, match="long triangles"):
        Surface(ends, np.tile([0, 1, 2], (1000, 1))).pieces()
    with pytest.raises(ConfigurationError, match="1000000 triangles"):
        Surface(ends, np.tile([0, 1, 2], (10**6, 1)))


@pytest.mark.parametrize("text", ["1 2 3", "0 0 0 1 1 x", "0 0 0 1 1 nan", "0 0 1 1 1 0"])
def test_malformed_staff_zones_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="staff"):
        staff_zones(text)


@pytest.mark.parametrize(
    ("vertices", "triangles"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3), int)),
        (np.zeros((3, 3)), np.array([[0, 1, 3]])),
        (np.zeros((3, 3)), np.array([[0, 1, -1]])),
        (np.full((3, 3), np.nan), np.array([[0, 1, 2]])),
        (np.full((3, 3), 100.0), np.array([[0, 1, 2]])),
        (np.zeros((3, 2)), np.array([[0, 1, 2]])),
        (np.array([[-4.9, -4.9, 0], [4.9, -4.9, 0], [0, 4.9, 0]]), np.array([[0, 1, 2]])),
        (np.zeros((3, 3)), np.zeros((300_001, 3), int)),
    ],
)
def test_malformed_surfaces_are_refused(vertices: NDArray, triangles: NDArray) -> None:
    with pytest.raises(ConfigurationError):
        Surface(vertices, triangles)


def test_pieces_cover_the_surface_and_the_unknown_rest_is_assumed() -> None:
    surface = box((-0.3, -0.2, 0.0), (0.25, 0.2, 0.3))
    pieces = surface.pieces()
    assert len(pieces) > 10
    points = np.concatenate(pieces)
    assert points.min(axis=0) == pytest.approx(surface.vertices_m.min(axis=0))
    assert points.max(axis=0) == pytest.approx(surface.vertices_m.max(axis=0))
    whole = np.concatenate(list(Obstacles(surface).patient_pieces()))
    assert whole[:, 0].min() == -1.0
    assert whole[:, 0].max() == 1.0
    known = np.concatenate(list(Obstacles(surface, assume_patient=False).patient_pieces()))
    assert known[:, 0].max() == pytest.approx(0.25)
    assert Obstacles(surface).version != Obstacles().version
