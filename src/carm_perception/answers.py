# SPDX-License-Identifier: Apache-2.0
"""From typed answers and displacements to the estimates of the localizer seam."""

from __future__ import annotations

import math
from collections.abc import Mapping

from carm_core.localization import NAN, LandmarkEstimate
from carm_perception.protocols import Answer, NavigationAnswer, PointingAnswer


def estimates_of(answer: Answer) -> tuple[LandmarkEstimate, ...]:
    """Estimates that an answer alone supports: a displacement from pointing, an order from lists, else none."""
    if isinstance(answer, PointingAnswer):
        return (LandmarkEstimate(answer.target, (float(answer.dx_mm), float(answer.dy_mm))),)
    if isinstance(answer, NavigationAnswer):
        return ()
    return tuple(LandmarkEstimate(i, (NAN, NAN)) for i in answer.landmark_ids)


def nearest_first(
    displacement_mm: Mapping[int, tuple[float, float]], std_mm: Mapping[int, float]
) -> tuple[LandmarkEstimate, ...]:
    """Estimates ordered by distance from the image center.

    Args:
        displacement_mm: Landmark id to displacement at isocenter depth.
        std_mm: Landmark id to standard deviation of either component.
    """
    order = sorted(displacement_mm, key=lambda i: math.hypot(*displacement_mm[i]))
    return tuple(LandmarkEstimate(i, displacement_mm[i], std_mm[i], confidence=confidence(std_mm[i])) for i in order)


def confidence(std_mm: float) -> float:
    """Probability that either component is within 20 mm, for a Laplace distribution of this standard deviation."""
    if not std_mm > 0:
        return NAN
    return 1 - math.exp(-20.0 * math.sqrt(2) / std_mm)
