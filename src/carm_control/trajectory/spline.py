# SPDX-License-Identifier: Apache-2.0
"""Piecewise polynomials through trajectory points, with exact bounds between the points.

Between two points the degree follows what both carry, as in ros2_controllers' joint_trajectory_controller:
linear for positions only, cubic with velocities, quintic with velocities and accelerations.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from carm_core.transforms import Array

COEFFICIENTS = 6
"""Coefficients per segment and joint, constant first: enough for a quintic."""


_BINOMIALS = np.array([[comb(k, i) for k in range(COEFFICIENTS)] for i in range(COEFFICIENTS)], dtype=np.float64)
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
    """A polynomial of degree 5 or less per segment and joint.

    Attributes:
        knots_s: (M + 1,), strictly increasing, s.
        coefficients: (M, 6, J), constant first, in time since the segment's start.
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
        return cls(points.times_s, np.where(has_a, quintic, np.where(has_v, cubic, linear)))

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
        tau = time_s - self.knots_s[segment]
        powers = tau ** np.arange(COEFFICIENTS)
        order = np.arange(COEFFICIENTS)
        position = powers @ c
        velocity = (order[1:] * powers[:-1]) @ c[1:]
        acceleration = (order[2:] * order[1:-1] * powers[:-2]) @ c[2:]
        return State(position, velocity, acceleration)

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

    def _expanded(self, times_s: Array) -> Array:
        """Coefficients (M, 6, J) of the segments that hold some times (M,), s, in time since each of these."""
        last = len(self.coefficients) - 1
        segments = np.clip(np.searchsorted(self.knots_s, times_s, side="right") - 1, 0, last)
        tau = (times_s - self.knots_s[segments])[:, None, None]
        return np.asarray(np.einsum("mik,mkj->mij", _BINOMIALS * tau**_EXPONENTS, self.coefficients[segments]))

    def excess(self, derivative: int, lower: Array, upper: Array) -> Excess | None:
        """Find where a derivative leaves its bounds, between the knots too.

        A segment whose Bernstein coefficients lie within the bounds does so itself (convex hull); the others
        are searched at the roots of the next derivative, so that the answer is exact.

        Args:
            derivative: 0 position, 1 velocity, 2 acceleration.
            lower: (J,), in the unit of the derivative.
            upper: (J,).

        Returns:
            The worst point of the first segment that leaves the bounds, or None.
        """
        h = np.diff(self.knots_s)
        scaled, hull = self._hull(derivative)
        suspects = np.argwhere((hull < lower).any(axis=1) | (hull > upper).any(axis=1))
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
        c = self.coefficients
        for _ in range(derivative):
            c = c[:, 1:] * np.arange(1, c.shape[1])[None, :, None]
        scaled = c * (np.diff(self.knots_s)[:, None] ** np.arange(c.shape[1]))[:, :, None]
        return scaled, np.einsum("bk,mkj->mbj", _bernstein(c.shape[1] - 1), scaled)


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
