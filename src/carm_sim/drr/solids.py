# SPDX-License-Identifier: Apache-2.0
"""Analytic solids, seen with exact chords at the detector's resolution: what is too fine or too dense for voxels.

A solid is a union of convex bodies (ellipsoids, boxes, cylinders and frusta, capsules) less a union of others, its
holes, of one material. Along a ray the bodies' intervals are merged, so that bodies of a solid may overlap, as the
joints of a tube do, without being counted twice. Different solids add up, with each other and with the patient's
volume: metal in tissue does not replace the tissue, which matters little beside the metal. Where it does matter, add
the same solid with the material of what it replaces and a negative factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.errors import ConfigurationError
from carm_core.imaging.projection import XrayView
from carm_core.transforms import Array, RigidTransform
from carm_sim.drr.parallel import Bands
from carm_sim.drr.ray_intervals import BOX, CAPSULE, ELLIPSOID, FRUSTUM, add_chords
from carm_sim.drr.region import Region, checked_region

_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
_NEAREST_MM = 1.0
_THINNEST_MM = 1e-6
THIN_MM = 1.6
"""A solid with a body whose second half size is below this, a wire, is sampled finely where that is asked for."""


class Material(IntEnum):
    """Materials by index: mm of water, mm of cortical bone (ICRU-44), mm of titanium."""

    WATER = 0
    BONE = 1
    METAL = 2


@dataclass(frozen=True, eq=False)
class Body:
    """A convex body: a unit body of its kind, stretched, turned and moved.

    Attributes:
        kind: One of the kinds of ``carm_sim.drr.ray_intervals``.
        center_mm: Center (3,), mm.
        axes: Unit vectors of the body's own axes as columns (3, 3).
        sizes_mm: Half size along each own axis (3,), mm; of a capsule its radius, three times.
        parameter: Taper of a frustum (change of radius from the middle to an end, relative), half length of a capsule
            over its radius; else 0.
    """

    kind: int
    center_mm: Array
    axes: Array
    sizes_mm: Array
    parameter: float = 0.0

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ConfigurationError: A size is not finite and positive.
        """
        numbers = np.concatenate([self.center_mm, self.axes.ravel(), self.sizes_mm, [self.parameter]])
        if not np.isfinite(numbers).all() or self.sizes_mm.min() < _THINNEST_MM:
            raise ConfigurationError(f"a solid's sizes must be finite and positive, not {self.sizes_mm.tolist()} mm")

    def transformed(self, transform_here_to_there: RigidTransform) -> Body:
        """Return the same body in another frame (mm)."""
        move = transform_here_to_there
        return replace(self, center_mm=move.apply(self.center_mm), axes=move.rotation @ self.axes)

    def shrunk(self, wall_mm: float, ends: bool = True) -> Body:
        """Return the hole that leaves a wall of this thickness; without ends, a cylinder or frustum is open.

        The wall of an ellipsoid, and of a capsule towards its ends, is that along the axes.

        Raises:
            ConfigurationError: Nothing would be left of the hole.
        """
        sizes = self.sizes_mm - wall_mm
        parameter = self.parameter
        if self.kind == FRUSTUM:
            sizes[2] = self.sizes_mm[2] - wall_mm if ends else self.sizes_mm[2] * 1.001
            parameter = parameter * self.sizes_mm[0] / sizes[0]
        if self.kind == CAPSULE:
            parameter = parameter * self.sizes_mm[0] / sizes[0]
        return Body(self.kind, self.center_mm, self.axes, sizes, parameter)


def _vector(values: ArrayLike) -> Array:
    array = np.array(values, dtype=np.float64)
    if array.shape != (3,):
        raise ConfigurationError(f"a position has three coordinates, not shape {array.shape}")
    return array


def axes_along(direction: ArrayLike, hint: ArrayLike = (0.0, 0.0, 1.0)) -> Array:
    """Return the right-handed axes as columns (3, 3), the third along a direction, the second close to a hint."""
    forward = _vector(direction)
    forward = forward / max(float(np.linalg.norm(forward)), 1e-300)
    upward = _vector(hint)
    if np.linalg.norm(np.cross(upward, forward)) < 1e-3 * np.linalg.norm(upward):
        upward = np.eye(3)[int(np.abs(forward).argmin())]
    side = np.cross(upward, forward)
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(forward, side), forward], 1)


