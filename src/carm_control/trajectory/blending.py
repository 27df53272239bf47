# SPDX-License-Identifier: Apache-2.0
"""From the present motion into a new trajectory, without a jump of position or velocity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carm_control.trajectory.goal import ErrorCode, GoalRefusedError
from carm_control.trajectory.goal_validation import CheckedGoal, find_excess, refuse_excess
from carm_control.trajectory.spline import COEFFICIENTS, Spline, State, Waypoints
from carm_core.transforms import Array

_SAME = 1e-9  # position or velocity, m or rad
_MOST_CANDIDATES = 16
_LONGER = 1.5
_MOST_APPROACHES = 12


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
    remains of the difference fades away along the trajectory, in ``blend_s`` or as much longer as the limits
    ask for. A trajectory that is too short or too fast for that waits until its start is reached. Points without
    velocities are joined by a straight line from rest and by a cubic from a motion.

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
    ahead = _Ahead.of(goal, goal.stamp_s - now_s if goal.stamp_s else 0.0)
    points = ahead.points
    first_s = float(points.times_s[0])
    if first_s > _SAME:
        gap = np.abs(command.position - points.positions[0])
        near = bool((gap <= start_tolerance + goal.limits.velocity * first_s).all())
        return _join(goal, command, ahead, max(blend_s, first_s) if near else first_s, limit_tolerance)
    start = ahead.now()
    _check_start(goal, command, start, start_tolerance)
    resting = np.abs(command.velocity).max() <= _SAME
    if points.times_s[-1] <= _SAME:
        return _approach(goal, command, State.at_rest(points.positions[-1]), blend_s, limit_tolerance)
    rest = ahead.from_now()
    difference = State(*(present - planned for present, planned in zip(command, start, strict=True)))
    if resting:  # what a trajectory does at its start from rest is the client's choice: a line's step, a cubic's bend
        difference = State.at_rest(difference.position)
    if max(np.abs(difference.position).max(), np.abs(difference.velocity).max()) <= _SAME:
        return rest
    horizon_s = blend_s
    while horizon_s < 2 * rest.duration_s:
        end_s = min(horizon_s, rest.duration_s)
        blended = rest.plus(_fading(difference, end_s))
        if find_excess(blended.until(end_s), goal.limits, limit_tolerance) is None:
            return blended
        horizon_s *= _LONGER
    place = State.at_rest(start.position) if resting else start
    return _approach(goal, command, place, blend_s, limit_tolerance).then(rest)


def _fading(difference: State, duration_s: float) -> Spline:
    """Return a difference (each (J,)) that fades to none in a time, s, without a step up to the acceleration."""
    return Spline.through(
        Waypoints(np.array([0.0, duration_s]), *(np.stack([value, np.zeros_like(value)]) for value in difference))
    )


def _approach(goal: CheckedGoal, command: State, place: State, at_least_s: float, limit_tolerance: float) -> Spline:
    """Return the way from the present motion to a place near by, in the first time that the limits allow."""
    duration_s = at_least_s
    for _ in range(_MOST_APPROACHES):
        way = Spline.through(
            Waypoints(np.array([0.0, duration_s]), *(np.stack(pair) for pair in zip(command, place, strict=True)))
        )
        if find_excess(way, goal.limits, limit_tolerance) is None:
            return way
        duration_s *= _LONGER
    refuse_excess(way, goal.limits, limit_tolerance, "on the transition from the present motion to the trajectory")
    raise AssertionError("the way was refused and then allowed")


@dataclass(frozen=True, eq=False)
class _Ahead:
    """Points on a clock whose 0 is now, and the segments between them (N - 1, 6, J)."""

    points: Waypoints
    coefficients: Array

    @classmethod
    def of(cls, goal: CheckedGoal, offset_s: float) -> _Ahead:
        p = goal.points
        none = np.zeros((0, COEFFICIENTS, len(goal.indices)))
        return cls(
            Waypoints(p.times_s + offset_s, p.positions, p.velocities, p.accelerations),
            goal.spline.coefficients if goal.spline is not None else none,
        )

    def now(self) -> State:
        """Where the trajectory is now; it has begun."""
        if not len(self.coefficients):
            return State.at_rest(self.points.positions[0])
        return Spline(self.points.times_s, self.coefficients).sample(0.0)

    def from_now(self) -> Spline:
        """Return what lies ahead of a trajectory that has begun."""
        return Spline(self.points.times_s, self.coefficients).cut(0.0)

    def bridge(self, origin: State, k: int) -> Spline:
        """Return one segment from a state now to point k."""
        velocity = self.points.velocities[k]
        if np.isnan(velocity).any() and np.abs(origin.velocity).max() > _SAME:
            velocity = self.coefficients[k, 1] if k < len(self.coefficients) else np.zeros_like(velocity)
        return Spline.through(
            Waypoints(
                np.array([0.0, self.points.times_s[k]]),
                np.stack([origin.position, self.points.positions[k]]),
                np.stack([origin.velocity, velocity]),
                np.stack([origin.acceleration, self.points.accelerations[k]]),
            )
        )

    def after(self, bridge: Spline, k: int) -> Spline:
        """Continue through the points after point k, where the transition ends."""
        return Spline(
            np.concatenate([bridge.knots_s, self.points.times_s[k + 1 :]]),
            np.concatenate([bridge.coefficients, self.coefficients[k:]]),
        )


def _check_start(goal: CheckedGoal, command: State, start: State, tolerance: Array) -> None:
    gap = np.abs(command.position - start.position)
    far = np.flatnonzero(gap > tolerance)
    if len(far):
        joint = int(far[np.argmax(gap[far] / np.maximum(tolerance[far], 1e-12))])
        unit = goal.limits.units[joint]
        raise GoalRefusedError(
            ErrorCode.INVALID_GOAL,
            f"the trajectory starts with {goal.limits.names[joint]} at {start.position[joint]:z.4f} {unit}, "
            f"{gap[joint]:.4f} {unit} away from its present {command.position[joint]:z.4f} {unit} "
            f"(at most {tolerance[joint]:.4f} {unit})",
        )


def _join(goal: CheckedGoal, origin: State, ahead: _Ahead, horizon_s: float, limit_tolerance: float) -> Spline:
    """Join at the first point up to ``horizon_s`` that the limits allow."""
    count = max(1, int(np.searchsorted(ahead.points.times_s, horizon_s, side="right")))
    candidates = np.unique(np.linspace(0, count - 1, min(count, _MOST_CANDIDATES)).round().astype(int))
    for k in candidates:
        bridge = ahead.bridge(origin, int(k))
        if find_excess(bridge, goal.limits, limit_tolerance) is None:
            return ahead.after(bridge, int(k))
    where = "on the transition from the present motion to the trajectory"
    refuse_excess(ahead.bridge(origin, 0), goal.limits, limit_tolerance, where)
    raise AssertionError("the first candidate was refused and then allowed")
