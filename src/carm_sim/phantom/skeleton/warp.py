# SPDX-License-Identifier: Apache-2.0
"""Smooth bends on top of the rigid model: spinal curvature for the trunk, a bent neck for the head."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from carm_core.transforms import Array
from carm_sim.phantom.body import BodyPlan
from carm_sim.phantom.skeleton.anatomy import Anatomy

_TRUNK_MM = 258.0
_FADE_ABOVE, _FADE_BELOW = 0.18, 0.25


class Warp:
    """Bends points of a posed, still straight body.

    Args:
        plan: The body.
        anatomy: Points of the neutral model.
        t1_mm: T1 of the posed body, (3,).
        skull_mm: Center of the skull in the neutral model, after its random shape, (3,).
    """

    def __init__(self, plan: BodyPlan, anatomy: Anatomy, t1_mm: Array, skull_mm: Array) -> None:
        """Compute the factors that move the skull to its target."""
        self._plan, self._t1, self._anatomy = plan, t1_mm, anatomy
        self._length = _TRUNK_MM * plan.frame_scale
        lateral = plan.targets_mm[14][1]
        self._lateral = float(np.clip(lateral, -35, 35))
        wanted = plan.targets_mm[1]
        free = (skull_mm - anatomy.neck_base_mm)[2]
        base = self.neck_base[2] - t1_mm[2]
        self._head_scale = float(np.clip((-wanted[0] - base) / free, 0.82, 1.22))
        self._head_bend = float(
            np.clip(np.arcsin(np.clip(wanted[1] / (free * self._head_scale), -0.5, 0.5)), -0.4, 0.4)
        )

    @property
    def neck_base(self) -> Array:
        """Lower end of the cervical spine, (3,) in mm."""
        offset = np.asarray(self._anatomy.neck_base_mm - self._anatomy.t1_mm)
        return np.asarray(self._t1 + offset * np.array([1.0, self._plan.torso_depth, self._plan.frame_scale]))

    def trunk(self, points: Array) -> Array:
        """Bend points (N, 3) with the spine: zero at T1, ``targets[14]`` at T12, fading out beyond."""
        plan = self._plan
        down = (self._t1[2] - points[:, 2]) / self._length
        inside = np.clip(down, -0.4, 1.6)
        smooth = np.where(inside > 0, inside**2 * (1.6 - 0.6 * inside), 0.0)
        lateral = self._lateral * np.clip(smooth, 0, 1.2) + plan.scoliosis_mm * _curve(inside, plan.scoliosis_phase)
        hump = plan.kyphosis_mm * np.where(inside > 0, np.sin(np.pi * np.clip(inside, 0, 1)), 0.35 * inside)
        moved = points.copy()
        moved[:, 0] += lateral
        moved[:, 1] += hump
        return moved

    def head(self, points: Array) -> Array:
        """Place neutral-model points of head and neck, (N, 3): scaled and bent progressively from C7 up."""
        relative = (points - self._anatomy.neck_base_mm) * self._head_scale
        turn, flexion, _ = self._plan.head_rotation_rad
        fraction = np.clip(relative[:, 2] / 95.0, 0, 1)
        fraction = fraction * fraction * (3 - 2 * fraction)
        vectors = np.stack(
            [flexion * fraction, self._head_bend * np.clip(relative[:, 2] / 60.0, 0, 1), turn * fraction], 1
        )
        return np.asarray(Rotation.from_rotvec(vectors).apply(relative)) + self.neck_base

    def height_of_head(self, point: Array) -> float:
        """Return the height of a neutral-model point of the head above T1 when the head is held straight, mm."""
        raised = (point - self._anatomy.neck_base_mm)[2] * self._head_scale
        return float(raised + self.neck_base[2] - self._t1[2])


def _curve(down: Array, phase: float) -> Array:
    """Sideways bulge of a unit scoliosis: a wave with zeros at T1 (0) and T12 (1) that fades out beyond them."""

    def slope(at: float) -> float:
        return float(np.pi * np.cos(np.pi * at + phase) + 2 * np.sin(phase))

    above = np.minimum(down, 0.0)
    below = np.maximum(down - 1.0, 0.0)
    middle = np.clip(down, 0.0, 1.0)
    wave = np.sin(np.pi * middle + phase) - np.sin(phase) * (1 - 2 * middle)
    wave -= slope(0.0) * _FADE_ABOVE * (1 - np.exp(above / _FADE_ABOVE))
    return np.asarray(wave + slope(1.0) * _FADE_BELOW * (1 - np.exp(-below / _FADE_BELOW)))