def ellipsoid(center_mm: ArrayLike, radii_mm: ArrayLike, axes: Array | None = None) -> Body:
    """Return an ellipsoid; ``axes`` are its own axes as columns (3, 3), None: those of the frame."""
    return Body(ELLIPSOID, _vector(center_mm), np.eye(3) if axes is None else axes, _vector(radii_mm))


def sphere(center_mm: ArrayLike, radius_mm: float) -> Body:
    """Return a ball."""
    return ellipsoid(center_mm, (radius_mm,) * 3)


def box(center_mm: ArrayLike, half_sizes_mm: ArrayLike, axes: Array | None = None) -> Body:
    """Return a box; ``axes`` are its own axes as columns (3, 3), None: those of the frame."""
    return Body(BOX, _vector(center_mm), np.eye(3) if axes is None else axes, _vector(half_sizes_mm))


def cylinder(
    start_mm: ArrayLike, end_mm: ArrayLike, radius_mm: float, end_radius_mm: float | None = None, flatten: float = 1.0
) -> Body:
    """Return a cylinder with flat ends, or a frustum.

    Args:
        start_mm: Center of one end (3,), mm.
        end_mm: Center of the other (3,), mm.
        radius_mm: Radius at the start, mm.
        end_radius_mm: Radius at the end, mm; None: the same.
        flatten: Half size across, relative to the radius, along the body's second axis (see ``axes_along``).
    """
    start, end = _vector(start_mm), _vector(end_mm)
    last = radius_mm if end_radius_mm is None else end_radius_mm
    middle = (radius_mm + last) / 2
    sizes = np.array([middle, middle * flatten, float(np.linalg.norm(end - start)) / 2])
    taper = (last - middle) / middle
    return Body(FRUSTUM, (start + end) / 2, axes_along(end - start), sizes, min(max(taper, -0.999999), 0.999999))


def capsule(start_mm: ArrayLike, end_mm: ArrayLike, radius_mm: float) -> Body:
    """Return all points within a radius of a segment."""
    start, end = _vector(start_mm), _vector(end_mm)
    half = float(np.linalg.norm(end - start)) / 2
    axes = axes_along(end - start) if half > 0 else np.eye(3)
    return Body(CAPSULE, (start + end) / 2, axes, np.full(3, radius_mm), half / radius_mm)


def tube(points_mm: ArrayLike, radius_mm: float) -> list[Body]:
    """Return all points within a radius of a polyline (N, 3), mm: a chain of capsules, long ones divided.

    Raises:
        ConfigurationError: There are fewer than two points.
    """
    points = np.asarray(points_mm, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) < 2:
        raise ConfigurationError(f"a tube needs two points or more (N, 3), not shape {points.shape}")
    longest = max(8 * radius_mm, 15.0)
    bodies = []
    for start, end in pairwise(points):
        parts = max(1, int(np.ceil(np.linalg.norm(end - start) / longest)))
        stops = start + (end - start) * np.linspace(0, 1, parts + 1)[:, None]
        bodies += [capsule(a, b, radius_mm) for a, b in pairwise(stops)]
    return bodies


@dataclass(frozen=True, eq=False)
class Solid:
    """A union of bodies less a union of holes, of one material.

    Attributes:
        bodies: What it is made of, at least one.
        holes: What is taken out.
        material: Index of its material.
        factor: Attenuation relative to that material: density for soft tissue and plastics, about 2.7 for steel as
            metal; negative to replace what another part of the scene has there.
    """

    bodies: tuple[Body, ...]
    material: Material
    factor: float = 1.0
    holes: tuple[Body, ...] = ()

    @classmethod
    def of(
        cls, bodies: Body | Iterable[Body], material: Material, factor: float = 1.0, holes: Iterable[Body] = ()
    ) -> Solid:
        """Build a solid from one or more bodies.

        Raises:
            ConfigurationError: There is no body, or the factor is not finite.
        """
        parts = (bodies,) if isinstance(bodies, Body) else tuple(bodies)
        if not parts or not np.isfinite(factor):
            raise ConfigurationError(f"a solid needs a body and a finite factor, not {len(parts)} bodies and {factor}")
        return cls(parts, Material(material), float(factor), tuple(holes))

    @classmethod
    def shell(
        cls,
        bodies: Body | Iterable[Body],
        wall_mm: float,
        material: Material,
        factor: float = 1.0,
        *,
        ends: bool = True,
    ) -> Solid:
        """Return a hollow solid: each body less the same, smaller by the wall; a chain of capsules becomes a pipe."""
        parts = (bodies,) if isinstance(bodies, Body) else tuple(bodies)
        return cls.of(parts, material, factor, [body.shrunk(wall_mm, ends) for body in parts])

    def transformed(self, transform_here_to_there: RigidTransform) -> Solid:
        """Return the same solid in another frame (mm)."""
        return replace(
            self,
            bodies=tuple(body.transformed(transform_here_to_there) for body in self.bodies),
            holes=tuple(body.transformed(transform_here_to_there) for body in self.holes),
        )


