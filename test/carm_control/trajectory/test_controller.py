# SPDX-License-Identifier: Apache-2.0
"""Behavior of the trajectory controller over time: goals, preemption, cancel, stop, tolerances, clock."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_control import (
    ErrorCode,
    GoalOutcome,
    GoalStatus,
    JointTolerance,
    MotionParameters,
    OperatingState,
    Permit,
    PermitWatch,
    Snapshot,
    TrajectoryController,
    TrajectoryGoal,
    TrajectoryPoint,
    build_controller,
)
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()
NAMES = CARM.joint_names
HOME = CARM.home
ZERO = (0.0,) * 6
DT = 0.01
QUIET = {"encoder_noise_m": 0.0, "encoder_noise_rad": 0.0, "velocity_noise_m_s": 0.0, "velocity_noise_rad_s": 0.0}


class Arm:
    """A controller with a clock that only :meth:`step` advances."""

    def __init__(self, **parameters: object) -> None:
        self.controller: TrajectoryController = build_controller(
            CARM,
            MotionParameters(**(QUIET | parameters)),  # type: ignore[arg-type]
        )
        self.limits = self.controller.limits
        self.now_s = 100.0
        self.history: list[Snapshot] = [self.controller.step(self.now_s)]

    @property
    def last(self) -> Snapshot:
        return self.history[-1]

    @property
    def outcomes(self) -> list[GoalOutcome]:
        return [outcome for snapshot in self.history for outcome in snapshot.outcomes]

    def step(self, count: int = 1) -> Snapshot:
        for _ in range(count):
            self.now_s += DT
            self.history.append(self.controller.step(self.now_s))
        return self.last

    def step_until(self, condition: Callable[[Snapshot], bool], limit_s: float = 30.0) -> Snapshot:
        for _ in range(round(limit_s / DT)):
            if condition(self.step()):
                return self.last
        raise AssertionError(f"not in {limit_s} s; last {self.last}")

    def go(self, goal: TrajectoryGoal) -> int:
        answer = self.controller.accept(goal, self.now_s)
        assert answer.code is ErrorCode.SUCCESSFUL, answer.message
        assert answer.goal_id is not None
        return answer.goal_id

    def commanded(self, since: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        p, v, a = zip(*(s.desired for s in self.history[since:]), strict=True)
        return np.array(p), np.array(v), np.array(a)

    def assert_smooth(self, since: int = 0, *, jerk: bool = True) -> None:
        """Commanded position, velocity and (with ``jerk``) acceleration change by what the limits allow in a step."""
        p, v, a = self.commanded(since)
        limits, slack = self.limits, 1 + 0.051
        assert (np.abs(v) <= limits.velocity * slack).all()
        assert (np.abs(a) <= limits.acceleration * slack).all()
        assert (np.abs(np.diff(p, axis=0)) <= limits.velocity * slack * DT + 1e-9).all()
        assert (np.abs(np.diff(v, axis=0)) <= limits.acceleration * slack * DT + 1e-9).all()
        assert not jerk or (np.abs(np.diff(a, axis=0)) <= limits.jerk * slack * DT + 1e-9).all()


def idle(snapshot: Snapshot) -> bool:
    return snapshot.state is OperatingState.IDLE


def to(positions: np.ndarray, time_s: float, degree: int = 5) -> TrajectoryGoal:
    point = TrajectoryPoint(time_s, tuple(positions), ZERO if degree >= 3 else (), ZERO if degree == 5 else ())
    return TrajectoryGoal(NAMES, (point,))


def offset(**joints: float) -> np.ndarray:
    return HOME + np.array([joints.get(name, 0.0) for name in NAMES])


TARGET = offset(cart_longitudinal=0.2, lift=0.05, tilt=0.4, orbital=-0.3)


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_goal_is_reached_and_held(degree: int) -> None:
    arm = Arm()
    goal_id = arm.go(to(TARGET, 5.0, degree))
    assert arm.step().state is OperatingState.MOVING
    arm.step_until(idle)
    assert arm.outcomes == [GoalOutcome(goal_id, GoalStatus.SUCCEEDED, ErrorCode.SUCCESSFUL, "goal reached")]
    assert 5.0 <= arm.now_s - 100.0 < 5.3
    arm.step(50)
    np.testing.assert_allclose(arm.last.measured.position, TARGET, atol=1e-6)
    np.testing.assert_allclose(arm.last.desired.position, TARGET, atol=1e-12)
    assert arm.last.message == ""


def test_command_passes_through_every_point_in_any_joint_order() -> None:
    arm = Arm()
    order = (5, 2, 0, 4, 1, 3)
    way = [offset(cart_lateral=0.05, orbital=0.1), offset(cart_lateral=0.1, tilt=0.2), TARGET]
    points = tuple(TrajectoryPoint(4.0 * (k + 1), tuple(q[list(order)]), ZERO) for k, q in enumerate(way))
    arm.go(TrajectoryGoal(tuple(NAMES[i] for i in order), points))
    for q in way:
        np.testing.assert_allclose(arm.step(400).desired.position, q, atol=1e-9)


def test_joints_that_a_goal_leaves_out_stay() -> None:
    arm = Arm()
    arm.go(TrajectoryGoal(("lift",), (TrajectoryPoint(4.0, (0.2,), (0.0,)),)))
    arm.step_until(idle)
    expected = HOME.copy()
    expected[2] = 0.2
    np.testing.assert_allclose(arm.last.desired.position, expected, atol=1e-12)


def test_joints_that_a_preempting_goal_leaves_out_decelerate() -> None:
    arm = Arm()
    arm.go(to(TARGET, 5.0))
    arm.step(250)
    arm.go(TrajectoryGoal(("wigwag",), (TrajectoryPoint(4.0, (0.1,), (0.0,)),)))
    arm.step_until(idle)
    arm.assert_smooth()
    assert 0.1 < arm.last.desired.position[0] < 0.15
    assert arm.last.desired.position[3] == pytest.approx(0.1)


@settings(max_examples=25, deadline=None)
@given(
    after=st.integers(1, 700),
    degree=st.sampled_from([1, 3, 5]),
    shift=st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6),
)
def test_preemption_continues_from_the_commanded_motion(after: int, degree: int, shift: list[float]) -> None:
    arm = Arm()
    first = arm.go(to(TARGET, 5.0))
    arm.step(after)
    span = np.minimum(HOME - arm.limits.lower, arm.limits.upper - HOME)
    arm.history = arm.history[-1:]
    second = arm.go(to(HOME + 0.3 * span * np.array(shift), 10.0, degree))
    arm.step(100)
    p, v, _ = arm.commanded()
    assert (np.abs(np.diff(p, axis=0)) <= arm.limits.velocity * 1.051 * DT + 1e-9).all()
    assert (np.abs(np.diff(v, axis=0)) <= arm.limits.acceleration * 1.051 * DT + 1e-9).all()
    arm.step_until(idle)
    ended = {o.goal_id: (o.status, o.code) for o in arm.outcomes}
    assert ended[second] == (GoalStatus.SUCCEEDED, ErrorCode.SUCCESSFUL)
    if after <= 500:
        assert ended[first] == (GoalStatus.ABORTED, ErrorCode.INVALID_GOAL)


def test_small_difference_at_the_start_is_taken_up_without_a_jump() -> None:
    arm = Arm()
    start = HOME + arm.limits.by_unit(5e-5, 1e-4)
    times = np.linspace(0, 6.0, 301)
    s = 10 * (times / 6) ** 3 - 15 * (times / 6) ** 4 + 6 * (times / 6) ** 5
    ds = np.gradient(s, times)
    ds[-1] = 0.0
    points = tuple(
        TrajectoryPoint(t, tuple(start + f * (TARGET - start)), tuple(g * (TARGET - start)))
        for t, f, g in zip(times, s, ds, strict=True)
    )
    arm.go(TrajectoryGoal(NAMES, points))
    arm.step(200)
    arm.assert_smooth()
    np.testing.assert_allclose(arm.last.desired.position, start + s[100] * (TARGET - start), atol=1e-9)
    arm.step_until(idle)
    np.testing.assert_allclose(arm.last.desired.position, TARGET, atol=1e-12)


def test_exact_start_keeps_the_points_and_their_times() -> None:
    arm = Arm()
    quarter = HOME + (TARGET - HOME) / 4
    points = (TrajectoryPoint(0.0, tuple(HOME)), TrajectoryPoint(3.0, tuple(quarter)), to(TARGET, 9.0, 1).points[0])
    arm.go(TrajectoryGoal(NAMES, points))
    np.testing.assert_allclose(arm.step(300).desired.position, quarter, atol=1e-12)
    assert arm.last.desired.velocity[0] > 0
    np.testing.assert_allclose(arm.step(600).desired.position, TARGET, atol=1e-12)
    arm.assert_smooth()


def test_start_time_in_the_past_joins_where_the_trajectory_is_now() -> None:
    arm = Arm()
    points = (TrajectoryPoint(0.0, tuple(HOME)), TrajectoryPoint(2.0, tuple(HOME)), to(TARGET, 7.0).points[0])
    arm.go(TrajectoryGoal(NAMES, points, stamp_s=arm.now_s - 1.5))
    arm.step_until(idle)
    assert 5.5 <= arm.now_s - 100.0 < 5.8


def test_start_time_in_the_future_delays_the_motion() -> None:
    arm = Arm()
    points = (TrajectoryPoint(0.0, tuple(HOME)), to(TARGET, 5.0).points[0])
    arm.go(TrajectoryGoal(NAMES, points, stamp_s=arm.now_s + 2.0))
    np.testing.assert_allclose(arm.step(199).desired.position, HOME, atol=1e-12)
    arm.step_until(idle)
    assert 7.0 <= arm.now_s - 100.0 < 7.3


def test_cancel_decelerates_and_reports_at_rest() -> None:
    arm = Arm()
    goal_id = arm.go(to(TARGET, 5.0))
    arm.step(250)
    assert arm.controller.cancel(goal_id)
    assert not arm.controller.cancel(goal_id)
    assert arm.step().state is OperatingState.STOPPING
    assert arm.outcomes == []
    arm.step_until(idle, 2.0)
    arm.assert_smooth()
    assert arm.outcomes[0].status is GoalStatus.CANCELED
    assert np.abs(arm.last.measured.velocity).max() < 0.005
    assert 0.1 < arm.last.desired.position[0] < 0.15
    arm.go(to(TARGET, 5.0))


def test_cancel_of_an_unknown_goal_changes_nothing() -> None:
    arm = Arm()
    goal_id = arm.go(to(TARGET, 5.0))
    assert not arm.controller.cancel(goal_id + 1)
    assert arm.step().state is OperatingState.MOVING


def test_new_goal_while_canceling_tells_the_old_outcome_at_once() -> None:
    arm = Arm()
    goal_id = arm.go(to(TARGET, 5.0))
    arm.step(250)
    arm.controller.cancel(goal_id)
    arm.step(10)
    arm.go(to(HOME, 9.0))
    arm.step()
    assert [(o.goal_id, o.status) for o in arm.outcomes] == [(goal_id, GoalStatus.CANCELED)]
    arm.step_until(idle)
    arm.assert_smooth()


@settings(max_examples=40, deadline=None)
@given(after=st.integers(0, 900), how=st.sampled_from(["goal", "canceled", "preempted", "idle"]))
def test_stop_from_any_state_comes_to_rest_and_latches(after: int, how: str) -> None:
    arm = Arm()
    goal_id = arm.go(to(TARGET, 5.0)) if how != "idle" else 0
    arm.step(after)
    if how == "canceled":
        arm.controller.cancel(goal_id)
        arm.step(3)
    if how == "preempted":
        arm.go(to(HOME, 9.0))
        arm.step(3)
    since = len(arm.history) - 1
    before = arm.last
    arm.controller.stop()
    first = arm.step()
    assert first.state in (OperatingState.STOPPING, OperatingState.STOPPED)
    direction = np.sign(before.desired.velocity)
    gaining = before.desired.acceleration * direction > 0
    assert (((first.desired.acceleration - before.desired.acceleration) * direction)[gaining] < 0).all()
    arm.step_until(lambda s: s.state is OperatingState.STOPPED, 2.0)
    arm.assert_smooth(since)
    _, _, a = arm.commanded(since)
    assert (np.abs(np.diff(a, axis=0)) <= arm.limits.jerk * DT * (1 + 1e-6) + 1e-9).all()
    rest = arm.last.desired.position
    arm.step(100)
    np.testing.assert_array_equal(arm.last.desired.position, rest)
    assert arm.last.state is OperatingState.STOPPED
    assert "reset releases it" in arm.last.message
    if how == "goal" and after < 480:
        assert [(o.status, o.code) for o in arm.outcomes] == [(GoalStatus.ABORTED, ErrorCode.INVALID_GOAL)]


def test_reset_waits_for_rest_and_motion_does_not_resume() -> None:
    arm = Arm()
    arm.go(to(TARGET, 5.0))
    arm.step(250)
    arm.controller.stop()
    arm.step()
    assert arm.controller.reset()[0] is False
    arm.step_until(lambda s: s.state is OperatingState.STOPPED)
    assert arm.controller.reset() == (True, "stop released")
    rest = arm.last.desired.position
    arm.step(100)
    assert arm.last.state is OperatingState.IDLE
    np.testing.assert_array_equal(arm.last.desired.position, rest)
    arm.go(to(TARGET, 5.0))
    arm.step_until(idle)
    np.testing.assert_allclose(arm.last.desired.position, TARGET, atol=1e-12)


def test_reset_without_stop_says_so() -> None:
    assert Arm().controller.reset() == (True, "stop was not latched")


def test_blocked_drive_violates_the_path_tolerance_and_the_arm_holds() -> None:
    arm = Arm()
    goal_id = arm.go(to(TARGET, 5.0))
    arm.step(200)
    arm.controller.block_joints(["tilt"])
    arm.step_until(idle)
    (outcome,) = arm.outcomes
    assert (outcome.goal_id, outcome.status) == (goal_id, GoalStatus.ABORTED)
    assert outcome.code is ErrorCode.PATH_TOLERANCE_VIOLATED
    assert "tilt is 0.05" in outcome.message
    stuck = arm.last.measured.position[4]
    assert arm.last.desired.position[4] == pytest.approx(stuck, abs=1e-9)
    arm.controller.block_joints([])
    arm.step(100)
    assert arm.last.measured.position[4] == pytest.approx(stuck, abs=1e-9)
    v = arm.commanded()[1]
    others = [0, 1, 2, 3, 5]
    assert (np.abs(np.diff(v[:, others], axis=0)) <= 1.051 * arm.limits.acceleration[others] * DT + 1e-9).all()


def test_goal_tolerance_is_violated_after_the_goal_time() -> None:
    arm = Arm(blocked_joint="lift")
    goal = to(TARGET, 5.0)
    arm.go(
        TrajectoryGoal(NAMES, goal.points, path_tolerance=(JointTolerance("lift", -1.0),), goal_time_tolerance_s=0.5)
    )
    arm.step_until(idle)
    (outcome,) = arm.outcomes
    assert outcome.code is ErrorCode.GOAL_TOLERANCE_VIOLATED
    assert "lift is 0.0500 m away" in outcome.message
    assert arm.now_s - 100.0 == pytest.approx(5.5, abs=0.05)


def test_goal_time_can_be_without_end() -> None:
    arm = Arm(blocked_joint="lift")
    goal = to(TARGET, 5.0)
    arm.go(
        TrajectoryGoal(NAMES, goal.points, path_tolerance=(JointTolerance("lift", -1.0),), goal_time_tolerance_s=-1.0)
    )
    arm.step(3000)
    assert arm.last.state is OperatingState.MOVING
    arm.controller.block_joints([])
    assert arm.step_until(idle).outcomes[0].status is GoalStatus.SUCCEEDED


def test_tolerance_of_a_goal_replaces_the_default() -> None:
    arm = Arm(drive_time_constant_s=0.05)
    goal = to(TARGET, 5.0)
    arm.go(TrajectoryGoal(NAMES, goal.points, path_tolerance=(JointTolerance("tilt", 0.002),)))
    arm.step_until(idle)
    assert arm.outcomes[0].code is ErrorCode.PATH_TOLERANCE_VIOLATED
    arm.assert_smooth(jerk=False)  # a joint at fault stops from its real motion


def test_a_control_loop_that_was_held_up_decelerates_and_latches_a_stop() -> None:
    arm = Arm()
    arm.go(to(TARGET, 5.0))
    before = arm.step(250)
    arm.now_s += 60.0
    after = arm.step()
    assert after.state is OperatingState.STOPPING
    assert "held up for 60.01 s" in after.message
    assert (np.abs(after.desired.position - before.desired.position) <= arm.limits.velocity * 0.02).all()
    arm.step_until(lambda s: s.state is OperatingState.STOPPED)
    np.testing.assert_allclose(arm.last.desired.position, before.desired.position, atol=0.05)
    (outcome,) = arm.outcomes
    assert outcome.status is GoalStatus.ABORTED
    assert arm.controller.accept(to(TARGET, 5.0), arm.now_s).goal_id is None
    assert arm.controller.reset()[0]
    assert arm.step(100).state is OperatingState.IDLE


def test_short_delays_slow_a_motion_down_and_a_clock_that_runs_backwards_does_not_move_it() -> None:
    arm = Arm()
    arm.go(to(TARGET, 5.0))
    before = arm.step(250)
    arm.now_s += 0.03
    after = arm.step()
    assert after.state is OperatingState.MOVING
    assert (np.abs(after.desired.position - before.desired.position) <= arm.limits.velocity * 0.02).all()
    arm.now_s -= 90.0
    np.testing.assert_array_equal(arm.step().desired.position, after.desired.position)
    arm.step_until(idle)
    np.testing.assert_allclose(arm.last.desired.position, TARGET, atol=1e-12)


def test_a_pause_at_rest_is_no_fault() -> None:
    arm = Arm()
    arm.step(10)
    arm.now_s += 60.0
    assert arm.step().state is OperatingState.IDLE


def supervised() -> tuple[Arm, Callable[..., Snapshot]]:
    """An arm that needs permits, and what steps it while a permit of a speed is renewed."""
    arm = Arm(supervised=True)

    def step(count: int, speed: float, reason: str = "") -> Snapshot:
        for _ in range(count):
            arm.controller.permits.renew(Permit(speed, reason), arm.now_s)
            arm.step()
        return arm.last

    return arm, step


def test_nothing_moves_without_a_permit() -> None:
    arm, step = supervised()
    arm.step(10)
    refused = arm.controller.accept(to(TARGET, 5.0), arm.now_s)
    assert refused.goal_id is None
    assert "supervisor" in refused.message
    step(1, 1.0)
    arm.go(to(TARGET, 5.0))
    step(200, 1.0)
    moving = arm.step(48)
    assert moving.state is OperatingState.MOVING
    arm.step(4)
    assert arm.last.state is OperatingState.STOPPING
    arm.step_until(idle)
    (outcome,) = arm.outcomes
    assert outcome.status is GoalStatus.ABORTED
    assert "no permission to move for 0.5 s" in outcome.message


def test_a_permit_of_no_speed_holds_the_arm_and_a_later_one_does_not_move_it() -> None:
    arm, step = supervised()
    step(1, 1.0)
    arm.go(to(TARGET, 5.0))
    step(200, 1.0)
    assert step(1, 0.0, "the patient is near").state is OperatingState.STOPPING
    rest = step(200, 1.0)
    assert rest.state is OperatingState.IDLE
    assert "the patient is near" in arm.outcomes[0].message
    np.testing.assert_array_equal(step(200, 1.0).desired.position, rest.desired.position)


def test_a_permit_limits_the_velocity_and_not_the_share_of_the_plan() -> None:
    arm, step = supervised()
    step(1, 1.0)
    arm.go(to(TARGET, 5.0))
    shares = []
    while step(1, 0.1).state is not OperatingState.IDLE:
        shares.append(np.max(np.abs(arm.last.desired.velocity) / arm.limits.velocity))
    assert arm.outcomes[0].status is GoalStatus.SUCCEEDED
    assert 0.09 < max(shares) <= 0.115


def test_a_permit_that_grows_old_permits_less_and_less() -> None:
    watch = PermitWatch(0.5)
    assert watch.renew(Permit(0.8), 10.0)
    assert watch.judge(10.07, waiting=True) == Permit(0.8)
    speeds = [watch.judge(10.0 + age_s, waiting=True).speed for age_s in (0.08, 0.1, 0.12, 0.14, 0.16, 0.49, 0.51)]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[2] == pytest.approx(0.4)
    assert 0.0 < speeds[-2] < 0.01  # it waits, and the goal goes on with the next permit
    assert speeds[-1] == 0.0
    assert "0.1 s old" in watch.judge(10.1, waiting=True).reason
    assert watch.renew(Permit(0.8), 10.4)
    assert watch.judge(10.41, waiting=True).speed == 0.8
    assert watch.judge(10.8) == Permit(0.8)  # a foreign controller is not slowed down by messages that are late


@pytest.mark.parametrize("speed", [-0.1, 1.1, math.nan, math.inf])
def test_a_permit_that_is_none_is_not_taken(speed: float) -> None:
    watch = PermitWatch(0.5)
    assert not watch.renew(Permit(speed), 1.0)
    assert watch.judge(1.0).speed == 0.0


def test_goals_stops_and_resets_from_many_threads_leave_a_sound_state() -> None:
    arm = Arm()
    accepted: list[int] = []
    done = threading.Event()

    def client(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(60):
            target = HOME + random.uniform(-0.05, 0.05, 6)
            answer = arm.controller.accept(to(target, 8.0), arm.now_s)
            if answer.goal_id is not None:
                accepted.append(answer.goal_id)
                if random.random() < 0.3:
                    arm.controller.cancel(answer.goal_id)
            if random.random() < 0.1:
                arm.controller.stop()
            arm.controller.reset()

    def clients() -> None:
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()

    starter = threading.Thread(target=clients)
    starter.start()
    while not done.is_set():
        arm.step()
    starter.join()
    arm.controller.stop()
    arm.step_until(lambda s: s.state is OperatingState.STOPPED)
    arm.assert_smooth()
    assert sorted(o.goal_id for o in arm.outcomes) == sorted(accepted)
