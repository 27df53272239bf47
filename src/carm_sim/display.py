# SPDX-License-Identifier: Apache-2.0
"""Display images: scatter correction, logarithm, window, polarity.

The polarity is that of radiographs: bones bright, air dark.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.geometry import display_from_raw
from carm_sim.physics.blur import CoarseGrid
from carm_sim.physics.kernels import look_up, subtract

_GRAY_LEVELS = 65536
_LOGARITHM = np.log(np.maximum(np.arange(_GRAY_LEVELS), 1))
_SAMPLES = 256  # along each side: enough for percentiles


@dataclass(frozen=True)
class Window:
    """How the raw signal becomes gray.

    Attributes:
        bright_percentile: Percentile of the signal shown white (dense bone), percent.
        dark_percentile: Percentile shown black (air), percent.
        highest_ratio: Signals above this multiple of the median are black, so that bare beam around the
            patient does not take the contrast away.
        scatter_correction: Share of the scatter estimated from the image that is subtracted before the logarithm, as
            imaging chains do; 0: none.
    """

    bright_percentile: float = 0.5
    dark_percentile: float = 99.5
    highest_ratio: float = 12.0
    scatter_correction: float = 0.9


def gray_table(raw: NDArray[np.uint16], window: Window) -> NDArray[np.uint8]:
    """Gray value of each raw value (65536,): linear in the logarithm within the window of ``raw``."""
    step = max(1, min(raw.shape) // _SAMPLES)
    sample = np.maximum(raw[::step, ::step], 1)
    low, middle, high = np.percentile(sample, (window.bright_percentile, 50.0, window.dark_percentile))
    high = max(min(high, middle * window.highest_ratio), low * 1.05)
    gray = 255 * (np.log(high) - _LOGARITHM) / (np.log(high) - np.log(low))
    return np.asarray(np.clip(np.rint(gray), 0, 255), np.uint8)


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
        scatter: Scatter in the field, from :meth:`carm_sim.physics.detector.Panel.scatter_estimate`; None: unknown.

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
