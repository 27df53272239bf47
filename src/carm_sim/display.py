# SPDX-License-Identifier: Apache-2.0
"""Display images of the simulated detector: scatter correction, then the window of ``carm_core.imaging.display``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.display import Window, gray_table
from carm_core.imaging.projection import display_from_raw
from carm_sim.physics.blur import CoarseGrid
from carm_sim.physics.kernels import look_up, subtract


def display_image(
    raw: NDArray[np.uint16],
    window: Window,
    region: tuple[int, int, int, int] | None = None,
    scatter: tuple[CoarseGrid, NDArray[np.float32]] | None = None,
) -> NDArray[np.uint8]:
    """Window a raw image.

    Args:
        raw: Raw image uint16 (rows, columns), raw orientation.
        window: The window.
        region: Exposed field (left, top, right, bottom) in raw pixels; the rest is black. None: everything.
        scatter: Scatter in the field, from ``carm_sim.physics.detector.Panel.scatter_estimate``; None: unknown.

    Returns:
        Display image uint8 (rows, columns), display orientation.
    """
    left, top, right, bottom = region or (0, 0, raw.shape[1], raw.shape[0])
    field = np.ascontiguousarray(raw[top:bottom, left:right])
    if scatter is not None and window.scatter_correction:
        grid, wide = scatter
        primary = np.empty_like(field)
        subtract(field, wide, grid.low, grid.share, window.scatter_correction, primary)
        field = primary
    shown = np.empty(field.shape, np.uint8)
    look_up(field, gray_table(field, window), shown)
    if field.shape != raw.shape:
        image = np.zeros(raw.shape, np.uint8)
        image[top:bottom, left:right] = shown
        shown = image
    return display_from_raw(shown)
