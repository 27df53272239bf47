# SPDX-License-Identifier: Apache-2.0
"""Shapes that several pieces of hardware share. Lengths in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline, PchipInterpolator

from carm_core.transforms import Array
from carm_sim.devices.materials import COPPER, STRIPE, VINYL, Substance
from carm_sim.drr.solids import Body, Solid, axes_along, box, cylinder, tube


def unit(vector: ArrayLike) -> Array:
    """Return a vector (3,) at length 1."""
    array = np.asarray(vector, dtype=np.float64)
    return array / np.linalg.norm(array)


def smooth(points_mm: Sequence[ArrayLike] | Array, step_mm: float = 5.0, *, tame: bool = False) -> Array:
    """Return a smooth curve through points, as a polyline (N, 3).

    Args:
        points_mm: Points (P, 3) to pass through.
        step_mm: Distance of the polyline's points.
        tame: Never overshoot between points.
    """
    points = np.asarray(points_mm, dtype=np.float64)
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    count = max(2, int(np.ceil(lengths[-1] / step_mm)) + 1)
    curve = PchipInterpolator(lengths, points) if tame else CubicSpline(lengths, points, bc_type="natural")
    return np.asarray(curve(np.linspace(0, lengths[-1], count)), np.float64)


def frames_along(line_mm: Array) -> Array:
    """Axes as columns (N, 3, 3) along a polyline (N, 3), the third its direction, turning as little as they can."""
    tangents = np.gradient(line_mm, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    frames = [axes_along(tangents[0], (0.1, -1.0, 0.2))]
    for tangent in tangents[1:]:
        frames.append(axes_along(tangent, frames[-1][:, 1]))
    return np.stack(frames)


def beside(line_mm: Array, radius_mm: float, angle_rad: float | Array = 0.0) -> Array:
    """Return a polyline (N, 3) at a distance from another, at an angle around it."""
    frames, angle = frames_along(line_mm), np.broadcast_to(np.asarray(angle_rad, np.float64), len(line_mm))
    return np.asarray(
        line_mm + radius_mm * (np.cos(angle)[:, None] * frames[:, :, 0] + np.sin(angle)[:, None] * frames[:, :, 1])
    )


def circle(
    center_mm: ArrayLike, axes: Array, radii_mm: tuple[float, float], count: int = 24, arc: float = 1.0
) -> Array:
    """Points (count + 1, 3) around an ellipse in the plane of the first two axes; ``arc`` of the whole turn."""
    angle = np.linspace(0, 2 * np.pi * arc, count + 1)
    plane = np.stack([radii_mm[0] * np.cos(angle), radii_mm[1] * np.sin(angle)], 1)
    return np.asarray(np.asarray(center_mm, np.float64) + plane @ axes[:, :2].T)


def threaded(start_mm: ArrayLike, tip_mm: ArrayLike, core_mm: float, crest_mm: float, pitch_mm: float) -> list[Body]:
    """Return a screw's shaft from its head to its tip: a core with ridges, and a point.

    Args:
        start_mm: Where the thread begins (3,).
        tip_mm: The tip (3,).
        core_mm: Radius between the ridges.
        crest_mm: Radius of the ridges.
        pitch_mm: Distance of the ridges.
    """
    start, tip = np.asarray(start_mm, np.float64), np.asarray(tip_mm, np.float64)
    length = float(np.linalg.norm(tip - start))
    along = (tip - start) / length
    point = min(2.5 * core_mm, length / 3)
    bodies = [cylinder(start, tip - point * along, core_mm), cylinder(tip - point * along, tip, core_mm, 0.2 * core_mm)]
    depth = crest_mm - core_mm
    for at in np.arange(pitch_mm, length - 0.4 * point, pitch_mm):
        shrink = min(1.0, (length - at) / point)
        crest = start + at * along
        radius = core_mm * max(shrink, 0.3)
        rise = min(0.45 * pitch_mm, depth)
        bodies.append(cylinder(crest - rise * along, crest, radius, radius + depth))
        bodies.append(cylinder(crest, crest + 0.25 * rise * along, radius + depth, radius))
    return bodies


def rounded_plate(
    center_mm: ArrayLike, axes: Array, half_mm: tuple[float, float], thick_mm: float, corner_mm: float
) -> list[Body]:
    """Return a plate with rounded corners in the plane of the first two axes."""
    center = np.asarray(center_mm, np.float64)
    (width, height), half = half_mm, thick_mm / 2
    bodies = [
        box(center, (width - corner_mm, height, half), axes),
        box(center, (width, height - corner_mm, half), axes),
    ]
    for x in (-1, 1):
        for y in (-1, 1):
            at = center + x * (width - corner_mm) * axes[:, 0] + y * (height - corner_mm) * axes[:, 1]
            bodies.append(cylinder(at - half * axes[:, 2], at + half * axes[:, 2], corner_mm))
    return bodies


def cable(line_mm: Array, radius_mm: float, conductor_mm: float, metal: Substance = COPPER) -> list[Solid]:
    """Return an insulated conductor along a polyline."""
    core = tube(line_mm, conductor_mm)
    return [VINYL.solid(tube(line_mm, radius_mm), core), metal.solid(core)]


def drain(
    line_mm: Array, radius_mm: float, wall_mm: float, stripe_mm: float = 0.5, plastic: Substance = VINYL
) -> list[Solid]:
    """Return a plastic tube along a polyline with a radiopaque stripe in its wall."""
    ends = [2 * line_mm[0] - line_mm[1], *line_mm, 2 * line_mm[-1] - line_mm[-2]]
    stripe = tube(beside(line_mm, radius_mm - wall_mm / 2), stripe_mm)
    return [plastic.solid(tube(line_mm, radius_mm), tube(np.array(ends), radius_mm - wall_mm)), STRIPE.solid(stripe)]
