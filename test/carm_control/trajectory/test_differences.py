# SPDX-License-Identifier: Apache-2.0
"""Where command and joint differ, where time is slowed, and where a trajectory starts elsewhere: the limits hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_control import (
    ErrorCode,
    GoalStatus,
    JointTolerance,
    OperatingState,
    Spline,
    TrajectoryGoal,
    TrajectoryPoint,
    Waypoints,
)
from carm_control.trajectory.tolerances import Violation, amount
from carm_core.errors import JointLimitError

from .test_controller import CARM, DT, HOME, NAMES, TARGET, Arm, idle, offset, to

TILT = NAMES.index("tilt")


def tilt(*points: tuple[float, float], **options: object) -> TrajectoryGoal:
    """Positions of the tilt, rad, at times, s; at rest at the last one."""
    made = tuple(TrajectoryPoint(time_s, (position,), (0.0,)) for time_s, position in points)
    return TrajectoryGoal(("tilt",), made, **options)  # type: ignore[arg-type]


def measured(arm: Arm, since: int) -> tuple[np.ndarray, np.ndarray]:
    states = [s.measured for s in arm.history[since:]]
    return np.array([m.position[TILT] for m in states]), np.array([m.velocity[TILT] for m in states])


class TestFreedJoint:
    @pytest.mark.parametrize("lag_s", [0.0, 0.03])
    @pytest.mark.parametrize("moving", [False, True])
    def test_it_catches_up_within_its_limits(self, lag_s: float, moving: bool) -> None:
        arm = Arm(path_tolerance_rad=0.0, goal_time_s=0.0, drive_time_constant_s=lag_s)
        arm.controller.block_joints(["tilt"])
        arm.go(tilt((4.0, 0.6)))
        arm.step(200 if moving else 450)
        assert arm.last.state is OperatingState.MOVING
        since = len(arm.history) - 1
        arm.controller.block_joints([])
        arm.step_until(idle)
        position, velocity = measured(arm, since)
        assert np.abs(np.diff(position)).max() <= arm.limits.velocity[TILT] * DT * 1.01
        assert np.abs(velocity).max() <= arm.limits.velocity[TILT] * 1.01
        assert np.abs(np.diff(velocity)).max() <= 2 * arm.limits.acceleration[TILT] * DT
        assert arm.outcomes[-1].status is GoalStatus.SUCCEEDED
        assert position[-1] == pytest.approx(0.6, abs=1e-3)

    def test_it_stays_where_a_stop_found_it(self) -> None:
        arm = Arm(path_tolerance_rad=0.0)
        arm.controller.block_joints(["tilt"])
        arm.go(tilt((4.0, 0.6)))
        arm.step(150)
        arm.controller.stop()
        arm.step_until(lambda s: s.state is OperatingState.STOPPED)
        arm.controller.block_joints([])
        arm.step(100)
        assert arm.last.measured.position[TILT] == pytest.approx(0.0, abs=1e-9)

    def test_it_stays_after_a_success_without_tolerance(self) -> None:
        arm = Arm()
        arm.controller.block_joints(["tilt"])
        arm.go(tilt((1.0, 0.04), goal_tolerance=(JointTolerance("tilt", -1.0, -1.0),)))
        arm.step_until(idle)
        assert arm.outcomes[-1].status is GoalStatus.SUCCEEDED
        arm.controller.block_joints([])
        arm.step(100)
        assert arm.last.measured.position[TILT] == pytest.approx(0.0, abs=1e-9)

    def test_a_new_goal_starts_where_the_joint_is(self) -> None:
        arm = Arm(path_tolerance_rad=0.0)
        arm.controller.block_joints(["tilt"])
        arm.go(tilt((4.0, 0.6)))
        arm.step(300)
        arm.controller.block_joints([])
        arm.go(tilt((3.0, 0.1)))
        since = len(arm.history)
        arm.step_until(idle)
        position, _ = measured(arm, since)
        assert position.max() <= 0.1 + 1e-6
        assert np.abs(np.diff(position)).max() <= arm.limits.velocity[TILT] * DT


class TestViolation:
    def test_of_a_velocity_names_the_velocity(self) -> None:
        arm = Arm()
        arm.controller.block_joints(["tilt"])
        arm.go(tilt((1.0, 0.04), path_tolerance=(JointTolerance("tilt", 0.0, 0.01),)))
        arm.step_until(idle)
        (outcome,) = arm.outcomes
        assert outcome.code is ErrorCode.PATH_TOLERANCE_VIOLATED
        assert outcome.message.startswith("path tolerance violated: velocity of tilt is 0.01")
        assert "(at most 0.0100 rad/s)" in outcome.message

    def test_the_worst_by_its_tolerance_is_named(self) -> None:
        limits = Arm().limits
        errors, none = np.zeros(6), np.zeros(6)
        errors[[0, TILT]] = 0.03, -0.06
        tolerances = np.full(6, 0.02)
        tolerances[TILT] = 0.05
        bad = Violation.of(errors, none, tolerances, none)
        assert bad is not None
        assert np.flatnonzero(bad.joints).tolist() == [0, TILT]
        assert bad.text(limits) == "cart_longitudinal is 0.0300 m away from its setpoint (at most 0.0200 m)"
        assert Violation.of(errors, none, none, none) is None

    @pytest.mark.parametrize(
        ("value", "text"),
        [(-0.00001, "-1e-05"), (-0.0, "0.0000"), (1e-7, "1e-07"), (-0.0503, "-0.0503"), (1.0, "1.0000")],
    )
    def test_amounts_keep_their_digits_and_are_never_minus_zero(self, value: float, text: str) -> None:
        assert amount(value) == text

    @pytest.mark.parametrize(
        ("value", "text"), [(-0.00001, "-0.00001"), (0.450001, "0.450001"), (0.6, "0.6000"), (1e300, "1e+300")]
    )
    def test_a_value_outside_its_limits_looks_so(self, value: float, text: str) -> None:
        shown = str(JointLimitError("lift", value, -0.0, 0.45, "m"))
        assert shown == f"lift = {text} m is outside its limits [0.0000, 0.4500] m"
        answer = Arm().controller.accept(TrajectoryGoal(("lift",), (TrajectoryPoint(60.0, (value,)),)), 100.0)
        assert f"position of lift is {text} m at point 0" in answer.message


class TestTolerances:
    @pytest.mark.parametrize("erased", [-1.0, -1.0 + 1e-9, math.inf])
    def test_erased_or_infinite_is_none(self, erased: float) -> None:
        arm = Arm()
        arm.controller.block_joints(["tilt"])
        goal = tilt((2.0, 0.1), path_tolerance=(JointTolerance("tilt", erased),), goal_time_tolerance_s=0.3)
        arm.go(goal)
        arm.step_until(idle)
        assert arm.outcomes[-1].code is ErrorCode.GOAL_TOLERANCE_VIOLATED


class TestStartElsewhere:
    @pytest.mark.parametrize(
        "points",
        [
            ((0.0, 0.04), (1.0, 0.06)),
            ((0.0, 0.04), (0.2, 0.04)),
            ((0.0, 0.049),),
            ((0.0, -0.049), (0.1, -0.049), (0.2, -0.049)),
        ],
    )
    def test_it_is_blended_within_the_limits(self, points: tuple[tuple[float, float], ...]) -> None:
        arm = Arm()
        arm.go(tilt(*points))
        arm.step_until(idle)
        arm.assert_smooth()
        assert arm.outcomes[-1].status is GoalStatus.SUCCEEDED
        assert arm.last.desired.position[TILT] == pytest.approx(points[-1][1])

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6), st.floats(2.0, 4.0))
    def test_a_dense_trajectory_keeps_its_time_and_shape(self, parts: list[float], duration_s: float) -> None:
        arm = Arm()
        gap = np.array(parts) * np.array([0.019 if joint.unit == "m" else 0.049 for joint in CARM.joints])
        u = np.linspace(0, 1, 101)
        share, rate = 10 * u**3 - 15 * u**4 + 6 * u**5, (30 * u**2 - 60 * u**3 + 30 * u**4) / duration_s
        way = 0.3 * (TARGET - HOME)
        points = tuple(
            TrajectoryPoint(float(t), tuple(HOME + gap + s * way), tuple(r * way))
            for t, s, r in zip(u * duration_s, share, rate, strict=True)
        )
        arm.go(TrajectoryGoal(NAMES, points))
        start_s = arm.now_s
        arm.step_until(lambda s: bool(s.outcomes))
        arm.assert_smooth()
        assert arm.now_s - start_s < duration_s + 3.0
        np.testing.assert_allclose(arm.last.desired.position, HOME + gap + way, atol=1e-9)

    def test_sums_and_cuts_of_splines_are_those_of_their_values(self) -> None:
        random = np.random.default_rng(3)
        one, two = (
            Spline.through(Waypoints(np.cumsum(random.uniform(0.2, 1.0, n)) - 0.2, *random.normal(size=(3, n, 2))))
            for n in (6, 3)
        )
        one, two = one.cut(0.0), two.cut(0.0)
        both = one.plus(two) if two.duration_s <= one.duration_s else two.plus(one)
        short, long = sorted((one, two), key=lambda spline: spline.duration_s)
        assert both.duration_s == long.duration_s
        for t in np.linspace(0.0, long.duration_s - 1e-6, 60):
            added = short.sample(t) if t < short.duration_s else np.zeros((3, 2))
            for total, a, b in zip(both.sample(t), long.sample(t), added, strict=True):
                np.testing.assert_allclose(total, a + b, atol=1e-9)


class TestSpeedScaling:
    def run(self, changes: dict[int, float], **parameters: object) -> Arm:
        arm = Arm(**parameters)
        arm.go(to(TARGET, 5.0))
        for step in range(4000):
            if step in changes:
                assert arm.controller.scale_speed(changes[step])
            if idle(arm.step()):
                return arm
        raise AssertionError("still moving")

    @pytest.mark.parametrize(
        ("changes", "duration_s"),
        [
            ({0: 0.5}, 10.0),
            ({100: 0.2, 200: 1.0}, 5.8),
            ({250: 0.0, 450: 1.0}, 7.0),
            ({60: 0.0, 100: 0.3}, 15.2),
            ({150: 0.0, 160: 1.0, 170: 0.1, 190: 1.0}, 5.4),
        ],
    )
    def test_time_runs_slower_and_nothing_jumps(self, changes: dict[int, float], duration_s: float) -> None:
        arm = self.run(changes)
        arm.assert_smooth()
        assert arm.now_s - 100.0 == pytest.approx(duration_s, abs=0.5)
        assert [outcome.status for outcome in arm.outcomes] == [GoalStatus.SUCCEEDED]
        np.testing.assert_allclose(arm.last.measured.position, TARGET, atol=1e-3)

    def test_a_pause_rests_on_the_way_and_waits_without_end(self) -> None:
        arm = Arm()
        arm.go(to(TARGET, 5.0))
        arm.step(200)
        arm.controller.scale_speed(0.0)
        arm.step(200)
        place = arm.last.desired.position
        arm.step(1000)
        assert arm.last.state is OperatingState.MOVING
        assert "0 % of its speed" in arm.last.message
        np.testing.assert_array_equal(arm.last.desired.position, place)
        np.testing.assert_array_equal(arm.last.desired.velocity, 0)
        assert arm.last.elapsed_s - arm.last.trajectory_s > 10
        assert arm.last.speed_scaling == 0.0

    @pytest.mark.parametrize("factor", [0.0, 0.2, 0.6])
    @pytest.mark.parametrize("after", [2, 15, 100])
    def test_a_new_goal_on_the_way_keeps_the_speed(self, factor: float, after: int) -> None:
        arm = Arm()
        arm.go(to(TARGET, 5.0))
        arm.step(200)
        arm.controller.scale_speed(factor)
        arm.step(after)
        arm.go(to(HOME, 6.0))
        arm.step(100)
        arm.controller.scale_speed(1.0)
        arm.step_until(idle)
        arm.assert_smooth()

    def test_a_cancel_while_slowed_brakes_from_the_real_speed(self) -> None:
        arm = Arm()
        arm.controller.scale_speed(0.3)
        goal_id = arm.go(to(TARGET, 5.0))
        arm.step(700)
        speed = np.abs(arm.last.desired.velocity).max()
        assert arm.controller.cancel(goal_id)
        arm.step()
        assert np.abs(arm.last.desired.velocity).max() <= speed
        arm.step_until(idle)
        arm.assert_smooth()

    def test_left_out_joints_brake_in_real_time(self) -> None:
        arm = Arm()
        arm.go(to(TARGET, 5.0))
        arm.step(250)
        arm.controller.scale_speed(0.1)
        arm.go(TrajectoryGoal(("wigwag",), (TrajectoryPoint(4.0, (0.1,), (0.0,)),)))
        arm.step(100)
        np.testing.assert_allclose(np.delete(arm.last.desired.velocity, NAMES.index("wigwag")), 0, atol=1e-9)
        arm.assert_smooth()

    @pytest.mark.parametrize("factor", [-0.1, 1.01, math.nan, math.inf])
    def test_other_factors_change_nothing(self, factor: float) -> None:
        arm = Arm()
        assert not arm.controller.scale_speed(factor)
        assert arm.step().speed_scaling == 1.0


def test_a_trajectory_may_take_the_place_of_a_goal_s() -> None:
    arm = Arm()
    goal_id = arm.go(tilt((4.0, 0.4), goal_tolerance=(JointTolerance("tilt", 0.01),)))
    arm.step(100)
    answer = arm.controller.accept(tilt((2.0, 0.1)), arm.now_s, replace=True)
    assert answer.goal_id == goal_id
    assert arm.controller.accept(tilt(), arm.now_s, replace=True).code is ErrorCode.INVALID_GOAL
    arm.step_until(idle)
    arm.assert_smooth()
    assert [(o.goal_id, o.status) for o in arm.outcomes] == [(goal_id, GoalStatus.SUCCEEDED)]
    assert arm.last.desired.position[TILT] == pytest.approx(0.1)
    alone = arm.controller.accept(tilt((2.0, 0.0)), arm.now_s, replace=True)
    assert alone.goal_id not in (None, goal_id)


def test_query_tells_what_is_commanded_then() -> None:
    arm = Arm()
    assert arm.controller.query(0.0)[1] == "no trajectory is active"
    arm.go(to(offset(lift=0.05), 5.0))
    arm.step(100)
    state, reason = arm.controller.query(1.0)
    assert reason == ""
    arm.step(100)
    for value, commanded in zip(state, arm.last.desired, strict=True):
        np.testing.assert_allclose(value, commanded, atol=1e-9)
    assert "ends" in arm.controller.query(4.0)[1]
    np.testing.assert_allclose(arm.controller.query(4.0)[0].position, offset(lift=0.05), atol=1e-9)
    assert "began" in arm.controller.query(-3.0)[1]
    arm.controller.stop("enough")
    assert arm.controller.query(0.0)[1] == "stop is latched (enough)"


@pytest.mark.parametrize("seed", [0, 1, 3, 10])
def test_joints_keep_their_limits_whatever_is_asked(seed: int) -> None:
    """Goals, cancels, stops, blocked and freed joints and changes of speed in any order."""
    random = np.random.default_rng(seed)
    arm = Arm() if seed % 2 else Arm(path_tolerance_m=0.0, path_tolerance_rad=0.0, goal_time_s=0.0)
    lower, upper = arm.limits.lower, arm.limits.upper
    goal_id = 0

    def go() -> None:
        nonlocal goal_id
        chosen = random.permutation(6)[: random.integers(1, 7)]
        target = np.clip(HOME + random.uniform(-0.15, 0.15, 6) * (upper - lower), lower, upper)[chosen]
        zero = (0.0,) * len(chosen)
        point = TrajectoryPoint(float(random.uniform(3, 8)), tuple(target), zero, zero)
        goal = TrajectoryGoal(tuple(NAMES[i] for i in chosen), (point,))
        answer = arm.controller.accept(goal, arm.now_s, replace=bool(random.integers(2)))
        goal_id = answer.goal_id or goal_id

    deeds = [
        go,
        go,
        lambda: arm.controller.cancel(goal_id),
        lambda: arm.controller.stop() if random.random() < 0.2 else None,
        arm.controller.reset,
        arm.controller.reset,
        lambda: arm.controller.block_joints([str(random.choice(NAMES))]),
        lambda: arm.controller.block_joints([]),
        lambda: arm.controller.scale_speed(float(random.choice([0.0, 0.1, 0.5, 1.0]))),
    ]
    for _ in range(30):
        deeds[random.integers(len(deeds))]()
        arm.step(int(random.integers(1, 120)))
    position = np.array([s.measured.position for s in arm.history])
    speed = np.abs([s.measured.velocity for s in arm.history])
    commanded = np.abs([s.desired.velocity for s in arm.history])
    assert (speed / arm.limits.velocity).max() > 0.1
    assert (commanded <= arm.limits.velocity * 1.05 + 1e-9).all()
    assert (speed <= arm.limits.velocity * 1.05).all()
    assert (np.abs(np.diff(position, axis=0)) <= arm.limits.velocity * 1.05 * DT).all()
    assert (np.diff(speed, axis=0) <= 2.1 * arm.limits.acceleration * DT).all()
