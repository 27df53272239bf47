# SPDX-License-Identifier: Apache-2.0
"""The renderer: a volume and a view to line integrals of attenuation."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.imaging.projection import XrayView
from carm_sim.drr.buffers import Buffers
from carm_sim.drr.hu_mapping import Mapping, tabulate, water_equivalent
from carm_sim.drr.parallel import Bands
from carm_sim.drr.region import Region, checked_out, checked_region
from carm_sim.drr.shear_warp import kernels
from carm_sim.drr.shear_warp.factorization import FINEST_PITCH, Factorization, Rays, factorize, principal_axis
from carm_sim.drr.shear_warp.slice_stack import (
    Extent,
    SliceStack,
    axis_steps,
    cell_groups,
    contiguous,
    find_extents,
    slice_axes,
    slice_group,
    slice_positions,
)

__all__ = ["Region", "Renderer", "VoxelGrid", "water_equivalent"]

_STORED_MAXIMUM = 65535.0
_MOST_PASSES = 16
_ROWS_PER_BAND = 64


class VoxelGrid(Protocol):
    """What the renderer needs of a volume; ``carm_sim.patient.volume.Volume`` has it."""

    @property
    def hu(self) -> NDArray[np.int16]:
        """Voxels int16 [i, j, k], HU."""

    @property
    def transform_voxel_to_lps(self) -> NDArray[np.float64]:
        """Affine (4, 4) from voxel indices to LPS, mm."""


class Renderer:
    """Line integrals through one volume by perspective shear-warp, on the CPU.

    Outside the voxel grid attenuation is 0; inside it is trilinear between voxel centers. Rays run from the
    source to the detector. Each mapping stands for a material; a material that does not occur in the volume costs
    nothing, one that occurs in a part of it costs that part.

    A stack of slices per material and principal axis is built when a view first needs it (some 100 ms);
    ``prepare`` builds all. From then on a frame allocates nothing when it is given its ``out``.
    A renderer serves one thread at a time: concurrent calls wait for each other.

    Attributes:
        volume: The volume.
        channels: Number of mappings.
    """

    def __init__(
        self,
        volume: VoxelGrid,
        mu_of_hu: Mapping | Sequence[Mapping] = water_equivalent,
        *,
        storage: Literal["float32", "int16"] = "int16",
        threads: int = 2,
        finest_pitch: float = FINEST_PITCH,
    ) -> None:
        """Prepare to render; no voxel is copied yet.

        Args:
            volume: Voxels and their affine.
            mu_of_hu: Attenuation of HU, 1/mm, not negative; a sequence of them for several materials.
            storage: Type of the voxels' copies. ``int16`` (65536 steps up to the highest value) takes half the memory
                and less time.
            threads: Threads; 1 never starts any.
            finest_pitch: Finest spacing of the intermediate image, in cells of the stacks (voxels, unless these are
                fine); smaller is slower and more exact.

        Raises:
            ConfigurationError: The volume is no int16 array [i, j, k], its affine is singular, or a mapping
                is invalid.
        """
        hu, affine = volume.hu, np.asarray(volume.transform_voxel_to_lps, dtype=np.float64)
        if hu.ndim != 3 or hu.dtype != np.int16 or 0 in hu.shape:
            raise ConfigurationError(f"volume must be int16 [i, j, k], not {hu.dtype} {hu.shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ConfigurationError(f"affine of the volume is singular: {affine.tolist()}")
        if storage not in ("float32", "int16"):
            raise ConfigurationError(f"storage must be float32 or int16, not {storage!r}")
        self.volume = volume
        self._transform_lps_to_voxel: NDArray[np.float64] = np.asarray(np.linalg.inv(affine), np.float64)
        self._spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        self._steps = axis_steps(self._spacing_mm)
        self._positions = [slice_positions(n, float(s)) for n, s in zip(hu.shape, self._spacing_mm, strict=True)]
        self._finest = finest_pitch
        self._hu_range = int(hu.min()), int(hu.max())
        self._integer = storage == "int16"
        self._bands = Bands(threads)
        self._buffers = Buffers()
        self._lock = threading.Lock()
        self._stacks: dict[int, dict[int, SliceStack]] = {}
        self._cells: dict[int, tuple[int, int]] = {}
        tables = tabulate(mu_of_hu, self._hu_range)
        self.channels = len(tables)
        self._store_tables(tables)

    @property
    def threads(self) -> int:
        """Threads in use."""
        return self._bands.threads

    def remap(self, mu_of_hu: Mapping | Sequence[Mapping]) -> None:
        """Change the mapping; each stack is rebuilt when it is next used.

        Args:
            mu_of_hu: As in the constructor, with the same number of mappings.

        Raises:
            ConfigurationError: A mapping is invalid, or their number changes.
        """
        tables = tabulate(mu_of_hu, self._hu_range)
        if len(tables) != self.channels:
            raise ConfigurationError(f"renderer has {self.channels} materials, not {len(tables)}")
        with self._lock:
            self._store_tables(tables)

    def prepare(self) -> None:
        """Build the stacks of all three axes now."""
        with self._lock:
            for axis in range(3):
                self._stacks_across(axis)

    def line_integrals(
        self,
        view: XrayView,
        region: Region | None = None,
        weights: Sequence[float] | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Integrate attenuation along the ray of each pixel.

        Args:
            view: Source and detector in LPS, mm.
            region: Part of the detector to compute; None: all of it.
            weights: Factor of each material; None: 1.
            out: Array for the result, contiguous.

        Returns:
            Line integrals float32 (rows, columns) of the region, raw orientation; 1 for ``mu_of_hu`` in 1/mm.

        Raises:
            ConfigurationError: The region is empty or outside the detector, the weights do not match the
                materials, the field is too wide, or ``out`` has the wrong shape or type.
        """
        mix = np.ones(self.channels) if weights is None else np.asarray(weights, dtype=np.float64)
        if mix.shape != (self.channels,):
            raise ConfigurationError(f"renderer has {self.channels} materials, got weights {mix.tolist()}")
        area = checked_region(view, region)
        with self._lock:
            images = checked_out(None if out is None else out[None], 1, area)
            self._render(view, area, [(0, c, float(mix[c])) for c in range(self.channels)], images)
        return np.asarray(images[0])

    def material_integrals(
        self, view: XrayView, region: Region | None = None, out: NDArray[np.float32] | None = None, *, add: bool = False
    ) -> NDArray[np.float32]:
        """Integrate each material alone, all in one pass.

        Args:
            view: Source and detector in LPS, mm.
            region: Part of the detector to compute; None: all of it.
            out: Array for the result, contiguous.
            add: Add to what ``out`` holds.

        Returns:
            Line integrals float32 (channels, rows, columns) of the region, raw orientation.

        Raises:
            ConfigurationError: As in ``line_integrals``.
        """
        area = checked_region(view, region)
        images = checked_out(out, self.channels, area)
        with self._lock:
            return self._render(view, area, [(c, c, 1.0) for c in range(self.channels)], images, add=add)

    def hit_fraction(self, view: XrayView, region: Region | None = None, samples: int = 33) -> float:
        """Return the fraction of the field whose rays meet the volume between source and detector.

        Args:
            view: Source and detector in LPS, mm.
            region: Part of the detector; None: all of it.
            samples: Rays along each side of the field that are tested.
        """
        left, top, right, bottom = checked_region(view, region)
        rays = Rays.of(view, self._transform_lps_to_voxel)
        columns, rows = np.meshgrid(np.linspace(left, right - 1, samples), np.linspace(top, bottom - 1, samples))
        direction = rays.toward(columns, rows)
        direction[direction == 0] = 1e-12
        near = (-0.5 - rays.source) / direction
        far = (np.asarray(self.volume.hu.shape) - 0.5 - rays.source) / direction
        enter = np.minimum(near, far).max(-1)
        leave = np.maximum(near, far).min(-1)
        return float(((leave > np.maximum(enter, 0.0)) & (enter < 1.0)).mean())

    def _store_tables(self, tables: NDArray[np.float64]) -> None:
        peaks = tables.max(1)
        self._scales = np.where(peaks > 0, peaks, 1.0) / _STORED_MAXIMUM if self._integer else np.ones(self.channels)
        self._lut = (tables / self._scales[:, None]).astype(np.float32)
        self._extents: list[Extent | None] | None = None
        self._stacks.clear()
        self._cells.clear()

    def _cells_across(self, axis: int) -> tuple[int, int]:
        """Return the voxels along rows and columns that are averaged in the stacks across an axis."""
        if axis not in self._cells:
            lut = np.asarray(self._scales @ self._lut, np.float32)
            axes = slice_axes(axis, self._spacing_mm)
            self._cells[axis] = cell_groups(self.volume.hu, lut, axes, self._spacing_mm)
        return self._cells[axis]

    def _stacks_across(self, axis: int) -> dict[int, SliceStack]:
        """Return the stacks of the materials that occur, by material."""
        if axis not in self._stacks:
            hu = contiguous(self.volume.hu)
            if self._extents is None:
                self._extents = find_extents(hu, self._lut != 0, self._bands)
            stacks = {}
            groups = (slice_group(float(self._spacing_mm[axis])), *self._cells_across(axis))
            for material, extent in enumerate(self._extents):
                if extent is not None:
                    dtype = np.uint16 if self._integer else np.float32
                    stacks[material] = SliceStack.empty(extent, slice_axes(axis, self._spacing_mm), groups, dtype)
                    stacks[material].fill(hu, self._lut[material], self._bands)
            self._stacks[axis] = stacks
        return self._stacks[axis]

    def _render(
        self,
        view: XrayView,
        region: Region,
        parts: Sequence[tuple[int, int, float]],
        out: NDArray[np.float32],
        add: bool = False,
    ) -> NDArray[np.float32]:
        """Fill ``out``; ``parts`` say which image gets which material with which weight."""
        left, top, right, bottom = region
        rays = Rays.of(view, self._transform_lps_to_voxel)
        c0, r0, c1, r1 = left, top, right - 1, bottom - 1
        corners = np.array([(c0, r0), (c1, r0), (c0, r1), (c1, r1), ((c0 + c1) / 2, (r0 + r1) / 2)], dtype=np.float64)
        axis = principal_axis(rays, corners[:4], self._steps)
        axes = slice_axes(axis, self._spacing_mm)
        plan = factorize(rays, corners, axes, self._positions[axis], np.array(self._cells_across(axis)), self._finest)
        if plan is None:
            if not add:
                out[:] = 0
            return out
        stacks = self._stacks_across(axis)
        images = self._sheared(plan, stacks, parts, len(out))
        images = self._smeared(images, plan)
        self._warped(images, plan, view, region, add, out)
        return out

    def _sheared(
        self, plan: Factorization, stacks: dict[int, SliceStack], parts: Sequence[tuple[int, int, float]], count: int
    ) -> NDArray[np.float32]:
        """Return the intermediate images (count, rows, columns)."""
        images = self._buffers.shared("images", (count, *plan.shape), kernels.SLACK)
        lines = max((stack.data.shape[1] + 3 for stack in stacks.values()), default=0) * kernels.LINE_STRIDE

        def project(first: int, last: int) -> None:
            images[:, first:last] = 0
            room = self._buffers.own("lines", lines, np.float32)
            places = self._buffers.own("places", 3 * kernels.LINE_STRIDE, np.int32)
            for target, material, weight in parts:
                stack = stacks.get(material)
                if stack is None or weight == 0:
                    continue
                begin = stack.lows[0] // stack.groups[0]
                scales = plan.scales[begin : begin + len(stack.data)]
                source, origin = stack.from_voxels(plan.source), stack.from_voxels(plan.origin)
                factor = weight * float(self._scales[material])
                kernels.shear(
                    stack.flat,
                    stack.data.shape,
                    stack.boxes,
                    scales,
                    source,
                    origin,
                    stack.pitch_in_cells(plan.pitch),
                    factor,
                    first,
                    last,
                    images[target],
                    room,
                    places,
                )

        rows = plan.shape[0]
        self._bands.run(project, rows, min(_ROWS_PER_BAND, -(-rows // (2 * self.threads))))
        return images

    def _smeared(self, images: NDArray[np.float32], plan: Factorization) -> NDArray[np.float32]:
        """Account for the slip of slanted rays within a slice; see ``carm_sim.drr.shear_warp.kernels.smear``."""
        spread = float(np.sqrt(1 / 6)) * plan.slant
        far = max(plan.foot[0], plan.shape[0] - plan.foot[0]), max(plan.foot[1], plan.shape[1] - plan.foot[1])
        needed = spread**2 * (far[0] ** 2 + far[1] ** 2)
        passes = min(max(1, int(np.ceil(needed))), _MOST_PASSES)
        slope = (spread / np.sqrt(max(passes, needed)),) * 2
        others = self._buffers.shared("smeared", images.shape, kernels.SLACK)
        for _ in range(passes):
            source, target = images, others

            def work(
                first: int, last: int, source: NDArray[np.float32] = source, target: NDArray[np.float32] = target
            ) -> None:
                for one, other in zip(source, target, strict=True):
                    kernels.smear(one, plan.foot, slope, first, last, other)

            self._bands.run(work, plan.shape[0], self._bands.split(plan.shape[0]))
            images, others = others, images
        return images

    def _warped(
        self,
        images: NDArray[np.float32],
        plan: Factorization,
        view: XrayView,
        region: Region,
        add: bool,
        out: NDArray[np.float32],
    ) -> None:
        """Fill ``out`` (materials, rows, columns)."""
        column, row = view.center_px
        distance = float(view.source_detector_mm), float(column), float(row)
        pitch_mm, group = float(view.detector.pitch_mm), float(slice_group(float(self._spacing_mm[plan.axis])))
        flat, target = images.reshape(-1), out.reshape(-1)

        def unwarp(first: int, last: int) -> None:
            kernels.warp(
                flat,
                images.shape,
                plan.horizontal,
                plan.vertical,
                plan.depth,
                distance,
                pitch_mm,
                group,
                region[:2],
                add,
                first,
                last,
                out.shape[1:],
                target,
                self._buffers.own("weights", (plan.shape[0] + 1) * kernels.LANES, np.float32),
            )

        self._bands.run(unwarp, out.shape[1], self._bands.split(out.shape[1]))
