# SPDX-License-Identifier: Apache-2.0
"""Motions with continuous acceleration from the points of a trajectory.

Two ways. ``twice_differentiable`` chooses the velocities and accelerations that the points lack, so that quintics
pass through every point at its time. ``smooth`` takes the moving average of an interpolation whose velocity or
acceleration steps: the windows turn steps into ramps, the values stay means of the original ones (Biagiotti and
Melchiorri, "FIR filters for online trajectory planning with time- and frequency-domain specifications", Control
Engineering Practice 20, 2012). All joints share the windows, so that straight lines stay straight.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_banded

from carm_control.trajectory.bounds import find_excess
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.spline import Spline, Waypoints
from carm_core.transforms import Array

_STEP = 1e-6
"""Change of velocity that counts as a step, as a share of the limit."""
_SIDE_S = 1e-9
_WIDEST = 2.5
_NARROWEST = 0.01
_WIDER = 1.3
"""Sizes of the windows that are tried, as shares of those that a step to the limit needs."""
_ROUNDING = 1 + 1e-6
_MOST_PROBES = 4000
_FRACTIONS = np.linspace(0.0, 1.0, 9)[1:-1]


def twice_differentiable(points: Waypoints) -> Waypoints:
    """Choose the velocities and accelerations that points lack.

    Missing velocities are those of the cubic spline with continuous acceleration; 0 at both ends, where a joint turns
    back, and where it rests. Missing accelerations are the mean of the adjacent cubics'. Rest has no acceleration.

    Args:
        points: At least two; at a point, velocities are given for all joints or none, and accelerations likewise.
    """
    h = np.diff(points.times_s)[:, None]
    slope = np.diff(points.positions, axis=0) / h
    velocity, acceleration = points.velocities.copy(), points.accelerations.copy()
    pinned = np.ones(velocity.shape, dtype=bool)
    pinned[1:-1] = slope[:-1] * slope[1:] <= 0
    velocity[np.isnan(velocity) & pinned] = 0.0
    for joint in np.flatnonzero(np.isnan(velocity).any(axis=0)):
        velocity[:, joint] = _spline_velocities(h[:, 0], slope[:, joint], velocity[:, joint])
    begin = (6 * slope - 4 * velocity[:-1] - 2 * velocity[1:]) / h
    end = (-6 * slope + 2 * velocity[:-1] + 4 * velocity[1:]) / h
    chosen = np.zeros_like(acceleration)
    chosen[0] = begin[0]
    chosen[1:-1] = (end[:-1] + begin[1:]) / 2
    dwells = np.zeros(velocity.shape, dtype=bool)
    dwells[0], dwells[-1] = True, True
    dwells[1:-1] = (slope[:-1] == 0) | (slope[1:] == 0)
    missing = np.isnan(acceleration)
    acceleration[missing] = chosen[missing]
    missing[0] = True
    acceleration[missing & dwells & (velocity == 0)] = 0.0
    acceleration[-1] = 0.0
    return Waypoints(points.times_s, points.positions, velocity, acceleration)


def _spline_velocities(h: Array, slope: Array, known: Array) -> Array:
    """Solve for the velocities (N,) of a cubic spline; those that are not NaN are given, the first and last among."""
    free = np.isnan(known)
    inner = free[1:-1]
    bands = np.zeros((3, len(known)))
    bands[1] = 1.0
    right = np.where(free, 0.0, known)
    bands[1, 1:-1] = np.where(inner, 2 / h[:-1] + 2 / h[1:], 1.0)
    bands[0, 2:] = np.where(inner, 1 / h[1:], 0.0)
    bands[2, :-2] = np.where(inner, 1 / h[:-1], 0.0)
    right[1:-1] = np.where(inner, 3 * (slope[:-1] / h[:-1] + slope[1:] / h[1:]), right[1:-1])
    return np.asarray(solve_banded((1, 1), bands, right))


def distance(followed: Spline, points: Waypoints) -> Array:
    """Return how far a motion through the points is from their own interpolation, within each segment.

    Where points carry velocities, it is the distance at the same time; else that from the straight line.

    Args:
        followed: Through the points, with their times as knots.
        points: N points of J joints.

    Returns:
        (N - 1, J), m or rad; sampled.
    """
    own = Spline.through(points)
    u = _FRACTIONS[None, :, None] * np.diff(points.times_s)[:, None, None]
    off = np.zeros((len(u), len(_FRACTIONS), points.positions.shape[1]))
    away = np.zeros_like(off)
    for k in range(followed.coefficients.shape[1] - 1, -1, -1):
        off = off * u + (followed.coefficients - own.coefficients)[:, None, k]
        away = away * u + followed.coefficients[:, None, k]
    start, chord = points.positions[:-1, None], np.diff(points.positions, axis=0)[:, None]
    along = ((away - start) * chord).sum(axis=2, keepdims=True) / np.maximum((chord**2).sum(axis=2), 1e-18)[..., None]
    across = away - start - np.clip(along, 0.0, 1.0) * chord
    straight = np.asarray(np.isnan(points.velocities[:-1] + points.velocities[1:]).any(axis=1, keepdims=True))
    return np.asarray(np.abs(np.where(straight[:, :, None], across, off)).max(axis=1))


class Smoothed(NamedTuple):
    """A smoothed motion.

    Attributes:
        spline: From rest to rest.
        delay_s: How much later it ends, s; half of it is how far it lags on the way.
        deviation: How far it passes beside the original at most, apart from the lag (J,), m or rad.
        worst_s: Where on the original each joint does (J,), s.
    """

    spline: Spline
    delay_s: float
    deviation: Array
    worst_s: Array


def smooth(own: Spline, limits: JointLimits, tolerance: float) -> Smoothed | None:
    """Return the moving average, over the shortest windows that keep the limits of acceleration and jerk.

    Args:
        own: The interpolation, at rest before and after; its velocity keeps its limits.
        limits: Of its joints.
        tolerance: Fraction by which they may be exceeded, if it cannot be helped.

    Returns:
        None if no windows suffice.
    """
    steps = _steps(own)
    double = bool((steps > _STEP * limits.velocity).any())
    single = float((steps / limits.velocity).max()) if double else 0.0
    for allowed in (0.0, tolerance):
        size = max(_NARROWEST, single / (1 + allowed))
        while size <= _WIDEST:
            windows = _windows(size, limits, double)
            if _probe(own, windows, limits, allowed):
                result = own
                for window_s in windows:
                    result = result.averaged(window_s)
                if find_excess(result, limits, allowed, (2, 3)) is None:
                    return Smoothed(result, sum(windows), *_beside(own, result, sum(windows) / 2))
            size *= _WIDER
    return None


def _steps(own: Spline) -> Array:
    """Return the largest step of the velocity (J,), from and to rest included."""
    before = own.derivative(1, own.knots_s - _SIDE_S)
    after = own.derivative(1, own.knots_s + _SIDE_S)
    return np.asarray(np.abs(after - before).max(axis=0))


def _windows(size: float, limits: JointLimits, double: bool) -> tuple[float, ...]:
    """Return windows, s, that suffice for steps of a size, as a share of the limit, of velocity or of acceleration."""
    if not double:
        return (float(size * (limits.acceleration / limits.jerk).max()),)
    step = size * limits.velocity
    first = np.maximum(step / limits.acceleration, np.sqrt(step / limits.jerk)).max()
    return float(first), float((step / limits.jerk).max() / first)


def _probe(own: Spline, windows: tuple[float, ...], limits: JointLimits, tolerance: float) -> bool:
    """Return whether acceleration and jerk of a moving average keep the limits, at probes around its knots."""
    knots = own.knots_s
    for window_s in windows:
        knots = np.concatenate([knots, knots + window_s])
    knots = np.sort(knots)[:: 1 + len(knots) // _MOST_PROBES]
    times = np.concatenate([knots - _SIDE_S, knots + _SIDE_S, (knots[1:] + knots[:-1]) / 2])
    for order, limit in ((2, limits.acceleration), (3, limits.jerk)):
        total = np.zeros((len(times), own.coefficients.shape[2]))
        for terms in range(2 ** len(windows)):
            past = [w for bit, w in enumerate(windows) if terms >> bit & 1]
            total += (-1) ** len(past) * own.derivative(order - len(windows), times - sum(past))
        if (np.abs(total) > np.prod(windows) * limit * (1 + tolerance) * _ROUNDING).any():
            return False
    return True


def _beside(own: Spline, result: Spline, lag_s: float) -> tuple[Array, Array]:
    times = np.concatenate([own.knots_s, (own.knots_s[1:] + own.knots_s[:-1]) / 2])
    off = np.abs(result.derivative(0, times + lag_s) - own.derivative(0, times))
    worst: NDArray[np.intp] = np.argmax(off, axis=0)
    return np.asarray(off.max(axis=0)), np.asarray(times[worst])
