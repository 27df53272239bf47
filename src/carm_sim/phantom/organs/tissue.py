# SPDX-License-Identifier: Apache-2.0
"""From distance fields and bone fractions to Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from carm_sim.phantom.body import BodyPlan
from carm_sim.phantom.grid import Field, Grid, Resampler, compiled, in_slabs, occupancy, resample, smooth_noise
from carm_sim.phantom.organs.abdomen import Abdomen
from carm_sim.phantom.organs.chest import Chest, vessel_mass
from carm_sim.phantom.organs.envelope import Envelope
from carm_sim.phantom.skeleton.bones import BoneFractions

AIR_HU = -1000.0
SLICE_BLUR_SHARE = 0.5


@dataclass(frozen=True)
class Tissue:
    """Hounsfield units of a body's tissues."""

    fat: float
    muscle: float
    marbling: float
    blood: float
    venous: float
    organ: float
    bowel: float
    lung: float
    lung_gradient: float
    cortical: float
    trabecular: float
    cortex_scale: float
    vessels: int


def draw_tissue(plan: BodyPlan, rng: np.random.Generator) -> Tissue:
    """Draw the tissues: bone density falls with age, a quarter of the bodies has contrast agent in the blood."""
    wide = plan.style == "validation"
    density = plan.traits.density
    rng.uniform()  # keeps the stream of the other tissues
    contrast = float(rng.uniform(60, 320)) if rng.random() < (0.25 if not wide else 0.4) else 0.0
    return Tissue(
        fat=float(rng.uniform(-118, -88)),
        muscle=float(rng.uniform(30, 65)),
        marbling=float(rng.uniform(4, 30)),
        blood=float(rng.uniform(30, 55)) + contrast,
        venous=float(rng.uniform(30, 55)) + (float(rng.uniform(60, 900)) if rng.random() < 0.4 else contrast),
        organ=float(rng.uniform(35, 70)) + 0.25 * contrast,
        bowel=float(rng.uniform(0, 45)),
        lung=float(rng.uniform(-890, -740)) - 350 * plan.traits.barrel + _exhaled(plan, rng),
        lung_gradient=float(rng.uniform(0.1, 0.9)),
        cortical=float(rng.uniform(1050, 1350)) * density**0.35 * (0.92 if wide else 1.0),
        trabecular=float(rng.uniform(190, 330)) * density,
        cortex_scale=float(density**0.5 * rng.uniform(0.85, 1.15)),
        vessels=int(rng.integers(220, 420)),
    )


def _exhaled(plan: BodyPlan, rng: np.random.Generator) -> float:
    """Return the HU that lungs are denser by when less than a full breath is in them."""
    if plan.inspiration > 0.3:
        return 0.0
    return float(rng.uniform(0, 90)) + 120 * float(np.clip(-plan.inspiration - 0.15, 0, 0.4))


@compiled
def _paint_all(hu, share, value):  # type: ignore[no-untyped-def]
    for i in range(hu.shape[0]):
        for j in range(hu.shape[1]):
            for k in range(hu.shape[2]):
                hu[i, j, k] += share[i, j, k] * (value[i, j, k] - hu[i, j, k])


@compiled
def _paint_layer(hu, distance, spacing, noise, base, slope, dip):  # type: ignore[no-untyped-def]
    """Fill the inside of a distance field with base + slope * noise - dip * |noise|, with soft edges, in place."""
    for i in range(hu.shape[0]):
        for j in range(hu.shape[1]):
            for k in range(hu.shape[2]):
                share = min(max(np.float32(0.5) - distance[i, j, k] / spacing, np.float32(0)), np.float32(1))
                value = base + slope * noise[i, j, k] - dip * abs(noise[i, j, k])
                hu[i, j, k] += share * (value - hu[i, j, k])


@compiled
def _paint_bones(hu, inside, cortical, noise, trabecular_hu, cortical_hu):  # type: ignore[no-untyped-def]
    """Bone in place: trabecular HU where a voxel is inside but not cortex, both with some noise."""
    for i in range(hu.shape[0]):
        for j in range(hu.shape[1]):
            for k in range(hu.shape[2]):
                cortex = cortical[i, j, k]
                spongy = min(inside[i, j, k], np.float32(1) - cortex)
                n = noise[i, j, k]
                value = hu[i, j, k] + spongy * (trabecular_hu * (1 + np.float32(0.22) * n) - hu[i, j, k])
                hu[i, j, k] = value + cortex * (cortical_hu * (1 + np.float32(0.06) * n) - value)


def paint(hu: Field, share: Field, value: Field | float) -> None:
    """Replace a share of each voxel by another tissue, in place."""
    if isinstance(value, np.ndarray):
        _paint_all(hu, share, value)
    else:
        hu += share * (np.float32(value) - hu)


