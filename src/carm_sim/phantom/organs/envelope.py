# SPDX-License-Identifier: Apache-2.0
"""The body around the skeleton: signed distance fields of skin, muscle and the chest cavity."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.transforms import Array
from carm_sim.phantom.body import BodyPlan
from carm_sim.phantom.grid import Field, Grid, capsule_union, compiled, fill_planes, in_slabs, smooth_min
from carm_sim.phantom.skeleton.bones import surface_points
from carm_sim.phantom.skeleton.posture import PosedSkeleton
from carm_sim.phantom.skeleton.skeleton import SIDES

_ANGLES = 72
_LEVEL_MM = 8.0
_VERTEBRA = re.compile(r"(thoracic|lumbar)(\d+)")


@dataclass(frozen=True)
class SpineCurve:
    """Centers of the vertebral bodies from L5 to T1, extended straight at both ends."""

    z_mm: Array
    xy_mm: Array

    def __call__(self, z_mm: Array | float) -> Array:
        """Return the position (..., 2) of the spine in x and y at heights z."""
        return np.stack([np.interp(z_mm, self.z_mm, self.xy_mm[:, axis]) for axis in (0, 1)], axis=-1)


@dataclass(frozen=True)
class Tube:
    """A polar surface about a vertical axis that may bend: radius by level and angle.

    Attributes:
        z_mm: Levels, shape (L,), equally spaced, ascending.
        axis_mm: X and y of the axis at each level, shape (L, 2).
        radius_mm: Shape (L, A); angle 0 points to the patient's left, a quarter turn to the back.
    """

    z_mm: Array
    axis_mm: Array
    radius_mm: Array

    def radius_at(self, z_mm: float, angle_rad: float) -> float:
        """Return the radius at the nearest level and angle."""
        level = int(np.abs(self.z_mm - z_mm).argmin())
        return float(self.radius_mm[level, round(angle_rad / (2 * np.pi) * _ANGLES) % _ANGLES])

    def closed_above(self, top_mm: float, over_mm: float = 80.0) -> Tube:
        """Return the tube, narrowing to a rounded end over the last ``over_mm`` below ``top_mm``."""
        drop = np.clip((self.z_mm - (top_mm - over_mm)) / over_mm, 0, 1)
        return Tube(self.z_mm, self.axis_mm, self.radius_mm * np.sqrt(1 - 0.97 * drop**2)[:, None])

    def inflated(self, by_mm: Array | float) -> Tube:
        """Return the same tube, thicker."""
        return Tube(self.z_mm, self.axis_mm, self.radius_mm + by_mm)


def distances(tubes: Sequence[Tube], grid: Grid) -> NDArray[np.float32]:
    """Return the signed distances (about; negative inside) to tubes about one axis, on a grid: (tubes, I, J, K)."""
    axis = tubes[0]
    out = np.empty((len(tubes), *grid.shape), np.float32)
    radii = np.stack([tube.radius_mm for tube in tubes])
    geometry = grid.origin_mm, grid.spacing_mm, axis.z_mm, axis.axis_mm, radii
    in_slabs(lambda first, last: _tube_distances(out[:, first:last], first, *geometry), grid.shape[0])
    return out


@dataclass(frozen=True)
class Envelope:
    """Signed distance fields (mm, negative inside) on a coarse grid, and what they were built from."""

    grid: Grid
    skin: Field
    muscle: Field
    cavity: Field
    chest: Tube
    spine: SpineCurve
    top_of_chest_mm: float
    fat_mm: float
    table_y_mm: float


@compiled
def _tube_distances(out: Any, first: int, origin: Any, spacing: float, z: Any, axis: Any, radii: Any) -> None:
    """Planes of the distances to tubes about one axis from number ``first`` on."""
    _, levels, angles = radii.shape
    step = z[1] - z[0]
    size_k = out.shape[3]
    level, share = np.empty(size_k, np.int64), np.empty(size_k)
    center_x, center_y = np.empty(size_k), np.empty(size_k)
    for k in range(size_k):
        s = min(max((origin[2] + k * spacing - z[0]) / step, 0.0), levels - 1.001)
        a = int(s)
        level[k], share[k] = a, s - a
        center_x[k] = axis[a, 0] + share[k] * (axis[a + 1, 0] - axis[a, 0])
        center_y[k] = axis[a, 1] + share[k] * (axis[a + 1, 1] - axis[a, 1])
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            for k in range(size_k):
                a, u = level[k], share[k]
                dx = origin[0] + (first + i) * spacing - center_x[k]
                dy = origin[1] + j * spacing - center_y[k]
                turn = np.arctan2(dy, dx) / (2 * np.pi) * angles
                if turn < 0:
                    turn += angles
                b = int(turn) % angles
                c = (b + 1) % angles
                v = turn - int(turn)
                distance = np.sqrt(dx * dx + dy * dy)
                for t in range(out.shape[0]):
                    radius = radii[t]
                    low = radius[a, b] + v * (radius[a, c] - radius[a, b])
                    high = radius[a + 1, b] + v * (radius[a + 1, c] - radius[a + 1, b])
                    r = low + u * (high - low)
                    bend = (radius[a, c] - radius[a, b]) * angles / (2 * np.pi)
                    slope = 1.0 / np.sqrt(1.0 + (bend / max(r, 20.0)) ** 2)
                    out[t, i, j, k] = (distance - r) * slope


def spine_curve(skeleton: PosedSkeleton) -> SpineCurve:
    """Return the spine through the bodies of L5 to T1."""
    centers = []
    for name, bone in skeleton.bones.items():
        if _VERTEBRA.search(name):
            front = bone.vertices[:, 1] < np.median(bone.vertices[:, 1])
            centers.append(bone.vertices[front].mean(0))
    ordered = np.array(sorted(centers, key=lambda point: float(point[2])))
    return SpineCurve(ordered[:, 2], ordered[:, :2])


def fit_tube(
    points_mm: Array, spine: SpineCurve, forward_mm: float, z_range: tuple[float, float], outermost: bool,
    blur: tuple[float, float] = (1.8, 2.2),
) -> Tube:  # fmt: skip
    """Return a smooth tube through a cloud of points (N, 3), around an axis ``forward_mm`` in front of the spine."""
    z = np.arange(z_range[0], z_range[1] + _LEVEL_MM, _LEVEL_MM)
    axis = spine(z) - np.array([0.0, forward_mm])
    level = np.round((points_mm[:, 2] - z[0]) / _LEVEL_MM).astype(int)
    points_mm, level = points_mm[(level >= 0) & (level < len(z))], level[(level >= 0) & (level < len(z))]
    offset = points_mm[:, :2] - axis[level]
    distance = np.hypot(offset[:, 0], offset[:, 1])
    angle = np.floor(np.arctan2(offset[:, 1], offset[:, 0]) / (2 * np.pi) * _ANGLES).astype(int) % _ANGLES
    extreme = np.full((len(z), _ANGLES), -np.inf if outermost else np.inf)
    (np.maximum if outermost else np.minimum).at(extreme, (level, angle), distance)
    known = np.isfinite(extreme)
    value, weight = np.where(known, extreme, 0.0), known.astype(float)
    radius = np.zeros_like(value)
    total = np.zeros_like(value)
    for factor, share in ((1.0, 1.0), (3.0, 1e-2), (9.0, 1e-4)):
        sigma = (blur[0] * factor, blur[1] * factor)
        radius += share * ndimage.gaussian_filter(value, sigma, mode=("nearest", "wrap"))
        total += share * ndimage.gaussian_filter(weight, sigma, mode=("nearest", "wrap"))
    return Tube(z, axis, radius / np.maximum(total, 1e-12))


def _vertices(skeleton: PosedSkeleton, pattern: str) -> Array:
    """Return the vertices and face centers of the bones whose name matches."""
    clouds = []
    for name, bone in skeleton.bones.items():
        if re.search(pattern, name):
            clouds += [bone.vertices, bone.vertices[bone.faces].mean(1)]
    return np.concatenate(clouds)


def _belly_points(plan: BodyPlan, spine: SpineCurve, ribs: Array, pelvis: Array, forward: float) -> Array:
    """Where the abdominal wall runs between costal margin and pelvis (no bone tells)."""
    top, bottom = float(np.percentile(ribs[:, 2], 22)), float(pelvis[:, 2].min()) + 20
    front = forward - float(np.percentile(ribs[:, 1], 1) - spine(float(ribs[:, 2].mean()))[1]) - 2 * forward
    half_width = float(np.ptp(ribs[:, 0])) / 2
    points = []
    bulge = 0.80 + 0.44 * plan.fatness
    waist = 0.86 + 0.26 * plan.fatness
    for z in np.arange(bottom, top, 6.0):
        center = spine(z) - np.array([0.0, forward])
        share = (z - bottom) / (top - bottom)
        depth = front * (bulge + (0.97 - bulge) * share**3) * (0.84 + 0.16 * min(1.0, 4 * share))
        width = half_width * (waist + (0.97 - waist) * abs(2 * share - 1) ** 2)
        for angle in np.linspace(-np.pi, 0, 25)[2:-2]:
            radius = 1 / ((abs(np.cos(angle)) / width) ** 2.3 + (abs(np.sin(angle)) / depth) ** 2.3) ** (1 / 2.3)
            points.append([center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle), z])
    return np.array(points)


def _capsules(plan: BodyPlan, skeleton: PosedSkeleton, spine: SpineCurve, fat: float) -> tuple[Array, Array]:
    """Return the shoulder girdle, neck and thighs; then free limbs. Each (N, 8); ``fat`` is added to the radii."""
    joint, marks, bulk = skeleton.joints_mm, skeleton.landmarks_mm, plan.muscle * plan.frame_scale**0.5
    t1 = marks[10]
    cervical = skeleton.bones["hat_cervical"].vertices
    levels = np.linspace(cervical[:, 2].min(), cervical[:, 2].max(), 4)
    neck = [cervical[np.abs(cervical[:, 2] - z) < 14].mean(0) + np.array([0, -16.0, 0]) for z in levels]
    near: list[list[float]] = []
    far: list[list[float]] = []

    def add(store: list[list[float]], start: Array, end: Array, first: float, last: float, share: float) -> None:
        store.append([*start, *end, first + share * fat, last + share * fat])

    neck_radius = (50.0 + 6 * (not plan.female)) * plan.frame_scale**0.5
    for lower, upper in itertools.pairwise(neck):
        add(near, lower, upper, neck_radius, neck_radius - 1, 0.55)
    for side, sign in SIDES.items():
        shoulder, acromion = joint[f"shoulder_{side}"], joint[f"acromion_{side}"]
        elbow, wrist, hand = joint[f"elbow_{side}"], joint[f"wrist_{side}"], joint[f"hand_{side}"]
        angle = marks[4 if side == "r" else 5]
        add(near, neck[1] + np.array([sign * 16, 22.0, 0]), acromion, 30 * bulk, 19 * bulk, 0.5)
        add(near, acromion, angle + np.array([0, 4.0, 4]), 23 * bulk, 20 * bulk, 0.6)
        spine_end = np.array([*(spine(float(angle[2] + 50))), angle[2] + 50]) + np.array([sign * 25, 42.0, 0])
        add(near, spine_end, 0.5 * (acromion + angle) + np.array([-sign * 20, 0.0, 0]), 20 * bulk, 20 * bulk, 0.6)
        throat = t1 + np.array([sign * 26, -42.0 * plan.torso_depth, -14])
        add(near, throat, acromion + np.array([0, -8.0, 2]), 27 * bulk, 23 * bulk, 0.5)
        add(near, shoulder, acromion, 42 * bulk, 24 * bulk, 0.5)
        add(near, t1 + np.array([sign * 40, -72 * plan.torso_depth, -55]), shoulder, 17 * bulk, 31 * bulk, 0.6)
        add(near, angle, shoulder + 0.22 * (elbow - shoulder), 17 * bulk, 27 * bulk, 0.7)
        if elbow[2] > shoulder[2]:
            add(near, angle, angle + np.array([-sign * 34, 0.0, -110.0]), 20 * bulk, 8 * bulk, 0.5)
        add(near, shoulder, shoulder + 0.35 * (elbow - shoulder), 40 * bulk, 40 * bulk, 0.6)
        add(far, shoulder + 0.25 * (elbow - shoulder), elbow, 40 * bulk, 31 * bulk, 0.6)
        add(far, elbow, elbow + 0.3 * (wrist - elbow), 33 * bulk, 35 * bulk, 0.35)
        add(far, elbow + 0.3 * (wrist - elbow), wrist, 35 * bulk, 22.0, 0.3)
        add(far, wrist, hand, 21.0, 17.0, 0.12)
        for name, bone in skeleton.bones.items():
            if name.endswith(f"_{side}") and re.match(r"^(\d(mc|proxph|midph|distph)|thumb)", name):
                ends = _ends(bone.vertices)
                add(far, ends[0], ends[1], *((11.0, 10.0) if "mc" in name else (7.5, 7.0)), 0.05)
        femur = skeleton.bones[f"{side}_femur"].vertices
        top, bottom = (
            femur[femur[:, 2] > femur[:, 2].max() - 60].mean(0),
            femur[femur[:, 2] < femur[:, 2].min() + 60].mean(0),
        )
        add(near, top + np.array([0, 0, -10.0]), bottom, 72 * bulk, 52 * bulk, 1.0)
        if f"{side}_tibia" not in skeleton.bones:
            continue
        knee, ankle, toes = (joint[f"{name}_{side}"] for name in ("knee", "ankle", "toes"))
        calf = knee + 0.3 * (ankle - knee) + np.array([0, 14.0, 0])
        add(far, bottom, knee, 52 * bulk, 48 * bulk, 0.8)
        add(far, knee, calf, 46 * bulk, 50 * bulk, 0.5)
        add(far, calf, ankle, 50 * bulk, 34.0, 0.4)
        heel, ball = ankle + np.array([0, 38.0, -26.0]), toes + np.array([0, -8.0, 4.0])
        add(far, heel, ball, 27.0, 24.0, 0.1)
        add(far, ankle, ball, 32.0, 22.0, 0.1)
        add(far, ball, ball + 0.45 * (ball - heel), 23.0, 12.0, 0.1)
    return np.array(near), np.array(far)


def _ends(vertices: Array) -> Array:
    center = vertices.mean(0)
    _, _, axes = np.linalg.svd(vertices - center, full_matrices=False)
    along = (vertices - center) @ axes[0]
    return np.stack([center + along.min() * axes[0], center + along.max() * axes[0]])


def _head_distance(skeleton: PosedSkeleton, grid: Grid) -> tuple[tuple[slice, slice, slice], Field]:
    """Return the signed distance to the closed hull of skull and jaw, in a box of the grid."""
    rng = np.random.default_rng(0)
    shells = [surface_points(skeleton.bones[name], 0.2, rng)[0] for name in ("hat_skull", "hat_jaw")]
    points = np.concatenate([*shells, _vertices(skeleton, "hat_skull|hat_jaw")])
    box = grid.box(points.min(0) - 48, points.max(0) + 48)
    part = grid.part(box)
    index = np.round(part.index_of(points)).astype(int)
    index = index[((index >= 0) & (index < np.array(part.shape))).all(1)]
    solid = np.zeros(part.shape, bool)
    solid[tuple(index.T)] = True
    solid = ndimage.binary_closing(np.pad(solid, 8), iterations=5)[8:-8, 8:-8, 8:-8]
    for axis in range(3):
        fill_planes(np.moveaxis(solid, axis, 0))
    outside, inside = ndimage.distance_transform_edt(~solid), ndimage.distance_transform_edt(solid)
    distance = ndimage.gaussian_filter((outside - inside).astype(np.float32), 1.0) * np.float32(grid.spacing_mm)
    return box, distance


def build_envelope(plan: BodyPlan, skeleton: PosedSkeleton, grid: Grid, rng: np.random.Generator) -> Envelope:
    """Return the signed distance fields of skin, muscle and chest cavity.

    Args:
        plan: The body.
        skeleton: Its posed skeleton, with bones.
        grid: The coarse grid to work on (about 4 mm).
        rng: Source of randomness.
    """
    spine = spine_curve(skeleton)
    forward = 58.0 * plan.torso_depth
    ribs = _vertices(skeleton, "ribcage")
    pelvis = _vertices(skeleton, "pelvis")
    wall = np.concatenate(
        [ribs, pelvis, _vertices(skeleton, "thoracic|lumbar|sacrum"), _belly_points(plan, spine, ribs, pelvis, forward)]
    )
    low, high = float(pelvis[:, 2].min()) - 150, float(ribs[:, 2].max()) + 24
    outer = fit_tube(wall, spine, forward, (low, high), outermost=True)
    if plan.style == "validation":
        outer = _superellipse(outer, 2.4)
    chest = fit_tube(ribs, spine, forward, (low, high), outermost=False, blur=(2.2, 3.0)).inflated(-2.0)
    fat = 3.0 + 26.0 * plan.fatness**1.3 * rng.uniform(0.8, 1.2) + (2.0 if plan.female else 0.0)
    muscle_thickness, fat_thickness = _layers(plan, outer, skeleton, fat)
    back = np.concatenate([ribs, _vertices(skeleton, "thoracic|scapula")])
    table = float(max(np.percentile(back[:, 1], 99.8), pelvis[:, 1].max() - 30)) + 15.0 + 0.45 * fat
    head_box, head = _head_distance(skeleton, grid)
    inner_cavity, top = _cavity_tube(plan, chest, skeleton)
    thicknesses = muscle_thickness, muscle_thickness + fat_thickness
    layers = [outer.inflated(thickness).closed_above(high - 12) for thickness in thicknesses]
    muscle, skin, cavity = distances([*layers, inner_cavity], grid)
    z = grid.axes()[2]
    np.maximum(cavity, z - np.float32(top), out=cavity)
    fields = []
    for covered, field in enumerate((muscle, skin)):
        np.maximum(field, (z - np.float32(high - 16)) * np.float32(0.8), out=field)
        if "r_tibia" in skeleton.bones:
            field = -smooth_min(-field, -_above_perineum(pelvis, grid), 40.0)
        near, far = _capsules(plan, skeleton, spine, fat if covered else 0.0)
        if covered:
            near = np.concatenate([near, _breasts(plan, skeleton, outer, muscle_thickness, rng)])
        capsule_union(field, grid.origin_mm, grid.spacing_mm, near, 26.0)
        field[head_box] = smooth_min(
            field[head_box], head - np.float32(4.0 + (0.25 * fat + 2.0 if covered else 0.0)), 12.0
        )
        capsule_union(field, grid.origin_mm, grid.spacing_mm, far, 9.0)
        np.maximum(field, grid.axes()[1] - np.float32(table - (0 if covered else 3 + 0.3 * fat)), out=field)
        fields.append(field)
    return Envelope(grid, fields[1], fields[0], cavity, chest, spine, top, fat, table)


def _above_perineum(pelvis: Array, grid: Grid) -> Field:
    """Distance to the pelvic floor, positive below it: lowest in the middle, rising towards the thighs, (I, J, K)."""
    x, _, z = grid.axes()
    middle = np.float32((pelvis[:, 0].min() + pelvis[:, 0].max()) / 2)
    floor = np.float32(pelvis[:, 2].min()) + np.float32(0.005) * (x - middle) ** 2
    return np.asarray(np.broadcast_to((floor - z) * np.float32(0.85), grid.shape))


def _superellipse(tube: Tube, power: float) -> Tube:
    """Return the tube with each level replaced by a superellipse of the same half axes."""
    angle = np.arange(_ANGLES) / _ANGLES * 2 * np.pi
    quarter = _ANGLES // 4
    left, back, right, front = (tube.radius_mm[:, index] for index in (0, quarter, 2 * quarter, 3 * quarter))
    half_x = np.where(np.cos(angle) > 0, left[:, None], right[:, None])
    half_y = np.where(np.sin(angle) > 0, back[:, None], front[:, None])
    radius = ((np.abs(np.cos(angle)) / half_x) ** power + (np.abs(np.sin(angle)) / half_y) ** power) ** (-1 / power)
    return Tube(tube.z_mm, tube.axis_mm, 0.7 * radius + 0.3 * tube.radius_mm)


def _layers(plan: BodyPlan, outer: Tube, skeleton: PosedSkeleton, fat: float) -> tuple[Array, Array]:
    """Return the thickness of muscle and of subcutaneous fat over the torso, by level and angle, each (L, A) in mm."""
    angle = np.arange(_ANGLES) / _ANGLES * 2 * np.pi
    front, side = np.maximum(-np.sin(angle), 0), np.abs(np.cos(angle))
    t1, t12 = skeleton.landmarks_mm[10][2], skeleton.landmarks_mm[14][2]
    height = ((outer.z_mm - t12) / (t1 - t12))[:, None]
    pectoral = np.exp(-(((height - 0.75) / 0.25) ** 2)) * np.exp(-(((side - 0.55) / 0.3) ** 2)) * (front > 0.2)
    lateral = 6 * side * np.clip(height + 0.3, 0, 1)
    muscle = plan.muscle * (8 + lateral + 12 * pectoral + 4 * (1 - front) * (1 - side))
    belly = np.exp(-(((height + 0.35) / 0.55) ** 2))
    layer = fat * (0.75 + 0.75 * belly * (0.5 + front) + 0.25 * side * belly)
    return np.asarray(muscle), np.asarray(np.broadcast_to(layer, muscle.shape))


def _breasts(plan: BodyPlan, skeleton: PosedSkeleton, outer: Tube, muscle: Array, rng: np.random.Generator) -> Array:
    if not plan.female:
        size = rng.uniform(4, 12) + 14 * plan.fatness
    else:
        size = rng.uniform(14, 32) + 26 * plan.fatness
    t1, t12 = skeleton.landmarks_mm[10][2], skeleton.landmarks_mm[14][2]
    level = t1 + (t12 - t1) * rng.uniform(0.58, 0.72)
    index = int(np.abs(outer.z_mm - level).argmin())
    capsules = []
    for sign in SIDES.values():
        turn = -np.pi / 2 + sign * rng.uniform(0.75, 0.95)
        column = round(turn / (2 * np.pi) * _ANGLES) % _ANGLES
        radius = 42.0 + 0.7 * size
        reach = outer.radius_mm[index, column] + muscle[index, column] + size - radius
        center = outer.axis_mm[index] + reach * np.array([np.cos(turn), np.sin(turn)])
        capsules.append([*center, level, center[0] + sign * 8, center[1] + 4, level - 12, radius, radius])
    return np.array(capsules)


def _cavity_tube(plan: BodyPlan, chest: Tube, skeleton: PosedSkeleton) -> tuple[Tube, float]:
    """Inside of the rib cage, narrowing towards the apices, and their height, mm."""
    t1, t12 = skeleton.landmarks_mm[10][2], skeleton.landmarks_mm[14][2]
    top = t1 + 0.02 * (t1 - t12) + 4.0
    drop = np.clip((top - chest.z_mm) / (0.30 * (t1 - t12)), 0.0, 1.0)
    narrowed = chest.radius_mm * (0.25 + 0.75 * np.sqrt(1 - (1 - drop) ** 2))[:, None]
    tube = Tube(chest.z_mm, chest.axis_mm, narrowed)
    if plan.style == "validation":
        tube = _superellipse(tube, 2.7)
    return tube, float(top)
