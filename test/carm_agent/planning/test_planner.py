# SPDX-License-Identifier: Apache-2.0
"""Plans keep every limit, start and end exactly, are straight, and take no longer than they must."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from carm_agent.planning.planner import Planner
from carm_agent.planning.timed_path import JointPath
from carm_control import JointLimits, Spline, Waypoints
from carm_control.trajectory.bounds import find_excess
from carm_core.errors import GoalError, JointLimitError
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory
from carm_ros.messages import seconds, trajectory_message

CARM = CArm.from_config()
LOWER = np.array([joint.lower for joint in CARM.joints])
UPPER = np.array([joint.upper for joint in CARM.joints])
VELOCITY = np.array([joint.velocity for joint in CARM.joints])
ACCELERATION = np.array([joint.acceleration for joint in CARM.joints])
JERK = np.array([joint.jerk for joint in CARM.joints])

shares = st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6).map(np.array)
scalings = st.floats(0.05, 1.0)


def fine_samples(trajectory: Trajectory, count: int = 600) -> tuple[NDArray[np.float64], ...]:
    times = np.linspace(0.0, trajectory.duration_s, count, endpoint=False)
    samples = [trajectory.sample(float(time)) for time in times]
    return times, *(np.array(column) for column in zip(*samples, strict=True))


@settings(max_examples=30, deadline=None)
@given(shares, shares, scalings)
def test_limits_hold_between_the_points(start: NDArray, goal: NDArray, scaling: float) -> None:
    start_q, goal_q = LOWER + start * (UPPER - LOWER), LOWER + goal * (UPPER - LOWER)
    trajectory = Planner(CARM).to_joints(start_q, goal_q, scaling).trajectory
    times, positions, velocities, accelerations = fine_samples(trajectory)
    slack = 1 + 1e-6
    assert (positions >= LOWER - 1e-9).all()
    assert (positions <= UPPER + 1e-9).all()
    assert (np.abs(velocities) <= scaling * VELOCITY * slack + 1e-9).all()
    assert (np.abs(accelerations) <= ACCELERATION * slack + 1e-6).all()
    jerks = np.diff(accelerations, axis=0) / np.diff(times)[:, None]
    assert (np.abs(jerks) <= JERK * 1.01 + 1e-3).all()


@settings(max_examples=30, deadline=None)
@given(shares, shares)
def test_starts_and_ends_at_rest_where_it_should(start: NDArray, goal: NDArray) -> None:
    start_q, goal_q = LOWER + start * (UPPER - LOWER), LOWER + goal * (UPPER - LOWER)
    trajectory = Planner(CARM).to_joints(start_q, goal_q).trajectory
    assert np.array_equal(trajectory.positions[0], start_q)
    assert np.array_equal(trajectory.positions[-1], goal_q)
    assert trajectory.velocities is not None
    assert trajectory.accelerations is not None
    for rest in (trajectory.velocities, trajectory.accelerations):
        assert np.abs(rest[[0, -1]]).max() < 1e-9
    assert trajectory.times_s[0] == 0.0
    assert (np.diff(trajectory.times_s) >= 1e-5).all()


@settings(max_examples=30, deadline=None)
@given(shares, shares)
def test_path_is_straight(start: NDArray, goal: NDArray) -> None:
    start_q, goal_q = LOWER + start * (UPPER - LOWER), LOWER + goal * (UPPER - LOWER)
    trajectory = Planner(CARM).to_joints(start_q, goal_q).trajectory
    travel = goal_q - start_q
    length = float(np.linalg.norm(travel))
    if length < 1e-4:
        return
    _, positions, _, _ = fine_samples(trajectory, 200)
    offset = positions - start_q
    along = offset @ travel / length
    assert np.linalg.norm(offset - np.outer(along, travel) / length, axis=1).max() < 1e-7


@settings(max_examples=30, deadline=None)
@given(st.floats(0.0, 0.5), st.floats(0.5, 1.0))
def test_duration_is_that_of_the_textbook_profile(start: float, goal: float) -> None:
    """One joint, long enough to reach its velocity limit: d/v + v/a + a/j (S-curve with full acceleration)."""
    joint = CARM.joints[0]
    start_q, goal_q = CARM.home.copy(), CARM.home.copy()
    start_q[0], goal_q[0] = (joint.lower + share * (joint.upper - joint.lower) for share in (start, goal))
    distance = goal_q[0] - start_q[0]
    duration = Planner(CARM).to_joints(start_q, goal_q).duration_s
    assert duration >= distance / joint.velocity - 1e-9
    to_full_speed = joint.velocity / joint.acceleration + joint.acceleration / joint.jerk
    if distance >= joint.velocity * to_full_speed:
        assert duration == pytest.approx(distance / joint.velocity + to_full_speed, abs=1e-6)


def test_slower_scaling_takes_longer() -> None:
    goal = CARM.home + np.array([0.3, 0.1, 0, 0, 0, 0])
    planner = Planner(CARM)
    durations = [planner.to_joints(CARM.home, goal, scaling).duration_s for scaling in (1.0, 0.5, 0.25)]
    assert durations[0] < 0.6 * durations[1] < 0.6**2 * durations[2]


def test_no_travel_is_a_plan_that_rests() -> None:
    plan = Planner(CARM).to_joints(CARM.home, CARM.home)
    assert plan.duration_s < 1.0
    assert plan.isocenter_path_m == 0.0
    assert np.array_equal(plan.trajectory.positions[0], plan.trajectory.positions[-1])


def test_a_start_that_the_encoders_read_beyond_a_limit_is_planned_from_the_limit() -> None:
    lift = CARM.joint_names.index("lift")
    start = CARM.home.copy()
    start[lift] = CARM.joints[lift].lower - 1e-5
    trajectory = Planner(CARM).to_joints(start, {"orbital": 0.2}).trajectory
    assert trajectory.positions[:, lift] == pytest.approx(CARM.joints[lift].lower, abs=1e-12)
    assert (trajectory.positions[:, lift] >= CARM.joints[lift].lower).all()


def test_view_goal_reaches_isocenter_and_angles_and_keeps_wigwag() -> None:
    start = CARM.home + np.array([0, 0, 0, 0.1, 0, 0])
    isocenter = np.array([0.2, -0.1, 0.15])
    plan = Planner(CARM).to_view(start, isocenter, (0.3, -0.2))
    assert CARM.isocenter(plan.goal) == pytest.approx(isocenter, abs=1e-9)
    assert CARM.angles(plan.goal) == pytest.approx((0.3, -0.2), abs=1e-9)
    assert plan.goal[3] == pytest.approx(0.1)


def test_present_isocenter_or_angles_are_kept_when_not_given() -> None:
    start = CARM.home + np.array([0.1, 0.05, 0.02, 0, 0.2, 0.1])
    planner = Planner(CARM)
    rotated = planner.to_view(start, None, (0.0, 0.0))
    assert CARM.isocenter(rotated.goal) == pytest.approx(CARM.isocenter(start), abs=1e-9)
    shifted = planner.to_view(start, CARM.isocenter(start) + np.array([0.05, 0, 0]), None)
    assert CARM.angles(shifted.goal) == pytest.approx(CARM.angles(start), abs=1e-9)
    assert shifted.isocenter_path_m == pytest.approx(0.05, abs=1e-6)


def test_isocenter_stays_while_the_angles_change() -> None:
    plan = Planner(CARM).to_view(CARM.home, None, (0.5, 0.4))
    _, positions, _, _ = fine_samples(plan.trajectory, 100)
    isocenters = np.array([CARM.isocenter(q) for q in positions])
    assert np.linalg.norm(isocenters - CARM.isocenter(CARM.home), axis=1).max() < 1e-3


def test_wigwag_returns_to_zero_when_the_view_needs_it() -> None:
    start = CARM.home + np.array([0, 0, 0, -0.2, 0, 0])
    goal = np.array([CARM.joints[0].upper, 0.0, 0.12])
    assert Planner(CARM).to_view(start, goal, (0.0, 0.0)).goal[3] == pytest.approx(0.0)


def test_refusal_names_joint_value_and_limits() -> None:
    with pytest.raises(JointLimitError) as caught:
        Planner(CARM).to_joints(CARM.home, {"lift": 0.7})
    assert (caught.value.joint, caught.value.value, caught.value.upper) == ("lift", 0.7, CARM.joints[2].upper)
    assert all(word in str(caught.value) for word in ("lift", "0.7", "0.45"))
    with pytest.raises(JointLimitError, match="cart_longitudinal"):
        Planner(CARM).to_view(CARM.home, [1.3, 0.0, 0.12], None)


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ({"elbow": 0.1}, "elbow"),
        ({"lift": float("nan")}, "lift"),
        (np.zeros(5), "shape"),
        (np.full(6, np.inf), "finite"),
    ],
)
def test_malformed_joint_goals_are_refused(goal: object, words: str) -> None:
    with pytest.raises(GoalError, match=words):
        Planner(CARM).to_joints(CARM.home, goal)  # type: ignore[arg-type]


@pytest.mark.parametrize("scaling", [0.0, -1.0, 1.5, float("nan"), float("inf"), 1e-9])
def test_velocity_scaling_out_of_range_is_refused(scaling: float) -> None:
    with pytest.raises(GoalError, match="scaling"):
        Planner(CARM).to_joints(CARM.home, CARM.home, scaling)
    with pytest.raises(GoalError, match="scaling"):
        Planner(CARM, scaling)


def test_malformed_view_goals_are_refused() -> None:
    planner = Planner(CARM)
    for isocenter, angles in ([0.0, 0.0], None), (None, (float("nan"), 0.0)), ([0, 0, float("inf")], None):
        with pytest.raises(GoalError):
            planner.to_view(CARM.home, isocenter, angles)


@pytest.mark.parametrize("seed", [0, 181, 299, 480])
def test_jerk_survives_the_rounding_of_times_in_a_message(seed: int) -> None:
    random, limits = np.random.default_rng(seed), JointLimits.of(CARM.joints)
    span = limits.upper - limits.lower
    waypoints = [CARM.home]
    for _ in range(random.integers(1, 4)):
        way = random.uniform(-1, 1, 6) * random.choice([0.001, 0.01, 0.05]) * span * (random.random(6) < 0.7)
        waypoints.append(np.clip(CARM.home + way, limits.lower, limits.upper))
    plan = JointPath(CARM, waypoints).timed(float(random.uniform(0.1, 1.0)))
    times = np.array([seconds(point.time_from_start) for point in trajectory_message(plan).points])
    assert plan.velocities is not None
    assert plan.accelerations is not None
    spline = Spline.through(Waypoints(times, plan.positions, plan.velocities, plan.accelerations))
    assert find_excess(spline, limits, 0.001) is None
