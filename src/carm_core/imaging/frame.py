# SPDX-License-Identifier: Apache-2.0
"""The X-ray frame as models and the agent see it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.projection import XrayView
from carm_core.transforms import Array

_ALONG = 0.9
"""A beam that is so much along the patient shows no up."""


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

    @property
    def axes(self) -> Array | None:
        """Directions of right and up in frame ``table`` (2, 3); None when unknown.

        Of a frame without ``view``, a roll of the detector is unknown: up is where the patient's head is.
        """
        if self.view is not None:
            return np.array(self.view.display_axes)
        sine, cosine = math.sin(self.secondary_rad), math.cos(self.secondary_rad)
        if not math.isfinite(sine * self.primary_rad) or abs(sine) > _ALONG:
            return None
        beam = np.array([sine, -cosine * math.sin(self.primary_rad), cosine * math.cos(self.primary_rad)])
        up = np.array([1.0, 0.0, 0.0]) - sine * beam
        up /= np.linalg.norm(up)
        return np.array([np.cross(up, beam), up])
