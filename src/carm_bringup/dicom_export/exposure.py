# SPDX-License-Identifier: Apache-2.0
"""One exposure as the DICOM writer needs it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.projection import XrayView


@dataclass(frozen=True, eq=False)
class XrayExposure:
    """Pixels, geometry, technique and dose of one exposure.

    Attributes:
        pixels: Detector signal uint16 (rows, columns), display orientation.
        view: Source and detector in frame ``table``.
        primary_rad: Positioner primary angle, LAO positive, rad.
        secondary_rad: Positioner secondary angle, cranial positive, rad.
        time: Middle of the exposure, UTC.
        fluoroscopy: A frame of a pulsed series.
        voltage_kv: Peak tube voltage, kV.
        current_ma: Tube current during the pulse, mA.
        pulse_s: Pulse width, s.
        air_kerma_gy: Air kerma at the interventional reference point, Gy.
        dose_area_product_gym2: Gy m².
        field_px: Exposed field on the display image, [left, top, right, bottom), px.
    """

    pixels: NDArray[np.uint16]
    view: XrayView
    primary_rad: float
    secondary_rad: float
    time: datetime
    fluoroscopy: bool
    voltage_kv: float
    current_ma: float
    pulse_s: float
    air_kerma_gy: float
    dose_area_product_gym2: float
    field_px: tuple[int, int, int, int]
