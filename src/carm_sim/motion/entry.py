# SPDX-License-Identifier: Apache-2.0
"""From the present motion into a new trajectory, without a jump of position or velocity."""

from __future__ import annotations

import numpy as np

from carm_sim.motion.goal import ErrorCode, GoalRefusedError
from carm_sim.motion.spline import Array, Spline, State, Waypoints
from carm_sim.motion.validation import CheckedGoal, find_excess, refuse_excess

_SAME = 1e-9  # position or velocity, m or rad
_MOST_CANDIDATES = 16


def enter(
    goal: CheckedGoal,
    command: State,
    *,
    now_s: float,
    start_tolerance: Array,
    blend_s: float,
    limit_tolerance: float,
) -> Spline:
    """Join a trajectory to the present commanded motion.

    A first point in the future is reached from the present motion by one more segment. A first point at the
    start (or a start time in the past) must lie within ``start_tolerance`` of the present command; what
    remains of the difference is taken up before ``blend_s``, by joining the trajectory at the first later
    point that the limits allow. Points without velocities are joined by a straight line from rest and by a
    cubic from a motion.

    Args:
        goal: The goal; J joints.
        command: Present commanded state of these joints, each (J,).
        now_s: Present time on the clock of the goal's start time, s.
        start_tolerance: (J,), m or rad.
        blend_s: Time in which a difference at the start is taken up, s.
        limit_tolerance: Fraction by which velocity and acceleration may exceed their limits.

    Returns:
        The motion from now on, its time 0 being now.

    Raises:
        GoalRefusedError: The start is too far away, or the limits do not allow to get there in time.
    """
    points = goal.points
    offset = goal.stamp_s - now_s if goal.stamp_s else 0.0
    times = points.times_s + offset
    ahead = Waypoints(times, points.positions, points.velocities, points.accelerations)
    if times[0] > _SAME:
        gap = np.abs(command.position - points.positions[0])
        near = bool((gap <= start_tolerance + goal.limits.velocity * times[0]).all())
        horizon = max(blend_s, float(times[0])) if near else float(times[0])
        return _join(goal, command, ahead, horizon, limit_tolerance)
    plan = Spline.through(points) if len(times) > 1 else None
    start = plan.sample(-offset) if plan is not None else State.at_rest(points.positions[0])
    _check_start(goal, command, start, start_tolerance)
    first = int(np.searchsorted(times, _SAME, side="right"))
    if first == len(times):
        last = ahead[slice(len(times) - 1, len(times))]
        settled = Waypoints(np.array([blend_s]), last.positions, last.velocities, last.accelerations)
        return _join(goal, command, settled, blend_s, limit_tolerance)
    ahead = ahead[slice(first, None)]
    difference = np.abs(np.concatenate([command.position - start.position, command.velocity - start.velocity]))
    if difference.max() <= _SAME:
        return _bridge(start, ahead)
    resting = np.abs(command.velocity).max() <= _SAME
    origin = State(command.position, command.velocity, start.acceleration) if resting else command
    return _join(goal, origin, ahead, max(blend_s, float(ahead.times_s[0])), limit_tolerance)


def _check_start(goal: CheckedGoal, command: State, start: State, tolerance: Array) -> None:
    gap = np.abs(command.position - start.position)
    far = np.flatnonzero(gap > tolerance)
    if len(far):
        joint = int(far[np.argmax(gap[far] / np.maximum(tolerance[far], 1e-12))])
        unit = goal.limits.units[joint]
        raise GoalRefusedError(
            ErrorCode.INVALID_GOAL,
            f"the trajectory starts with {goal.limits.names[joint]} at {start.position[joint]:.4f} {unit}, "
            f"{gap[joint]:.4f} {unit} away from its present {command.position[joint]:.4f} {unit} "
            f"(at most {tolerance[joint]:.4f} {unit})",
        )


def _join(goal: CheckedGoal, origin: State, ahead: Waypoints, horizon_s: float, limit_tolerance: float) -> Spline:
    """Join at the first point up to ``horizon_s`` that the limits allow."""
    count = max(1, int(np.searchsorted(ahead.times_s, horizon_s, side="right")))
    candidates = np.unique(np.linspace(0, count - 1, min(count, _MOST_CANDIDATES)).round().astype(int))
    for k in candidates:
        spline = _bridge(origin, ahead[slice(int(k), None)])
        if find_excess(_first(spline), goal.limits, limit_tolerance) is None:
            return spline
    bridge = _first(_bridge(origin, ahead))
    refuse_excess(bridge, goal.limits, limit_tolerance, "on the way from the present motion to the trajectory")
    raise AssertionError("the first candidate was refused and then allowed")


def _first(spline: Spline) -> Spline:
    return Spline(spline.knots_s[:2], spline.coefficients[:1])


def _bridge(origin: State, ahead: Waypoints) -> Spline:
    """Continue from a state at time 0 through the points."""
    rest = Spline.through(ahead) if len(ahead.times_s) > 1 else None
    velocity, acceleration = ahead.velocities[0], ahead.accelerations[0]
    if np.isnan(velocity).any() and np.abs(origin.velocity).max() > _SAME:
        velocity = rest.coefficients[0, 1] if rest is not None else np.zeros_like(velocity)
    bridge = Spline.through(
        Waypoints(
            np.array([0.0, ahead.times_s[0]]),
            np.stack([origin.position, ahead.positions[0]]),
            np.stack([origin.velocity, velocity]),
            np.stack([origin.acceleration, acceleration]),
        )
    )
    if rest is None:
        return bridge
    return Spline(
        np.concatenate([bridge.knots_s, rest.knots_s[1:]]),
        np.concatenate([bridge.coefficients, rest.coefficients]),
    )
