# SPDX-License-Identifier: Apache-2.0
"""Where a landmark is in depth, from two or more views of it that differ enough: least squares of rays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carm_core.errors import GoalError
from carm_core.imaging.projection import XrayView
from carm_core.transforms import Array

MIN_ANGLE_DEG = 30.0
"""Two views that differ by less than this tell too little of the depth, deg."""
_MAX_MISS_STD = 4.0
_ITERATIONS = 3
_ROUNDING_DEG = 1e-6


@dataclass(frozen=True, eq=False)
class Sighting:
    """A landmark in one view.

    Attributes:
        view: Where source and detector were, frame ``table``.
        displacement_mm: From the image center at isocenter depth, right and up in the display image (2,), mm.
        std_mm: Standard deviation of each component, mm.
    """

    view: XrayView
    displacement_mm: tuple[float, float]
    std_mm: float = 5.0

    @property
    def ray(self) -> tuple[Array, Array]:
        """The source (3,), mm, and the unit direction (3,) from it to the landmark, frame ``table``."""
        right, up = self.view.display_axes
        x, y = self.displacement_mm
        toward = self.view.source_isocenter_mm * self.view.forward + x * right + y * up
        return self.view.source_mm, toward / np.linalg.norm(toward)


@dataclass(frozen=True, eq=False)
class Triangulation:
    """A point in space.

    Attributes:
        point_mm: (3,), frame ``table``, mm.
        covariance_mm2: (3, 3), mm².
        angle_deg: Largest angle by which two views differ, deg.
        miss_mm: Root mean square distance of the rays from the point, mm.
    """

    point_mm: Array
    covariance_mm2: Array
    angle_deg: float
    miss_mm: float

    @property
    def std_mm(self) -> float:
        """Standard deviation along the least certain direction, mm."""
        return float(math.sqrt(np.linalg.eigvalsh(self.covariance_mm2)[-1]))


def views_angle_deg(first: Sighting, second: Sighting) -> float:
    """Return the angle by which two sightings' views differ, 0 to 90 deg; opposite views look along the same line."""
    cosine = abs(float(first.view.forward @ second.view.forward))
    return math.degrees(math.acos(min(1.0, cosine)))


def triangulate(sightings: Sequence[Sighting], min_angle_deg: float = MIN_ANGLE_DEG) -> Triangulation:
    """Return the point that the rays of several sightings have in common.

    Each ray constrains the point across its direction; the constraints are weighted by the sighting's standard
    deviation scaled from isocenter depth to the point's depth (Hartley and Sturm, "Triangulation", Computer Vision and
    Image Understanding 68(2), 1997, iterated linear method).

    Args:
        sightings: Of the same landmark.
        min_angle_deg: Two of the views must differ by this angle at least, deg.

    Raises:
        GoalError: Fewer than two sightings, numbers that are not finite, views too much alike, rays that miss each
            other by more than their uncertainty explains, or a point that is not between source and detector.
    """
    if len(sightings) < 2:
        raise GoalError(f"the depth of a landmark needs two views, got {len(sightings)}")
    for sighting in sightings:
        if not np.isfinite([*sighting.displacement_mm, sighting.std_mm]).all() or sighting.std_mm <= 0:
            raise GoalError(f"an observation is not finite: {sighting.displacement_mm} mm, std {sighting.std_mm} mm")
    angle = max(views_angle_deg(a, b) for i, a in enumerate(sightings) for b in sightings[i + 1 :])
    if angle < min_angle_deg - _ROUNDING_DEG:
        raise GoalError(f"the views differ by {angle:.0f} degrees only; depth needs {min_angle_deg:.0f}")
    rays = [sighting.ray for sighting in sightings]
    stds = np.array([sighting.std_mm for sighting in sightings])
    weights = 1.0 / stds**2
    for _ in range(_ITERATIONS):
        information, pull = np.zeros((3, 3)), np.zeros(3)
        for (source, direction), weight in zip(rays, weights, strict=True):
            across = weight * (np.eye(3) - np.outer(direction, direction))
            information += across
            pull += across @ source
        point = np.asarray(np.linalg.solve(information, pull), dtype=np.float64)
        weights = _weights(sightings, stds, point)
    return _judged(sightings, point, np.asarray(np.linalg.inv(information), dtype=np.float64), weights, angle)


def _weights(sightings: Sequence[Sighting], stds: Array, point: Array) -> Array:
    """Return the weights at the point's depth: a pixel covers more, the further it is from the source."""
    depths = np.array([(point - s.view.source_mm) @ s.view.forward for s in sightings])
    scale = np.array([s.view.source_isocenter_mm for s in sightings])
    detector = np.array([s.view.source_detector_mm for s in sightings])
    if (depths <= 0).any() or (depths >= detector).any():
        raise GoalError(f"the rays meet at depth {(depths.round() + 0.0).tolist()} mm, not between source and detector")
    return np.asarray(1.0 / (stds * depths / scale) ** 2)


def _judged(
    sightings: Sequence[Sighting], point: Array, covariance: Array, weights: Array, angle_deg: float
) -> Triangulation:
    offsets = []
    for sighting in sightings:
        source, direction = sighting.ray
        offset = point - source
        offsets.append(float(np.linalg.norm(offset - (offset @ direction) * direction)))
    misses = np.array(offsets)
    surprise = float((misses * np.sqrt(weights)).max())
    miss = float(np.sqrt((misses**2).mean()))
    if surprise > _MAX_MISS_STD:
        raise GoalError(
            f"the rays miss each other by {miss:.0f} mm, {surprise:.1f} standard deviations:"
            " they do not show the same landmark"
        )
    return Triangulation(point, covariance, angle_deg, miss)
