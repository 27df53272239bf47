# SPDX-License-Identifier: Apache-2.0
"""Bone surfaces to cortical and interior fractions of voxels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.transforms import Array
from carm_sim.phantom.grid import Field, Grid, compiled, fill_planes, in_order, splat
from carm_sim.phantom.skeleton.skeleton import Bone

_CORTEX_MM = (
    (r"humerus|femur|tibia", 2.6),
    (r"ulna|radius|fibula", 2.0),
    (r"thoracic|lumbar|cervical", 0.5),
    (r"rib", 0.75),
    (r"scapula", 1.0),
    (r"clavicle", 1.5),
    (r"pelvis|sacrum", 1.1),
    (r"jaw", 1.6),
)
_DEFAULT_CORTEX_MM = 0.8
_OPEN_MESHES = re.compile(
    r"humerus|femur|tibia|fibula|ulna|radius|scapula|clavicle|pelvis|jaw|cervical|pisiform|5distph"
)
_SKULL_LAYERS = ((0.0, 1.5), (1.6, 1.0), (3.2, 0.9), (4.8, 1.3))
_POINTS_PER_VOXEL_FACE = 2.2
_R2 = (0.7548776662466927, 0.5698402909980532)  # low-discrepancy sequence in the plane (Roberts)


_Part = tuple[tuple[slice, slice, slice], Field, Field | None]


@dataclass(frozen=True)
class BoneFractions:
    """Share of each voxel that is cortical bone, and that lies inside a bone (the cortex included), (I, J, K) each."""

    cortical: Field
    inside: Field


def surface_points(bone: Bone, per_mm2: float, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return the evenly spread points on a bone's surface.

    Returns:
        Points (N, 3) in mm, the area (N,) in mm^2 that each stands for, and outward normals (N, 3).
    """
    return _spread(bone, per_mm2, float(rng.random()), int(rng.integers(1000)))


def _spread(bone: Bone, per_mm2: float, offset: float, begin: int) -> tuple[Array, Array, Array]:
    """As ``surface_points``, with what is random given: share of a point, start of the sequence."""
    corner = bone.vertices[bone.faces]
    cross = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    double_area = np.linalg.norm(cross, axis=1)
    running = np.cumsum(double_area / 2 * per_mm2) + offset
    count = np.diff(np.floor(running), prepend=0).astype(int)
    face = np.repeat(np.arange(len(count)), count)
    order = np.arange(len(face)) + begin
    u, v = (order * _R2[0]) % 1, (order * _R2[1]) % 1
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    points = (
        corner[face, 0]
        + u[:, None] * (corner[face, 1] - corner[face, 0])
        + v[:, None] * (corner[face, 2] - corner[face, 0])
    )
    normals = cross / np.maximum(double_area, 1e-12)[:, None]
    return points, np.full(len(face), 1 / per_mm2), normals[face]


@compiled
def _lay_down(field, mass):  # type: ignore[no-untyped-def]
    """Add, up to 1, in place."""
    for i in range(field.shape[0]):
        for j in range(field.shape[1]):
            for k in range(field.shape[2]):
                field[i, j, k] = min(field[i, j, k] + mass[i, j, k], np.float32(1))


@compiled
def _cover(field, share):  # type: ignore[no-untyped-def]
    """Take the larger of both, in place."""
    for i in range(field.shape[0]):
        for j in range(field.shape[1]):
            for k in range(field.shape[2]):
                field[i, j, k] = max(field[i, j, k], share[i, j, k])


def rasterize(bones: Iterable[Bone], grid: Grid, cortex_scale: float, rng: np.random.Generator) -> BoneFractions:
    """Return the fractions of cortical bone and bone interior.

    The cortex is laid down as mass (surface area times thickness): thin shells keep their line integrals on any grid.

    Args:
        bones: Surfaces in mm.
        grid: Where to.
        cortex_scale: Factor on the cortical thickness.
        rng: Source of surface points.
    """
    cortical = np.zeros(grid.shape, np.float32)
    inside = np.zeros(grid.shape, np.float32)
    calcification_free = np.float32(rng.uniform(0.75, 0.98))
    per_mm2 = _POINTS_PER_VOXEL_FACE / grid.spacing_mm**2
    drawn = [(bone, float(rng.random()), int(rng.integers(1000))) for bone in bones]

    def one(job: tuple[Bone, float, int]) -> _Part | None:
        bone, offset, begin = job
        return _part_of(bone, _spread(bone, per_mm2, offset, begin), grid, cortex_scale, calcification_free)

    for found in in_order(one, drawn):
        if found is not None:
            box, shell, inner = found
            _lay_down(cortical[box], shell)
            if inner is not None:
                _cover(inside[box], inner)
    return BoneFractions(cortical, inside)


