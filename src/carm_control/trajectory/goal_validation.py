# SPDX-License-Identifier: Apache-2.0
"""Checks of a goal that do not depend on where the arm is. Each refusal carries its result code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from carm_control.trajectory.bounds import bounds, excess_text, find_excess, outside_values, refuse_excess
from carm_control.trajectory.goal import ErrorCode, GoalRefusedError, TrajectoryGoal
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.spline import Excess, Spline, Waypoints
from carm_core.transforms import Array

MAX_END_SPEED = float(np.finfo(np.float32).eps)
"""Speed that counts as rest at the last point, m/s or rad/s; joint_trajectory_controller's value."""

MAX_POINTS = 10_000
"""Most points of a trajectory: 100 s at 100 Hz; more are refused by their count."""

_BUILT_UP = 2.0

TIME_RESOLUTION_S = 0.999e-9
"""Points must be a nanosecond apart, the resolution of ROS times; with its rounding, s."""


@dataclass(frozen=True, eq=False)
class CheckedGoal:
    """A goal that is sound in itself.

    Attributes:
        indices: Columns of the controller that the goal moves.
        limits: Limits of these joints.
        points: The points, columns in the order of ``indices``, on the goal's clock.
        begin_s: Where that clock's 0 is, s from now.
    """

    indices: tuple[int, ...]
    limits: JointLimits
    points: Waypoints
    begin_s: float


def check_goal(
    goal: TrajectoryGoal, limits: JointLimits, *, allow_partial: bool, limit_tolerance: float, now_s: float
) -> CheckedGoal:
    """Check a goal by itself: joints, lengths, numbers, times; what it asks for between the points too.

    Args:
        goal: As it came in.
        limits: All joints of the controller.
        allow_partial: The goal may leave out joints.
        limit_tolerance: Fraction by which velocity and acceleration may exceed their limits.
        now_s: Present time on the clock of ``goal.stamp_s``, s.

    Raises:
        GoalRefusedError: With the code that the client is told.
    """
    if len(goal.points) > MAX_POINTS:
        raise _invalid(f"the trajectory has {len(goal.points)} points; at most {MAX_POINTS} are allowed")
    indices = _check_joints(goal.joint_names, limits, allow_partial)
    points = _check_points(goal)
    selected = limits.select(indices)
    _check_stamp(goal, now_s)
    _check_values(points, selected, limit_tolerance)
    _check_end(points, selected)
    if len(points.times_s) > 1:
        refuse_interpolation(Spline.through(points), selected, limit_tolerance, _between)
    return CheckedGoal(indices, selected, points, goal.stamp_s - now_s if goal.stamp_s else 0.0)


def refuse_interpolation(spline: Spline, limits: JointLimits, tolerance: float, where: Callable[[Excess], str]) -> None:
    """Refuse what no smoothing can follow: a path or a velocity outside the limits, or a lasting acceleration.

    An acceleration in a segment shorter than the joints need to build it up and down is a matter of sampling.

    Args:
        spline: Of J joints.
        limits: Of these joints.
        tolerance: Fraction by which velocity and acceleration may exceed their limits.
        where: Names a place.

    Raises:
        GoalRefusedError: There is such a thing; joint, place, value and limits are named.
    """
    refuse_excess(limits, find_excess(spline, limits, tolerance, (0, 1)), where)
    lasting = np.diff(spline.knots_s) > _BUILT_UP * (limits.acceleration / limits.jerk).max()
    excess = spline.excess(2, *bounds(limits, 2, tolerance), among=lasting)
    refuse_excess(limits, None if excess is None else (2, excess), where)


def _between(excess: Excess) -> str:
    return f"between points {excess.segment} and {excess.segment + 1} (at {excess.time_s:.3f} s)"


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
    for number, point in enumerate(goal.points):
        if point.effort:
            raise _invalid(f"point {number} carries effort; this controller commands positions")
        if not point.positions:
            raise _invalid(f"point {number} has no positions")
        if point.accelerations and not point.velocities:
            raise _invalid(f"point {number} has accelerations but no velocities")
    points = Waypoints(
        np.array([p.time_s for p in goal.points], dtype=np.float64),
        *(_values(goal, field) for field in ("positions", "velocities", "accelerations")),
    )
    _check_times(points.times_s)
    return points


def _values(goal: TrajectoryGoal, field: str) -> Array:
    """Return a field of all points (N, J); rows of NaN where a point has none."""
    names = goal.joint_names
    rows = [getattr(point, field) for point in goal.points]
    for number, row in enumerate(rows):
        if row and len(row) != len(names):
            raise _invalid(f"point {number} has {len(row)} {field} for {len(names)} joints")
    given = np.array([bool(row) for row in rows])
    values = np.full((len(rows), len(names)), np.nan)
    if given.any():
        values[given] = np.array([row for row in rows if row], dtype=np.float64)
    bad = np.argwhere(~np.isfinite(values) & given[:, None])
    if len(bad):
        number, joint = bad[0]
        raise _invalid(f"{field} of {names[joint]} at point {number} is {values[number, joint]}")
    return values


def _check_times(times: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise _invalid(f"time of point {bad[0]} is {times[bad[0]]}")
    if times[0] < 0:
        raise _invalid(f"time of point 0 is negative: {times[0]} s")
    late = np.flatnonzero(np.diff(times) < TIME_RESOLUTION_S)
    if len(late):
        k = int(late[0])
        raise _invalid(
            f"times are not strictly increasing: {times[k]} s at point {k}, {times[k + 1]} s at point {k + 1}"
        )


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
        bad = outside_values(values, limits, derivative, tolerance)
        if len(bad):
            number, joint = (int(index) for index in bad[0])
            raise _invalid(excess_text(limits, joint, derivative, values[number, joint], f"at point {number}"))


def _check_end(points: Waypoints, limits: JointLimits) -> None:
    for name, unit, speed in zip(limits.names, limits.units, points.velocities[-1], strict=True):
        if abs(speed) > MAX_END_SPEED:
            raise _invalid(f"velocity of {name} at the last point is {speed:.6g} {unit}/s, not 0")
