# SPDX-License-Identifier: Apache-2.0
"""Compiled loops over a volume: which materials are where, and their copies as stacks of slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_sim.drr.shear_warp.kernels import compiled

F32 = np.float32


@compiled
def find_extents(
    hu: NDArray[np.int16],
    sizes: tuple[int, int, int],
    bits: NDArray[np.uint8],
    first: int,
    last: int,
    slow: NDArray[np.uint8],
    middle: NDArray[np.uint8],
    fast: NDArray[np.uint8],
) -> None:
    """Mark along each axis of memory the materials that occur.

    Args:
        hu: Flat volume.
        sizes: Voxels along its slowest, middle and fastest axis.
        bits: Materials of each HU from -32768, a bit each (65536,).
        first: First position along the slowest axis.
        last: One past the last.
        slow: Result (sizes[0],): all bits at each position.
        middle: Result of this band (sizes[1],).
        fast: Result of this band (sizes[2],).
    """
    for i in range(first, last):
        all_bits = np.uint8(0)
        for j in range(sizes[1]):
            line = hu[(i * sizes[1] + j) * sizes[2] : (i * sizes[1] + j + 1) * sizes[2]]
            line_bits = np.uint8(0)
            for k in range(sizes[2]):
                here = bits[int(line[k]) + 32768]
                line_bits |= here
                fast[k] |= here
            middle[j] |= line_bits
            all_bits |= line_bits
        slow[i] = all_bits


@compiled
def build(
    hu: NDArray[np.int16],
    offset: int,
    strides: tuple[int, int, int],
    counts: tuple[int, int, int],
    groups: tuple[int, int, int],
    lut: NDArray[np.float32],
    rounding: float,
    first: int,
    last: int,
    out: NDArray[np.float32],
) -> None:
    """Fill slices ``first`` to ``last`` of a stack: voxels averaged in groups, a border of zeros.

    Args:
        hu: Flat volume.
        offset: Index in it of the first voxel of the stack.
        strides: Distance in ``hu`` between slices, rows and columns of the stack.
        counts: Voxels along slices, rows and columns.
        groups: Voxels per cell of the stack along these.
        lut: Value for each HU from -32768 (65536,), 0 to 65535 for a stack of integers.
        rounding: Added to each value: 0.5 for a stack of integers, else 0.
        first: First stack slice of the band.
        last: One past the last.
        out: Stack (slices, rows + 2, columns + 2), float32 or uint16.
    """
    inverse = F32(1.0 / (groups[0] * groups[1] * groups[2]))
    bias = F32(rounding)
    for row in range(out.shape[1] - 2):
        row_end = min((row + 1) * groups[1], counts[1])
        for column in range(out.shape[2] - 2):
            column_end = min((column + 1) * groups[2], counts[2])
            for s in range(first, last):
                total = F32(0)
                for i in range(row * groups[1], row_end):
                    for j in range(column * groups[2], column_end):
                        start = offset + i * strides[1] + j * strides[2]
                        for k in range(s * groups[0], min((s + 1) * groups[0], counts[0])):
                            total += lut[int(hu[start + k * strides[0]]) + 32768]
                out[s, row + 1, column + 1] = total * inverse + bias


@compiled
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
        boxes[s, 0], boxes[s, 1], boxes[s, 2], boxes[s, 3] = (row_lo, row_hi, column_lo, column_hi)
