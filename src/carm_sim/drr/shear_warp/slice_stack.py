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

CELL_MM = 0.85
"""Fine voxels within a slice are averaged in groups up to this width, about that of a CT of the chest ..."""
MOST_DETAIL = 2.5e-3
"""... unless this changes sums across the slices by more than this share: details are that fine. Line integrals change
by half of it and less, since rays cross slices at an angle: 0.1 % for a CT of the chest with noise in thin slices."""
_SAMPLED_LINES = 24

_SLICES_PER_BLOCK = 8

Extent = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel and one past the last along each volume axis."""


@dataclass(frozen=True, eq=False)
class SliceStack:
    """The voxels that hold one material, cut into slices across one axis, a border of zeros around each.

    Voxels along slices, rows and columns are averaged in groups into the cells of the stack.

    Attributes:
        axes: Volume axes along slices, rows and columns.
        lows: First voxel along these.
        counts: Voxels along these.
        groups: Voxels averaged into one cell along these.
        data: (slices, rows + 2, columns + 2), float32 or uint16.
        flat: The same memory, and ``kernels.SLACK`` elements behind.
        boxes: Bounds of what is not zero in each slice (slices, 4).
    """

    axes: tuple[int, int, int]
    lows: tuple[int, int, int]
    counts: tuple[int, int, int]
    groups: tuple[int, int, int]
    data: NDArray[Any]
    flat: NDArray[Any] = field(repr=False)
    boxes: NDArray[np.int64] = field(repr=False)

    @classmethod
    def empty(cls, extent: Extent, axes: tuple[int, int, int], groups: tuple[int, int, int], dtype: type) -> SliceStack:
        """Allocate a stack of the voxels within ``extent``."""
        lows = tuple(extent[a][0] // group * group for a, group in zip(axes, groups, strict=True))
        counts = tuple(extent[a][1] - low for a, low in zip(axes, lows, strict=True))
        cells = [-(-count // group) for count, group in zip(counts, groups, strict=True)]
        shape = (cells[0], cells[1] + 2, cells[2] + 2)
        flat: NDArray[Any] = np.zeros(int(np.prod(shape)) + kernels.SLACK, dtype)
        data = flat[: -kernels.SLACK].reshape(shape)
        boxes = np.zeros((shape[0], 4), np.int64)
        return cls(axes, (lows[0], lows[1], lows[2]), (counts[0], counts[1], counts[2]), groups, data, flat, boxes)

    def from_voxels(self, position: tuple[float, float]) -> tuple[float, float]:
        """Return the row and column in ``data`` of a row and column in voxels."""
        row, column = (
            (position[i] - self.lows[i + 1] - (self.groups[i + 1] - 1) / 2) / self.groups[i + 1] + 1 for i in (0, 1)
        )
        return row, column

    def pitch_in_cells(self, pitch: tuple[float, float]) -> tuple[float, float]:
        """Return a distance along rows and columns, in voxels, in cells of ``data``."""
        return pitch[0] / self.groups[1], pitch[1] / self.groups[2]

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
            voxels.build(flat, offset, order, self.counts, self.groups, lut, rounding, first, last, self.data)
            voxels.find_boxes(self.data, first, last, self.boxes)

        bands.run(work, len(self.data), _SLICES_PER_BLOCK)


def slice_axes(axis: int, spacing_mm: NDArray[np.float64]) -> tuple[int, int, int]:
    """Volume axes along the slices, rows and columns of a stack across ``axis``: the finer one along columns."""
    others = sorted((a for a in range(3) if a != axis), key=lambda a: (-spacing_mm[a], -a))
    return axis, others[0], others[1]


def cell_groups(
    hu: NDArray[np.int16], lut: NDArray[np.float32], axes: tuple[int, int, int], spacing_mm: NDArray[np.float64]
) -> tuple[int, int]:
    """Return the voxels along rows and columns that make one cell of a slice.

    Args:
        hu: Volume int16 [i, j, k].
        lut: Attenuation of each HU from -32768 (65536,).
        axes: Volume axes along slices, rows and columns.
        spacing_mm: Voxel spacing along the volume axes (3,).
    """
    groups, spent = [1, 1], 0.0
    for i in (1, 0):  # the finer one first
        axis, other = axes[1 + i], axes[2 - i]
        group = max(1, int(CELL_MM / float(spacing_mm[axis]) + 0.01))
        detail = _detail(hu, lut, axes[0], axis, other, group) if group > 1 else 0.0
        if spent + detail < MOST_DETAIL:
            groups[i], spent = group, spent + detail
    return groups[0], groups[1]


def _detail(hu: NDArray[np.int16], lut: NDArray[np.float32], across: int, along: int, other: int, group: int) -> float:
    """Return by what share sums across the slices change where voxels are averaged along an axis."""
    lines = np.linspace(0, hu.shape[other] - 1, _SAMPLED_LINES + 2)[1:-1].astype(int)
    planes = np.moveaxis(hu, (other, along, across), (0, 1, 2))[lines]
    sums = np.stack([lut[plane.astype(np.int32) + 32768].sum(1, dtype=np.float64) for plane in planes])
    count = sums.shape[1] // group * group
    if count < 2 * group or not sums.any():
        return 0.0
    cells = sums[:, :count].reshape(len(sums), -1, group).mean(2)
    centers = np.arange(cells.shape[1]) * group + (group - 1) / 2
    back = np.stack([np.interp(np.arange(count), centers, line) for line in cells])
    return float(np.abs(back - sums[:, :count]).sum() / sums.sum())


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
