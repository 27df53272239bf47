# SPDX-License-Identifier: Apache-2.0
"""Compiled inner loops of the shear-warp renderer.

Every kernel works on a band of rows and releases the GIL, so that the caller spreads bands over plain
threads: no OpenMP, nothing that breaks after a fork, and the same bytes for any number of threads. None allocates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numba as nb
import numpy as np
from numpy.typing import NDArray

from carm_sim.drr.shear_warp.simd import (
    LANES,
    SLACK,
    first_of,
    floating,
    larger,
    last_of,
    load,
    load_ints,
    magnitude,
    prefetch,
    ramp,
    root,
    shifted,
    smaller,
    splat,
    store,
    store_ints,
    take,
    truncate,
)

Kernel = TypeVar("Kernel", bound=Callable[..., None])

F32 = np.float32
TILE_COLUMNS = 512
"""Columns of the intermediate image that are finished together: their lines stay in the cache."""
LINE_STRIDE = TILE_COLUMNS + LANES
"""Distance between the lines that ``shear`` keeps."""
PREFETCHED_ROWS = 4
"""Rows of a slice that are fetched ahead: they lie too far apart for the processor to guess."""

__all__ = ["LANES", "LINE_STRIDE", "SLACK", "TILE_COLUMNS", "compiled", "shear", "smear", "warp"]


_inlined = nb.njit(nogil=True, inline="always", fastmath=True, error_model="numpy")


def compiled(kernel: Kernel) -> Kernel:
    """Compile a kernel: without the GIL, kept on disk."""
    jitted: Kernel = nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")(kernel)
    return jitted


@_inlined
def _blend(lines, line, blocks, weight, factor, image, at):  # type: ignore[no-untyped-def]
    """Add a blend of two neighboring lines to a row of the intermediate image."""
    below = weight * factor
    above = factor - below
    for k in range(0, blocks * LANES, LANES):
        upper, lower = load(lines, line + k), load(lines, line + LINE_STRIDE + k)
        store(image, at + k, load(image, at + k) + upper * above + lower * below)


@_inlined
def _blend_twice(lines, line, blocks, weight, next_weight, factor, image, at, width):  # type: ignore[no-untyped-def]
    """As ``_blend``, for two rows of the intermediate image between the same two lines."""
    below, next_below = weight * factor, next_weight * factor
    above, next_above = factor - below, factor - next_below
    for k in range(0, blocks * LANES, LANES):
        upper, lower = load(lines, line + k), load(lines, line + LINE_STRIDE + k)
        store(image, at + k, load(image, at + k) + upper * above + lower * below)
        after = at + width + k
        store(image, after, load(image, after) + upper * next_above + lower * next_below)


@compiled
def shear(
    stack: NDArray[np.float32],
    shape: tuple[int, int, int],
    boxes: NDArray[np.int64],
    scales: NDArray[np.float64],
    source: tuple[float, float],
    origin: tuple[float, float],
    pitch: tuple[float, float],
    factor: float,
    first: int,
    last: int,
    image: NDArray[np.float32],
    lines: NDArray[np.float32],
    places: NDArray[np.int32],
) -> None:
    """Project all slices from the source onto rows ``first`` to ``last`` of the intermediate image.

    ``factor`` times the sum over slices s of ``stack[s]`` sampled at row ``source + (origin + n * pitch - source) *
    scales[s]``, columns alike, is added to ``image[n, m]``: a scale and a shift, so that each row of a slice is
    resampled once, along memory, and the vertical pass blends two finished lines.

    Args:
        stack: Flat slices, float32 or uint16, with a border of zeros; ``SLACK`` elements behind the end.
        shape: Slices, rows, columns.
        boxes: Bounds of what is not zero, from ``find_boxes``.
        scales: Distance of each slice from the source, in units of the plane's (slices,); not positive: left out.
        source: Row and column of the source.
        origin: Row and column of ``image[0, 0]`` on the plane.
        pitch: Pixel spacing of ``image``, in rows and columns of the stack; positive.
        factor: Factor of this stack.
        first: First row of the band.
        last: One past the last.
        image: Result (rows, columns); the number of columns is a multiple of ``LANES``.
        lines: Room for (rows + 3) * LINE_STRIDE.
        places: Room for 3 * LINE_STRIDE.
    """
    flat, width = image.reshape(-1), image.shape[1]
    top = splat(F32(shape[2] - 1))
    weights = lines[(shape[1] + 2) * LINE_STRIDE :]
    for tile in range(0, width, TILE_COLUMNS):
        tile_end = min(width, tile + TILE_COLUMNS)
        for s in range(shape[0]):
            scale = scales[s]
            if scale <= 0 or boxes[s, 1] < boxes[s, 0]:
                continue
            y0 = source[0] + (origin[0] - source[0]) * scale
            dy = pitch[0] * scale
            row_lo = max(boxes[s, 0] - 1, math.floor(y0 + first * dy))
            row_hi = min(boxes[s, 1] + 1, math.floor(y0 + (last - 1) * dy) + 1)
            if row_hi <= row_lo:
                continue
            x0 = source[1] + (origin[1] - source[1]) * scale
            dx = pitch[1] * scale
            m0 = max(tile, math.ceil((boxes[s, 2] - 1 - x0) / dx) // LANES * LANES)
            m1 = min(tile_end, math.floor((boxes[s, 3] + 1 - x0) / dx) + 1)
            if m1 <= m0:
                continue
            blocks = (m1 - m0 + LANES - 1) // LANES
            for k in range(blocks):
                x = splat(F32(x0 + (m0 + k * LANES) * dx)) + ramp() * F32(dx)
                x = smaller(larger(x, splat(F32(0))), top)
                index = truncate(x)
                low = first_of(index)
                store(weights, k * LANES, x - floating(index))
                store_ints(places, k * LANES, shifted(index, low))
                places[LINE_STRIDE + k] = low
                places[2 * LINE_STRIDE + k] = last_of(index) - low
            for r in range(row_lo, row_hi + 1):
                start = (s * shape[1] + r) * shape[2]
                line = (r - row_lo) * LINE_STRIDE
                soon = start + PREFETCHED_ROWS * shape[2]
                if r + PREFETCHED_ROWS > row_hi:
                    soon = ((s + 1) * shape[1] + row_lo + r + PREFETCHED_ROWS - row_hi - 1) * shape[2]
                for k in range(blocks):
                    if k % 4 == 0:
                        prefetch(stack, soon + places[LINE_STRIDE + k])
                    index = load_ints(places, k * LANES)
                    low = start + places[LINE_STRIDE + k]
                    span = places[2 * LINE_STRIDE + k]
                    left = take(stack, low, index, span)
                    right = take(stack, low + 1, index, span)
                    store(lines, line + k * LANES, left + load(weights, k * LANES) * (right - left))
            n0 = max(first, math.ceil((row_lo - y0) / dy))
            n1 = min(last, math.ceil((row_hi - y0) / dy))
            n = n0
            while n < n1:
                y = y0 + n * dy
                r = min(max(int(y), row_lo), row_hi - 1)
                line = (r - row_lo) * LINE_STRIDE
                target = n * width + m0
                if n + 1 < n1 and y + dy < r + 1:
                    _blend_twice(lines, line, blocks, F32(y - r), F32(y + dy - r), F32(factor), flat, target, width)
                    n += 2
                else:
                    _blend(lines, line, blocks, F32(y - r), F32(factor), flat, target)
                    n += 1


@compiled
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


@compiled
def warp(
    images: NDArray[np.float32],
    shape: tuple[int, int, int],
    horizontal: NDArray[np.float64],
    vertical: NDArray[np.float64],
    depth: NDArray[np.float64],
    distance: tuple[float, float, float],
    pitch_mm: float,
    factor: float,
    corner: tuple[int, int],
    add: bool,
    first: int,
    last: int,
    size: tuple[int, int],
    out: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> None:
    """Warp intermediate images to the detector and scale by the ray length per slice.

    The pixel (column, row) sees the intermediate image at ``x = h . (1, column, row) / (d . (1, column,
    row))``, y alike with v: cubic (Catmull-Rom) interpolation, its weights shared by all materials.

    Args:
        images: Flat intermediate images with a margin of two pixels; ``SLACK`` elements behind the end.
        shape: Materials, rows, columns.
        horizontal: H (3,).
        vertical: V (3,).
        depth: D (3,): slices crossed between source and pixel.
        distance: Source-detector distance, mm, and principal point, column and row.
        pitch_mm: Detector pixel, mm.
        factor: Scale of the result.
        corner: Detector column and row of ``out[0, 0]``.
        add: Add to what ``out`` holds.
        first: First row of the band, in ``out``.
        last: One past the last.
        size: Rows and columns of ``out``.
        out: Flat line integrals (materials, rows, columns).
        weights: Room for (rows + 1) * LANES.
    """
    half, one, two, zero = F32(0.5), splat(F32(1)), splat(F32(2)), splat(F32(0))
    right, bottom = splat(F32(shape[2] - 2.001)), splat(F32(shape[1] - 2.001))
    rows, width = size
    rest = weights[shape[1] * LANES :]
    for r in range(first, last):
        row = r + corner[1]
        y_mm = (row - distance[2]) * pitch_mm
        square = F32(distance[0] * distance[0] + y_mm * y_mm)
        h0 = F32(horizontal[0] + horizontal[2] * row)
        v0 = F32(vertical[0] + vertical[2] * row)
        d0 = F32(depth[0] + depth[2] * row)
        for c in range(0, width, LANES):
            column = smaller(splat(F32(c)) + ramp(), splat(F32(width - 1))) + F32(corner[0])
            d = one / (column * F32(depth[1]) + d0)
            x = smaller(larger((column * F32(horizontal[1]) + h0) * d, one), right)
            y = smaller(larger((column * F32(vertical[1]) + v0) * d, one), bottom)
            i = truncate(x)
            j = truncate(y)
            a = x - floating(i)
            a0 = a * (a * half * (two - a) - half)
            a1 = a * a * (a * F32(1.5) - F32(2.5)) + one
            a2 = a * (a * (two - a * F32(1.5)) + half)
            a3 = a * a * half * (a - one)
            low = min(first_of(i), last_of(i))
            span = max(first_of(i), last_of(i)) - low
            index = shifted(i, low)
            j0 = min(first_of(j), last_of(j)) - 1
            j1 = max(first_of(j), last_of(j)) + 3
            for n in range(j0, j1):
                t = magnitude(y - F32(n))
                u = larger(two - t, zero)
                v = larger(one - t, zero)
                store(weights, (n - j0) * LANES, u * u * half * (u - one) + v * v * (one - two * v))
            x_mm = (column - F32(distance[1])) * F32(pitch_mm)
            length = root(x_mm * x_mm + square) * magnitude(d) * F32(factor)
            for material in range(shape[0]):
                values = zero
                for n in range(j0, j1):
                    start = (material * shape[1] + n) * shape[2] + low
                    line = a0 * take(images, start - 1, index, span) + a1 * take(images, start, index, span)
                    line = line + a2 * take(images, start + 1, index, span) + a3 * take(images, start + 2, index, span)
                    values = values + line * load(weights, (n - j0) * LANES)
                values = values * length
                place = (material * rows + r) * width + c
                if c + LANES <= width:
                    store(out, place, load(out, place) + values if add else values)
                else:
                    store(rest, 0, values)
                    for lane in range(width - c):
                        out[place + lane] = rest[lane] + (out[place + lane] if add else F32(0))
