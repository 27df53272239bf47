# SPDX-License-Identifier: Apache-2.0
"""Random C-arm views of a body. Lengths in mm, positions in the CT's LPS frame (x left, y posterior, z superior)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carm_core.imaging.projection import Detector, XrayView
from carm_core.robot.kinematics import ROTATION_OPTICAL_TO_CARM
from carm_core.transforms import Array, rotation_about

ROTATION_TABLE_TO_LPS: Array = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
"""Table axes (x head, y patient's right, z up) of a supine patient in LPS."""

LIMB_IDS = (4, 5, 6, 7, 8, 9)
"""Scapular inferior angles, elbows, wrists: what moves against the trunk, and is the hardest to find."""

CENTERED_WEIGHTS = {
    **dict.fromkeys(range(101, 113), 0.25),  # cervical and thoracic vertebrae
    **dict.fromkeys((113, 114, 115), 0.6),  # T9 to T11
    **dict.fromkeys(range(116, 121), 1.2),  # lumbar vertebrae
    **dict.fromkeys((121, 122), 1.6),  # hips
    **dict.fromkeys((123, 124, 125, 126), 1.6),  # knees and ankles
    **dict.fromkeys((127, 128), 0.4),  # acromioclavicular joints
    **dict.fromkeys((129, 130, 131, 132, 133, 134), 0.8),  # pelvis
}
"""How often a view is centered near one of the further landmarks, against 1 for one of the fourteen."""


def centered_weights(ids: Sequence[int], limb_weight: float = 1.0) -> Array:
    """Return how often a view is centered near each of some landmarks, as shares whose sum is 1."""
    weights = np.array([limb_weight if i in LIMB_IDS else CENTERED_WEIGHTS.get(i, 1.0) for i in ids])
    return np.asarray(weights / weights.sum())


TRUNK_IDS = (10, 14)
"""T1 and T12: the middle between them is the middle of the trunk."""


@dataclass(frozen=True)
class ViewDistribution:
    """How views are drawn.

    Attributes:
        along_mm: Standard deviation of the isocenter along the body about the trunk's middle.
        across_mm: Standard deviation across the body.
        depth_mm: Standard deviation of the isocenter's depth.
        landmark_fraction: Fraction of views that are centered near a landmark instead.
        landmark_offset_mm: Standard deviation of each component of the distance from that landmark.
        landmark_offset_spread: That standard deviation is multiplied by up to this, or divided by it.
        limb_weight: How often a view is centered near a scapula, elbow or wrist, against 1 for another landmark.
        anywhere_fraction: Fraction of views that are centered anywhere along the volume, mostly far from all landmarks.
        primary_deg: Standard deviation of the positioner primary angle.
        secondary_deg: Standard deviation of the positioner secondary angle.
        roll_deg: Standard deviation of the rotation of the image in its plane.
        limit_primary_deg: Largest primary angle.
        limit_secondary_deg: Largest secondary angle.
    """

    along_mm: float = 120.0
    across_mm: float = 100.0
    depth_mm: float = 48.0
    landmark_fraction: float = 0.65
    landmark_offset_mm: float = 36.0
    landmark_offset_spread: float = 2.2
    limb_weight: float = 2.0
    anywhere_fraction: float = 0.0
    primary_deg: float = 11.0
    secondary_deg: float = 9.0
    roll_deg: float = 4.0
    limit_primary_deg: float = 25.0
    limit_secondary_deg: float = 20.0


@dataclass(frozen=True)
class SampledView:
    """One view and the numbers that it was made from.

    Attributes:
        view: Source and detector in LPS.
        isocenter_mm: Isocenter (3,).
        primary_deg: DICOM positioner primary angle.
        secondary_deg: DICOM positioner secondary angle.
        roll_deg: Rotation of the image in its plane.
        centered_on: Landmark that the view is centered near, or 0.
    """

    view: XrayView
    isocenter_mm: Array
    primary_deg: float
    secondary_deg: float
    roll_deg: float
    centered_on: int


def rotation_optical_to_table(primary_deg: float, secondary_deg: float, roll_deg: float = 0.0) -> Array:
    """Rotation (3, 3) of ``xray_optical`` in the table frame for positioner angles, as the C-arm reaches them.

    Args:
        primary_deg: LAO positive.
        secondary_deg: Cranial positive.
        roll_deg: Further rotation about the central ray.
    """
    primary, secondary = np.radians((primary_deg, secondary_deg))
    orbital = np.arcsin(np.cos(secondary) * np.sin(primary))
    tilt = np.arctan2(np.sin(secondary), np.cos(secondary) * np.cos(primary))
    arm = rotation_about("y", float(tilt)) @ rotation_about("x", float(orbital))
    rotation: Array = arm @ ROTATION_OPTICAL_TO_CARM @ rotation_about("z", float(np.radians(roll_deg)))
    return rotation


def make_view(
    isocenter_mm: Array,
    angles_deg: tuple[float, float, float],
    detector: Detector,
    distances_mm: tuple[float, float],
) -> XrayView:
    """Build a view in LPS.

    Args:
        isocenter_mm: Isocenter (3,) in LPS.
        angles_deg: Primary, secondary and roll angle.
        detector: Pixel grid.
        distances_mm: Source to detector, source to isocenter.
    """
    rotation = ROTATION_TABLE_TO_LPS @ rotation_optical_to_table(*angles_deg)
    source_detector, source_isocenter = distances_mm
    source = np.asarray(isocenter_mm, dtype=np.float64) - source_isocenter * rotation[:, 2]
    return XrayView(source, rotation, detector, source_detector, source_isocenter)


def sample_view(
    rng: np.random.Generator,
    landmarks_mm: dict[int, Array],
    box_mm: tuple[Array, Array],
    detector: Detector,
    distances_mm: tuple[float, float],
    distribution: ViewDistribution | None = None,
) -> SampledView:
    """Draw a view whose isocenter lies in the volume's extent along the body.

    Args:
        rng: Source of randomness.
        landmarks_mm: Landmark id to position (3,) in LPS.
        box_mm: Lower and upper corner (3,) of the scanned volume in LPS.
        detector: Pixel grid.
        distances_mm: Source to detector, source to isocenter.
        distribution: Spread of the views.
    """
    spread = distribution or ViewDistribution()
    low, high = box_mm
    trunk = np.mean([landmarks_mm[i] for i in TRUNK_IDS if i in landmarks_mm] or [(low + high) / 2], axis=0)
    inside = [i for i, p in landmarks_mm.items() if low[2] + 10 <= p[2] <= high[2] - 10]
    while True:
        centered_on = 0
        if spread.anywhere_fraction and rng.random() < spread.anywhere_fraction:
            middle = np.array([trunk[0], trunk[1], rng.uniform(low[2], high[2])])
            center = middle + rng.normal(0, [spread.across_mm, spread.depth_mm, 0.0])
        elif inside and rng.random() < spread.landmark_fraction:
            centered_on = int(rng.choice(inside, p=centered_weights(inside, spread.limb_weight)))
            offset = spread.landmark_offset_mm * spread.landmark_offset_spread ** rng.uniform(-1, 1)
            scale = np.array([offset, spread.depth_mm, offset])
            center = landmarks_mm[centered_on] + rng.normal(0, scale)
        else:
            scale = np.array([spread.across_mm, spread.depth_mm, spread.along_mm])
            center = trunk + rng.normal(0, scale)
        if low[2] <= center[2] <= high[2] and low[0] <= center[0] <= high[0]:
            break
    primary = float(np.clip(rng.normal(0, spread.primary_deg), -spread.limit_primary_deg, spread.limit_primary_deg))
    limit = spread.limit_secondary_deg
    secondary = float(np.clip(rng.normal(0, spread.secondary_deg), -limit, limit))
    roll = float(rng.normal(0, spread.roll_deg))
    view = make_view(center, (primary, secondary, roll), detector, distances_mm)
    return SampledView(view, center, primary, secondary, roll, centered_on)