def masks(bones: Iterable[Bone], grid: Grid) -> Iterator[tuple[str, tuple[slice, slice, slice], NDArray[np.bool_]]]:
    """Yield of each bone its name, its box in a grid, and which of the box's voxels it fills, as a segmentation has it.

    Args:
        bones: Surfaces in mm; those that the grid does not hold are left out.
        grid: Where to.
    """
    per_mm2 = _POINTS_PER_VOXEL_FACE / grid.spacing_mm**2
    for bone in bones:
        found = _part_of(bone, _spread(bone, per_mm2, 0.5, 0), grid, 1.0, np.float32(0.0))
        if found is not None and found[2] is not None:
            yield bone.name, found[0], found[2] > 0.5


def _part_of(
    bone: Bone, surface: tuple[Array, Array, Array], grid: Grid, cortex_scale: float, calcification_free: np.float32
) -> _Part | None:
    """Box of one bone, its cortical fraction there, and its interior unless it is the skull; None: not in the grid."""
    points, area, normals = surface
    index = grid.index_of(points)
    within = ((index > 1) & (index < np.array(grid.shape) - 2)).all(1)
    if within.sum() < 30:
        return None
    box = grid.box(points[within].min(0) - 3 * grid.spacing_mm, points[within].max(0) + 3 * grid.spacing_mm)
    part = grid.part(box)
    shell = np.zeros(part.shape, np.float32)
    if "ribcage" in bone.name:
        area = area * (1 - calcification_free * cartilage_share(bone, points))
    if "skull" in bone.name:
        for depth, thickness in _SKULL_LAYERS:
            mass = area * thickness * cortex_scale / grid.spacing_mm**3
            splat(shell, part.index_of(points - depth * normals), mass)
        return box, shell, None
    splat(shell, part.index_of(points), area * _thickness(bone.name) * cortex_scale / grid.spacing_mm**3)
    inner = _interior(bone.name, part, shell, part.index_of(points))
    if "ribcage" in bone.name:
        inner *= 1 - 0.6 * _cartilage_field(bone, part)
    return box, shell, inner


def cartilage_share(ribcage: Bone, points_mm: Array) -> Array:
    """Share of costal cartilage (0 to 1) at points (N, 3) of the rib cage, mm: its front part beside the sternum.

    The mesh draws ribs and cartilage as one surface; cartilage starts within 45 mm behind the sternum's front.
    """
    middle, line = _sternal_front(ribcage)
    behind = points_mm[:, 1] - np.polyval(line, points_mm[:, 2])
    beside = np.abs(points_mm[:, 0] - middle)
    return np.asarray(np.clip((53.0 - behind) / 16.0, 0, 1) * np.clip((beside - 14.0) / 8.0, 0, 1))


def _sternal_front(ribcage: Bone) -> tuple[float, Array]:
    """Return the middle of the rib cage along x, mm, and the line y(z) along the front of its sternum."""
    vertices = ribcage.vertices
    middle = float(np.median(vertices[:, 0]))
    central = vertices[np.abs(vertices[:, 0] - middle) < 15]
    front = central[central[:, 1] < np.quantile(central[:, 1], 0.5)]
    return middle, np.polyfit(front[:, 2], front[:, 1], 1)


def _cartilage_field(ribcage: Bone, part: Grid) -> Field:
    middle, line = _sternal_front(ribcage)
    x, y, z = part.axes()
    behind = y - np.polyval(line, z).astype(np.float32)
    beside = np.abs(x - np.float32(middle))
    return np.asarray(np.clip((53.0 - behind) / 16.0, 0, 1) * np.clip((beside - 14.0) / 8.0, 0, 1))


def _thickness(name: str) -> float:
    return next((value for pattern, value in _CORTEX_MM if re.search(pattern, name)), _DEFAULT_CORTEX_MM)


def _interior(name: str, part: Grid, shell: Field, index: NDArray[np.float64]) -> Field:
    """Return the soft-edged interior of a surface.

    A closed surface is sealed by every voxel that holds a share of it, filled, and peeled by one voxel. One with holes
    is filled plane by plane.
    """
    nearest = np.round(index).astype(int)
    nearest = nearest[((nearest >= 0) & (nearest < np.array(part.shape))).all(1)]
    surface = np.zeros(part.shape, bool)
    surface[tuple(nearest.T)] = True
    if not _OPEN_MESHES.search(name):
        solid = ndimage.binary_erosion(ndimage.binary_fill_holes(shell > 0)) | surface
    else:
        solid = ndimage.binary_closing(surface, iterations=1) | surface
        for axis in range(3):
            fill_planes(np.moveaxis(solid, axis, 0))
    return np.asarray(ndimage.gaussian_filter(solid.astype(np.float32), 0.6))
