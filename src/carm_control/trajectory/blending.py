# SPDX-License-Identifier: Apache-2.0
"""From the present motion into a new trajectory, without a step of position, velocity or acceleration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from carm_control.trajectory.bounds import excess_text, find_excess
from carm_control.trajectory.goal import ErrorCode, GoalRefusedError
from carm_control.trajectory.goal_validation import CheckedGoal, refuse_interpolation
from carm_control.trajectory.smoothing import Smoothed, distance, smooth, twice_differentiable
from carm_control.trajectory.spline import Excess, Spline, State, Waypoints
from carm_core.transforms import Array

_SAME = 1e-9  # position, velocity or acceleration, m or rad
_MOST_CANDIDATES = 16
_LONGER = 1.5
_MOST_APPROACHES = 12


@dataclass(frozen=True, eq=False)
class EntryRules:
    """How a trajectory may be entered and smoothed, J joints.

    Attributes:
        start_tolerance: (J,), m or rad.
        deviation: How far a smoothed motion may pass beside the trajectory (J,), m or rad.
        delay_s: How much later it may end, s; 0: no limit.
        blend_s: Time in which a difference at the start is taken up, s.
        limit_tolerance: Fraction by which velocity, acceleration and jerk may exceed their limits.
    """

    start_tolerance: Array
    deviation: Array
    delay_s: float
    blend_s: float
    limit_tolerance: float


class Entry(NamedTuple):
    """The motion from now on, its time 0 being now, and how it differs from the trajectory (empty: it does not)."""

    spline: Spline
    note: str


class Course:
    """What a goal asks for from now on; what takes time is computed once, without the present motion."""

    def __init__(self, goal: CheckedGoal, place: Array, rules: EntryRules) -> None:
        """Lay the course.

        Args:
            goal: The goal; J joints.
            place: Present commanded position of these joints (J,), m or rad.
            rules: Of the entry.
        """
        self.goal, self.rules, self._place = goal, rules, place
        given = replace(goal.points, times_s=goal.points.times_s + goal.begin_s)
        self.first_s, self.last_s = float(given.times_s[0]), float(given.times_s[-1])
        self.begun = self.first_s <= _SAME
        self._held = False
        if not self.begun:
            gap = np.abs(place - given.positions[0])
            late = (gap > goal.limits.velocity * self.first_s).any()
            self._held = bool(late and (gap <= rules.start_tolerance).all())
        self._points = given if self.begun else _from_rest(given.positions[0] if self._held else place, given)

    def enter(self, command: State) -> Entry:
        """Join the course to the present commanded motion.

        A first point in the future is reached from the present motion by one more segment. A first point at the
        start (or a start time in the past) must lie within ``start_tolerance`` of the present command; what
        remains of the difference fades away along the trajectory, in ``blend_s`` or as much longer as the limits
        ask for. A trajectory that is too short or too fast for that waits until its start is reached.

        Args:
            command: Present commanded state of the joints, each (J,).

        Raises:
            GoalRefusedError: The start is too far away, or the limits do not allow to follow the trajectory.
        """
        if self.begun:
            return self._take_up(command)
        if not self._objection:
            joined = self._join(command)
            if joined is not None:
                return Entry(joined, "")
        if isinstance(self._smoothed, Smoothed):
            faded = self._fade(self._smoothed.spline, command)
            if faded is not None:
                return Entry(faded, self._note)
        raise self._refusal(self._objection or self._transition_text(self._bridge(command, 1)))

    def _take_up(self, command: State) -> Entry:
        if self.last_s <= _SAME:
            place = State.at_rest(self._points.positions[-1])
            _check_start(self.goal, command, place, self.rules.start_tolerance)
            return Entry(self._approach(command, place), "")
        _check_start(self.goal, command, self._own.sample(0.0), self.rules.start_tolerance)
        ways = [] if self._objection else [Entry(self._exact, "")]
        if not ways or self._fade(self._exact, command) is None:
            ways += [Entry(self._smoothed.spline, self._note)] if isinstance(self._smoothed, Smoothed) else []
        for way, note in ways:
            faded = self._fade(way, command)
            if faded is not None:
                return Entry(faded, note)
        if not ways:
            raise self._refusal(self._objection)
        way, note = ways[0]
        return Entry(self._approach(command, way.sample(0.0)).then(way), note)

    @cached_property
    def _filled(self) -> Waypoints:
        return twice_differentiable(self._points)

    @cached_property
    def _exact(self) -> Spline:
        """Through all points at their times; whether it keeps the limits is another matter."""
        spline = Spline.through(self._filled)
        return spline.cut(0.0) if self.begun else spline

    @cached_property
    def _own(self) -> Spline:
        """The client's interpolation, from its first point or from rest at the present place."""
        spline = Spline.through(self._points)
        return spline.cut(0.0) if self.begun else spline

    @cached_property
    def _objection(self) -> str:
        """Why the exact motion cannot be followed from the first point on; empty: it can."""
        limits, deviation = self.goal.limits, self.rules.deviation
        first = 0 if self.begun else 1
        later = Spline(self._exact.knots_s[first:], self._exact.coefficients[first:])
        if len(later.coefficients):
            found = find_excess(later, limits, self.rules.limit_tolerance)
            if found is not None:
                derivative, excess = found
                place = self._where(excess._replace(segment=excess.segment + first))
                return excess_text(limits, excess.joint, derivative, excess.value, place)
        off = distance(Spline.through(self._filled), self._points)
        segment, joint = np.unravel_index(np.argmax(off / np.maximum(deviation, _SAME)), off.shape)
        if off[segment, joint] <= deviation[joint]:
            return ""
        number, unit = int(segment) - first, limits.units[joint]
        return (
            f"with continuous acceleration, {limits.names[joint]} would deviate {off[segment, joint]:.4f} {unit} "
            f"between points {number} and {number + 1} (at most {deviation[joint]:.4f} {unit})"
        )

    @cached_property
    def _smoothed(self) -> Smoothed | str:
        """The moving average of the client's interpolation, or why it cannot be followed."""
        limits, rules = self.goal.limits, self.rules
        if not self._held:
            refuse_interpolation(self._own, limits, rules.limit_tolerance, self._where)
        result = smooth(self._own, limits, rules.limit_tolerance)
        if result is None:
            return "no smoothing keeps the limits of acceleration and jerk"
        if 0 < rules.delay_s < result.delay_s:
            return f"smoothed, it would end {result.delay_s:.3f} s late (at most {rules.delay_s:.3f} s)"
        joint = int(np.argmax(result.deviation / np.maximum(rules.deviation, _SAME)))
        if result.deviation[joint] <= rules.deviation[joint]:
            return result
        nearest = int(np.argmin(np.abs(self._points.times_s - result.worst_s[joint]))) - (not self.begun)
        return (
            f"smoothed, {limits.names[joint]} would pass {result.deviation[joint]:.4f} {limits.units[joint]} beside "
            f"point {max(nearest, 0)} (at most {rules.deviation[joint]:.4f} {limits.units[joint]})"
        )

    @property
    def _note(self) -> str:
        assert isinstance(self._smoothed, Smoothed)
        delay_s, deviation, limits = self._smoothed.delay_s, self._smoothed.deviation, self.goal.limits
        joint = int(np.argmax(deviation / np.maximum(self.rules.deviation, _SAME)))
        return (
            f", smoothed for the limits of acceleration and jerk: ends {delay_s:.2f} s later, "
            f"{limits.names[joint]} deviates by up to {deviation[joint]:.2g} {limits.units[joint]}"
        )

    def _where(self, excess: Excess) -> str:
        """Name the points around a place on the exact motion or on the client's interpolation."""
        dropped = int(np.searchsorted(self._points.times_s, 0.0, side="right")) - 1
        number = excess.segment + (max(dropped, 0) if self.begun else -1)
        if number < 0:
            return _transition(excess)
        return f"between points {number} and {number + 1} (at {excess.time_s - self.goal.begin_s:.3f} s)"

    def _transition_text(self, bridge: Spline) -> str:
        found = find_excess(bridge, self.goal.limits, self.rules.limit_tolerance)
        if found is None:
            return "the present motion does not allow to enter the trajectory"
        derivative, excess = found
        return excess_text(self.goal.limits, excess.joint, derivative, excess.value, _transition(excess))

    def _refusal(self, reason: str) -> GoalRefusedError:
        both = f"{reason}; {self._smoothed}" if isinstance(self._smoothed, str) else reason
        return GoalRefusedError(ErrorCode.INVALID_GOAL, both)

    def _join(self, command: State) -> Spline | None:
        """Join the exact motion at a point up to ``blend_s`` that the limits allow; from rest at the first one."""
        gap = np.abs(command.position - self._points.positions[1])
        near = bool((gap <= self.rules.start_tolerance + self.goal.limits.velocity * self.first_s).all())
        waiting = not self._held and not _moves(command)
        horizon_s = max(self.rules.blend_s, self.first_s) if near and not waiting else self.first_s
        last = max(1, int(np.searchsorted(self._points.times_s, horizon_s, side="right")) - 1)
        for k in np.unique(np.linspace(1, last, min(last, _MOST_CANDIDATES)).round().astype(int)):
            bridge = self._bridge(command, int(k))
            if find_excess(bridge, self.goal.limits, self.rules.limit_tolerance) is None:
                return Spline(
                    np.concatenate([bridge.knots_s, self._exact.knots_s[k + 1 :]]),
                    np.concatenate([bridge.coefficients, self._exact.coefficients[k:]]),
                )
        return None

    def _bridge(self, command: State, k: int) -> Spline:
        """Return one segment from a state now to point k."""
        p = self._filled
        place = State(p.positions[k], p.velocities[k], p.accelerations[k])
        return _segment(command, place, float(p.times_s[k]))

    def _fade(self, way: Spline, command: State) -> Spline | None:
        """Add the difference at the start to a motion, fading; None: the limits do not allow it."""
        planned = way.sample(0.0)
        difference = State(*(now - then for now, then in zip(command, planned, strict=True)))
        if max(np.abs(value).max() for value in difference) <= _SAME:
            return way
        horizon_s = self.rules.blend_s
        while horizon_s < 2 * way.duration_s:
            end_s = min(horizon_s, way.duration_s)
            fading = _segment(difference, State.at_rest(np.zeros_like(difference.position)), end_s)
            head = way.until(end_s).plus(fading).until(end_s)
            if find_excess(head, self.goal.limits, self.rules.limit_tolerance) is None:
                return way.plus(fading)
            horizon_s *= _LONGER
        return None

    def _approach(self, command: State, place: State) -> Spline:
        """Return the way from the present motion to a place near by, in the first time that the limits allow."""
        duration_s = self.rules.blend_s
        for _ in range(_MOST_APPROACHES):
            way = _segment(command, place, duration_s)
            if find_excess(way, self.goal.limits, self.rules.limit_tolerance) is None:
                return way
            duration_s *= _LONGER
        raise GoalRefusedError(ErrorCode.INVALID_GOAL, self._transition_text(way))


def _from_rest(place: Array, points: Waypoints) -> Waypoints:
    """Put rest at a place (J,) now before points in the future."""
    rest = np.zeros_like(place)
    fields = zip((place, rest, rest), (points.positions, points.velocities, points.accelerations), strict=True)
    return Waypoints(
        np.concatenate([[0.0], points.times_s]), *(np.concatenate([first[None], others]) for first, others in fields)
    )


def _segment(start: State, end: State, duration_s: float) -> Spline:
    """Return one quintic from a state now to another one."""
    pairs = (np.stack(pair) for pair in zip(start, end, strict=True))
    return Spline.through(Waypoints(np.array([0.0, duration_s]), *pairs))


def _moves(state: State) -> bool:
    return bool(max(np.abs(state.velocity).max(), np.abs(state.acceleration).max()) > _SAME)


def _transition(excess: Excess) -> str:
    return f"on the transition from the present motion to the trajectory (at {excess.time_s:.3f} s)"


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
