# SPDX-License-Identifier: Apache-2.0
"""Checks of a goal that do not depend on where the arm is. Each refusal carries its result code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carm_control.trajectory.goal import ErrorCode, GoalRefusedError, TrajectoryGoal, TrajectoryPoint
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.spline import Excess, Spline, Waypoints
from carm_core.errors import outside
from carm_core.transforms import Array

MAX_END_SPEED = float(np.finfo(np.float32).eps)
"""Speed that counts as rest at the last point, m/s or rad/s; joint_trajectory_controller's value."""

POSITION_SLACK = 1e-9
"""Rounding allowed beyond a position limit, m or rad."""

TIME_RESOLUTION_S = 0.999e-9
"""Points must be a nanosecond apart, the resolution of ROS times; with its rounding, s."""

_QUANTITIES = ("position", "velocity", "acceleration")


@dataclass(frozen=True, eq=False)
class CheckedGoal:
    """A goal that is sound in itself.

    Attributes:
        indices: Columns of the controller that the goal moves.
        limits: Limits of these joints.
        points: The points, columns in the order of ``indices``.
        spline: Through the points; None for a single one.
        stamp_s: As in the goal.
    """

    indices: tuple[int, ...]
    limits: JointLimits
    points: Waypoints
    spline: Spline | None
    stamp_s: float


def check_goal(
    goal: TrajectoryGoal, limits: JointLimits, *, allow_partial: bool, limit_tolerance: float, now_s: float
) -> CheckedGoal:
    """Check a goal by itself: joints, lengths, numbers, times; positions and speeds between the points too.

    Args:
        goal: As it came in.
        limits: All joints of the controller.
        allow_partial: The goal may leave out joints.
        limit_tolerance: Fraction by which velocity and acceleration may exceed their limits.
        now_s: Present time on the clock of ``goal.stamp_s``, s.

    Raises:
        GoalRefusedError: With the code that the client is told.
    """
    indices = _check_joints(goal.joint_names, limits, allow_partial)
    points = _check_points(goal)
    selected = limits.select(indices)
    _check_stamp(goal, now_s)
    _check_values(points, selected, limit_tolerance)
    _check_end(points, selected)
    spline = Spline.through(points) if len(points.times_s) > 1 else None
    if spline is not None:
        refuse_excess(spline, selected, limit_tolerance, "between points {} and {}")
    return CheckedGoal(indices, selected, points, spline, goal.stamp_s)


def _invalid(reason: str) -> GoalRefusedError:
    return GoalRefusedError(ErrorCode.INVALID_GOAL, reason)


def _check_joints(names: Sequence[str], limits: JointLimits, allow_partial: bool) -> tuple[int, ...]:
    known = ", ".join(limits.names)
    if not names:
        raise GoalRefusedError(ErrorCode.INVALID_JOINTS, f"no joint names; joints are {known}")
    for name in names:
        if name not in limits.names:
            raise GoalRefusedError(ErrorCode.INVALID_JOINTS, f"unknown joint {name!r}; joints are {known}")
        if names.count(name) > 1:
            raise GoalRefusedError(ErrorCode.INVALID_JOINTS, f"joint {name!r} is named {names.count(name)} times")
    missing = [name for name in limits.names if name not in names]
    if missing and not allow_partial:
        raise GoalRefusedError(
            ErrorCode.INVALID_JOINTS,
            f"joints {', '.join(missing)} are missing and allow_partial_joints_goal is false",
        )
    return tuple(limits.names.index(name) for name in names)


def _check_points(goal: TrajectoryGoal) -> Waypoints:
    if not goal.points:
        raise _invalid("the trajectory has no points")
    previous = -math.inf
    for number, point in enumerate(goal.points):
        _check_point(number, point, goal.joint_names)
        if point.time_s < 0:
            raise _invalid(f"time of point {number} is negative: {point.time_s} s")
        if point.time_s < previous + TIME_RESOLUTION_S:
            raise _invalid(
                f"times are not strictly increasing: {previous} s at point {number - 1}, "
                f"{point.time_s} s at point {number}"
            )
        previous = point.time_s
    none = [math.nan] * len(goal.joint_names)
    return Waypoints(
        np.array([p.time_s for p in goal.points], dtype=np.float64),
        np.array([p.positions for p in goal.points], dtype=np.float64),
        np.array([p.velocities or none for p in goal.points], dtype=np.float64),
        np.array([p.accelerations or none for p in goal.points], dtype=np.float64),
    )


