# SPDX-License-Identifier: Apache-2.0
"""From a body to training views: random tissue, proportions and truncation, then two material images per view."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.projection import Detector, display_from_raw
from carm_core.landmarks import ALL_LANDMARKS
from carm_core.transforms import Array
from carm_perception.datasets.views import SampledView, ViewDistribution, sample_view
from carm_sim.drr import Renderer
from carm_sim.patient.volume import AIR_HU, Volume

SOURCE_DETECTOR_MM = 1020.0
SOURCE_ISOCENTER_MM = 530.0
DETECTOR_SIDE_MM = 1536 * 0.194
MODEL_PX = 128
"""Side of the model's input, px: the whole detector."""

STORED_PX = 176
"""Side of a stored view, px, at the model's pixel spacing: a margin of 24 px for shifts and rotations in training."""

SUPERSAMPLING = 1

TRUNCATED = 0.45
"""Part of the scans that ends within the trunk, as CTs do."""
ROUND_FIELD = 0.4
"""Part of these whose field is round and may cut arms and flanks."""
TABLE = 0.3
"""Part of the scans with a scanner's table behind the back."""
ABDOMEN = {14, 134}
"""Landmarks that the ends of a CT of the abdomen are told from."""
SOFT_LIMIT_HU = 150.0


@dataclass(frozen=True)
class RenderedView:
    """One view of one body.

    Attributes:
        sampled: Geometry.
        materials: Line integrals float32 (2, STORED_PX, STORED_PX), soft tissue then bone excess, in mm of water,
            display orientation.
        displacement_mm: Displacements (48, 2) of ``ALL_LANDMARKS`` at isocenter depth, right and up; NaN when unknown.
        mm_per_px: Pixel spacing at isocenter depth.
    """

    sampled: SampledView
    materials: NDArray[np.float32]
    displacement_mm: Array
    mm_per_px: float


@dataclass(frozen=True)
class Variant:
    """A body as scanned once: scaled, perhaps truncated, with one tissue model.

    Attributes:
        volume: Voxels.
        landmarks_mm: Landmark id to position (3,) in LPS, also those cut off.
        tables: Attenuation of soft tissue and of bone relative to water at HU -32768 to 32767, each (65536,).
    """

    volume: Volume
    landmarks_mm: dict[int, Array]
    tables: tuple[Array, Array]


def stored_detector() -> Detector:
    """Return the detector of the stored views before averaging: wider than the real one by the margin."""
    pitch = DETECTOR_SIDE_MM / MODEL_PX
    side = STORED_PX * SUPERSAMPLING
    return Detector(side, side, pitch / SUPERSAMPLING)


