# SPDX-License-Identifier: Apache-2.0
"""What the trajectory controller refuses, with which code, and that a refusal changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from carm_control import (
    ErrorCode,
    JointTolerance,
    MotionParameters,
    OperatingState,
    TrajectoryController,
    TrajectoryGoal,
    TrajectoryPoint,
    build_controller,
)
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()
HOME = tuple(CARM.home)
NAMES = CARM.joint_names
ZERO = (0.0,) * 6
NOW_S = 1000.0
QUIET = {
    "encoder_noise_m": 0.0,
    "encoder_noise_rad": 0.0,
    "velocity_noise_m_s": 0.0,
    "velocity_noise_rad_s": 0.0,
}


def controller(**parameters: object) -> TrajectoryController:
    made = build_controller(CARM, MotionParameters(**(QUIET | parameters)))  # type: ignore[arg-type]
    made.step(NOW_S)
    return made


def at(joint: str, value: float) -> tuple[float, ...]:
    return tuple(value if name == joint else home for name, home in zip(NAMES, HOME, strict=True))


GOOD = TrajectoryGoal(NAMES, (TrajectoryPoint(4.0, at("cart_longitudinal", 0.1), ZERO),))


def two(first: TrajectoryPoint, second: TrajectoryPoint) -> TrajectoryGoal:
    return TrajectoryGoal(NAMES, (first, second))


def with_value(field: str, joint: int, value: float) -> TrajectoryGoal:
    point = TrajectoryPoint(4.0, HOME, ZERO, ZERO)
    values = list(getattr(point, field))
    values[joint] = value
    return two(replace(point, time_s=2.0, **{field: tuple(values)}), point)


JOINTS, GOAL, OLD = ErrorCode.INVALID_JOINTS, ErrorCode.INVALID_GOAL, ErrorCode.OLD_HEADER_TIMESTAMP
REFUSALS: dict[str, tuple[TrajectoryGoal, ErrorCode, str]] = {
    "no joints": (replace(GOOD, joint_names=()), JOINTS, "no joint names"),
    "unknown joint": (replace(GOOD, joint_names=(*NAMES[:5], "elbow")), JOINTS, "'elbow'"),
    "one joint too many": (replace(GOOD, joint_names=(*NAMES, "elbow")), JOINTS, "'elbow'"),
    "duplicate joint": (replace(GOOD, joint_names=(*NAMES[:5], "lift")), JOINTS, "'lift' is named 2 times"),
    "no points": (replace(GOOD, points=()), GOAL, "no points"),
    "no positions": (replace(GOOD, points=(TrajectoryPoint(4.0, (), ZERO),)), GOAL, "no positions"),
    "too few positions": (replace(GOOD, points=(TrajectoryPoint(4.0, HOME[:5]),)), GOAL, "5 positions for 6"),
    "too many velocities": (
        replace(GOOD, points=(TrajectoryPoint(4.0, HOME, (0.0,) * 7),)),
        GOAL,
        "7 velocities for 6",
    ),
    "too few accelerations": (
        replace(GOOD, points=(TrajectoryPoint(4.0, HOME, ZERO, (0.0,)),)),
        GOAL,
        "1 accelerations for 6",
    ),
    "accelerations alone": (
        replace(GOOD, points=(TrajectoryPoint(4.0, HOME, (), ZERO),)),
        GOAL,
        "but no velocities",
    ),
    "effort": (replace(GOOD, points=(TrajectoryPoint(4.0, HOME, (), (), ZERO),)), GOAL, "effort"),
    "NaN position": (with_value("positions", 2, math.nan), GOAL, "positions of lift at point 0 is nan"),
    "infinite position": (with_value("positions", 4, math.inf), GOAL, "positions of tilt at point 0 is inf"),
    "NaN velocity": (with_value("velocities", 0, math.nan), GOAL, "velocities of cart_longitudinal"),
    "infinite acceleration": (with_value("accelerations", 5, -math.inf), GOAL, "accelerations of orbital"),
    "absurd velocity": (with_value("velocities", 0, 1e308), GOAL, "velocity of cart_longitudinal is 1e+308"),
    "absurd acceleration": (
        replace(GOOD, points=(TrajectoryPoint(4.0, HOME, ZERO, (0, 1e300, 0, 0, 0, 0)),)),
        GOAL,
        "acceleration of cart_lateral is 1e+300 m/s^2 at point 0",
    ),
    "NaN time": (replace(GOOD, points=(TrajectoryPoint(math.nan, HOME),)), GOAL, "time of point 0 is nan"),
    "negative time": (replace(GOOD, points=(TrajectoryPoint(-0.1, HOME),)), GOAL, "negative: -0.1 s"),
    "same time twice": (
        two(TrajectoryPoint(2.0, HOME), TrajectoryPoint(2.0, HOME)),
        GOAL,
        "not strictly increasing: 2.0 s at point 0, 2.0 s at point 1",
    ),
    "time backwards": (two(TrajectoryPoint(2.0, HOME), TrajectoryPoint(1.0, HOME)), GOAL, "strictly"),
    "above the upper limit": (
        replace(GOOD, points=(TrajectoryPoint(60.0, at("lift", 0.46)),)),
        GOAL,
        "position of lift is 0.4600 m at point 0, outside its limits [0.0000, 0.4500] m",
    ),
    "below the lower limit": (
        replace(GOOD, points=(TrajectoryPoint(60.0, at("orbital", math.radians(-52.0))),)),
        GOAL,
        "position of orbital is -0.9076 rad at point 0, outside its limits [-0.8988, 1.6842] rad",
    ),
    "overshoot between points": (
        TrajectoryGoal(
            ("lift",),
            (
                TrajectoryPoint(20.0, (0.445,), (0.03,)),
                TrajectoryPoint(22.0, (0.445,), (0.0,)),
            ),
        ),
        GOAL,
        "position of lift is 0.4539 m between points 0 and 1",
    ),
    "too fast": (
        two(TrajectoryPoint(1.0, HOME), TrajectoryPoint(2.0, at("cart_lateral", 0.106))),
        GOAL,
        "velocity of cart_lateral is 0.1060 m/s between points 0 and 1",
    ),
    "too fast from where it is": (
        replace(GOOD, points=(TrajectoryPoint(0.5, at("cart_lateral", 0.1)),)),
        GOAL,
        "velocity of cart_lateral is 0.2000 m/s on the transition from the present motion",
    ),
    "accelerates too hard": (
        replace(GOOD, points=(TrajectoryPoint(1.0, at("cart_lateral", 0.05), ZERO),)),
        GOAL,
        "acceleration of cart_lateral is 0.3000 m/s^2",
    ),
    "moving at the end": (
        replace(GOOD, points=(TrajectoryPoint(4.0, HOME, (0.01, 0, 0, 0, 0, 0)),)),
        GOAL,
        "velocity of cart_longitudinal at the last point is 0.01 m/s",
    ),
    "starts elsewhere": (
        two(TrajectoryPoint(0.0, at("cart_lateral", 0.03)), TrajectoryPoint(5.0, HOME)),
        GOAL,
        "starts with cart_lateral at 0.0300 m, 0.0300 m away from its present 0.0000 m (at most 0.0200 m)",
    ),
    "long past": (replace(GOOD, stamp_s=NOW_S - 4.5), OLD, "ended 0.500 s ago"),
    "tolerance of unknown joint": (
        replace(GOOD, path_tolerance=(JointTolerance("elbow", 0.1),)),
        JOINTS,
        "path tolerance names unknown joint 'elbow'",
    ),
    "negative tolerance": (
        replace(GOOD, goal_tolerance=(JointTolerance("lift", -0.5),)),
        GOAL,
        "goal tolerance of lift (position) is -0.5",
    ),
    "NaN goal time": (replace(GOOD, goal_time_tolerance_s=math.nan), GOAL, "goal time tolerance is nan"),
}


@pytest.mark.parametrize(("goal", "code", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusal_has_its_code_and_says_why(goal: TrajectoryGoal, code: ErrorCode, words: str) -> None:
    answer = controller().accept(goal, NOW_S)
    assert (answer.code, answer.goal_id) == (code, None)
    assert words in answer.message
    assert "\n" not in answer.message


def test_the_goal_that_the_refusals_start_from_is_accepted() -> None:
    assert controller().accept(GOOD, NOW_S).code is ErrorCode.SUCCESSFUL


def test_a_refusal_leaves_the_motion_alone() -> None:
    arm = controller()
    running = arm.accept(GOOD, NOW_S).goal_id
    for step in range(100):
        arm.step(NOW_S + 0.01 * step)
    before = arm.step(NOW_S + 1.0)
    for goal, _, _ in REFUSALS.values():
        assert arm.accept(replace(goal, stamp_s=goal.stamp_s and 1.0), NOW_S + 1.0).goal_id is None
    after = arm.step(NOW_S + 1.01)
    assert (after.goal_id, after.state) == (running, OperatingState.MOVING)
    assert np.abs(after.desired.position - before.desired.position).max() < 0.01 * 0.05
    assert after.outcomes == ()


def test_check_says_the_same_as_accept_and_moves_nothing() -> None:
    arm = controller()
    assert arm.check(GOOD, NOW_S).code is ErrorCode.SUCCESSFUL
    goal, code, _ = REFUSALS["too fast"]
    assert arm.check(goal, NOW_S).code is code
    assert arm.step(NOW_S + 0.01).state is OperatingState.IDLE


@pytest.mark.parametrize("allowed", [True, False])
def test_partial_goals_follow_the_parameter(allowed: bool) -> None:
    partial = TrajectoryGoal(("lift",), (TrajectoryPoint(4.0, (0.2,), (0.0,)),))
    answer = controller(allow_partial_joints_goal=allowed).accept(partial, NOW_S)
    if allowed:
        assert answer.code is ErrorCode.SUCCESSFUL
    else:
        assert answer.code is ErrorCode.INVALID_JOINTS
        assert "cart_longitudinal, cart_lateral, wigwag, tilt, orbital are missing" in answer.message


@pytest.mark.parametrize(("excess", "accepted"), [(0.04, True), (0.06, False)])
def test_speeds_may_exceed_their_limits_by_the_tolerance_only(excess: float, accepted: bool) -> None:
    speed = 0.1 * (1 + excess)
    goal = TrajectoryGoal(("cart_lateral",), (TrajectoryPoint(1.0, (speed,)),))
    assert (controller().accept(goal, NOW_S).goal_id is not None) is accepted


@pytest.mark.parametrize("when", ["stopping", "stopped"])
def test_everything_is_refused_while_stop_is_latched(
    when: str, run: Callable[[TrajectoryController, float], object]
) -> None:
    arm = controller()
    arm.accept(GOOD, NOW_S)
    for step in range(200):
        arm.step(NOW_S + 0.01 * step)
    arm.stop("door opened")
    if when == "stopped":
        run(arm, NOW_S + 2.0)
    answer = arm.accept(GOOD, NOW_S + 2.0)
    assert answer.code is ErrorCode.INVALID_GOAL
    assert "stop is latched (door opened)" in answer.message


@pytest.fixture
def run() -> Callable[[TrajectoryController, float], object]:
    def run_until_stopped(arm: TrajectoryController, now_s: float) -> object:
        for step in range(500):
            snapshot = arm.step(now_s + 0.01 * step)
            if snapshot.state is OperatingState.STOPPED:
                return snapshot
        raise AssertionError("the arm did not stop in 5 s")

    return run_until_stopped
