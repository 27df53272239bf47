# SPDX-License-Identifier: Apache-2.0
"""Contents of the abdomen that a radiograph shows: liver, spleen, kidneys, stomach bubble, bowel gas."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from carm_core.transforms import Array
from carm_sim.phantom.body import BodyPlan
from carm_sim.phantom.grid import Field, capsule_union, smooth_noise
from carm_sim.phantom.organs.chest import FAR_MM, Chest
from carm_sim.phantom.organs.envelope import Envelope
from carm_sim.phantom.skeleton.posture import PosedSkeleton


@dataclass(frozen=True)
class Abdomen:
    """Signed distance fields (mm, negative inside) on the envelope's coarse grid.

    Attributes:
        cavity: Inside of the abdominal wall, below the diaphragm.
        organs: Liver, spleen, kidneys.
        bowel: Bowel and stomach walls with their contents.
        gas: Gas in stomach and bowel.
    """

    cavity: Field
    organs: Field
    bowel: Field
    gas: Field


def build_abdomen(
    plan: BodyPlan, skeleton: PosedSkeleton, envelope: Envelope, chest: Chest, rng: np.random.Generator
) -> Abdomen:
    """Build the abdominal organs below the diaphragm."""
    grid = envelope.grid
    inner = envelope.muscle + np.float32(rng.uniform(9, 16) * plan.muscle)
    z = grid.axes()[2]
    cavity = np.maximum(inner, np.float32(3.0) - chest.diaphragm)
    np.maximum(
        cavity, envelope.cavity, out=cavity, where=np.broadcast_to(z > skeleton.landmarks_mm[14][2], cavity.shape)
    )
    organs = np.full(grid.shape, FAR_MM, np.float32)
    capsule_union(organs, grid.origin_mm, grid.spacing_mm, _organ_capsules(plan, envelope, chest, rng), 14.0)
    bowel = np.full(grid.shape, FAR_MM, np.float32)
    gas = np.full(grid.shape, FAR_MM, np.float32)
    loops, bubbles = _bowel_capsules(plan, skeleton, envelope, chest, rng)
    capsule_union(bowel, grid.origin_mm, grid.spacing_mm, loops, 6.0)
    capsule_union(gas, grid.origin_mm, grid.spacing_mm, bubbles, 5.0)
    folds = smooth_noise(grid, float(rng.uniform(7, 14)), rng)
    gas += np.float32(2.2) * folds
    organs += np.float32(2.5) * smooth_noise(grid, 30.0, rng)
    np.maximum(organs, cavity, out=organs)
    np.maximum(bowel, cavity, out=bowel)
    np.maximum(gas, cavity + np.float32(6.0), out=gas)
    return Abdomen(cavity, organs, bowel, gas)


def _organ_capsules(plan: BodyPlan, envelope: Envelope, chest: Chest, rng: np.random.Generator) -> Array:
    right, left = chest.landmarks_mm[12], chest.landmarks_mm[13]
    unit = plan.frame_scale**0.5 * rng.normal(1.0, 0.06)
    center = envelope.spine(right[2] - 120)
    pieces = [
        (
            [right[0], right[1], right[2] - 62],
            [right[0] - 12, right[1] + 8, right[2] - rng.uniform(105, 150)],
            66 * unit,
            42 * unit,
        ),
        ([right[0], right[1] - 5, right[2] - 60], [center[0] + 25, right[1] - 30, right[2] - 66], 58 * unit, 34 * unit),
        ([left[0] + 12, left[1] + 42, left[2] - 50], [left[0] + 16, left[1] + 36, left[2] - 90], 30 * unit, 26 * unit),
    ]
    for sign, drop in ((-1, 165), (1, 150)):
        spot = envelope.spine(right[2] - drop)
        top = [spot[0] + sign * 48, spot[1] + 2, right[2] - drop + 28]
        pieces.append((top, [spot[0] + sign * 58, spot[1] - 4, right[2] - drop - 28], 25 * unit, 25 * unit))
    return np.array([[*start, *end, first, last] for start, end, first, last in pieces], float)


def _bowel_capsules(
    plan: BodyPlan, skeleton: PosedSkeleton, envelope: Envelope, chest: Chest, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return the loops with contents, and the gas in them; gas rises to the front in a supine body."""
    left = chest.landmarks_mm[13]
    gas = plan.traits.gas
    bubble = float(np.clip(rng.uniform(8, 31) * gas**0.4, 6, 42)) * plan.frame_scale**0.5
    fundus = np.array(
        [left[0] * 0.75 + envelope.spine(left[2])[0] * 0.25, left[1] - 12, left[2] - bubble - rng.uniform(7, 12)]
    )
    stomach = fundus + np.array([-rng.uniform(15, 40), -10.0, -rng.uniform(30, 70)])
    loops = [[*fundus, *stomach, bubble + 8, bubble * 0.7 + 8]]
    bubbles = [[*fundus, *(fundus + rng.uniform([-22, -10, -22], [6, 4, 0])), bubble, bubble * rng.uniform(0.5, 0.9)]]
    low = skeleton.landmarks_mm[14][2] - 190 * plan.frame_scale
    high = skeleton.landmarks_mm[14][2] - rng.uniform(0, 45)
    half = 0.72 * envelope.chest.radius_at(high, 0.0)
    frame = [
        (-half, low),
        (-half, high - 25),
        (-0.3 * half, high - rng.uniform(0, 50)),
        (half * 0.4, high - rng.uniform(0, 40)),
        (half, high + 10),
        (half, low),
        (0.3 * half, low - 40),
    ]
    for (x0, z0), (x1, z1) in itertools.pairwise(frame):
        for share in np.arange(0, 1, 0.22):
            x, z = x0 + share * (x1 - x0), z0 + share * (z1 - z0)
            spot = envelope.spine(z)
            forward = 0.42 * (envelope.chest.radius_at(z, 1.5 * np.pi) + 58)
            center = np.array([spot[0] + x, spot[1] - forward + rng.normal(0, 10), z]) + rng.normal(0, 5, 3)
            radius = rng.uniform(14, 24) * max(gas, 1.0) ** 0.5
            loops.append([*center, *(center + rng.normal(0, 12, 3)), radius, radius])
            if rng.random() < min(0.42 * gas, 0.9):
                inner = radius * rng.uniform(0.35, 0.85)
                bubbles.append(
                    [
                        *(center - [0, 4, 0]),
                        *(center + rng.normal(0, 10, 3) - [0, 4, 0]),
                        inner,
                        inner * rng.uniform(0.5, 1),
                    ]
                )
    for _ in range(int(rng.integers(6, 22))):
        z = rng.uniform(low - 40, high - 20)
        spot = envelope.spine(z)
        center = np.array([spot[0] + rng.uniform(-0.6, 0.6) * half, spot[1] - rng.uniform(45, 110), z])
        loops.append([*center, *(center + rng.normal(0, 18, 3)), 13.0, 13.0])
        if rng.random() < min(0.3 * gas, 0.9):
            bubbles.append([*center, *(center + rng.normal(0, 8, 3)), rng.uniform(4, 10), rng.uniform(3, 8)])
    return np.array(loops), np.array(bubbles)
