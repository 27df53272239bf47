# SPDX-License-Identifier: Apache-2.0
"""From typed answers and displacements to the estimates of the localizer seam."""

from __future__ import annotations

import math
from collections.abc import Mapping

from carm_core.localization import NAN, LandmarkEstimate
from carm_perception.protocols.parsing import EXTENTS, Answer, Extent, NavigationAnswer, PointingAnswer


def estimates_of(answer: Answer, target_id: int | None = None) -> tuple[LandmarkEstimate, ...]:
    """Return the estimates that an answer alone supports.

    Args:
        answer: From pointing comes a displacement; from navigation a rough one, as far as the words typically mean;
            from lists an order.
        target_id: Landmark that was asked for.
    """
    if isinstance(answer, PointingAnswer):
        return (LandmarkEstimate(answer.target, (float(answer.dx_mm), float(answer.dy_mm))),)
    if isinstance(answer, NavigationAnswer):
        return (_directed(answer, target_id),) if target_id else ()
    ids = getattr(answer, "landmark_ids", ())  # a command has none
    return tuple(LandmarkEstimate(i, (NAN, NAN)) for i in ids)


def _directed(answer: NavigationAnswer, target_id: int) -> LandmarkEstimate:
    right = {"LEFT": 1, "RIGHT": -1, "CENTER": 0}[answer.x] * typical_mm(answer.extent_x)
    up = {"UP": 1, "DOWN": -1, "CENTER": 0}[answer.y] * typical_mm(answer.extent_y)
    std = math.hypot(EXTENTS[answer.extent_x][2], EXTENTS[answer.extent_y][2]) / math.sqrt(2)
    return LandmarkEstimate(target_id, (right, up), std, confidence=confidence(std))


def typical_mm(extent: Extent) -> float:
    """Return the length that a word of the navigation protocol stands for, mm."""
    return EXTENTS[extent][1]


def nearest_first(
    displacement_mm: Mapping[int, tuple[float, float]], std_mm: Mapping[int, float]
) -> tuple[LandmarkEstimate, ...]:
    """Return the estimates ordered by expected distance from the image center.

    Args:
        displacement_mm: Landmark id to displacement at isocenter depth.
        std_mm: Landmark id to standard deviation of either component.
    """
    order = sorted(displacement_mm, key=lambda i: expected_mm(math.hypot(*displacement_mm[i]), std_mm[i]))
    return tuple(LandmarkEstimate(i, displacement_mm[i], std_mm[i], confidence=confidence(std_mm[i])) for i in order)


VAGUENESS = 0.5
"""By which part of its variance a landmark counts as farther away: chosen on calibration patients."""


def expected_mm(distance_mm: float, std_mm: float) -> float:
    """Distance used to rank landmarks: of two equally far ones, the more uncertain one counts as farther.

    Args:
        distance_mm: Distance of the stated place.
        std_mm: Standard deviation of either component.
    """
    return math.sqrt(distance_mm**2 + 2 * VAGUENESS * std_mm**2)


def confidence(std_mm: float) -> float:
    """Probability that either component is within 20 mm, for a Laplace distribution of this standard deviation."""
    if not std_mm > 0:
        return NAN
    return 1 - math.exp(-20.0 * math.sqrt(2) / std_mm)
