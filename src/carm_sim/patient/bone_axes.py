# SPDX-License-Identifier: Apache-2.0
"""Axes of vertebrae and scapulae from TotalSegmentator's labels of a CT.

A vertebra's head axis is the mean normal of its end plates; its left axis is that of the mirror symmetry of its mask,
projected along the head axis. A scapula's plane is that of least squares of its mask.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from carm_core.anatomy.axes import VERTEBRAE, BoneAxes, made
from carm_core.anatomy.from_landmarks import ID
from carm_core.errors import PatientError
from carm_core.transforms import Array
from carm_sim.patient.segmentation import Segmentation

_ROUNDS = 3
_PLATE_MM = {"C": (6.0, 4.0), "T": (11.0, 8.0), "L": (15.0, 10.0)}
"""How far from the body's center, left and front, columns count for the end plates, mm."""
_COLUMN_MM, _TALLEST_MM = 2.0, 24.0
_LEAST_COLUMNS = 12
_REWEIGHTED, _APART_VOXELS = 8, 1.5
_BIN_MM, _REACH_MM, _BLUR_BINS = 1.5, 60.0, 1.0
_TURNS_DEG, _COARSE_DEG, _FINE_DEG, _SHIFT_BINS = (-30.0, 30.0), 3.0, 0.5, 6
_LEFT = np.array([1.0, 0.0, 0.0])


def bone_axes(seg: Segmentation, landmarks_mm: Mapping[int, Array]) -> tuple[dict[str, BoneAxes], dict[str, str]]:
    """Return the axes of the bones that labels show whole.

    Args:
        seg: The labels.
        landmarks_mm: Landmark id to its LPS position (3,), mm, from the same labels.

    Returns:
        Axes by the bone's name, LPS, and why others that the labels hold are left out.
    """
    found: dict[str, BoneAxes] = {}
    left_out: dict[str, str] = {}
    centers = _centers(seg, landmarks_mm, left_out)
    for row, name in enumerate(VERTEBRAE):
        if name in centers:
            others = [centers[n] for n in VERTEBRAE[max(0, row - 1) : row + 2] if n in centers]
            rough = others[0] - others[-1] if len(others) > 1 else np.array([0.0, 0.0, 1.0])
            try:
                points = seg.lps(seg.mask(f"vertebrae_{name}").voxels.astype(float))
                found[name] = vertebra_axes(name, points, centers[name], rough, float(seg.spacing_mm.max()))
            except PatientError as error:
                left_out[name] = str(error)
    for side in ("left", "right"):
        name, mask = f"{side} shoulder", f"scapula_{side}"
        joint = landmarks_mm.get(ID[f"{side.capitalize()} humeral head"])
        if seg.box(mask) is None:
            continue
        if joint is None:
            left_out[name] = f"the {side} humeral head is not among the landmarks"
            continue
        try:
            blade = seg.lps(seg.whole(seg.mask(mask), mask).voxels.astype(float))
            found[name] = scapula_axes(name, blade, joint, _upward(found))
        except PatientError as error:
            left_out[name] = str(error)
    return found, left_out


def _centers(seg: Segmentation, landmarks_mm: Mapping[int, Array], left_out: dict[str, str]) -> dict[str, Array]:
    """Return the centers (3,), LPS, mm, of the bodies of the vertebrae that are whole."""
    centers = {}
    for name in VERTEBRAE:
        mask = f"vertebrae_{name}"
        if seg.box(mask) is None:
            continue
        try:
            points = seg.lps(seg.whole(seg.mask(mask), name).voxels.astype(float))
        except PatientError as error:
            left_out[name] = str(error)
            continue
        front = points[points[:, 1] < (points[:, 1].min() + points[:, 1].max()) / 2]
        centers[name] = np.asarray(landmarks_mm.get(ID[name], front.mean(axis=0)), float)
    return centers


def _upward(found: Mapping[str, BoneAxes]) -> Array:
    """Return the direction to the head of the thoracic spine, else of the CT."""
    origins = [found[name].origin_mm for name in VERTEBRAE if name in found and name[0] == "T"]
    return origins[0] - origins[-1] if len(origins) > 1 else np.array([0.0, 0.0, 1.0])


