# SPDX-License-Identifier: Apache-2.0
"""Random bodies with exact landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_sim.patient.volume import Volume
from carm_sim.phantom.body import BodyPlan, plan_body
from carm_sim.phantom.grid import Grid
from carm_sim.phantom.organs.abdomen import build_abdomen
from carm_sim.phantom.organs.chest import build_chest
from carm_sim.phantom.organs.envelope import build_envelope
from carm_sim.phantom.organs.tissue import draw_tissue, fill_tissue
from carm_sim.phantom.record import BodyRecord, body_record
from carm_sim.phantom.skeleton.bones import rasterize
from carm_sim.phantom.skeleton.posture import PosedSkeleton, pose_skeleton
from carm_sim.phantom.skeleton.skeleton import SIDES

GENERATOR_VERSION = 10

BELOW_T1_MM = 620.0
_MARGIN_MM = 62.0
_COARSE = 2
_LATTICE_VOXELS = 6
"""Grids of a body begin at multiples of so many voxels: what lies in both of two has the same voxels in both."""


@dataclass(frozen=True)
class PhantomBody:
    """A generated body.

    Attributes:
        seed: Its seed.
        style: ``standard`` or ``validation``.
        volume: CT in LPS.
        landmarks_mm: Landmark id to LPS position (3,) in mm, exact; only landmarks inside the volume.
        anatomical_landmarks_mm: All fourteen, also those that a cropped volume does not cover.
        extra_landmarks_mm: Id of each of ``carm_core.landmarks.EXTRA_LANDMARKS`` to its LPS position (3,) in mm, exact,
            whether inside the volume or not.
        record: Who the body belongs to: sex, age, stature, mass, ... .
    """

    seed: int
    style: str
    volume: Volume
    landmarks_mm: dict[int, NDArray[np.float64]]
    anatomical_landmarks_mm: dict[int, NDArray[np.float64]]
    extra_landmarks_mm: dict[int, NDArray[np.float64]]
    record: BodyRecord


def sample_landmarks(seed: int, style: str = "standard", arms: str | None = None) -> dict[int, NDArray[np.float64]]:
    """Return the landmarks of a body without building it (fast): id to LPS position in mm.

    Depths of carina and hemidiaphragms are approximate here; the coronal plane is as in the built body.
    """
    return pose_skeleton(plan_body(seed, style, arms), with_bones=False).landmarks_mm


def sample_extra_landmarks(
    seed: int, style: str = "standard", arms: str | None = None
) -> dict[int, NDArray[np.float64]]:
    """``PhantomBody.extra_landmarks_mm`` of a body without building it (fast)."""
    return pose_skeleton(plan_body(seed, style, arms), with_bones=False).extra_mm


def generate_phantom(
    seed: int, spacing_mm: float = 2.0, style: str = "standard", arms: str | None = None, whole_body: bool = False
) -> PhantomBody:
    """Generate a body.

    Args:
        seed: Whole number from 0; the same seed gives the same body.
        spacing_mm: Edge length of the cubic voxels.
        style: ``standard``, or ``validation`` for bodies made in a deliberately different way.
        arms: ``crossed``, ``along``, ``one_up`` or ``raised``; None draws it. The trunk stays the same, unless arms are
            raised: that takes breath.
        whole_body: Whether the volume reaches to the feet, not only to the thighs. The same body, with other fine
            texture, in half as much time again.
    """
    plan = plan_body(seed, style, arms)
    skeleton = pose_skeleton(plan, lower_legs=whole_body)
    grid = _grid_for(plan, skeleton, spacing_mm)
    rng = np.random.default_rng([seed, 3, len(style)])
    tissue = draw_tissue(plan, rng)
    envelope = build_envelope(plan, skeleton, grid.coarse(_COARSE), rng)
    chest = build_chest(plan, skeleton, envelope, rng)
    abdomen = build_abdomen(plan, skeleton, envelope, chest, rng)
    bones = rasterize(skeleton.bones.values(), grid, tissue.cortex_scale, rng)
    hu = fill_tissue(plan, grid, envelope, chest, abdomen, bones, tissue, rng)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = grid.origin_mm
    np.clip(np.rint(hu, out=hu), -1000, 3000, out=hu)
    volume = Volume(hu.astype(np.int16), affine)
    landmarks = {key: np.asarray(point) for key, point in sorted((skeleton.landmarks_mm | chest.landmarks_mm).items())}
    inside = {key: point for key, point in landmarks.items() if bool(volume.contains(point))}
    extra = {key: np.asarray(point) for key, point in sorted(skeleton.extra_mm.items())}
    record = body_record(plan, skeleton, volume)
    return PhantomBody(seed, style, volume, inside, landmarks, extra, record)


def _grid_for(plan: BodyPlan, skeleton: PosedSkeleton, spacing_mm: float) -> Grid:
    """Return the grid from below the hips to above the head, and around every landmark."""
    t1 = skeleton.landmarks_mm[10]
    marks = np.array(list(skeleton.landmarks_mm.values()))
    bottom = min(t1[2] - BELOW_T1_MM, marks[:, 2].min() - 110)
    if "r_foot" in skeleton.bones:
        bottom = min(skeleton.bones[f"{side}_foot"].vertices[:, 2].min() for side in SIDES) - 45
    head = skeleton.bones["hat_skull"].vertices[:, 2].max()
    top = max(head + 24, marks[:, 2].max() + 75)
    points = np.concatenate([bone.vertices for bone in skeleton.bones.values()])
    points = points[(points[:, 2] > bottom) & (points[:, 2] < top)]
    low, high = points.min(0) - _MARGIN_MM, points.max(0) + _MARGIN_MM
    low[1] = min(low[1], skeleton.belly_front_mm - 60 - 70 * plan.fatness)
    lattice = _LATTICE_VOXELS * spacing_mm
    start = np.floor(np.array([low[0], low[1], bottom]) / lattice) * lattice
    return Grid.around(start, np.array([high[0], high[1], top]), spacing_mm)
