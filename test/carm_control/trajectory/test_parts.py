# SPDX-License-Identifier: Apache-2.0
"""Splines, stops, drives, link poses and parameters, each by itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from carm_agent.planning.timed_path import JointPath
from carm_control import DriveModel, JointLimits, MotionParameters, Spline, State, StopProfile, Waypoints
from carm_control.trajectory.following import Following
from carm_core.parameters import parameter_defaults
from carm_core.paths import config_file
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import LinkPose, LinkPoses
from carm_core.robot.trajectory import Trajectory
from carm_core.robot.urdf import Variant, urdf
from carm_core.transforms import RigidTransform

CARM = CArm.from_config()
LIMITS = JointLimits.of(CARM.joints)
unit = st.floats(-1.0, 1.0)
six = st.lists(unit, min_size=6, max_size=6).map(np.array)


def waypoints(seed: int, degree: int, count: int = 5, joints: int = 3) -> Waypoints:
    random = np.random.default_rng(seed)
    values = random.uniform(-1, 1, (3, count, joints))
    if degree < 5:
        values[2] = np.nan
    if degree < 3:
        values[1] = np.nan
    return Waypoints(np.cumsum(random.uniform(0.2, 2.0, count)), *values)


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_spline_passes_through_the_points_with_their_derivatives(degree: int) -> None:
    points = waypoints(degree, degree)
    spline = Spline.through(points)
    for k, time_s in enumerate(points.times_s[:-1]):
        for side in (0.0, -1e-12) if k else (0.0,):
            state = spline.sample(time_s + side)
            np.testing.assert_allclose(state.position, points.positions[k], atol=1e-9)
            if degree >= 3:
                np.testing.assert_allclose(state.velocity, points.velocities[k], atol=1e-9)
            if degree == 5:
                np.testing.assert_allclose(state.acceleration, points.accelerations[k], atol=1e-9)
    end = spline.sample(points.times_s[-1] + 1.0)
    np.testing.assert_allclose(end.position, points.positions[-1], atol=1e-12)
    assert not end.velocity.any()
    assert not end.acceleration.any()


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_spline_is_the_interpolation_that_planners_use(degree: int) -> None:
    points = waypoints(7 + degree, degree)
    plan = Trajectory(
        ("a", "b", "c"),
        points.times_s,
        points.positions,
        points.velocities if degree >= 3 else None,
        points.accelerations if degree == 5 else None,
    )
    spline = Spline.through(points)
    for time_s in np.linspace(points.times_s[0], points.times_s[-1], 97, endpoint=False):
        for ours, theirs in zip(spline.sample(time_s), plan.sample(time_s), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_degree_follows_what_both_ends_of_a_segment_carry() -> None:
    points = waypoints(1, 5, count=4, joints=1)
    points.velocities[3], points.accelerations[2:] = np.nan, np.nan
    spline = Spline.through(points)
    degrees = [int(np.flatnonzero(c[:, 0])[-1]) for c in spline.coefficients]
    assert degrees == [5, 3, 1]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), degree=st.sampled_from([1, 3, 5]), derivative=st.integers(0, 3))
@example(seed=146, degree=3, derivative=2)
def test_excess_finds_what_dense_sampling_finds(seed: int, degree: int, derivative: int) -> None:
    spline = Spline.through(waypoints(seed, degree))
    knots = np.asarray(spline.knots_s)
    sides_of_knots = np.concatenate([knots[:-1] + 1e-9, knots[1:] - 1e-9])  # where a derivative may jump
    times = np.sort(np.concatenate([np.linspace(knots[0], knots[-1] - 1e-9, 1001), sides_of_knots]))
    dense = spline.derivative(derivative, times)
    low, high = dense.min(axis=0), dense.max(axis=0)
    margin = 0.02 * (high - low) + 1e-6
    assert spline.excess(derivative, low - margin, high + margin) is None
    if (high - low).max() < 1e-9:
        return
    joint = int(np.argmax(high - low))
    room = 1.0 + high - low
    bound = high + room
    bound[joint] = high[joint] - 1e-3 * (high - low)[joint]
    found = spline.excess(derivative, low - room, bound)
    assert found is not None
    assert found.joint == joint
    assert found.value > bound[joint]
    sides = spline.derivative(derivative, found.time_s + np.array([-1e-9, 0.0, 1e-9]))[:, joint]
    assert np.abs(sides - found.value).min() < 1e-6 * (1.0 + (high - low)[joint])


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_moving_average_is_the_mean_of_the_past(degree: int) -> None:
    spline, window_s = Spline.through(waypoints(degree, degree)), 0.35
    averaged = spline.averaged(window_s)
    past = window_s * (np.arange(4000) + 0.5) / 4000
    times = np.linspace(spline.knots_s[0], averaged.duration_s - 1e-6, 200)
    means = np.array([spline.derivative(0, t - past).mean(axis=0) for t in times])
    np.testing.assert_allclose(averaged.derivative(0, times), means, atol=1e-6)
    assert averaged.duration_s == pytest.approx(spline.duration_s + window_s)
    for order in range(3):
        slope = averaged.derivative(order, times + 1e-6) - averaged.derivative(order, times - 1e-6)
        inner = np.abs(times[:, None] - averaged.knots_s).min(axis=1) > 2e-6
        np.testing.assert_allclose(slope[inner] / 2e-6, averaged.derivative(order + 1, times)[inner], atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(place=six, speed=six, push=six)
def test_stop_keeps_the_limits_and_comes_to_rest(place: np.ndarray, speed: np.ndarray, push: np.ndarray) -> None:
    middle, half = (LIMITS.lower + LIMITS.upper) / 2, (LIMITS.upper - LIMITS.lower) / 2
    acceleration = push * LIMITS.acceleration
    reserve = acceleration**2 / (2 * LIMITS.jerk)
    velocity = speed * np.maximum(LIMITS.velocity - reserve, 0)
    start = State(middle + 0.3 * half * place, velocity, acceleration)
    stop = StopProfile(LIMITS, start)
    times = np.linspace(0, stop.duration_s + 0.1, 400)
    states = [stop.sample(t) for t in times]
    p, v, a = (np.array(values) for values in zip(*states, strict=True))
    np.testing.assert_allclose([p[0], v[0], a[0]], start, atol=1e-12)
    assert (np.abs(v) <= LIMITS.velocity * (1 + 1e-9) + 1e-12).all()
    assert (np.abs(a) <= LIMITS.acceleration * (1 + 1e-9) + 1e-12).all()
    assert (np.abs(np.diff(a, axis=0)) <= LIMITS.jerk * (times[1] - times[0]) * (1 + 1e-6) + 1e-9).all()
    assert (np.abs(np.diff(p, axis=0)) <= LIMITS.velocity * (times[1] - times[0]) * (1 + 1e-6) + 1e-9).all()
    assert not v[-1].any()
    assert not a[-1].any()
    fastest = LIMITS.velocity / LIMITS.acceleration + 2 * LIMITS.acceleration / LIMITS.jerk
    assert stop.duration_s <= fastest.max() + 1e-9


@settings(max_examples=200, deadline=None)
@given(speed=six, push=six, fine=st.tuples(st.floats(-320.0, -3.0), st.floats(-320.0, -3.0)))
def test_stop_of_hardly_any_motion(speed: np.ndarray, push: np.ndarray, fine: tuple[float, float]) -> None:
    middle = (LIMITS.lower + LIMITS.upper) / 2
    stop = StopProfile(LIMITS, State(middle, speed * 10.0 ** fine[0], push * 10.0 ** fine[1]))
    for time_s in (0.0, stop.duration_s / 2, stop.duration_s, 1.0):
        np.testing.assert_allclose(stop.sample(time_s).position, middle, atol=2e-3)
    assert stop.positions(np.array([0.0, 0.1])).shape == (2, 6)
    assert not stop.sample(1.0).velocity.any()


@settings(max_examples=50, deadline=None)
@given(place=six)
def test_stop_at_rest_takes_no_time(place: np.ndarray) -> None:
    middle = (LIMITS.lower + LIMITS.upper) / 2
    stop = StopProfile(LIMITS, State.at_rest(middle + 0.1 * place))
    assert stop.duration_s == 0
    np.testing.assert_array_equal(stop.sample(1.0).position, middle + 0.1 * place)


@settings(max_examples=50, deadline=None)
@given(gap=st.floats(0.02, 1.0))
def test_stop_near_the_end_of_travel_brakes_harder_and_stays_inside(gap: float) -> None:
    reach = LIMITS.velocity**2 / (2 * LIMITS.acceleration)
    start = State(LIMITS.upper - gap * reach, LIMITS.velocity, np.zeros(6))
    stop = StopProfile(LIMITS, start)
    path = np.array([stop.sample(t).position for t in np.linspace(0, stop.duration_s, 200)])
    assert (path <= LIMITS.upper + 1e-9).all()
    assert (np.diff(path, axis=0) >= -1e-12).all()


@pytest.mark.parametrize("dt", [0.001, 0.01, 0.07])
def test_drive_follows_a_ramp_as_the_closed_form_says(dt: float) -> None:
    tau, slope = 0.05, 0.08
    drive = DriveModel(LIMITS, np.zeros(6), time_constant_s=tau)
    for step in range(1, 41):
        t = step * dt
        drive.step(np.full(6, slope * t), np.full(6, slope), dt)
        expected = slope * (t - tau * (1 - np.exp(-t / tau)))
        np.testing.assert_allclose(drive.position, expected, atol=1e-12)
        np.testing.assert_allclose(drive.velocity, slope * (1 - np.exp(-t / tau)), atol=1e-12)


def test_drive_without_lag_follows_at_once() -> None:
    drive = DriveModel(LIMITS, np.zeros(6))
    drive.step(np.full(6, 0.01), np.full(6, 0.2), 0.01)
    np.testing.assert_array_equal(drive.position, np.full(6, 0.01))
    np.testing.assert_array_equal(drive.velocity, np.full(6, 0.2))


def test_realigned_drive_carries_on_without_a_jump() -> None:
    drive = DriveModel(LIMITS, np.zeros(6), time_constant_s=0.05)
    for step in range(1, 8):
        drive.step(np.full(6, 0.001 * step**2), np.zeros(6), 0.01)
    before = drive.velocity
    command = drive.realign(np.ones(6, dtype=bool))
    drive.step(command + before * 1e-6, before, 1e-6)
    np.testing.assert_allclose(drive.velocity, before, rtol=1e-6)


def test_blocked_drive_does_not_move() -> None:
    drive = DriveModel(LIMITS, np.zeros(6), time_constant_s=0.02)
    drive.block(["lift"])
    drive.step(np.full(6, 0.01), np.zeros(6), 1.0)
    assert drive.blocked == ("lift",)
    assert drive.position[2] == 0
    assert (np.delete(drive.position, 2) > 0.009).all()


def test_encoder_noise_has_its_deviation_and_its_seed() -> None:
    position_noise, velocity_noise = LIMITS.by_unit(1e-5, 2e-5), LIMITS.by_unit(1e-4, 2e-4)

    def readings(seed: int) -> tuple[np.ndarray, np.ndarray]:
        drive = DriveModel(LIMITS, CARM.home, position_noise=position_noise, velocity_noise=velocity_noise, seed=seed)
        read = [drive.measure() for _ in range(4000)]
        return np.array([m.position for m in read]), np.array([m.velocity for m in read])

    position, velocity = readings(3)
    np.testing.assert_allclose(position.std(axis=0), position_noise, rtol=0.06)
    np.testing.assert_allclose(velocity.std(axis=0), velocity_noise, rtol=0.06)
    np.testing.assert_allclose(position.mean(axis=0), CARM.home, atol=2e-6)
    np.testing.assert_array_equal(readings(3)[0], position)
    assert not np.array_equal(readings(4)[0], position)


@settings(max_examples=50, deadline=None)
@given(place=six)
def test_link_poses_agree_with_the_kinematics(place: np.ndarray) -> None:
    q = (LIMITS.lower + LIMITS.upper) / 2 + place * (LIMITS.upper - LIMITS.lower) / 2
    poses = LinkPoses(urdf(CARM))
    tree = {p.child: p for p in (*poses.fixed, *poses.moved(dict(zip(CARM.joint_names, q, strict=True))))}
    isocenter, optical = in_table(tree, "isocenter"), in_table(tree, "xray_optical")
    np.testing.assert_allclose(isocenter.matrix, CARM.transform_carm_to_table(q).matrix, atol=1e-9)
    view = CARM.view(q)
    np.testing.assert_allclose(1000 * optical.translation, view.source_mm, atol=1e-6)
    np.testing.assert_allclose(optical.rotation.T, [view.right, view.down, view.forward], atol=1e-9)
    np.testing.assert_allclose(1000 * in_table(tree, "detector").translation, view.detector_center_mm, atol=1e-6)


def test_links_behind_fixed_joints_are_fixed() -> None:
    fixed = [("table", "carm_base"), ("isocenter", "xray_source"), ("isocenter", "detector")]
    fixed.append(("xray_source", "xray_optical"))
    poses = LinkPoses(urdf(CARM, Variant(frame_prefix="left_arm/")))
    assert [(p.parent, p.child) for p in poses.fixed] == [(f"left_arm/{a}", f"left_arm/{b}") for a, b in fixed]
    moved = [pose.child for pose in poses.moved({})]
    assert len(moved) == len(CARM.joints)
    assert all(child.startswith("left_arm/") for child in moved)
    assert not {p.child for p in poses.fixed} & set(moved)


def in_table(tree: dict[str, LinkPose], child: str) -> RigidTransform:
    pose = tree[child]
    x, y, z, w = pose.quaternion
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    here = RigidTransform(rotation, pose.translation_m)
    return here if pose.parent == "table" else in_table(tree, pose.parent) @ here


def test_limits_reached_are_named() -> None:
    q = CARM.home.copy()
    q[2], q[4] = 0.4495, LIMITS.lower[4] + np.deg2rad(0.05)
    assert LIMITS.reached(q) == ("lift", "tilt")
    assert LIMITS.reached(CARM.home) == ()


def test_shipped_configuration_is_the_defaults_of_the_node() -> None:
    shipped = yaml.safe_load(config_file("motion.yaml").read_text(encoding="utf-8"))
    assert shipped["/**"]["ros__parameters"] == parameter_defaults(MotionParameters) | {"supervised": True}
    assert all(f.metadata["description"] for f in dataclasses.fields(MotionParameters))


@pytest.mark.parametrize("seed", range(5))
def test_a_rate_that_changes_at_any_moment_keeps_the_limits(seed: int) -> None:
    """A time-optimal trajectory, permits that come and go, and control cycles of different lengths."""
    random = np.random.default_rng(seed)
    span = LIMITS.upper - LIMITS.lower
    first = LIMITS.lower + span * random.uniform(0.2, 0.8, 6)
    others = [first + (LIMITS.lower + span * random.uniform(0.2, 0.8, 6) - first) * 0.3 for _ in range(2)]
    plan = JointPath(CARM, [first, *others]).timed(1.0)
    assert plan.velocities is not None
    assert plan.accelerations is not None
    spline = Spline.through(Waypoints(plan.times_s, plan.positions, plan.velocities, plan.accelerations))
    rests = StopProfile(LIMITS, State.at_rest(np.zeros(0)))
    following = Following(spline, range(6), [], rests, LIMITS, 1.0, 0.05)
    permit, times, places = 1.0, [0.0], [first]
    while following.late_s < 0 and times[-1] < 40:
        if random.random() < 0.1:
            permit = float(random.choice([1.0, 1e-9, random.uniform(0.05, 1.0)]))
        step_s = float(np.clip(0.01 + random.normal(0.0, 0.0006), 0.004, 0.015))
        following.advance(step_s, following.permitted(permit))
        times.append(times[-1] + step_s)
        places.append(following.sample().position)
    t, q = np.array(times), np.array(places)
    velocity = np.diff(q, axis=0) / np.diff(t)[:, None]
    acceleration = 2 * np.diff(velocity, axis=0) / (t[2:] - t[:-2])[:, None]
    jerk = 3 * np.diff(acceleration, axis=0) / (t[3:] - t[:-3])[:, None]
    assert (np.abs(velocity) <= 1.02 * LIMITS.velocity).all()
    assert (np.abs(acceleration) <= 1.05 * LIMITS.acceleration).all()
    assert (np.abs(jerk) <= 1.05 * LIMITS.jerk).all()