def fill_tissue(
    plan: BodyPlan, grid: Grid, envelope: Envelope, chest: Chest, abdomen: Abdomen, bones: BoneFractions,
    tissue: Tissue, rng: np.random.Generator,
) -> Field:  # fmt: skip
    """Return the Hounsfield units on the fine grid, (I, J, K) float32."""
    edge = grid.spacing_mm
    marble = smooth_noise(grid, float(rng.uniform(9, 22)), rng)
    hu = np.empty(grid.shape, np.float32)
    single = np.float32
    skin, muscle = (Resampler.of(field, envelope.grid, grid) for field in (envelope.skin, envelope.muscle))

    def paint_body(first: int, last: int) -> None:
        slab, noise = hu[first:last], marble[first:last]
        slab[:] = AIR_HU
        distance = skin.planes(first, np.empty_like(slab))
        _paint_layer(slab, distance, single(edge), noise, single(tissue.fat), single(6), single(0))
        muscle.planes(first, distance)
        _paint_layer(slab, distance, single(edge), noise, single(tissue.muscle), single(0), single(tissue.marbling))

    in_slabs(paint_body, grid.shape[0], 8)
    _fill_abdomen(plan, grid, hu, envelope, abdomen, marble, tissue, rng)
    _fill_chest(plan, grid, hu, envelope, chest, marble, tissue, rng)
    bone = single(tissue.trabecular), single(tissue.cortical)

    def paint_bones(first: int, last: int) -> None:
        slab = slice(first, last)
        _paint_bones(hu[slab], bones.inside[slab], bones.cortical[slab], marble[slab], *bone)

    in_slabs(paint_bones, grid.shape[0])
    if rng.random() < SLICE_BLUR_SHARE:
        ndimage.gaussian_filter1d(hu, float(rng.uniform(0.2, 1.0)) / edge, axis=2, output=hu, truncate=2.5)
    return hu


def _fill_abdomen(
    plan: BodyPlan, grid: Grid, hu: Field, envelope: Envelope, abdomen: Abdomen, marble: Field, tissue: Tissue,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    box = _box_of(envelope.grid, abdomen.cavity, grid)
    part = grid.part(box)
    view, edge = hu[box], grid.spacing_mm
    mixed = tissue.bowel - (30 + 90 * plan.fatness) * np.clip(0.5 + 0.9 * marble[box], 0, 1)
    paint(view, occupancy(resample(abdomen.cavity, envelope.grid, part), edge), mixed)
    paint(view, occupancy(resample(abdomen.bowel, envelope.grid, part), edge), tissue.bowel)
    paint(view, occupancy(resample(abdomen.organs, envelope.grid, part), edge), tissue.organ + 5 * marble[box])
    paint(view, occupancy(resample(abdomen.gas, envelope.grid, part), edge), float(rng.uniform(-980, -900)))


def _fill_chest(
    plan: BodyPlan, grid: Grid, hu: Field, envelope: Envelope, chest: Chest, marble: Field, tissue: Tissue,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    edge, coarse = grid.spacing_mm, envelope.grid
    box = _box_of(coarse, np.minimum(envelope.cavity, chest.heart), grid)
    part = grid.part(box)
    view = hu[box]
    above = np.clip(-resample(chest.diaphragm, coarse, part) / edge + 0.5, 0, 1)
    loose = tissue.fat + rng.uniform(20, 110) + 25 * marble[box]
    paint(view, occupancy(resample(envelope.cavity, coarse, part), edge) * above, loose)
    paint(view, occupancy(resample(chest.heart, coarse, part), edge) * above, tissue.blood)
    paint(view, occupancy(resample(chest.veins, coarse, part), edge) * above, tissue.venous)
    lungs = resample(chest.lungs, coarse, part)
    share = occupancy(lungs, edge)
    texture = smooth_noise(part, rng.uniform(5, 8), rng) * rng.uniform(5, 22) + smooth_noise(
        part, 35.0, rng
    ) * rng.uniform(5, 28)
    y = part.axes()[1]
    value = tissue.lung + texture + tissue.lung_gradient * (y - np.float32(y.mean()))
    vessels = vessel_mass(part, lungs, chest.hila_mm, rng, tissue.vessels)
    value += vessels * (np.float32(tissue.blood) - value)
    _add_opacities(plan, part, value, rng)
    paint(view, share, np.clip(value, -980, 300).astype(np.float32))
    box = _box_of(coarse, chest.airway, grid)
    part = grid.part(box)
    tube = resample(chest.airway, coarse, part)
    paint(hu[box], occupancy(tube - np.float32(1.4), edge), 20.0)
    paint(hu[box], occupancy(tube, edge), float(rng.uniform(-1000, -960)))


def _add_opacities(plan: BodyPlan, part: Grid, value: Field, rng: np.random.Generator) -> None:
    """Dependent atelectasis or patchy consolidation in some bodies."""
    if rng.random() > (0.3 if plan.style == "standard" else 0.45):
        return
    patch = smooth_noise(part, float(rng.uniform(22, 45)), rng)
    y = part.axes()[1]
    height = (y - y.min()) / np.float32(np.ptp(y))
    amount = np.clip(patch - np.float32(rng.uniform(0.9, 1.8)) + 1.6 * (height - 0.75), 0, 1) * np.float32(
        rng.uniform(0.3, 1.0)
    )
    value += amount * (np.float32(10.0) - value)


def _box_of(coarse: Grid, distance: Field, fine: Grid) -> tuple[slice, slice, slice]:
    """Return the fine-grid box around the inside of a coarse distance field."""
    inside = np.argwhere(distance < 2 * coarse.spacing_mm)
    if len(inside) == 0:
        return slice(0, 2), slice(0, 2), slice(0, 2)
    low, high = inside.min(0) - 1, inside.max(0) + 1
    return fine.box(coarse.origin_mm + low * coarse.spacing_mm, coarse.origin_mm + high * coarse.spacing_mm)
