# SPDX-License-Identifier: Apache-2.0
"""How radiographs of each body part are taken: projection, distances, field, at random. Lengths in mm, frame LPS."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carm_core.body_parts import BODY_PARTS
from carm_core.imaging.projection import Detector, XrayView
from carm_core.transforms import Array, rotation_about
from carm_perception.datasets.body_parts.regions import (
    ARMS,
    PART_IDS,
    TRUNK,
    Rectangle,
    Region,
    parts_in_field,
    rectangle_around,
    same_limb,
)

LARGEST_FIELD_MM = 430.0
"""Side of the largest detector."""
CASSETTES_MM = ((180.0, 240.0), (240.0, 300.0), (300.0, 400.0), (350.0, 430.0), (430.0, 430.0))
CASSETTE = 0.3
"""Part of the radiographs whose field is not collimated: that of the smallest cassette that holds the region."""
CARM = 0.25
"""Part of the images that a C-arm takes: a square field up to 30 cm, in the middle between source and detector."""
CARM_FIELD_MM = 300.0
ANYWHERE = 0.08
"""Part of the images of the trunk that are centered far from the region that was drawn."""
_LATERAL, _OBLIQUE = 0.42, 0.13
_FRONTAL_ONLY = ("Abdomen", "Pelvis", "Clavicles", "Sinus")
_OFTEN = {"Chest": 3.0, "Others": 1.0, "Finger": 1.2}
_PAIR_WEIGHT = 0.25
_CHEST_MM = 1800.0


@dataclass(frozen=True, eq=False)
class Exam:
    """One radiograph before it is taken.

    Attributes:
        view: Source and detector; the detector is as large as the field.
        mirrored: The raw image is shown as it is: as for every image, the patient's left is on the right.
        part_ids: The label.
        projection: ``frontal``, ``lateral`` or ``oblique``.
        limb: What is in the beam: ``trunk`` (the whole body), or one limb alone.
        quarter_turns: How often the image is turned by 90 degrees before it is shown.
    """

    view: XrayView
    mirrored: bool
    part_ids: tuple[int, ...]
    projection: str
    limb: str
    quarter_turns: int


def weights_of(regions: Sequence[Region]) -> Array:
    """Return how often each region is imaged, as shares: parts alike, but chests more often, pairs seldom."""
    count = Counter(one.part_ids for one in regions)
    weights = []
    for one in regions:
        alone = len(one.part_ids) == 1
        weight = _OFTEN.get(BODY_PARTS[one.part_ids[0]], 1.0) if alone else _PAIR_WEIGHT
        weights.append(weight / count[one.part_ids])
    return np.asarray(np.asarray(weights) / np.sum(weights))


def draw_exam(rng: np.random.Generator, regions: Sequence[Region], pixels: int) -> Exam:
    """Draw a radiograph of a body.

    Args:
        rng: Source of randomness.
        regions: Of ``carm_perception.datasets.body_parts.regions.regions``, without limbs that cannot be imaged.
        pixels: Detector elements along the longer side of the field.
    """
    region = regions[int(rng.choice(len(regions), p=weights_of(regions)))]
    projection, angle, tilt = _projection(rng, region)
    across, up, toward = _turned(region, angle, tilt, float(rng.normal(0, 5.0)))
    carm = bool(rng.random() < CARM)
    source_detector, behind = _distances(rng, region, toward, carm)
    source_isocenter = source_detector - behind
    local = (region.points_mm - region.center_mm) @ np.stack([across, up], axis=1)
    wanted = rectangle_around(local)
    limit = LARGEST_FIELD_MM if not carm else CARM_FIELD_MM
    shift, (width, height) = _field(rng, wanted, limit * source_isocenter / source_detector, carm)
    if region.limb == TRUNK and rng.random() < ANYWHERE:
        shift = shift + rng.normal(0, [60.0, 120.0])
    elif rng.random() < ANYWHERE:
        shift = shift + rng.normal(0, [0.0, 0.5 * height])
    center = region.center_mm + across * shift[0] + up * shift[1]
    mirrored = bool(rng.random() < (0.5 if "Chest" not in region.names else 0.25))
    right, forward = (across, toward) if mirrored else (-across, -toward)
    magnification = source_detector / source_isocenter
    pitch = max(width, height) * magnification / pixels
    size = [max(24, round(side * magnification / pitch)) for side in (height, width)]
    view = XrayView(
        center - source_isocenter * forward,
        np.stack([right, -up, forward], axis=1),
        Detector(size[0], size[1], pitch),
        source_detector,
        source_isocenter,
    )
    turns = int(rng.choice(4, p=(0.7, 0.09, 0.12, 0.09))) if region.limb != TRUNK else 0
    return Exam(view, mirrored, label_of(view, regions, region.limb), projection, region.limb, turns)


def label_of(view: XrayView, regions: Sequence[Region], limb: str) -> tuple[int, ...]:
    """Return the body parts in a view of the whole body or of one limb alone, see ``parts_in_field``.

    Arms that lie across the trunk give no label to an image of the trunk.
    """
    field = -0.5, -0.5, view.detector.columns - 0.5, view.detector.rows - 0.5
    shown = [(one, view.pixel_raw(one.points_mm)) for one in regions if _counts(limb, one.limb)]
    return parts_in_field(field, shown, view.forward)


def _counts(limb: str, of_region: str) -> bool:
    return of_region not in ARMS if limb == TRUNK else same_limb(limb, of_region)


def _projection(rng: np.random.Generator, region: Region) -> tuple[str, float, float]:
    """Draw the name of a projection, its angle about the long axis and its tilt, degrees."""
    name = BODY_PARTS[region.part_ids[0]]
    tilt = float(rng.normal(0, 4.0))
    if name == "Sinus":
        return "frontal", float(rng.normal(0, 5.0)), float(rng.uniform(-38.0, 8.0))
    if name in _FRONTAL_ONLY or region.names in ("Chest and Abdomen", "Clavicles and Shoulder"):
        return "frontal", float(rng.normal(0, 6.0)), float(rng.uniform(-25, 5)) if name == "Clavicles" else tilt
    if name == "Shoulder":
        return "frontal", float(rng.normal(0, 20.0)), float(rng.normal(0, 8.0))
    draw = float(rng.random()) * (_LATERAL if region.names == "Ankle and Feet" else 1.0)
    lateral = 0.22 if name in ("Chest", "Hip") else _LATERAL
    if draw < lateral:
        return "lateral", float(rng.choice([-90.0, 90.0]) + rng.normal(0, 7.0)), tilt
    if draw < lateral + _OBLIQUE:
        return "oblique", float(rng.choice([-1.0, 1.0]) * rng.uniform(25.0, 60.0)), tilt
    if name == "Skull" and rng.random() < 0.3:
        tilt = float(rng.uniform(-15.0, 35.0))
    return "frontal", float(rng.normal(0, 7.0)), tilt


def _turned(region: Region, angle_deg: float, tilt_deg: float, roll_deg: float) -> tuple[Array, Array, Array]:
    """Return the axes of the display image, right and up, and the direction away from who looks at it."""
    base = np.stack([region.across, region.up, -np.cross(region.across, region.up)], axis=1)
    turn = rotation_about("y", math.radians(angle_deg)) @ rotation_about("x", math.radians(tilt_deg))
    axes = base @ turn @ rotation_about("z", math.radians(roll_deg))
    across, up = axes[:, 0], axes[:, 1]
    return np.asarray(across), np.asarray(up), np.asarray(-np.cross(across, up))


def _distances(rng: np.random.Generator, region: Region, toward: Array, carm: bool) -> tuple[float, float]:
    """Draw the distance from the source to the detector, and from the region's middle to it."""
    if carm:
        distance = float(rng.uniform(980.0, 1220.0))
        return distance, distance * float(rng.uniform(0.3, 0.5))
    depth = region.points_mm @ toward
    behind = 0.5 * float(np.ptp(depth)) + float(rng.uniform(15.0, 50.0))
    if region.limb == TRUNK:
        behind += float(rng.uniform(30.0, 90.0))
    chest = region.part_ids == (PART_IDS["Chest"],) and rng.random() < 0.7
    return (_CHEST_MM if chest else float(rng.uniform(1000.0, 1500.0))), behind


def _field(
    rng: np.random.Generator, wanted: Rectangle, limit: float, square: bool
) -> tuple[Array, tuple[float, float]]:
    """Draw the middle of the field (2,), right and up of the region's middle, and its width and height."""
    width, height = wanted[2] - wanted[0], wanted[3] - wanted[1]
    middle = np.array([(wanted[0] + wanted[2]) / 2, (wanted[1] + wanted[3]) / 2])
    scale = math.exp(float(rng.uniform(-0.16, 0.22)))
    width, height = (side * scale * math.exp(float(rng.normal(0, 0.06))) for side in (width, height))
    if square:
        width = height = max(width, height)
    elif rng.random() < CASSETTE:
        width, height = _cassette(width, height)
    shift = middle + rng.normal(0, 0.05, 2) * (width, height)
    return np.asarray(shift), (min(width, limit), min(height, limit))


def _cassette(width: float, height: float) -> tuple[float, float]:
    """Return the smallest cassette, upright or across, that holds a field; the field itself where none does."""
    for short, long in CASSETTES_MM:
        for size in ((short, long), (long, short)) if width < height else ((long, short), (short, long)):
            if size[0] >= width and size[1] >= height:
                return size
    return width, height