def _check_point(number: int, point: TrajectoryPoint, names: Sequence[str]) -> None:
    if point.effort:
        raise _invalid(f"point {number} carries effort; this controller commands positions")
    if not point.positions:
        raise _invalid(f"point {number} has no positions")
    if point.accelerations and not point.velocities:
        raise _invalid(f"point {number} has accelerations but no velocities")
    if not math.isfinite(point.time_s):
        raise _invalid(f"time of point {number} is {point.time_s}")
    for field, values in (
        ("positions", point.positions),
        ("velocities", point.velocities),
        ("accelerations", point.accelerations),
    ):
        if values and len(values) != len(names):
            raise _invalid(f"point {number} has {len(values)} {field} for {len(names)} joints")
        for name, value in zip(names, values, strict=False):
            if not math.isfinite(value):
                raise _invalid(f"{field} of {name} at point {number} is {value}")


def _check_stamp(goal: TrajectoryGoal, now_s: float) -> None:
    if not math.isfinite(goal.stamp_s) or goal.stamp_s < 0:
        raise _invalid(f"start time is {goal.stamp_s} s")
    end_s = goal.stamp_s + goal.points[-1].time_s
    if goal.stamp_s and end_s < now_s:
        raise GoalRefusedError(
            ErrorCode.OLD_HEADER_TIMESTAMP,
            f"the trajectory ended {now_s - end_s:.3f} s ago (start {goal.stamp_s:.3f} s, end {end_s:.3f} s)",
        )


def _check_values(points: Waypoints, limits: JointLimits, tolerance: float) -> None:
    """Refuse the first position, velocity or acceleration of a point that is outside its limits."""
    for derivative, values in enumerate((points.positions, points.velocities, points.accelerations)):
        low, high = _bounds(limits, derivative, 1 + tolerance)
        outside = np.argwhere((values < low) | (values > high))
        if len(outside):
            number, joint = outside[0]
            raise _invalid(_outside(limits, joint, derivative, values[number, joint], f"at point {number}"))


def _check_end(points: Waypoints, limits: JointLimits) -> None:
    for name, unit, speed in zip(limits.names, limits.units, points.velocities[-1], strict=True):
        if abs(speed) > MAX_END_SPEED:
            raise _invalid(f"velocity of {name} at the last point is {speed:.6g} {unit}/s, not 0")


def _bounds(limits: JointLimits, derivative: int, scale: float) -> tuple[Array, Array]:
    if derivative == 0:
        return limits.lower - POSITION_SLACK, limits.upper + POSITION_SLACK
    bound = (limits.velocity, limits.acceleration)[derivative - 1] * scale
    return -bound, bound


def find_excess(spline: Spline, limits: JointLimits, tolerance: float) -> tuple[int, Excess] | None:
    """Find the first quantity of a spline that leaves its limits: position, then velocity, then acceleration.

    Args:
        spline: Of J joints.
        limits: Of these joints.
        tolerance: Fraction by which velocity and acceleration may exceed their limits.

    Returns:
        The derivative (0, 1, 2) and the place, or None.
    """
    for derivative in range(3):
        excess = spline.excess(derivative, *_bounds(limits, derivative, 1 + tolerance))
        if excess is not None:
            return derivative, excess
    return None


def refuse_excess(spline: Spline, limits: JointLimits, tolerance: float, where: str) -> None:
    """Refuse a spline that leaves the limits.

    Args:
        spline: Of J joints.
        limits: Of these joints.
        tolerance: Fraction by which velocity and acceleration may exceed their limits.
        where: Text that says where; ``{}`` twice for the numbers of the points around the place.

    Raises:
        GoalRefusedError: It leaves them; the joint, the value and the limits are named.
    """
    found = find_excess(spline, limits, tolerance)
    if found is None:
        return
    derivative, excess = found
    place = f"{where.format(excess.segment, excess.segment + 1)} (at {excess.time_s:.3f} s)"
    raise _invalid(_outside(limits, excess.joint, derivative, excess.value, place))


def _outside(limits: JointLimits, joint: int, derivative: int, value: float, place: str) -> str:
    unit = limits.units[joint] + ("", "/s", "/s^2")[derivative]
    if derivative == 0:
        low, high = limits.lower[joint], limits.upper[joint]
    else:
        high = (limits.velocity, limits.acceleration)[derivative - 1][joint]
        low = -high
    return (
        f"{_QUANTITIES[derivative]} of {limits.names[joint]} is {outside(value, low, high)} {unit} {place}, "
        f"outside its limits [{low:z.4f}, {high:.4f}] {unit}"
    )
