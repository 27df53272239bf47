# SPDX-License-Identifier: Apache-2.0
"""Copies of one material of a volume, one per principal axis, cut into slices for the shear pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_sim.drr.parallel import Bands
from carm_sim.drr.shear_warp import kernels, voxels

SLICE_STEP_MM = 1.5
"""Thin slices are averaged in groups up to this thickness: half the work, at an error below 0.01 %."""

_SLICES_PER_BLOCK = 8

Extent = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel and one past the last along each volume axis."""


@dataclass(frozen=True, eq=False)
class SliceStack:
    """The voxels that hold one material, cut into slices across one axis, a border of zeros around each.

    Attributes:
        axes: Volume axes along slices, rows and columns.
        lows: First voxel along these.
        counts: Voxels along these.
        group: Volume slices averaged into one stack slice.
        data: (slices, rows + 2, columns + 2), float32 or uint16.
        flat: The same memory, and ``kernels.SLACK`` elements behind.
        boxes: Bounds of what is not zero in each slice (slices, 4).
    """

    axes: tuple[int, int, int]
    lows: tuple[int, int, int]
    counts: tuple[int, int, int]
    group: int
    data: NDArray[Any]
    flat: NDArray[Any] = field(repr=False)
    boxes: NDArray[np.int64] = field(repr=False)

    @classmethod
    def empty(cls, extent: Extent, spacing_mm: NDArray[np.float64], axis: int, dtype: type) -> SliceStack:
        """Allocate the stack across ``axis``."""
        axes = slice_axes(axis, spacing_mm)
        group = slice_group(float(spacing_mm[axis]))
        start = extent[axis][0] // group * group
        lows = (start, extent[axes[1]][0], extent[axes[2]][0])
        counts = tuple(extent[a][1] - low for a, low in zip(axes, lows, strict=True))
        shape = (-(-counts[0] // group), counts[1] + 2, counts[2] + 2)
        flat: NDArray[Any] = np.zeros(int(np.prod(shape)) + kernels.SLACK, dtype)
        data = flat[: -kernels.SLACK].reshape(shape)
        return cls(axes, lows, (counts[0], counts[1], counts[2]), group, data, flat, np.zeros((shape[0], 4), np.int64))

    def from_voxels(self, position: tuple[float, float]) -> tuple[float, float]:
        """Return the row and column in ``data`` of a row and column in voxels."""
        return position[0] - self.lows[1] + 1, position[1] - self.lows[2] + 1

    def fill(self, hu: NDArray[np.int16], lut: NDArray[np.float32], bands: Bands) -> None:
        """Map the volume into the stack.

        Args:
            hu: Volume int16 [i, j, k], contiguous in either order.
            lut: Value for each HU from -32768, in units of what is stored (65536,).
            bands: Threads.
        """
        flat, strides = flattened(hu)
        order = (strides[self.axes[0]], strides[self.axes[1]], strides[self.axes[2]])
        offset = sum(low * stride for low, stride in zip(self.lows, order, strict=True))
        rounding = 0.5 if self.data.dtype == np.uint16 else 0.0

        def work(first: int, last: int) -> None:
            voxels.build(flat, offset, order, self.counts, self.group, lut, rounding, first, last, self.data)
            voxels.find_boxes(self.data, first, last, self.boxes)

        bands.run(work, len(self.data), _SLICES_PER_BLOCK)


def slice_axes(axis: int, spacing_mm: NDArray[np.float64]) -> tuple[int, int, int]:
    """Volume axes along the slices, rows and columns of a stack across ``axis``: the finer one along columns."""
    others = sorted((a for a in range(3) if a != axis), key=lambda a: (-spacing_mm[a], -a))
    return axis, others[0], others[1]


def slice_group(spacing_mm: float) -> int:
    """Return the volume slices that make one stack slice."""
    return max(1, int(SLICE_STEP_MM / spacing_mm + 0.01))


def slice_positions(count: int, spacing_mm: float) -> NDArray[np.float64]:
    """Return the voxel index along an axis of each stack slice of ``count`` volume slices."""
    group = slice_group(spacing_mm)
    return np.asarray(np.arange(-(-count // group)) * float(group) + (group - 1) / 2, np.float64)


def axis_steps(spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the voxels per stack slice along each axis (3,); thick slices, less exact, count up to double."""
    groups = np.array([slice_group(float(s)) for s in spacing_mm], dtype=np.float64)
    return np.asarray(groups * np.clip(groups * spacing_mm / SLICE_STEP_MM, 1.0, 2.0))


def find_extents(hu: NDArray[np.int16], used: NDArray[np.bool_], bands: Bands) -> list[Extent | None]:
    """Return the voxels that hold each material.

    Args:
        hu: Volume int16 [i, j, k], contiguous in either order.
        used: Whether a material occurs at each HU from -32768 (materials, 65536), at most 8 materials.
        bands: Threads.

    Returns:
        Bounds of each material's voxels; None: it does not occur.
    """
    flat, strides = flattened(hu)
    order = sorted(range(3), key=lambda a: -strides[a])
    sizes = (hu.shape[order[0]], hu.shape[order[1]], hu.shape[order[2]])
    bits = np.zeros(65536, np.uint8)
    for material, where in enumerate(used):
        bits |= np.where(where, np.uint8(1 << material), np.uint8(0))
    step = bands.split(sizes[0])
    marks = [np.zeros(sizes[0], np.uint8)] + [np.zeros((-(-sizes[0] // step), n), np.uint8) for n in sizes[1:]]

    def work(first: int, last: int) -> None:
        middle, fast = marks[1][first // step], marks[2][first // step]
        voxels.find_extents(flat, sizes, bits, first, last, marks[0], middle, fast)

    bands.run(work, sizes[0], step)
    found = [marks[0], np.bitwise_or.reduce(marks[1], axis=0), np.bitwise_or.reduce(marks[2], axis=0)]
    extents: list[Extent | None] = []
    for material in range(len(used)):
        ends = [np.flatnonzero(found[order.index(axis)] & (1 << material)) for axis in range(3)]
        bounds = [(int(e[0]), int(e[-1]) + 1) for e in ends if len(e)]
        extents.append((bounds[0], bounds[1], bounds[2]) if len(bounds) == 3 else None)
    return extents


def contiguous(hu: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return the volume in one piece of memory; copied only if it is not."""
    return hu if hu.flags.f_contiguous or hu.flags.c_contiguous else np.ascontiguousarray(hu)


def flattened(hu: NDArray[np.int16]) -> tuple[NDArray[np.int16], tuple[int, int, int]]:
    """Return a flat view of a contiguous volume and its strides in voxels."""
    if hu.flags.f_contiguous:
        return hu.T.reshape(-1), (1, hu.shape[0], hu.shape[0] * hu.shape[1])
    return hu.reshape(-1), (hu.shape[1] * hu.shape[2], hu.shape[2], 1)
