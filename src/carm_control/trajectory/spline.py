# SPDX-License-Identifier: Apache-2.0
"""Piecewise polynomials through trajectory points, with exact bounds between the points.

Between two points the degree follows what both carry, as in ros2_controllers' joint_trajectory_controller:
linear for positions only, cubic with velocities, quintic with velocities and accelerations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb, perm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carm_core.transforms import Array

COEFFICIENTS = 8
"""Coefficients per segment and joint, constant first: enough for a quintic that is averaged twice."""


_BINOMIALS = np.array([[comb(k, i) for k in range(COEFFICIENTS)] for i in range(COEFFICIENTS)], dtype=np.float64)
_FACTORIALS = np.array([[perm(k, d) for k in range(COEFFICIENTS)] for d in range(4)], dtype=np.float64)
_SAME_TIME_S = 1e-9
_BISECTIONS = 3
_EXPONENTS = np.maximum(np.arange(COEFFICIENTS)[None, :] - np.arange(COEFFICIENTS)[:, None], 0)
"""A polynomial c in t is, in t - tau, the polynomial (binomials * tau ** exponents) @ c."""


class State(NamedTuple):
    """Position, velocity and acceleration, each (J,); m or rad, s."""

    position: Array
    velocity: Array
    acceleration: Array

    @classmethod
    def at_rest(cls, position: Array) -> State:
        """Return the state at rest at a position (J,), m or rad."""
        return cls(position.copy(), np.zeros_like(position), np.zeros_like(position))


@dataclass(frozen=True, eq=False)
class Waypoints:
    """Points of a trajectory as arrays; a field that a point does not carry is a row of NaN.

    Attributes:
        times_s: (N,), strictly increasing, s.
        positions: (N, J), m or rad.
        velocities: (N, J), m/s or rad/s.
        accelerations: (N, J), m/s² or rad/s².
    """

    times_s: Array
    positions: Array
    velocities: Array
    accelerations: Array

    def __getitem__(self, rows: slice) -> Waypoints:
        """Return the points of a slice."""
        return Waypoints(self.times_s[rows], self.positions[rows], self.velocities[rows], self.accelerations[rows])


class Excess(NamedTuple):
    """A value outside its bounds.

    Attributes:
        segment: Segment of the spline, from 0.
        joint: Column.
        time_s: Where, s from the spline's time 0.
        value: The value there.
    """

    segment: int
    joint: int
    time_s: float
    value: float


@dataclass(frozen=True, eq=False)
class Spline:
    """A polynomial of degree 7 or less per segment and joint.

    Attributes:
        knots_s: (M + 1,), strictly increasing, s.
        coefficients: (M, 8, J), constant first, in time since the segment's start.
    """

    knots_s: Array
    coefficients: Array

    @classmethod
    def through(cls, points: Waypoints) -> Spline:
        """Interpolate.

        Args:
            points: At least two.
        """
        h = np.diff(points.times_s)[:, None]
        p, v, a = points.positions, points.velocities, points.accelerations
        p0, v0, v1, a0, a1 = p[:-1], v[:-1], v[1:], a[:-1], a[1:]
        d = p[1:] - p0
        zero = np.zeros_like(d)
        linear = np.stack([p0, d / h, zero, zero, zero, zero], axis=1)
        cubic = np.stack([p0, v0, (3 * d / h - 2 * v0 - v1) / h, (-2 * d / h + v0 + v1) / h**2, zero, zero], axis=1)
        quintic = np.stack(
            [
                p0,
                v0,
                a0 / 2,
                (20 * d - (8 * v1 + 12 * v0) * h - (3 * a0 - a1) * h**2) / (2 * h**3),
                (-30 * d + (14 * v1 + 16 * v0) * h + (3 * a0 - 2 * a1) * h**2) / (2 * h**4),
                (12 * d - 6 * (v1 + v0) * h - (a0 - a1) * h**2) / (2 * h**5),
            ],
            axis=1,
        )
        has_v = _present(v0, v1)
        has_a = has_v & _present(a0, a1)
        coefficients = np.zeros((len(h), COEFFICIENTS, d.shape[1]))
        coefficients[:, :6] = np.where(has_a, quintic, np.where(has_v, cubic, linear))
        return cls(points.times_s, coefficients)

    @property
    def duration_s(self) -> float:
        """Time of the last knot, s."""
        return float(self.knots_s[-1])

    def segment_at(self, time_s: float) -> int:
        """Return the segment that holds a time; the nearest one outside."""
        last = len(self.coefficients) - 1
        return min(max(int(np.searchsorted(self.knots_s, time_s, side="right")) - 1, 0), last)

    def sample(self, time_s: float) -> State:
        """Return the state at a time, s; at rest at the last position after the last knot."""
        if time_s >= self.knots_s[-1]:
            end = self._evaluate(len(self.coefficients) - 1, float(self.knots_s[-1]))
            return State.at_rest(end.position)
        return self._evaluate(self.segment_at(time_s), max(time_s, float(self.knots_s[0])))

    def positions(self, times_s: Array) -> Array:
        """Return the positions (N, J) at times (N,), s; the last one after the last knot."""
        return self._expanded(np.minimum(times_s, self.duration_s))[:, 0]

    def _evaluate(self, segment: int, time_s: float) -> State:
        c = self.coefficients[segment]
        powers = (time_s - self.knots_s[segment]) ** np.arange(COEFFICIENTS)
        return State(*((_FACTORIALS[d, d:] * powers[: COEFFICIENTS - d]) @ c[d:] for d in range(3)))

    def derivative(self, order: int, times_s: Array) -> Array:
        """Evaluate a derivative at many times, as ``derivatives`` does."""
        return self.derivatives((order,), times_s)[0]

    def derivatives(self, orders: Sequence[int], times_s: Array) -> list[Array]:
        """Evaluate derivatives at many times.

        Args:
            orders: 0 position to 3 jerk.
            times_s: (N,), s. Before the first knot and from the last one on, the spline rests where it begins and ends.

        Returns:
            For each order (N, J), m or rad, per s to the order.
        """
        knots = self.knots_s
        segments = self._segments_at(times_s)
        outside = (times_s < knots[0]) | (times_s >= knots[-1])
        tau = (np.minimum(np.maximum(times_s, knots[0]), knots[-1]) - knots[segments])[:, None]
        c = self.coefficients[segments]
        values = []
        for order in orders:
            value = np.zeros((len(tau), c.shape[2]))
            for k in range(self._degree, order - 1, -1):
                value = value * tau + _FACTORIALS[order, k] * c[:, k]
            if order:
                value[outside] = 0.0
            values.append(value)
        return values

    def _segments_at(self, times_s: Array) -> NDArray[np.intp]:
        segments = np.searchsorted(self.knots_s, times_s, side="right") - 1
        return np.asarray(np.minimum(np.maximum(segments, 0), len(self.coefficients) - 1))

    def averaged(self, window_s: float) -> Spline:
        """Return the moving average over the past ``window_s``, s, of this motion with rest before and after it.

        It begins with this motion, at rest, and ends ``window_s`` later. Its values and those of its derivatives are
        means of the original ones, hence within the same bounds, and it has one continuous derivative more.
        """
        knots = np.concatenate([self.knots_s, self.knots_s + window_s])
        knots.sort()
        knots = knots[np.concatenate([[True], np.diff(knots) > _SAME_TIME_S])]
        now, past = (self._padded(knots[:-1] - delay_s) for delay_s in (0.0, window_s))
        coefficients = np.zeros_like(now)
        orders = np.arange(1, COEFFICIENTS)[None, :, None]
        coefficients[:, 1:] = ((now - past) / window_s)[:, :-1] / orders
        h = np.diff(knots)[:, None, None]
        gains = (coefficients[:, 1:] * h**orders).sum(axis=1)
        coefficients[0, 0] = self.coefficients[0, 0]
        coefficients[1:, 0] = self.coefficients[0, 0] + np.cumsum(gains[:-1], axis=0)
        return Spline(knots, coefficients)

    def _padded(self, times_s: Array) -> Array:
        """Return coefficients as ``_expanded``, at rest before the first knot and after the last one."""
        nudged = times_s + _SAME_TIME_S
        coefficients = self._expanded(nudged, times_s)
        outside = (nudged < self.knots_s[0]) | (nudged >= self.knots_s[-1])
        coefficients[outside] = 0.0
        coefficients[nudged < self.knots_s[0], 0] = self.coefficients[0, 0]
        coefficients[nudged >= self.knots_s[-1], 0] = self.sample(self.duration_s).position
        return coefficients

    @cached_property
    def _degree(self) -> int:
        present = np.flatnonzero((self.coefficients != 0).any(axis=(0, 2)))
        return int(present[-1]) if len(present) else 0

    def cut(self, time_s: float) -> Spline:
        """Return the motion from a time on, s, which becomes its first knot."""
        later = self.knots_s > time_s
        first = self._expanded(np.array([time_s]))
        return Spline(
            np.concatenate([[time_s], self.knots_s[later]]),
            np.concatenate([first, self.coefficients[later[:-1]]]),
        )

    def until(self, time_s: float) -> Spline:
        """Return the segments that begin before a time, s."""
        count = max(1, int(np.count_nonzero(self.knots_s[:-1] < time_s)))
        return Spline(self.knots_s[: count + 1], self.coefficients[:count])

    def plus(self, other: Spline) -> Spline:
        """Return the sum with a spline that starts at the same time and ends, at 0, no later."""
        end_s = other.duration_s
        knots = np.unique(np.concatenate([self.knots_s[self.knots_s < end_s], other.knots_s]))
        head = Spline(knots, self._expanded(knots[:-1]) + other._expanded(knots[:-1]))
        if end_s >= self.duration_s:
            return head
        tail = self.cut(end_s)
        return Spline(np.concatenate([knots, tail.knots_s[1:]]), np.concatenate([head.coefficients, tail.coefficients]))

    def then(self, other: Spline) -> Spline:
        """Return this motion and then another one, whose time 0 is the end of this one."""
        return Spline(
            np.concatenate([self.knots_s, self.duration_s + other.knots_s[1:]]),
            np.concatenate([self.coefficients, other.coefficients]),
        )

    def _expanded(self, times_s: Array, origins_s: Array | None = None) -> Array:
        """Coefficients (M, 8, J) of the segments that hold some times (M,), s, in time since each of these."""
        segments = self._segments_at(times_s)
        tau = ((times_s if origins_s is None else origins_s) - self.knots_s[segments])[:, None, None]
        coefficients: Array = self.coefficients[segments]
        count = self._degree + 1
        shift = _BINOMIALS[:count, :count] * tau ** _EXPONENTS[:count, :count]
        coefficients[:, :count] = shift @ coefficients[:, :count]
        return coefficients

    def excess(
        self, derivative: int, lower: Array, upper: Array, among: NDArray[np.bool_] | None = None
    ) -> Excess | None:
        """Find where a derivative leaves its bounds, between the knots too.

        A segment whose Bernstein coefficients lie within the bounds does so itself (convex hull); the others
        are searched at the roots of the next derivative, so that the answer is exact.

        Args:
            derivative: 0 position, 1 velocity, 2 acceleration, 3 jerk.
            lower: (J,), in the unit of the derivative.
            upper: (J,).
            among: Segments (M,) to search; None: all.

        Returns:
            The worst point of the first segment that leaves the bounds, or None.
        """
        h = np.diff(self.knots_s)
        scaled, hull = self._hull(derivative)
        suspects = np.argwhere((hull < lower).any(axis=1) | (hull > upper).any(axis=1))
        if among is not None:
            suspects = suspects[among[suspects[:, 0]]]
        rows, columns = suspects.T
        suspects = suspects[_may_leave(hull[rows, :, columns], lower[columns], upper[columns])]
        worst: Excess | None = None
        for segment, joint in suspects:
            if worst is not None and segment > worst.segment:
                break
            found = _extreme(scaled[segment, :, joint], lower[joint], upper[joint])
            if found is None:
                continue
            fraction, value = found
            time_s = float(self.knots_s[segment] + fraction * h[segment])
            candidate = Excess(int(segment), int(joint), time_s, value)
            if worst is None or _beyond(candidate, lower, upper) > _beyond(worst, lower, upper):
                worst = candidate
        return worst

    def hull_outside(self, lower: Array, upper: Array) -> NDArray[np.bool_]:
        """Return which joints (J,) may leave position bounds (J,): those whose Bernstein coefficients do.

        Faster than ``excess`` and, for polynomials that bend, on the safe side.
        """
        _, hull = self._hull(0)
        return np.asarray(((hull < lower) | (hull > upper)).any(axis=(0, 1)))

    def _hull(self, derivative: int) -> tuple[Array, Array]:
        """Monomial and Bernstein coefficients (M, degree + 1, J) of a derivative, each segment scaled to [0, 1]."""
        top = max(self._degree, derivative) + 1
        c = self.coefficients[:, derivative:top] * _FACTORIALS[derivative, derivative:top, None]
        scaled = c * (np.diff(self.knots_s)[:, None] ** np.arange(c.shape[1]))[:, :, None]
        return scaled, _bernstein(c.shape[1] - 1) @ scaled


def _present(start: Array, end: Array) -> NDArray[np.bool_]:
    """Return whether both ends of each segment carry a value (M, J), as (M, 1, 1)."""
    missing = np.isnan(start) | np.isnan(end)
    return np.logical_not(missing.any(axis=1)).reshape(-1, 1, 1)


def _beyond(excess: Excess, lower: Array, upper: Array) -> float:
    j = excess.joint
    return float(max(lower[j] - excess.value, excess.value - upper[j]) / max(upper[j] - lower[j], 1e-12))


def _bernstein(degree: int) -> Array:
    """Return the matrix (degree + 1, degree + 1) from monomial to Bernstein coefficients on [0, 1]."""
    return np.array(
        [[comb(i, k) / comb(degree, k) if k <= i else 0.0 for k in range(degree + 1)] for i in range(degree + 1)]
    )


def _may_leave(hull: Array, lower: Array, upper: Array) -> NDArray[np.bool_]:
    """Return which polynomials (N,) with Bernstein coefficients (N, degree + 1) may leave bounds (N,), by bisection."""
    degree = hull.shape[1] - 1
    left = np.array([[comb(i, k) / 2**i for k in range(degree + 1)] for i in range(degree + 1)])
    parts = hull[:, None]
    for _ in range(_BISECTIONS):
        parts = np.concatenate([parts @ left.T, (parts[..., ::-1] @ left.T)[..., ::-1]], axis=1)
    return np.asarray(((parts < lower[:, None, None]) | (parts > upper[:, None, None])).any(axis=(1, 2)))


def _extreme(coefficients: Array, lower: float, upper: float) -> tuple[float, float] | None:
    """Return (fraction, value) where a polynomial on [0, 1] is farthest outside the bounds, or None."""
    polynomial = np.polynomial.Polynomial(coefficients).trim()
    roots = polynomial.deriv().roots()
    inner = np.real(roots[np.abs(np.imag(roots)) < 1e-9])
    candidates = np.concatenate([[0.0, 1.0], inner[(inner > 0) & (inner < 1)]])
    values = polynomial(candidates)
    outside = np.maximum(lower - values, values - upper)
    worst = int(np.argmax(outside))
    return (float(candidates[worst]), float(values[worst])) if outside[worst] > 0 else None
