# SPDX-License-Identifier: Apache-2.0
"""Compiled inner loops of the shear-warp renderer.

Every kernel works on a band of rows (or slices) and releases the GIL, so that the caller spreads bands over
plain
threads: no OpenMP, nothing that breaks after a fork, and the same bytes for any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numba as nb
import numpy as np
from numpy.typing import NDArray

Kernel = TypeVar("Kernel", bound=Callable[..., None])

F32 = np.float32
I32 = np.int32
U32 = np.uint32
TILE_COLUMNS = 512
_LOW_HALF = np.uint32(0xFFFF)
_HALF_BITS = np.uint32(16)


def _compiled(kernel: Kernel) -> Kernel:
    jitted: Kernel = nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")(kernel)
    return jitted


@_compiled
def build_float(
    hu: NDArray[np.int16],
    offset: int,
    strides: tuple[int, int, int],
    counts: tuple[int, int, int],
    group: int,
    lut: NDArray[np.float32],
    first: int,
    last: int,
    out: NDArray[np.float32],
) -> None:
    """Fill slices ``first`` to ``last`` of a stack: volume slices averaged in groups, a border of zeros.

    Args:
        hu: Flat volume.
        offset: Index of voxel (0, 0, 0) in it.
        strides: Distance in ``hu`` between slices, rows and columns of the stack.
        counts: Voxels along slices, rows and columns.
        group: Volume slices per stack slice.
        lut: Value for each HU from -32768 (65536,).
        first: First stack slice of the band.
        last: One past the last.
        out: Stack (slices, rows + 2, columns + 2).
    """
    inverse = F32(1.0 / group)
    for row in range(counts[1]):
        for column in range(counts[2]):
            start = offset + row * strides[1] + column * strides[2]
            for s in range(first, last):
                total = F32(0)
                for k in range(s * group, min((s + 1) * group, counts[0])):
                    total += lut[int(hu[start + k * strides[0]]) + 32768]
                out[s, row + 1, column + 1] = total * inverse


@_compiled
def build_integer(
    hu: NDArray[np.int16],
    offset: int,
    strides: tuple[int, int, int],
    counts: tuple[int, int, int],
    group: int,
    lut: NDArray[np.float32],
    first: int,
    last: int,
    out: NDArray[np.uint16],
) -> None:
    """Like :func:`build_float` for a table whose values run from 0 to 65535, rounded."""
    inverse = F32(1.0 / group)
    for row in range(counts[1]):
        for column in range(counts[2]):
            start = offset + row * strides[1] + column * strides[2]
            for s in range(first, last):
                total = F32(0)
                for k in range(s * group, min((s + 1) * group, counts[0])):
                    total += lut[int(hu[start + k * strides[0]]) + 32768]
                out[s, row + 1, column + 1] = np.uint16(total * inverse + F32(0.5))


@_compiled
def build_pair(
    hu: NDArray[np.int16],
    offset: int,
    strides: tuple[int, int, int],
    counts: tuple[int, int, int],
    group: int,
    lut: NDArray[np.float32],
    first: int,
    last: int,
    out: NDArray[np.uint32],
) -> None:
    """Like :func:`build_integer` for two tables (2, 65536), packed as ``first | second << 16``."""
    inverse = F32(1.0 / group)
    for row in range(counts[1]):
        for column in range(counts[2]):
            start = offset + row * strides[1] + column * strides[2]
            for s in range(first, last):
                one = F32(0)
                two = F32(0)
                for k in range(s * group, min((s + 1) * group, counts[0])):
                    h = int(hu[start + k * strides[0]]) + 32768
                    one += lut[0, h]
                    two += lut[1, h]
                out[s, row + 1, column + 1] = U32(one * inverse + F32(0.5)) | (
                    U32(two * inverse + F32(0.5)) << _HALF_BITS
                )


@_compiled
def find_boxes(stack: NDArray[np.float32], first: int, last: int, boxes: NDArray[np.int64]) -> None:
    """Find for each slice the rows and columns that are not 0.

    Args:
        stack: Slices of any number type (slices, rows, columns).
        first: First slice of the band.
        last: One past the last.
        boxes: Result (slices, 4): first and last row, first and last column; last < first: all 0.
    """
    rows, columns = stack.shape[1], stack.shape[2]
    for s in range(first, last):
        row_lo, row_hi, column_lo, column_hi = rows, -1, columns, -1
        for r in range(rows):
            line = stack[s, r]
            left = 0
            while left < columns and line[left] == 0:
                left += 1
            if left == columns:
                continue
            right = columns - 1
            while line[right] == 0:
                right -= 1
            row_lo = min(row_lo, r)
            row_hi = r
            column_lo = min(column_lo, left)
            column_hi = max(column_hi, right)
        boxes[s, 0], boxes[s, 1], boxes[s, 2], boxes[s, 3] = row_lo, row_hi, column_lo, column_hi


@_compiled
def shear(
    stack: NDArray[np.float32],
    boxes: NDArray[np.int64],
    scales: NDArray[np.float64],
    source: tuple[float, float],
    origin: tuple[float, float],
    pitch: tuple[float, float],
    first: int,
    last: int,
    image: NDArray[np.float32],
) -> None:
    """Project all slices from the source onto rows ``first`` to ``last`` of the intermediate image.

    ``image[n, m]`` becomes the sum over slices s of ``stack[s]`` sampled at row
    ``source + (origin + n * pitch - source) * scales[s]``, columns alike: a scale and a shift, so that the
    horizontal pass runs along contiguous memory and the vertical pass blends two finished rows.

    Args:
        stack: Slices (slices, rows, columns), float32 or uint16, with a border of zeros.
        boxes: Bounds of what is not zero, from :func:`find_boxes`.
        scales: Distance of each slice from the source, in units of the plane's (slices,); not positive: left
            out.
        source: Row and column of the source.
        origin: Row and column of ``image[0, 0]`` on the plane.
        pitch: Pixel spacing of ``image``, in rows and columns of the stack; positive.
        first: First row of the band.
        last: One past the last.
        image: Result (1, rows, columns).
    """
    columns = stack.shape[2]
    lines = np.empty((stack.shape[1], TILE_COLUMNS), F32)
    index = np.empty(TILE_COLUMNS, I32)
    weight = np.empty(TILE_COLUMNS, F32)
    width = image.shape[2]
    for tile in range(0, width, TILE_COLUMNS):
        tile_end = min(width, tile + TILE_COLUMNS)
        for n in range(first, last):
            for m in range(tile, tile_end):
                image[0, n, m] = F32(0)
        for s in range(stack.shape[0]):
            scale = scales[s]
            if scale <= 0 or boxes[s, 1] < boxes[s, 0]:
                continue
            y0 = source[0] + (origin[0] + first * pitch[0] - source[0]) * scale
            dy = pitch[0] * scale
            row_lo = max(boxes[s, 0] - 1, math.floor(y0))
            row_hi = min(boxes[s, 1] + 1, math.floor(y0 + (last - 1 - first) * dy) + 1)
            if row_hi <= row_lo:
                continue
            x0 = source[1] + (origin[1] - source[1]) * scale
            dx = pitch[1] * scale
            m0 = max(tile, math.ceil((boxes[s, 2] - 1 - x0) / dx))
            m1 = min(tile_end, math.floor((boxes[s, 3] + 1 - x0) / dx) + 1)
            if m1 <= m0:
                continue
            count = m1 - m0
            xa = F32(x0 + m0 * dx)
            xd = F32(dx)
            for m in range(count):
                x = min(max(xa + F32(m) * xd, F32(0)), F32(columns - 1.001))
                index[m] = I32(x)
                weight[m] = x - F32(index[m])
            for r in range(row_lo, row_hi + 1):
                row = stack[s, r]
                line = lines[r - row_lo]
                for m in range(count):
                    a = F32(row[index[m]])
                    line[m] = a + weight[m] * (F32(row[index[m] + 1]) - a)
            n0 = max(first, first + math.ceil((row_lo - y0) / dy))
            n1 = min(last, first + math.ceil((row_hi - y0) / dy))
            for n in range(n0, n1):
                y = y0 + (n - first) * dy
                r = min(max(int(y), row_lo), row_hi - 1)
                w = F32(y - r)
                v = F32(1) - w
                above = lines[r - row_lo]
                below = lines[r - row_lo + 1]
                target = image[0, n, m0:m1]
                for m in range(count):
                    target[m] += v * above[m] + w * below[m]


@_compiled
def shear_pair(
    stack: NDArray[np.uint32],
    boxes: NDArray[np.int64],
    scales: NDArray[np.float64],
    source: tuple[float, float],
    origin: tuple[float, float],
    pitch: tuple[float, float],
    first: int,
    last: int,
    image: NDArray[np.float32],
) -> None:
    """Like :func:`shear` for two packed materials: the loads are shared. ``image`` is (2, rows, columns)."""
    columns = stack.shape[2]
    lines = np.empty((2, stack.shape[1], TILE_COLUMNS), F32)
    index = np.empty(TILE_COLUMNS, I32)
    weight = np.empty(TILE_COLUMNS, F32)
    width = image.shape[2]
    for tile in range(0, width, TILE_COLUMNS):
        tile_end = min(width, tile + TILE_COLUMNS)
        for n in range(first, last):
            for m in range(tile, tile_end):
                image[0, n, m] = F32(0)
                image[1, n, m] = F32(0)
        for s in range(stack.shape[0]):
            scale = scales[s]
            if scale <= 0 or boxes[s, 1] < boxes[s, 0]:
                continue
            y0 = source[0] + (origin[0] + first * pitch[0] - source[0]) * scale
            dy = pitch[0] * scale
            row_lo = max(boxes[s, 0] - 1, math.floor(y0))
            row_hi = min(boxes[s, 1] + 1, math.floor(y0 + (last - 1 - first) * dy) + 1)
            if row_hi <= row_lo:
                continue
            x0 = source[1] + (origin[1] - source[1]) * scale
            dx = pitch[1] * scale
            m0 = max(tile, math.ceil((boxes[s, 2] - 1 - x0) / dx))
            m1 = min(tile_end, math.floor((boxes[s, 3] + 1 - x0) / dx) + 1)
            if m1 <= m0:
                continue
            count = m1 - m0
            xa = F32(x0 + m0 * dx)
            xd = F32(dx)
            for m in range(count):
                x = min(max(xa + F32(m) * xd, F32(0)), F32(columns - 1.001))
                index[m] = I32(x)
                weight[m] = x - F32(index[m])
            for r in range(row_lo, row_hi + 1):
                row = stack[s, r]
                line0 = lines[0, r - row_lo]
                line1 = lines[1, r - row_lo]
                for m in range(count):
                    a = row[index[m]]
                    b = row[index[m] + 1]
                    a0 = F32(I32(a & _LOW_HALF))
                    a1 = F32(I32(a >> _HALF_BITS))
                    line0[m] = a0 + weight[m] * (F32(I32(b & _LOW_HALF)) - a0)
                    line1[m] = a1 + weight[m] * (F32(I32(b >> _HALF_BITS)) - a1)
            n0 = max(first, first + math.ceil((row_lo - y0) / dy))
            n1 = min(last, first + math.ceil((row_hi - y0) / dy))
            for n in range(n0, n1):
                y = y0 + (n - first) * dy
                r = min(max(int(y), row_lo), row_hi - 1)
                w = F32(y - r)
                v = F32(1) - w
                for channel in range(2):
                    above = lines[channel, r - row_lo]
                    below = lines[channel, r - row_lo + 1]
                    target = image[channel, n, m0:m1]
                    for m in range(count):
                        target[m] += v * above[m] + w * below[m]


@_compiled
def smear(
    image: NDArray[np.float32],
    foot: tuple[float, float],
    slope: tuple[float, float],
    first: int,
    last: int,
    out: NDArray[np.float32],
) -> None:
    """Blur rows ``first`` to ``last`` along the rays' slant, as far as they slip sideways between two slices.

    Integrated exactly, a slice between linear neighbors is seen through a tent as wide as that slip; its second moment
    is applied here, once for all slices, by finite differences.

    Args:
        image: Intermediate image (rows, columns).
        foot: Row and column of ``image`` at which rays meet the slices at a right angle (in voxels).
        slope: Standard deviation of the blur per row and per column of distance from ``foot``, in pixels.
        first: First row of the band.
        last: One past the last.
        out: Result (rows, columns).
    """
    rows, columns = image.shape
    half, quarter, two = F32(0.5), F32(0.25), F32(2)
    for n in range(first, last):
        if n == 0 or n == rows - 1:
            for m in range(columns):
                out[n, m] = image[n, m]
            continue
        b = F32((n - foot[0]) * slope[0])
        down = half * b * b
        above, line, below, target = image[n - 1], image[n], image[n + 1], out[n]
        target[0] = line[0]
        target[columns - 1] = line[columns - 1]
        start, step = F32(-foot[1] * slope[1]), F32(slope[1])
        for m in range(1, columns - 1):
            a = start + F32(m) * step
            center = two * line[m]
            target[m] = (
                line[m]
                + half * a * a * (line[m - 1] + line[m + 1] - center)
                + down * (above[m] + below[m] - center)
                + quarter * a * b * (above[m - 1] + below[m + 1] - above[m + 1] - below[m - 1])
            )


@_compiled
def warp(
    image: NDArray[np.float32],
    horizontal: NDArray[np.float64],
    vertical: NDArray[np.float64],
    depth: NDArray[np.float64],
    distance: tuple[float, float, float],
    pitch_mm: float,
    factor: float,
    corner: tuple[int, int],
    first: int,
    last: int,
    out: NDArray[np.float32],
) -> None:
    """Warp the intermediate image to the detector and scale by the ray length per slice.

    The pixel (column, row) sees the intermediate image at ``x = h . (1, column, row) / (d . (1, column,
    row))``, y alike with v: cubic (Catmull-Rom) interpolation.

    Args:
        image: Intermediate image (rows, columns), with a margin of two pixels.
        horizontal: h (3,).
        vertical: v (3,).
        depth: d (3,): slices crossed between source and pixel.
        distance: Source-detector distance, mm, and principal point, column and row.
        pitch_mm: Detector pixel, mm.
        factor: Scale of the result.
        corner: Detector column and row of ``out[0, 0]``.
        first: First row of the band, in ``out``.
        last: One past the last.
        out: Line integrals (rows, columns).
    """
    rows, columns = image.shape
    half = F32(0.5)
    for r in range(first, last):
        row = r + corner[1]
        y_mm = (row - distance[2]) * pitch_mm
        square = distance[0] * distance[0] + y_mm * y_mm
        h0 = horizontal[0] + horizontal[2] * row
        v0 = vertical[0] + vertical[2] * row
        d0 = depth[0] + depth[2] * row
        for c in range(out.shape[1]):
            column = c + corner[0]
            d = 1.0 / (d0 + depth[1] * column)
            x = (h0 + horizontal[1] * column) * d
            y = (v0 + vertical[1] * column) * d
            i = min(max(int(x), 1), columns - 3)
            j = min(max(int(y), 1), rows - 3)
            a = F32(x - i)
            b = F32(y - j)
            a0 = a * (half * a * (F32(2) - a) - half)
            a1 = F32(1) + a * a * (F32(1.5) * a - F32(2.5))
            a2 = a * (half + a * (F32(2) - F32(1.5) * a))
            a3 = half * a * a * (a - F32(1))
            b0 = b * (half * b * (F32(2) - b) - half)
            b1 = F32(1) + b * b * (F32(1.5) * b - F32(2.5))
            b2 = b * (half + b * (F32(2) - F32(1.5) * b))
            b3 = half * b * b * (b - F32(1))
            p = a0 * image[j - 1, i - 1] + a1 * image[j - 1, i] + a2 * image[j - 1, i + 1] + a3 * image[j - 1, i + 2]
            q = a0 * image[j, i - 1] + a1 * image[j, i] + a2 * image[j, i + 1] + a3 * image[j, i + 2]
            s = a0 * image[j + 1, i - 1] + a1 * image[j + 1, i] + a2 * image[j + 1, i + 1] + a3 * image[j + 1, i + 2]
            t = a0 * image[j + 2, i - 1] + a1 * image[j + 2, i] + a2 * image[j + 2, i + 1] + a3 * image[j + 2, i + 2]
            x_mm = (column - distance[1]) * pitch_mm
            length = F32(math.sqrt(square + x_mm * x_mm) * abs(d) * factor)
            out[r, c] = (b0 * p + b1 * q + b2 * s + b3 * t) * length