def tissue_tables(rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw attenuation relative to water of (soft tissue, bone excess) over HU -32768 to 32767.

    Lung density, the contrast between fat and muscle, and the start of bone vary; the weight of bone against soft
    tissue is left to the training, which stores them apart.
    """
    hu = np.arange(-32768, 32768, dtype=np.float64)
    lung, contrast = rng.uniform(0.7, 1.4), rng.uniform(0.6, 1.8)
    onset = rng.uniform(90.0, 170.0)
    soft = 1 + np.clip(hu, -150, SOFT_LIMIT_HU) / 1000 * contrast
    air = 1 + hu / 1000
    soft = np.where(hu < -150, np.interp(hu, (-1000, -600, -150), (0.0, 0.4 * lung, 1 - 0.15 * contrast)), soft)
    soft = np.where(air < 0.05, 0.0, np.maximum(soft, 0.0))
    bone = np.clip(hu - onset, 0.0, 3000.0) / 1000
    return soft, bone


def make_variant(rng: np.random.Generator, volume: Volume, landmarks_mm: dict[int, Array]) -> Variant:
    """Draw a scan of a body: stretch by a few per cent along each axis, often truncate, sometimes add a table.

    Args:
        rng: Source of randomness.
        volume: The body.
        landmarks_mm: Id to position (3,) in LPS of every landmark that is known, inside the volume or not.
    """
    stretch = np.clip(rng.normal(1, [0.04, 0.05, 0.04]), 0.9, 1.1) * np.clip(rng.normal(1, 0.03), 0.93, 1.07)
    scale = np.diag([*stretch, 1.0])
    marks = {key: point * stretch for key, point in landmarks_mm.items()}
    hu, affine = volume.hu, scale @ volume.transform_voxel_to_lps
    if rng.random() < TRUNCATED and {10, 14} <= set(marks):
        first, last = 0, hu.shape[2]
        step = affine[2, 2]
        bottom, top = _ends(rng, marks)
        ends = sorted((value - affine[2, 3]) / step for value in (bottom, top))
        first, last = max(first, int(ends[0])), min(last, int(ends[1]) + 1)
        hu = hu[:, :, first:last]
        affine = affine.copy()
        affine[:3, 3] += affine[:3, 2] * first
        if rng.random() < ROUND_FIELD:
            hu = _round_field(rng, hu, affine)
    if rng.random() < TABLE:
        hu = with_table(rng, hu, affine)
    if rng.random() < 0.3:
        hu = _thick_slices(hu)
    return Variant(Volume(hu, affine), marks, tissue_tables(rng))


def _ends(rng: np.random.Generator, marks: dict[int, Array]) -> tuple[float, float]:
    """Draw the lower and upper end of a CT of the chest, or, in a third of the cases, of abdomen and pelvis, mm."""
    if rng.random() < 1 / 3 and set(marks) >= ABDOMEN:
        return float(marks[134][2] + rng.uniform(-120, 60)), float(marks[14][2] + rng.uniform(-60, 140))
    return float(marks[14][2] + rng.uniform(-130, 60)), float(marks[10][2] + rng.uniform(-30, 160))


def _round_field(rng: np.random.Generator, hu: NDArray[np.int16], affine: Array) -> NDArray[np.int16]:
    """Cut the volume to the round field of a scanner, 340 to 520 mm wide."""
    across, depth = (np.arange(count) * affine[axis, axis] for axis, count in enumerate(hu.shape[:2]))
    center = np.array([across.mean(), depth.mean()]) + rng.normal(0, 12, 2)
    radius = rng.uniform(170, 260)
    outside = np.hypot(*np.meshgrid(across - center[0], depth - center[1], indexing="ij")) > radius
    return np.where(outside[:, :, None], np.int16(AIR_HU), hu)


def with_table(rng: np.random.Generator, hu: NDArray[np.int16], affine: Array) -> NDArray[np.int16]:
    """Put a scanner's table behind the back, flat or hollow: two thin shells around foam. The volume grows for it."""
    step = abs(float(affine[1, 1]))
    half_mm, hollow_mm = rng.uniform(190, 240), rng.uniform(0, 45)
    shell, foam = rng.uniform(2.5, 6.0), rng.uniform(12, 40)
    shell_hu, foam_hu = rng.uniform(-350, 150), rng.uniform(-960, -860)
    across = (np.arange(hu.shape[0]) - (hu.shape[0] - 1) / 2) * affine[0, 0]
    middle = np.abs(across) < 90
    behind = np.flatnonzero((hu[middle, :, ::4] > -300).any((0, 2)))
    if not len(behind):
        return hu
    back = behind[-1] * step + rng.uniform(0, 14)
    missing = int(np.ceil((back + 2 * shell + foam) / step)) + 1 - hu.shape[1]
    if missing > 0:
        hu = np.pad(hu, ((0, 0), (0, missing), (0, 0)), constant_values=AIR_HU)
    top = back - hollow_mm * (across / half_mm)[:, None] ** 2
    depth = np.arange(hu.shape[1])[None, :] * step - top
    inside = (np.abs(across) < half_mm)[:, None] & (depth >= 0) & (depth < 2 * shell + foam)
    core = inside & (depth >= shell) & (depth < shell + foam)
    layer = np.where(core, foam_hu, np.where(inside, shell_hu, AIR_HU)).astype(np.int16)[:, :, None]
    return np.where(hu < -700, np.maximum(hu, layer), hu)


def _thick_slices(hu: NDArray[np.int16]) -> NDArray[np.int16]:
    """Blur along the body with weights 1/4, 1/2, 1/4, as thick slices do."""
    wide = np.concatenate([hu[:, :, :1], hu, hu[:, :, -1:]], axis=2)
    blurred: NDArray[np.int16] = (wide[:, :, :-2] >> 2) + (wide[:, :, 1:-1] >> 1) + (wide[:, :, 2:] >> 2)
    return blurred


def render_views(
    rng: np.random.Generator, variant: Variant, count: int, distribution: ViewDistribution | None = None
) -> Iterator[RenderedView]:
    """Render random views of one variant of a body.

    Args:
        rng: Source of randomness.
        variant: The body.
        count: Number of views.
        distribution: Spread of the views.
    """
    volume = variant.volume
    renderer = Renderer(volume, list(variant.tables), threads=1)
    corners = volume.lps_from_voxel(np.array([[0, 0, 0], np.array(volume.shape) - 1], dtype=np.float64))
    box = corners.min(0), corners.max(0)
    detector = stored_detector()
    for _ in range(count):
        distances = (SOURCE_DETECTOR_MM, SOURCE_ISOCENTER_MM)
        sampled = sample_view(rng, variant.landmarks_mm, box, detector, distances, distribution)
        raw = renderer.material_integrals(sampled.view)
        shape = (2, STORED_PX, SUPERSAMPLING, STORED_PX, SUPERSAMPLING)
        averaged = raw.reshape(shape).mean((2, 4))
        materials = np.stack([display_from_raw(image) for image in averaged]).astype(np.float32)
        marks = np.full((len(ALL_LANDMARKS), 2), np.nan)
        for index, mark in enumerate(ALL_LANDMARKS):
            if mark.id in variant.landmarks_mm:
                marks[index] = sampled.view.displacement_mm(variant.landmarks_mm[mark.id])
        yield RenderedView(sampled, materials, marks, sampled.view.mm_per_px_at_isocenter * SUPERSAMPLING)