@dataclass(frozen=True, eq=False)
class _Table:
    """All solids as arrays; names as in ``carm_sim.drr.ray_intervals.add_chords``."""

    kinds: NDArray[np.int64]
    parameters: Array
    centers: Array
    maps: Array
    frames: Array
    spans: NDArray[np.int64]
    factors: Array
    thin: NDArray[np.bool_]

    @classmethod
    def of(cls, solids: Sequence[Solid]) -> _Table:
        bodies = [body for solid in solids for body in (*solid.bodies, *solid.holes)]
        axes = np.array([body.axes for body in bodies]).reshape(-1, 3, 3)
        sizes = np.array([body.sizes_mm for body in bodies]).reshape(-1, 3)
        ends = np.cumsum([0, *(len(part) for solid in solids for part in (solid.bodies, solid.holes))])
        spans = [(ends[2 * i], ends[2 * i + 1], ends[2 * i + 2], solid.material) for i, solid in enumerate(solids)]
        return cls(
            np.array([body.kind for body in bodies], np.int64),
            np.array([body.parameter for body in bodies], np.float64),
            np.array([body.center_mm for body in bodies]).reshape(-1, 3),
            axes.transpose(0, 2, 1) / sizes[:, :, None],
            axes * sizes[:, None, :],
            np.array(spans, np.int64).reshape(-1, 4),
            np.array([solid.factor for solid in solids], np.float64),
            np.array(
                [min(float(np.median(body.sizes_mm)) for body in solid.bodies) < THIN_MM for solid in solids], np.bool_
            ),
        )

    def places(self, view: XrayView, region: Region) -> tuple[NDArray[np.int64], Array]:
        """Return the boxes and strips of pixels of a region that may see each body (bodies, 4)."""
        reach = np.ones((len(self.kinds), 3))
        reach[self.kinds == FRUSTUM, :2] += np.abs(self.parameters[self.kinds == FRUSTUM])[:, None]
        reach[self.kinds == CAPSULE, 2] += self.parameters[self.kinds == CAPSULE]
        corners = np.einsum("bij,bcj->bci", self.frames, reach[:, None] * _CORNERS) + self.centers[:, None]
        local = (corners - view.source_mm) @ view.rotation
        depth = local[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = view.focal_px * local[..., :2] / depth[..., None] + np.asarray(view.center_px)
        low, high = pixels.min(1) - 0.5, pixels.max(1) + 0.5
        near, behind = depth.min(1) < _NEAREST_MM, depth.max(1) <= 0
        pixels[near] = 0
        left, top, right, bottom = region
        low[near], high[near] = (left, top), (right, bottom)
        limits = np.array([(left, top), (right, bottom)], dtype=np.float64)
        edges = [np.clip(np.floor(low), *limits), np.clip(np.ceil(high) + 1, *limits)]
        boxes = np.concatenate(edges, 1).astype(np.int64)
        boxes[behind] = 0
        sizes = np.linalg.norm(self.frames, axis=1)
        return boxes, _strips(pixels, near, np.where(self.kinds == BOX, sizes.argmax(1), 2))


def _strips(pixels: Array, near: NDArray[np.bool_], axes: NDArray[np.int_]) -> Array:
    """Strips along an axis (bodies,) of each body, from projected corners (bodies, 8, 2) ordered as ``_CORNERS``."""
    along = np.einsum("bci,cb->bi", pixels, _CORNERS[:, axes]) / 4
    length = np.linalg.norm(along, axis=1)
    usable = ~near & (length > 1e-3)
    normal = np.where(usable[:, None], along[:, ::-1] * (1.0, -1.0), 0.0) / np.where(usable, length, 1.0)[:, None]
    distance = np.einsum("bci,bi->bc", np.where(usable[:, None, None], pixels, 0.0), normal)
    low, high = distance.min(1), distance.max(1)
    half = (high - low) / 2 + 0.5 * np.abs(normal).sum(1) + 0.01
    return np.column_stack([normal, (low + high) / 2, half])


@dataclass(frozen=True, eq=False)
class SolidSet:
    """Solids in one frame, usually the patient's LPS.

    Attributes:
        solids: The solids; they add up where they overlap.
        samples: Rays along each side of a pixel, averaged, for solids thinner than ``THIN_MM``, which are about as
            fine as pixels; all others, and all with 1, have the ray of the pixel's center.
        threads: Threads for rendering; any number gives the same image.
    """

    solids: tuple[Solid, ...] = ()
    samples: int = 1
    threads: int = 1
    _table: _Table = field(init=False, repr=False)
    _bands: Bands = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Lay the solids out for rendering.

        Raises:
            ConfigurationError: The number of samples or threads is not positive.
        """
        if self.samples < 1 or self.threads < 1:
            raise ConfigurationError(f"samples ({self.samples}) and threads ({self.threads}) must be 1 or more")
        object.__setattr__(self, "solids", tuple(self.solids))
        object.__setattr__(self, "_table", _Table.of(self.solids))
        object.__setattr__(self, "_bands", Bands(self.threads))

    def __len__(self) -> int:
        """Return the number of solids."""
        return len(self.solids)

    def __add__(self, other: SolidSet) -> SolidSet:
        """Return the solids of both, with the finer sampling."""
        return SolidSet(self.solids + other.solids, max(self.samples, other.samples), max(self.threads, other.threads))

    def with_threads(self, threads: int) -> SolidSet:
        """Return the same solids, rendered on another number of threads."""
        return SolidSet(self.solids, self.samples, threads)

    def transformed(self, transform_here_to_there: RigidTransform) -> SolidSet:
        """Return the same solids in another frame (mm)."""
        solids = tuple(solid.transformed(transform_here_to_there) for solid in self.solids)
        return SolidSet(solids, self.samples, self.threads)

    def material_integrals(self, view: XrayView, region: Region | None, out: NDArray[np.float32]) -> None:
        """Add the path length in each material, between source and detector, to an image.

        Args:
            view: Source and detector in the solids' frame, mm.
            region: Part of the detector; None: all of it.
            out: float32 (3, rows, columns) of the region, raw orientation, mm of each ``Material``; added to.

        Raises:
            ConfigurationError: The region is empty or outside the detector, or ``out`` has the wrong shape or type.
        """
        left, top, right, bottom = area = checked_region(view, region)
        if out.shape != (len(Material), bottom - top, right - left) or out.dtype != np.float32:
            raise ConfigurationError(
                f"out must be float32 {(len(Material), bottom - top, right - left)}, not {out.dtype} {out.shape}"
            )
        if not self.solids:
            return
        table, pitch = self._table, view.detector.pitch_mm
        column, row = view.center_px
        boxes, strips = table.places(view, area)
        corner = view.source_detector_mm * view.forward - pitch * (column * view.right + row * view.down)
        steps = np.stack([corner, pitch * view.right, pitch * view.down])
        directions = np.einsum("bij,sj->bsi", table.maps, steps)
        origins = np.einsum("bij,bj->bi", table.maps, view.source_mm - table.centers)
        samples = np.where(table.thin, self.samples, 1)
        geometry = float(view.source_detector_mm), float(column), float(row), float(pitch)

        def render(first: int, last: int) -> None:
            add_chords(
                table.kinds,
                table.parameters,
                origins,
                directions,
                boxes,
                strips,
                table.spans,
                table.factors,
                geometry,
                samples,
                (left, top),
                first,
                last,
                out,
            )

        seen = boxes[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]
        if len(seen):
            first, last = int(seen[:, 1].min()) - top, int(seen[:, 3].max()) - top
            self._bands.run(lambda a, b: render(a + first, b + first), last - first, self._bands.split(last - first))
