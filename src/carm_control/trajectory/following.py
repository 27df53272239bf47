# SPDX-License-Identifier: Apache-2.0
"""A goal's trajectory in execution, at a pace that speed scaling sets.

Time along the trajectory runs at a rate of 0 (pause) to 1. The rate r changes as fast as the joints' limits allow on
top of the trajectory's own velocity v, acceleration a and jerk j: the motion has acceleration a r² + v r' and jerk
j r³ + 3 a r r' + v r" then. Each step takes the change nearest to the wanted one after which the rate can become
constant again without leaving the limits, and keeps how. A step that finds no such change goes on as the last one
that did: whatever is wanted later, the limits hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from carm_control.trajectory.deceleration import StopProfile
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.spline import Spline, State
from carm_core.transforms import Array

_AT_REST = 1e-9  # m/s or rad/s
_FASTEST = 4.0
"""Largest change of the rate, 1/s, where slow joints would allow more."""
_SHARPEST = 40.0
"""Largest change of that, 1/s²."""
_JERK_SHARE = 0.9
_DONE = 2e-5, 1e-6
"""Difference from the wanted rate, and its change, 1/s, that are dropped."""
_GENTLER = 0.8
_MARGIN = 0.02
"""Share of the limits kept for what lies between the moments that are looked at."""
_ASTRAY = 1e-4
_WISHES = np.array([0.75, 0.5, 0.25, 0.0])
_RELEASES = np.array([1.0, 0.5, 0.25])
_HIGHEST = 1.01
"""A rise that can no longer end at 1 within the limits of jerk may end a little above it."""
_RISE = 1.5
"""A permitted rate rises by this factor at least, or to 1."""
_PEAK_LOOKS = 5
_SIDE_S = 1e-9
_LOOK_S = 0.006
_MOST_LOOKS = 100
"""How far apart, s, and how many, are the moments that are looked at; finer than the steps of a control loop."""
_RESERVE = 1.2
"""From a motion that no trajectory leads, the rate leaves this much room below the limits of velocity."""


class Following:
    """Joints of a goal on its spline, at a rate; the others on their way to rest, in real time.

    Attributes:
        indices: Columns of the controller that the spline moves.
        duration_s: Of the trajectory at rate 1, until the others rest too, s.
        elapsed_s: Real time since the start, s.
        trajectory_s: Time along the trajectory, s.
        rate: How fast the latter runs, 0 to 1, for moments up to 1.01.
    """

    def __init__(
        self,
        spline: Spline,
        indices: Sequence[int],
        others: Sequence[int],
        stop: StopProfile,
        limits: JointLimits,
        rate: float,
        limit_tolerance: float,
    ) -> None:
        """Start now.

        Args:
            spline: Of the joints of the goal, in trajectory time.
            indices: Their columns.
            others: Columns of the joints that the goal leaves out.
            stop: Of those joints, in real time.
            limits: Of the joints of the goal.
            rate: Rate at the start.
            limit_tolerance: Fraction by which acceleration and jerk may exceed their limits.
        """
        self._spline, self._others, self._stop = spline, list(others), stop
        self.indices = list(indices)
        self._limits, self._allowed = limits, 1 + limit_tolerance - _MARGIN
        self.duration_s = max(spline.duration_s, stop.duration_s)
        self.elapsed_s = self.trajectory_s = 0.0
        self.rate, self._slope = rate, 0.0
        self._phases: list[tuple[float, float]] = []
        self._permitted = 1.0

    @property
    def late_s(self) -> float:
        """Time since the end, s: along the trajectory, or in real time where the others come to rest later."""
        return min(self.trajectory_s - self._spline.duration_s, self.elapsed_s - self._stop.duration_s)

    def advance(self, dt_s: float, factor: float) -> None:
        """Advance the time.

        Args:
            dt_s: Real time, s.
            factor: Rate to attain, 0 to 1.
        """
        if dt_s <= 0:
            return
        self.elapsed_s += dt_s
        if abs(factor - self.rate) <= _DONE[0] and abs(self._slope) <= _DONE[1]:
            self.rate, self._slope = factor, 0.0
            self.trajectory_s += factor * dt_s
            return
        self._choose(dt_s, factor)
        while dt_s > 0 and self._phases:
            bend, lasts_s = self._phases.pop(0)
            step_s = min(dt_s, lasts_s)
            self.trajectory_s += (self.rate + (self._slope / 2 + bend * step_s / 6) * step_s) * step_s
            self.rate = min(max(self.rate + (self._slope + bend * step_s / 2) * step_s, 0.0), _HIGHEST)
            self._slope += bend * step_s
            if lasts_s > step_s:
                self._phases.insert(0, (bend, lasts_s - step_s))
            dt_s -= step_s
        if not self._phases:
            self._slope = 0.0
            self.trajectory_s += self.rate * max(dt_s, 0.0)

    def permitted(self, share: float) -> float:
        """Return the largest rate, 0 to 1, at which no velocity of the trajectory exceeds a share of its limit.

        It falls at once and rises in few large steps: each change of the rate costs acceleration and jerk.

        Args:
            share: Of the joints' velocity limits, 0 to 1.
        """
        rate = min(1.0, share / self._peak) if self._peak > share else 1.0
        if rate < self._permitted or rate >= min(_RISE * self._permitted, 1.0):
            self._permitted = rate
        return self._permitted

    @cached_property
    def _peak(self) -> float:
        """Largest velocity of the trajectory, as a share of its limit."""
        knots = self._spline.knots_s
        times = np.linspace(knots[:-1], knots[1:], _PEAK_LOOKS, endpoint=False).ravel()
        return float((np.abs(self._spline.derivative(1, times)) / self._limits.velocity).max(initial=0.0))

    def _choose(self, dt_s: float, factor: float) -> None:
        """Choose how the rate changes in a step and becomes constant afterwards, if there is a better way than before.

        The candidates for the second derivative of the rate, 1/s², lie between the wanted one and the one that ends
        the change of the rate; each is looked at with several ways to end that change after the step.
        """
        ahead = np.array([self.trajectory_s, self.trajectory_s + self.rate * dt_s])
        speed = np.abs(self._spline.derivative(1, ahead)).max(axis=0)
        moving = speed > _AT_REST
        sharpest = _SHARPEST
        if moving.any():
            sharpest = min(sharpest, float((_JERK_SHARE * self._limits.jerk[moving] / speed[moving]).min()))
        wanted = (_wanted_slope(factor - self.rate, _GENTLER * sharpest, dt_s) - self._slope) / dt_s
        wanted = min(max(wanted, -sharpest), sharpest)
        ending = min(max(-self._slope / dt_s, -sharpest), sharpest)
        releases = sharpest * _RELEASES
        others = np.concatenate([ending + _WISHES * (wanted - ending), -np.sign(self._slope) * releases])
        for bends in (np.array([wanted]), others):
            bend, release = (grid.ravel() for grid in np.meshgrid(bends, releases, indexing="ij"))
            beyond, astray = self._excess(dt_s, bend, release, factor)
            astray = np.where(beyond <= 0.0, np.maximum(astray, 0.0), np.inf)
            best = int(np.lexsort((np.abs(bend - wanted), astray))[0])
            if astray[best] <= self._astray(factor):
                slope = self._slope + bend[best] * dt_s
                self._phases = [(float(bend[best]), dt_s)]
                if slope:
                    self._phases.append((float(-np.sign(slope) * release[best]), float(abs(slope) / release[best])))
                return

    def _range(self, factor: float) -> tuple[float, float]:
        """Return the least and the highest rate that a way to a rate needs."""
        low = 0.0 if self._slope < 0 and factor > self.rate else min(factor, self.rate)
        high = 1.0 if self._slope > 0 and factor < self.rate else max(factor, self.rate)
        return low - _ASTRAY, high + _ASTRAY

    def _astray(self, factor: float) -> float:
        """Return how far outside of its range the rate gets on the way that was chosen last."""
        low, high = self._range(factor)
        rate, slope, worst = self.rate, self._slope, 0.0
        for bend, lasts_s in self._phases:
            rate += (slope + bend * lasts_s / 2) * lasts_s
            slope += bend * lasts_s
            worst = max(worst, low - rate, rate - high)
        return worst

    def _excess(self, dt_s: float, bend: Array, release: Array, factor: float) -> tuple[Array, Array]:
        """Return by how much candidates (N,) leave the limits, as a share of them, and their range of the rate.

        A candidate bends the rate for a step and then ends its change at a constant bend, 1/s². 0 or less: it does
        not leave them.
        """
        slope = self._slope + bend * dt_s
        lasts = np.abs(slope / release)[:, None]
        later = np.linspace(0.0, lasts.max(), min(max(int(lasts.max() / _LOOK_S), 9), _MOST_LOOKS))
        first = dt_s * np.array([0.0, 0.5, 1.0])
        times = np.concatenate([np.tile(first, (len(bend), 1)), np.minimum(later, lasts)], axis=1)
        stepping = np.arange(times.shape[1]) < len(first)
        rate0 = np.where(stepping, self.rate, (self.rate + (self._slope + bend * dt_s / 2) * dt_s)[:, None])
        way0 = np.where(stepping, 0.0, ((self.rate + (self._slope / 2 + bend * dt_s / 6) * dt_s) * dt_s)[:, None])
        slope0 = np.where(stepping, self._slope, slope[:, None])
        bends = np.where(stepping, bend[:, None], (-np.sign(slope) * release)[:, None])
        slopes = slope0 + bends * times
        rates = rate0 + (slope0 + bends * times / 2) * times
        ways = way0 + (rate0 + (slope0 / 2 + bends * times / 6) * times) * times
        v, a, j_low, j_high = self._ahead(ways)
        r, d, b = rates[..., None], slopes[..., None], bends[..., None]
        acceleration = np.abs(a * r**2 + v * d) / self._limits.acceleration
        rest = 3 * a * r * d + v * b
        jerk = np.maximum(j_high * r**3 + rest, -(j_low * r**3 + rest)) / self._limits.jerk
        worst = np.maximum(acceleration, jerk).max(axis=(1, 2)) - self._allowed
        beyond = np.maximum(worst, np.maximum(rates - _HIGHEST, -rates).max(axis=1))
        low, high = self._range(factor)
        return beyond, np.maximum(low - rates, rates - high).max(axis=1)

    def _ahead(self, ways: Array) -> tuple[Array, Array, Array, Array]:
        """Return velocity, acceleration, and the least and the most jerk around places ahead on the trajectory.

        Args:
            ways: (N, M), s of trajectory time from now.

        Returns:
            Each (N, M, J).
        """
        table = np.linspace(0.0, max(float(ways.max()), _AT_REST), ways.shape[1])
        place = np.maximum(ways, 0.0) / table[1]
        before, nearest = np.minimum(place.astype(int), len(table) - 2), np.rint(place).astype(int)
        share = (place - before)[..., None]
        tabled = self._spline.derivatives((1, 2), self.trajectory_s + table)
        v, a = (d[before] + share * np.diff(d, axis=0)[before] for d in tabled)
        knots = self._spline.knots_s
        knots = knots[slice(*np.searchsorted(knots, self.trajectory_s + table[[0, -1]]))] - self.trajectory_s
        places = np.sort(np.concatenate([table, knots + _SIDE_S, knots - _SIDE_S]))
        jerk = self._spline.derivative(3, self.trajectory_s + places)
        cells = np.searchsorted(places, table - table[1] / 2)
        return v, a, np.minimum.reduceat(jerk, cells)[nearest], np.maximum.reduceat(jerk, cells)[nearest]

    def sample(self) -> State:
        """Return the state of all joints now, in real time."""
        return self._at(self.trajectory_s, self.elapsed_s, self._slope)

    def at(self, ahead_s: float) -> tuple[State, float]:
        """Return the state of all joints at a time from now, s, at the present rate, and the time on the trajectory."""
        time_s = self.trajectory_s + ahead_s * self.rate
        return self._at(time_s, self.elapsed_s + ahead_s, 0.0), time_s

    def _at(self, trajectory_s: float, elapsed_s: float, slope: float) -> State:
        position, velocity, acceleration = self._spline.sample(trajectory_s)
        moving = State(position, velocity * self.rate, acceleration * self.rate**2 + velocity * slope)
        out = np.empty((3, len(self.indices) + len(self._others)))
        out[:, self.indices] = moving
        out[:, self._others] = self._stop.sample(elapsed_s)
        return State(*out)


def starting_rate(state: State, limits: JointLimits, present: float | None, factor: float) -> float:
    """Return the rate at which a trajectory begins.

    Args:
        state: How all joints move now, each (J,).
        limits: Of all joints.
        present: Rate of the trajectory in execution; None: there is none.
        factor: Speed scaling.

    Returns:
        The factor from rest; in a motion a rate at which that motion is one within the limits.
    """
    speed = float(np.max(np.abs(state.velocity) / limits.velocity))
    push = float(np.sqrt(np.max(np.abs(state.acceleration) / limits.acceleration)))
    if max(speed, push) <= _AT_REST:
        return factor
    return min(1.0, max(present, speed, push) if present else max(factor, _RESERVE * speed, push))


def in_trajectory_time(state: State, rate: float) -> State:
    """Express a state in the time of a trajectory that runs at a rate.

    Args:
        state: In real time, each (J,).
        rate: Of trajectory time; 0: at rest.
    """
    if rate == 0.0:
        return State.at_rest(state.position)
    return State(state.position, state.velocity / rate, state.acceleration / rate**2)


def _wanted_slope(difference: float, sharpest: float, dt_s: float) -> float:
    """Return the change of the rate, 1/s, that attains a difference soonest without passing it."""
    way = abs(difference)
    if way <= _DONE[0]:
        return 0.0
    half = sharpest * dt_s / 2
    slope = np.sqrt(half**2 + 2 * sharpest * way) - half
    return float(np.sign(difference) * min(slope, way / dt_s, _FASTEST))
