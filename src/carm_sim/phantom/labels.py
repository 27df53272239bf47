# SPDX-License-Identifier: Apache-2.0
"""What TotalSegmentator would say of a generated body's bones."""

from __future__ import annotations

import re

import numpy as np

from carm_sim.patient.segmentation import STRUCTURES, Segmentation
from carm_sim.phantom.body import plan_body
from carm_sim.phantom.grid import Grid
from carm_sim.phantom.skeleton.bones import masks
from carm_sim.phantom.skeleton.posture import pose_skeleton
from carm_sim.phantom.skeleton.shape import vertebra_of

_MARGIN_MM = 12.0
_SIDES = {"r": "right", "l": "left"}


def structure_of(mesh: str) -> str | None:
    """Return TotalSegmentator's name of a bone by the name of its mesh; None: it is not labeled here."""
    vertebra = vertebra_of(mesh)
    if vertebra:
        return f"vertebrae_{vertebra}"
    if mesh.startswith("sacrum"):
        return "sacrum"
    blade, hip = re.fullmatch(r"scapula_([rl])", mesh), re.fullmatch(r"([rl])_pelvis", mesh)
    if blade:
        return f"scapula_{_SIDES[blade[1]]}"
    return f"hip_{_SIDES[hip[1]]}" if hip else None


def phantom_labels(seed: int, style: str = "standard", spacing_mm: float = 1.5) -> Segmentation:
    """Return the labels of thoracic and lumbar vertebrae, sacrum, hip bones and scapulae, exact to a voxel.

    Args:
        seed: As for ``generate_phantom``.
        style: As there.
        spacing_mm: Edge length of the voxels.
    """
    bones = {
        name: bone
        for name, bone in pose_skeleton(plan_body(seed, style, None)).bones.items()
        if structure_of(name) is not None
    }
    points = np.concatenate([bone.vertices for bone in bones.values()])
    grid = Grid.around(points.min(0) - _MARGIN_MM, points.max(0) + _MARGIN_MM, spacing_mm)
    labels = np.zeros(grid.shape, np.uint16)
    for name, box, filled in masks(bones.values(), grid):
        labels[box][filled] = STRUCTURES[structure_of(name) or ""]
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = grid.origin_mm
    return Segmentation(labels, affine, STRUCTURES)
