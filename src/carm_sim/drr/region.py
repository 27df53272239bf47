# SPDX-License-Identifier: Apache-2.0
"""Parts of the detector, and arrays for their images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.imaging.projection import XrayView

Region = tuple[int, int, int, int]
"""Part of the raw detector, pixels: left, top, right, bottom; right and bottom exclusive."""


def checked_region(view: XrayView, region: Region | None) -> Region:
    """Return a region of the detector; all of it for None.

    Raises:
        ConfigurationError: The region is empty or outside the detector.
    """
    rows, columns = view.detector.rows, view.detector.columns
    if region is None:
        return 0, 0, columns, rows
    left, top, right, bottom = region
    if not (0 <= left < right <= columns and 0 <= top < bottom <= rows):
        raise ConfigurationError(f"field {region} is empty or outside the detector of {columns} x {rows} pixels")
    return left, top, right, bottom


def checked_out(out: NDArray[np.float32] | None, count: int, region: Region) -> NDArray[np.float32]:
    """Return an array (count, rows, columns) for a region's images; a new one for None.

    Raises:
        ConfigurationError: The array given has another shape or type, or is not contiguous.
    """
    shape = (count, region[3] - region[1], region[2] - region[0])
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ConfigurationError(f"out must be contiguous float32 {shape}, not {out.dtype} {out.shape}")
    return out