def vertebra_axes(name: str, points_mm: Array, center_mm: Array, rough_head: Array, voxel_mm: float) -> BoneAxes:
    """Return the axes of a vertebra.

    Args:
        name: For example ``"T12"``.
        points_mm: Voxels of its mask (N, 3), LPS, mm.
        center_mm: Center of its body (3,).
        rough_head: Direction of the spine there (3,).
        voxel_mm: Longest edge of the voxels, mm.

    Raises:
        PatientError: The mask shows no end plates.
    """
    axes = made(name, center_mm, rough_head, _LEFT)
    for _ in range(_ROUNDS):
        axes = made(name, center_mm, _across_plates(axes, points_mm, voxel_mm), axes.left)
        turn = np.radians(_mirror_turn_deg((points_mm - center_mm) @ axes.rotation))
        left = np.cos(turn) * axes.left + np.sin(turn) * axes.rotation[:, 1]
        axes = made(name, center_mm, axes.head, left)
    return made(name, center_mm, axes.head, axes.left, "labels: end plates; left by mirror symmetry of the mask")


def _across_plates(axes: BoneAxes, points_mm: Array, voxel_mm: float) -> Array:
    """Return the mean normal (3,) of the end plates: planes through the ends of columns through the body."""
    local = (points_mm - axes.origin_mm) @ axes.rotation
    reach = np.array(_PLATE_MM[axes.name[0]])
    near = local[((local[:, :2] / reach) ** 2).sum(axis=1) < 1.0]
    near = near[np.abs(near[:, 2]) < _TALLEST_MM]
    columns, of = np.unique(np.rint(near[:, :2] / _COLUMN_MM), axis=0, return_inverse=True)
    if len(columns) < _LEAST_COLUMNS:
        raise PatientError(f"the labels show no end plates of {axes.name}")
    normals = []
    for sign in (1.0, -1.0):
        ends = np.full(len(columns), -np.inf)
        np.maximum.at(ends, of.reshape(-1), sign * near[:, 2])
        slope = _plane(columns * _COLUMN_MM, sign * ends, voxel_mm)
        normal = np.array([-slope[0], -slope[1], 1.0])
        normals.append(normal / np.linalg.norm(normal))
    return np.asarray(axes.rotation @ np.mean(normals, axis=0))


def _plane(places_mm: Array, heights_mm: Array, voxel_mm: float) -> Array:
    """Return the slopes (2,) of the plane through heights (n,) at places (n, 2); what lies apart counts little."""
    design = np.column_stack([places_mm, np.ones(len(places_mm))])
    weights = np.ones(len(design))
    solution = np.zeros(3)
    for _ in range(_REWEIGHTED):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(root[:, None] * design, root * heights_mm, rcond=None)[0]
        weights = 1.0 / (1.0 + ((heights_mm - design @ solution) / (_APART_VOXELS * voxel_mm)) ** 2)
    return np.asarray(solution[:2])


def _mirror_turn_deg(local_mm: Array) -> float:
    """Return by how much the left axis has to turn toward the back, deg, to be that of mirror symmetry.

    Args:
        local_mm: Voxels (N, 3) in left, back, head.
    """
    centered = local_mm[:, :2] - local_mm[:, :2].mean(axis=0)
    edges = np.arange(-_REACH_MM, _REACH_MM + _BIN_MM / 2, _BIN_MM)

    def symmetry(turn_deg: float) -> float:
        c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
        turned = centered @ np.array([[c, -s], [s, c]])
        seen, _, _ = np.histogram2d(turned[:, 0], turned[:, 1], bins=[edges, edges])
        seen = ndimage.gaussian_filter(seen, _BLUR_BINS)
        mirrored = seen[::-1]
        return max(float((np.roll(mirrored, k, 0) * seen).sum()) for k in range(-_SHIFT_BINS, _SHIFT_BINS + 1))

    turns = np.arange(_TURNS_DEG[0], _TURNS_DEG[1] + 1e-9, _COARSE_DEG)
    best = float(turns[np.argmax([symmetry(turn) for turn in turns])])
    near = best + np.arange(-_COARSE_DEG, _COARSE_DEG + 1e-9, _FINE_DEG)
    curve, slope, _ = np.polyfit(near - best, [symmetry(turn) for turn in near], 2)
    return best + float(np.clip(-slope / (2 * curve), -_COARSE_DEG, _COARSE_DEG)) if curve < 0 else best


def scapula_axes(name: str, points_mm: Array, joint_mm: Array, upward: Array) -> BoneAxes:
    """Return the axes of a scapula: front across its plane, left in the plane and across the trunk.

    Args:
        name: ``"left shoulder"`` or ``"right shoulder"``.
        points_mm: Voxels of its mask (N, 3), LPS, mm.
        joint_mm: Center of the humeral head (3,), which views are centered on.
        upward: Direction to the head of the trunk (3,).
    """
    _, _, components = np.linalg.svd(points_mm - points_mm.mean(axis=0), full_matrices=False)
    back = components[2] * np.sign(components[2][1])
    left = np.cross(back, upward)
    head = np.cross(left, back)
    return made(name, joint_mm, head, left, "labels: plane of least squares of the scapula", keep_left=True)
