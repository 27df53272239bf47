# SPDX-License-Identifier: Apache-2.0
"""The X-ray frame as models and the agent see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.projection import XrayView


@dataclass(frozen=True, eq=False)
class XrayFrame:
    """One display image with the geometry that a real C-arm reports beside it.

    Attributes:
        image: Display image uint8 (rows, columns): display orientation, windowed.
        mm_per_px_at_isocenter: Pixel spacing at isocenter depth, mm.
        stamp_s: Middle of the exposure, s.
        primary_rad: DICOM positioner primary angle, LAO positive, rad; NaN when unknown.
        secondary_rad: DICOM positioner secondary angle, cranial positive, rad; NaN when unknown.
        view: Full geometry in frame ``table``; None when unknown.
    """

    image: NDArray[np.uint8]
    mm_per_px_at_isocenter: float
    stamp_s: float
    primary_rad: float = float("nan")
    secondary_rad: float = float("nan")
    view: XrayView | None = None
