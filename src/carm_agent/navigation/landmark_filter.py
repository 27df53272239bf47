# SPDX-License-Identifier: Apache-2.0
"""The estimate of a landmark's position: a Gaussian in frame ``table``.

A localizer measures a displacement in the image, which leaves the depth along the beam open. An iterated extended
Kalman filter (Bell and Cathey 1993) fuses the measurements of one task: as the arm moves, the parallax between
views narrows the depth as well.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.imaging.projection import XrayView

RADIUS_90_PER_STD = math.sqrt(-2.0 * math.log(0.1))
"""Radius that holds 90 % of an isotropic Gaussian in the plane, in units of its standard deviation."""

_ITERATIONS = 4


@dataclass(frozen=True, eq=False)
class Belief:
    """Gaussian belief about one landmark.

    Attributes:
        mean_mm: Shape (3,), frame ``table``, mm.
        covariance_mm2: Shape (3, 3), mm^2.
    """

    mean_mm: NDArray[np.float64]
    covariance_mm2: NDArray[np.float64]

    @classmethod
    def from_measurement(
        cls, view: XrayView, displacement_mm: ArrayLike, std_mm: float, depth_std_mm: float
    ) -> "Belief":
        """Start from one measurement: on its ray, at isocenter depth with a standard deviation of ``depth_std_mm``.

        Args:
            view: The view that was measured in, frame ``table``.
            displacement_mm: Shape (2,), right and up in the display image, at isocenter depth, mm.
            std_mm: Standard deviation of either component, mm.
            depth_std_mm: Standard deviation along the ray, mm.
        """
        axes = np.array(view.display_axes)
        mean = view.isocenter_mm + np.asarray(displacement_mm, dtype=np.float64) @ axes
        ray = (mean - view.source_mm) / np.linalg.norm(mean - view.source_mm)
        return cls(mean, std_mm**2 * np.eye(3) + depth_std_mm**2 * np.outer(ray, ray))

    def offset_mm(self, view: XrayView) -> NDArray[np.float64]:
        """Return the displacement (2,) at which the landmark is expected in a view, mm."""
        return np.asarray(view.displacement_mm(self.mean_mm), dtype=np.float64)

    def radius_90_mm(self, view: XrayView) -> float:
        """Return a radius around ``offset_mm`` that holds the landmark in at least 90 of 100 cases, mm."""
        slope = _slope(view, self.mean_mm)
        spread = slope @ self.covariance_mm2 @ slope.T
        return RADIUS_90_PER_STD * math.sqrt(float(np.linalg.eigvalsh(spread)[-1]))

    def surprise(self, view: XrayView, displacement_mm: ArrayLike, std_mm: float) -> float:
        """Return how far a measurement is from what is expected, in standard deviations (Mahalanobis distance)."""
        slope = _slope(view, self.mean_mm)
        spread = slope @ self.covariance_mm2 @ slope.T + std_mm**2 * np.eye(2)
        difference = np.asarray(displacement_mm, dtype=np.float64) - self.offset_mm(view)
        return math.sqrt(float(difference @ np.linalg.solve(spread, difference)))

    def updated(self, view: XrayView, displacement_mm: ArrayLike, std_mm: float) -> "Belief":
        """Fuse a measurement.

        Args:
            view: The view that was measured in, frame ``table``.
            displacement_mm: Shape (2,), right and up in the display image, at isocenter depth, mm.
            std_mm: Standard deviation of either component, mm.
        """
        measured = np.asarray(displacement_mm, dtype=np.float64)
        point, noise = self.mean_mm, std_mm**2 * np.eye(2)
        for _ in range(_ITERATIONS):
            slope = _slope(view, point)
            spread = slope @ self.covariance_mm2 @ slope.T + noise
            gain = np.linalg.solve(spread, slope @ self.covariance_mm2).T
            point = self.mean_mm + gain @ (measured - view.displacement_mm(point) - slope @ (self.mean_mm - point))
        kept = np.eye(3) - gain @ slope
        return Belief(point, kept @ self.covariance_mm2 @ kept.T + gain @ noise @ gain.T)

    def diffused(self, std_mm: float) -> "Belief":
        """Increase the uncertainty by ``std_mm`` in every direction: breathing, and like errors in like images."""
        return Belief(self.mean_mm, self.covariance_mm2 + std_mm**2 * np.eye(3))


def _slope(view: XrayView, point_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the derivative (2, 3) of ``XrayView.displacement_mm`` by the point, mm/mm."""
    x, y, z = view.rotation.T @ (point_mm - view.source_mm)
    local = np.array([[1.0 / z, 0.0, -x / z**2], [0.0, 1.0 / z, -y / z**2]])
    return -view.source_isocenter_mm * local @ view.rotation.T
