# SPDX-License-Identifier: Apache-2.0
"""Blurs: fine ones as few taps per axis, wide ones on a coarse grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, ive

_NEGLIGIBLE = 1e-3
_MOST_TAPS = 15
CELL_MM = 8.0
"""Cell of the coarse grid on which wide blurs are computed, mm on the detector."""


@lru_cache(maxsize=64)
def taps(spread_px: float) -> NDArray[np.float32]:
    """Return the discrete Gaussian (Lindeberg, IEEE PAMI 12:234, 1990): variance exact at any width, sum 1.

    Args:
        spread_px: Standard deviation, pixels.

    Returns:
        Taps float32 (2 n + 1,); those below a thousandth are left out, the others make up for them.
    """
    variance = spread_px**2
    places = np.arange(1, _MOST_TAPS + 1)
    side = ive(places, variance)
    side = side[side >= _NEGLIGIBLE]
    if len(side):
        side *= variance / (2 * side @ places[: len(side)] ** 2)
    return np.asarray([*side[::-1], 1 - 2 * side.sum(), *side], np.float32)


@dataclass(frozen=True, eq=False)
class CoarseGrid:
    """Cells of whole pixels over an image.

    Attributes:
        block: Pixels along each side of a cell.
        shape: Cells (rows, columns).
        low: Cell row above each pixel row, int32 (rows,).
        share: Weight of the cell row below it, float32 (rows,).
        across: Weights of cell columns in each pixel column, float32 (cell columns, columns).
    """

    block: int
    shape: tuple[int, int]
    low: NDArray[np.int32]
    share: NDArray[np.float32]
    across: NDArray[np.float32]

    def widened(self, coarse: NDArray[np.floating]) -> NDArray[np.float32]:
        """Interpolate along rows: (cell rows, cell columns) to float32 (cell rows + 1, columns)."""
        wide = np.asarray(coarse, np.float32) @ self.across
        return np.concatenate([wide, wide[-1:]])

    def means(self, image: NDArray[np.uint16], step: int) -> NDArray[np.float64]:
        """Return the mean of each cell (rows, columns) of an image from every ``step``-th pixel of each axis."""
        rows, columns = (self._sampled(length, min(step, self.block)) for length in image.shape)
        sample = image[np.ix_(rows, columns)].astype(np.float64)
        starts = [np.flatnonzero(np.diff(index // self.block, prepend=-1)) for index in (rows, columns)]
        sums = np.add.reduceat(np.add.reduceat(sample, starts[0], axis=0), starts[1], axis=1)
        counts = [np.diff([*start, len(index)]) for start, index in zip(starts, (rows, columns), strict=True)]
        return np.asarray(sums / np.outer(*counts))

    def _sampled(self, length: int, step: int) -> NDArray[np.int64]:
        """Return every ``step``-th pixel, and one of the last cell where that is narrower."""
        places, last = np.arange(0, length, step), (length - 1) // self.block * self.block
        return places if places[-1] >= last else np.append(places, last)


@lru_cache(maxsize=16)
def coarse_grid(rows: int, columns: int, pitch_mm: float) -> CoarseGrid:
    """Return the grid of about ``CELL_MM`` over an image of pixels of ``pitch_mm``."""
    block = max(1, round(CELL_MM / pitch_mm))
    shape = -(-rows // block), -(-columns // block)

    def place(count: int, cells: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        at = np.clip((np.arange(count) + 0.5) / block - 0.5, 0, cells - 1)
        low = np.minimum(at.astype(np.int32), max(cells - 2, 0))
        return low, np.asarray(at - low, np.float32)

    low, share = place(rows, shape[0])
    left, weight = place(columns, shape[1])
    across = np.zeros((shape[1] + 1, columns), np.float32)
    every = np.arange(columns)
    across[left, every] = 1 - weight
    across[left + 1, every] += weight
    return CoarseGrid(block, shape, low, share, across[: shape[1]])


@lru_cache(maxsize=64)
def _smoothing(count: int, spread: float) -> NDArray[np.float64]:
    """Matrix (count, count): share of each cell that a Gaussian of ``spread`` cells carries to each cell's middle."""
    edges = np.arange(count + 1) - 0.5
    reach = 0.5 * (1 + erf((edges[None, :] - np.arange(count)[:, None]) / (math.sqrt(2) * spread)))
    return np.asarray(np.diff(reach, axis=1))


def smoothed(cells: NDArray[np.floating], spread_cells: float) -> NDArray[np.float64]:
    """Convolve with a normalized Gaussian; what falls off the grid is lost.

    Args:
        cells: Values (rows, columns).
        spread_cells: Standard deviation, cells.
    """
    rows, columns = cells.shape
    return np.asarray(_smoothing(rows, spread_cells) @ cells @ _smoothing(columns, spread_cells).T)
