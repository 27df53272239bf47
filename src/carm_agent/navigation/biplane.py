# SPDX-License-Identifier: Apache-2.0
"""The second and third view of a landmark that is to be found in depth: where to look from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carm_agent.navigation.localizer_queries import placed
from carm_core.errors import GoalError
from carm_core.imaging.triangulation import Sighting, Triangulation, triangulate
from carm_core.localization import LandmarkEstimate, Localization

DEPTH_90_PER_STD = 1.645
"""Half the interval that holds 90 % of a Gaussian along a line, in units of its standard deviation."""
BETWEEN_DEG = 40.0
"""Angle between the two views, deg. The depth's error falls with its sine; localizers know views up to about 25°."""


def biplane_primaries_deg(primary_deg: float, limit_deg: float) -> tuple[float, float]:
    """Primary angles of two views :data:`BETWEEN_DEG` apart, about the present one as far as a limit allows.

    Args:
        primary_deg: the present one.
        limit_deg: largest size of either; at least half of the angle between them.

    Returns:
        The nearer one first.
    """
    half = BETWEEN_DEG / 2
    middle = float(np.clip(primary_deg, half - limit_deg, limit_deg - half))
    first, second = middle - half, middle + half
    return (first, second) if abs(first - primary_deg) <= abs(second - primary_deg) else (second, first)


def trusted(localization: Localization, landmark_id: int, min_confidence: float) -> tuple[LandmarkEstimate | None, str]:
    """Return what an answer says about a landmark, or None and why that is not to be trusted."""
    found = placed(localization, landmark_id) if localization.ok else None
    if found is None:
        return None, localization.message or "the localizer says nothing about it"
    if found.confidence < min_confidence:
        return None, f"the localizer is only {100 * found.confidence:.0f} % sure"
    return found, ""


def fixed(sightings: Sequence[Sighting], max_depth_mm: float) -> tuple[Triangulation, float]:
    """Return the place that sightings have in common, and how far its depth may be off in 90 of 100 cases, mm.

    Raises:
        GoalError: the rays do not meet, or the depth may be off by more than `max_depth_mm`.
    """
    place = triangulate(sightings)
    depth_mm = DEPTH_90_PER_STD * place.std_mm
    if depth_mm > max_depth_mm:
        raise GoalError(f"two views tell it to ±{depth_mm:.0f} mm only, and ±{max_depth_mm:.0f} mm are needed")
    return place, depth_mm
