# SPDX-License-Identifier: Apache-2.0
"""Copies of a volume, one per principal axis, cut into slices for the shear pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_sim.drr import kernels
from carm_sim.drr.bands import Bands

SLICE_STEP_MM = 1.5
"""Thin slices are averaged in groups up to this thickness: half the work, at an error below 0.01 %."""

_SLICES_PER_BLOCK = 8


@dataclass(frozen=True, eq=False)
class SliceStack:
    """A volume cut into slices across one axis, with a border of zeros around each slice.

    Attributes:
        axes: Volume axes along slices, rows and columns.
        counts: Voxels along these.
        group: Volume slices averaged into one stack slice.
        data: (slices, rows + 2, columns + 2): float32, uint16, or uint32 with two materials of 16 bits.
        boxes: Bounds of what is not zero in each slice (slices, 4).
    """

    axes: tuple[int, int, int]
    counts: tuple[int, int, int]
    group: int
    data: NDArray[Any]
    boxes: NDArray[np.int64] = field(repr=False)

    @classmethod
    def empty(cls, shape: tuple[int, ...], spacing_mm: NDArray[np.float64], axis: int, dtype: type) -> SliceStack:
        """Allocate the stack across ``axis``; the finer of the other axes runs along columns."""
        others = sorted((a for a in range(3) if a != axis), key=lambda a: (-spacing_mm[a], -a))
        axes = (axis, others[0], others[1])
        counts = (shape[axes[0]], shape[axes[1]], shape[axes[2]])
        group = slice_group(float(spacing_mm[axis]))
        slices = -(-counts[0] // group)
        data: NDArray[Any] = np.zeros((slices, counts[1] + 2, counts[2] + 2), dtype)
        return cls(axes, counts, group, data, np.zeros((slices, 4), np.int64))

    def fill(self, hu: NDArray[np.int16], lut: NDArray[np.float32], bands: Bands) -> None:
        """Map the volume into the stack.

        Args:
            hu: Volume int16 [i, j, k].
            lut: Value for each HU from -32768, in units of what is stored: (65536,), or (2, 65536) for two
                materials.
            bands: Threads.
        """
        build: Any = {
            "float32": kernels.build_float,
            "uint16": kernels.build_integer,
            "uint32": kernels.build_pair,
        }[self.data.dtype.name]
        flat, strides = _flat(hu)
        order = (strides[self.axes[0]], strides[self.axes[1]], strides[self.axes[2]])

        def work(first: int, last: int) -> None:
            build(flat, 0, order, self.counts, self.group, lut, first, last, self.data)
            kernels.find_boxes(self.data, first, last, self.boxes)

        bands.run(work, len(self.data), _SLICES_PER_BLOCK)

    @property
    def positions(self) -> NDArray[np.float64]:
        """Voxel index along the principal axis of each slice (slices,)."""
        return np.asarray(np.arange(len(self.data)) * float(self.group) + (self.group - 1) / 2, np.float64)


def slice_group(spacing_mm: float) -> int:
    """Volume slices that make one stack slice."""
    return max(1, int(SLICE_STEP_MM / spacing_mm + 0.01))


def axis_steps(spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxels per stack slice along each axis (3,); thick slices, less exact, count up to double."""
    groups = np.array([slice_group(float(s)) for s in spacing_mm], dtype=np.float64)
    return np.asarray(groups * np.clip(groups * spacing_mm / SLICE_STEP_MM, 1.0, 2.0))


def _flat(hu: NDArray[np.int16]) -> tuple[NDArray[np.int16], tuple[int, int, int]]:
    """A flat view of a volume and its strides in voxels; copies only what is not contiguous."""
    if hu.flags.f_contiguous:
        flat, strides = hu.T.reshape(-1), (1, hu.shape[0], hu.shape[0] * hu.shape[1])
    else:
        flat = np.ascontiguousarray(hu).reshape(-1)
        strides = (hu.shape[1] * hu.shape[2], hu.shape[2], 1)
    return flat, strides
