# SPDX-License-Identifier: Apache-2.0
"""The second and third view of a landmark that is to be found in depth: where to look from."""

from __future__ import annotations

import numpy as np

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
