# SPDX-License-Identifier: Apache-2.0
"""The renderer: a volume and a view to line integrals of attenuation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.errors import ConfigurationError
from carm_core.geometry import XrayView
from carm_sim.drr import kernels
from carm_sim.drr.bands import Bands
from carm_sim.drr.factorization import FINEST_PITCH, Factorization, Rays, factorize, principal_axis
from carm_sim.drr.stack import SliceStack, axis_steps

Region = tuple[int, int, int, int]
"""Part of the raw detector, pixels: left, top, right, bottom; right and bottom exclusive."""

Mapping = Callable[[NDArray[np.float64]], ArrayLike] | NDArray[np.floating[Any]]
"""Attenuation of HU: a vectorized function, or its values at HU -32768 to 32767 (65536,)."""

HU_VALUES = np.arange(-32768, 32768, dtype=np.float64)
_STORED_MAXIMUM = 65535.0
_MOST_PASSES = 16


class VoxelGrid(Protocol):
    """What the renderer needs of a volume; :class:`carm_sim.volume.Volume` has it."""

    @property
    def hu(self) -> NDArray[np.int16]:
        """Voxels int16 [i, j, k], HU."""

    @property
    def transform_voxel_to_lps(self) -> NDArray[np.float64]:
        """Affine (4, 4) from voxel indices to LPS, mm."""


def water_equivalent(hu: NDArray[np.float64]) -> NDArray[np.float64]:
    """Attenuation relative to water, ``1 + HU / 1000``; 0 below -950 HU: air and the noise in it."""
    return np.where(hu < -950, 0.0, 1 + hu / 1000)


class Renderer:
    """Line integrals through one volume by perspective shear-warp, on the CPU.

    Outside the voxel grid attenuation is 0; inside it is trilinear between voxel centers. Rays run from the
    source to the detector. Two mappings (two materials) share one pass; their line integrals are mixed by
    ``weights`` at no extra cost, so that tube voltage or tissue contrast can change with each frame.

    A stack per principal axis is built when a view first needs it (some 100 ms); :meth:`prepare` builds all.
    A renderer serves one thread at a time: concurrent calls wait for each other.

    Attributes:
        volume: The volume.
        channels: Number of mappings, 1 or 2.
    """

    def __init__(
        self,
        volume: VoxelGrid,
        mu_of_hu: Mapping | Sequence[Mapping] = water_equivalent,
        *,
        storage: Literal["float32", "int16"] = "float32",
        threads: int = 2,
        finest_pitch: float = FINEST_PITCH,
    ) -> None:
        """Prepare to render; no voxel is touched yet.

        Args:
            volume: Voxels and their affine.
            mu_of_hu: Attenuation of HU, 1/mm, not negative; a pair of them for two materials.
            storage: Voxel type of one material. ``int16`` halves the memory; two materials always take 16
                bits each.
            threads: Threads; 1 never starts any.
            finest_pitch: Finest spacing of the intermediate image, in voxels; smaller is slower and more
                exact.

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
        self._finest = finest_pitch
        self._hu_range = int(hu.min()), int(hu.max())
        self._bands = Bands(threads)
        self._lock = threading.Lock()
        self._stacks: dict[int, SliceStack] = {}
        self._stale: set[int] = set()
        tables = self._tables(mu_of_hu)
        self.channels = len(tables)
        self._integer = storage == "int16" or self.channels == 2
        self._store_tables(tables)

    @property
    def threads(self) -> int:
        """Threads in use."""
        return self._bands.threads

    def remap(self, mu_of_hu: Mapping | Sequence[Mapping]) -> None:
        """Change the mapping and keep the memory; each stack is refilled when it is next used.

        Args:
            mu_of_hu: As in the constructor, with the same number of mappings.

        Raises:
            ConfigurationError: A mapping is invalid, or their number changes.
        """
        tables = self._tables(mu_of_hu)
        if len(tables) != self.channels:
            raise ConfigurationError(f"renderer has {self.channels} materials, not {len(tables)}")
        with self._lock:
            self._store_tables(tables)
            self._stale = set(self._stacks)

    def prepare(self) -> None:
        """Build the stacks of all three axes now."""
        with self._lock:
            for axis in range(3):
                self._stack(axis)

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
        with self._lock:
            images = self._render(view, region, mix[None], None if out is None else out[None])
        return np.asarray(images[0])

    def material_integrals(self, view: XrayView, region: Region | None = None) -> NDArray[np.float32]:
        """Integrate each material alone: float32 (channels, rows, columns). See :meth:`line_integrals`."""
        with self._lock:
            return self._render(view, region, np.eye(self.channels), None)

    def hit_fraction(self, view: XrayView, region: Region | None = None, samples: int = 33) -> float:
        """Fraction of the field whose rays meet the volume between source and detector.

        Args:
            view: Source and detector in LPS, mm.
            region: Part of the detector; None: all of it.
            samples: Rays along each side of the field that are tested.
        """
        left, top, right, bottom = self._checked(view, region)
        rays = Rays.of(view, self._transform_lps_to_voxel)
        columns, rows = np.meshgrid(np.linspace(left, right - 1, samples), np.linspace(top, bottom - 1, samples))
        direction = rays.toward(columns, rows)
        direction[direction == 0] = 1e-12
        near = (-0.5 - rays.source) / direction
        far = (np.asarray(self.volume.hu.shape) - 0.5 - rays.source) / direction
        enter = np.minimum(near, far).max(-1)
        leave = np.maximum(near, far).min(-1)
        return float(((leave > np.maximum(enter, 0.0)) & (enter < 1.0)).mean())

    def _tables(self, mu_of_hu: Mapping | Sequence[Mapping]) -> NDArray[np.float64]:
        several = isinstance(mu_of_hu, Sequence)
        mappings: list[Any] = list(mu_of_hu) if isinstance(mu_of_hu, Sequence) else [mu_of_hu]
        if several and not 1 <= len(mappings) <= 2:
            raise ConfigurationError(f"one or two materials, not {len(mappings)}")
        low, high = (value + 32768 for value in self._hu_range)
        tables = []
        for mapping in mappings:
            table = np.asarray(mapping(HU_VALUES) if callable(mapping) else mapping, dtype=np.float64)
            if table.shape != HU_VALUES.shape:
                raise ConfigurationError(f"mapping must give 65536 values, for HU -32768 to 32767, not {table.shape}")
            used = table[low : high + 1]
            if not np.isfinite(used).all() or used.min() < 0:
                raise ConfigurationError("attenuation must be finite and not negative")
            clean = np.zeros_like(table)
            clean[low : high + 1] = used
            tables.append(clean)
        return np.stack(tables)

    def _store_tables(self, tables: NDArray[np.float64]) -> None:
        self._scales = np.ones(self.channels)
        if self._integer:
            peaks = tables.max(1)
            self._scales = np.where(peaks > 0, peaks, 1.0) / _STORED_MAXIMUM
        lut = (tables / self._scales[:, None]).astype(np.float32)
        self._lut = lut if self.channels == 2 else lut[0]

    def _stack(self, axis: int) -> SliceStack:
        if axis not in self._stacks:
            dtype = np.uint32 if self.channels == 2 else np.uint16 if self._integer else np.float32
            self._stacks[axis] = SliceStack.empty(self.volume.hu.shape, self._spacing_mm, axis, dtype)
            self._stale.add(axis)
        if axis in self._stale:
            self._stacks[axis].fill(self.volume.hu, self._lut, self._bands)
            self._stale.discard(axis)
        return self._stacks[axis]

    def _checked(self, view: XrayView, region: Region | None) -> Region:
        rows, columns = view.detector.rows, view.detector.columns
        if region is None:
            return 0, 0, columns, rows
        left, top, right, bottom = region
        if not (0 <= left < right <= columns and 0 <= top < bottom <= rows):
            raise ConfigurationError(f"field {region} is empty or outside the detector of {columns} x {rows} pixels")
        return left, top, right, bottom

    def _render(
        self,
        view: XrayView,
        region: Region | None,
        mixes: NDArray[np.float64],
        out: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        left, top, right, bottom = self._checked(view, region)
        shape = (len(mixes), bottom - top, right - left)
        if out is None:
            out = np.empty(shape, np.float32)
        if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ConfigurationError(f"out must be contiguous float32 {shape[1:]}, not {out.dtype} {out.shape[1:]}")
        rays = Rays.of(view, self._transform_lps_to_voxel)
        c0, r0, c1, r1 = left, top, right - 1, bottom - 1
        corners = np.array([(c0, r0), (c1, r0), (c0, r1), (c1, r1), ((c0 + c1) / 2, (r0 + r1) / 2)], dtype=np.float64)
        stack = self._stack(principal_axis(rays, corners[:4], self._steps))
        plan = factorize(rays, corners, stack.axes, stack.positions, self._finest)
        if plan is None:
            out[:] = 0
            return out
        image = np.empty((self.channels, *plan.shape), np.float32)
        kernel = kernels.shear_pair if self.channels == 2 else kernels.shear
        border = (plan.source[0] + 1, plan.source[1] + 1), (plan.origin[0] + 1, plan.origin[1] + 1)

        def project(first: int, last: int) -> None:
            kernel(stack.data, stack.boxes, plan.scales, *border, plan.pitch, first, last, image)

        self._bands.run(project, plan.shape[0], min(64, self._bands.split(plan.shape[0])))
        center = view.center_px
        distance = (float(view.source_detector_mm), float(center[0]), float(center[1]))
        for mix, target in zip(mixes, out, strict=True):
            mixed = self._smeared(self._mixed(image, mix), plan, stack.group)

            def unwarp(
                first: int,
                last: int,
                mixed: NDArray[np.float32] = mixed,
                target: NDArray[np.float32] = target,
            ) -> None:
                kernels.warp(
                    mixed,
                    plan.horizontal,
                    plan.vertical,
                    plan.depth,
                    distance,
                    float(view.detector.pitch_mm),
                    float(stack.group),
                    (left, top),
                    first,
                    last,
                    target,
                )

            self._bands.run(unwarp, shape[1], self._bands.split(shape[1]))
        return out

    def _smeared(self, image: NDArray[np.float32], plan: Factorization, group: int) -> NDArray[np.float32]:
        """Account for the slip of slanted rays within a slice; see :func:`carm_sim.drr.kernels.smear`."""
        spread = float(np.sqrt(1 / 6)) * plan.slant
        far = max(plan.foot[0], plan.shape[0] - plan.foot[0]), max(plan.foot[1], plan.shape[1] - plan.foot[1])
        needed = spread**2 * (far[0] ** 2 + far[1] ** 2)
        passes = min(max(1, int(np.ceil(needed))), _MOST_PASSES)
        slope = (spread / np.sqrt(max(passes, needed)),) * 2
        for _ in range(passes):
            source, image = image, np.empty_like(image)

            def work(
                first: int,
                last: int,
                source: NDArray[np.float32] = source,
                target: NDArray[np.float32] = image,
            ) -> None:
                kernels.smear(source, plan.foot, slope, first, last, target)

            self._bands.run(work, len(image), self._bands.split(len(image)))
        return image

    def _mixed(self, image: NDArray[np.float32], mix: NDArray[np.float64]) -> NDArray[np.float32]:
        factors = (mix * self._scales).astype(np.float32)
        mixed: NDArray[np.float32] = image[0] * factors[0]
        if self.channels == 2:
            mixed += image[1] * factors[1]
        return mixed
