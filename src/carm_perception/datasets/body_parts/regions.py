# SPDX-License-Identifier: Apache-2.0
"""Which body parts a radiograph shows: the regions that are imaged for each part, and the rule that labels a field.

Positions are in the CT's LPS frame (x left, y posterior, z superior), mm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from carm_core.body_parts import BODY_PARTS
from carm_core.transforms import Array
from carm_sim.phantom.skeleton.posture import PosedSkeleton
from carm_sim.phantom.skeleton.skeleton import SIDES

PART_IDS = {name: number for number, name in enumerate(BODY_PARTS)}
OTHERS = PART_IDS["Others"]

LEAST_OVERLAP, LEAST_COVER = 0.2, 0.4
"""A field shows a part if it overlaps the part's region by so much (intersection over union), or if so much of the
field lies in it; else it is ``Others``."""
LEAST_ASPECT = 0.45
"""A region's rectangle is widened until its sides are no further apart: no one collimates closer to long bones."""
PADDING = 0.08
"""Part of the longer side that a region's rectangle grows by on each side, for soft tissue."""
FRONTAL = 0.75
"""Least cosine between beam and the direction that the face looks in, for ``Sinus``; largest for ``end_on``."""

TRUNK, ARMS, LEGS, FEET = "trunk", ("r_arm", "l_arm"), ("r_leg", "l_leg"), ("r_foot", "l_foot")
"""What can be in the beam: the whole body, a limb alone, or a foot whose leg is out of the way."""
_FINGERS = ("thumb", "2", "3", "4", "5")
_MOST_POINTS, _NEIGHBORS_MM = 300, 450.0


@dataclass(frozen=True, eq=False)
class Region:
    """What is imaged of one part, or of two neighbors.

    Attributes:
        part_ids: One or two ids of ``carm_core.body_parts``.
        points_mm: Points (N, 3) of the bones that belong into the image.
        across: Unit vector (3,) towards the right of a frontal image.
        up: Unit vector (3,) towards the top.
        limb: ``trunk``, or the limb that it belongs to and that is imaged alone.
        face: Direction (3,) that the face looks in, where only a frontal image counts; None: any does.
        end_on: Direction (3,) from which it is not recognized: of a foot, along the toes; None: there is none.
    """

    part_ids: tuple[int, ...]
    points_mm: Array
    across: Array
    up: Array
    limb: str = TRUNK
    face: Array | None = None
    end_on: Array | None = None

    @property
    def names(self) -> str:
        """Names of the parts."""
        return " and ".join(BODY_PARTS[number] for number in self.part_ids)

    @property
    def center_mm(self) -> Array:
        """Middle (3,) of the points' extent."""
        return np.asarray((self.points_mm.min(0) + self.points_mm.max(0)) / 2)


Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def rectangle_around(points: Array) -> Rectangle:
    """Return what a region's projected points (N, 2) ask to be exposed: padded, and not too narrow."""
    low, high = points.min(0), points.max(0)
    middle, size = (low + high) / 2, high - low
    size = size + 2 * PADDING * size.max()
    size = np.maximum(size, LEAST_ASPECT * size.max())
    low, high = middle - size / 2, middle + size / 2
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def overlap(field: Rectangle, other: Rectangle) -> tuple[float, float]:
    """Return intersection over union of a field and a rectangle, and the share of the field that lies in it."""
    width = min(field[2], other[2]) - max(field[0], other[0])
    height = min(field[3], other[3]) - max(field[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0, 0.0
    both = width * height
    area, others = ((box[2] - box[0]) * (box[3] - box[1]) for box in (field, other))
    return both / (area + others - both), both / area


def parts_in_field(field: Rectangle, projected: Sequence[tuple[Region, Array]], forward: Array) -> tuple[int, ...]:
    """Return the label of an image: the one or two body parts whose anatomy fills its field.

    For each part there is a ``Region``: the bones that an image of it is centered on and collimated to (``regions``).
    For some neighbors, such as hand and wrist, there is one of both. The region whose rectangle overlaps the field
    best (intersection over union) gives the label. Where it overlaps by less than ``LEAST_OVERLAP`` and less than
    ``LEAST_COVER`` of the field lies in it, the label is ``Others``. ``Sinus`` is given only to frontal images of the
    face, ``FRONTAL``; the shaft of the upper arm, which has no label, is ``Others``.

    Args:
        field: Exposed field in the image.
        projected: The regions that are in the beam with their points (N, 2) in the same image.
        forward: Direction (3,) of the central ray, LPS.

    Returns:
        One or two ids of ``carm_core.body_parts``, ascending.
    """
    best = 0.0
    found: tuple[int, ...] = (OTHERS,)
    for region, points in projected:
        if region.face is not None and abs(float(region.face @ forward)) < FRONTAL:
            continue
        if region.end_on is not None and abs(float(region.end_on @ forward)) > FRONTAL:
            continue
        share, cover = overlap(field, rectangle_around(points))
        if share > best:
            best = share
            found = region.part_ids if share >= LEAST_OVERLAP or cover >= LEAST_COVER else (OTHERS,)
    return tuple(sorted(found))


def regions(skeleton: PosedSkeleton, head_turn_rad: float = 0.0) -> list[Region]:
    """Return the regions of a whole body, of both sides and of neighbors together.

    Args:
        skeleton: The posed skeleton, with the bones of the legs.
        head_turn_rad: Axial rotation of the head.
    """
    single = [*_trunk(skeleton, head_turn_rad)]
    for side in SIDES:
        single += [*_arm(skeleton, side), *_leg(skeleton, side)]
    return single + _neighbors(single)


_TOGETHER = (
    ("Skull", "Cervical Spine"),
    ("Cervical Spine", "Thoracic Spine"),
    ("Thoracic Spine", "Lumbar Spine"),
    ("Chest", "Abdomen"),
    ("Clavicles", "Shoulder"),
    ("Elbow", "Forearm"),
    ("Forearm", "Wrist"),
    ("Wrist", "Hand"),
    ("Hip", "Thigh"),
    ("Thigh", "Knee"),
    ("Knee", "Lower Leg"),
    ("Lower Leg", "Ankle"),
    ("Ankle", "Feet"),
)


def _neighbors(single: Sequence[Region]) -> list[Region]:
    """Return the regions of two parts that are imaged together."""
    found = []
    centers = [one.center_mm for one in single]
    for names in _TOGETHER:
        first, second = ([i for i, one in enumerate(single) if one.names == name] for name in names)
        for i, j in itertools.product(first, second):
            one, other = single[i], single[j]
            if same_limb(one.limb, other.limb) and np.linalg.norm(centers[i] - centers[j]) < _NEIGHBORS_MM:
                points = np.concatenate([one.points_mm, other.points_mm])
                ids, end_on = one.part_ids + other.part_ids, other.end_on
                found.append(Region(ids, points, one.across, one.up, one.limb, end_on=end_on))
    return found


def same_limb(one: str, other: str) -> bool:
    """Return whether two limbs are one, a foot belonging to its leg."""
    return one.replace("foot", "leg") == other.replace("foot", "leg")


def _points(skeleton: PosedSkeleton, names: Iterable[str]) -> Array:
    """Return some of the vertices of some bones."""
    points = np.concatenate([skeleton.bones[name].vertices for name in names])
    return np.asarray(points[:: max(1, len(points) // _MOST_POINTS)])


def _near(points: Array, middle: Array, radius_mm: float) -> Array:
    """Return the points within a distance."""
    return np.asarray(points[np.linalg.norm(points - middle, axis=1) < radius_mm])


def _trunk(skeleton: PosedSkeleton, head_turn_rad: float) -> Iterable[Region]:
    x, z = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])

    def region(name: str, points: Array, face: Array | None = None) -> Region:
        return Region((PART_IDS[name],), points, x, z, face=face)

    extra, scale = skeleton.extra_mm, skeleton.stature_mm / 1700
    skull = _points(skeleton, ("hat_skull", "hat_jaw"))
    yield region("Skull", skull)
    face = np.array([np.sin(head_turn_rad), -np.cos(head_turn_rad), 0.0])
    depth, height = skull @ -face, skull[:, 2]
    front = depth < np.quantile(depth, 0.45)
    middle = (height > np.quantile(height, 0.25)) & (height < np.quantile(height, 0.78))
    yield region("Sinus", skull[front & middle], face=face)
    bones = list(skeleton.bones)
    thoracic = [name for name in bones if "_thoracic" in name]
    lumbar = [name for name in bones if name.startswith("lumbar")]
    sacrum = "sacrum_geom_1_sacrum"
    yield region("Cervical Spine", _points(skeleton, ("hat_cervical", "torso_geom_12_thoracic1_s")))
    yield region("Thoracic Spine", _points(skeleton, thoracic))
    upper_sacrum = _near(_points(skeleton, (sacrum,)), extra[133], 45 * scale)
    yield region("Lumbar Spine", np.concatenate([_points(skeleton, lumbar), upper_sacrum]))
    yield region("Chest", _points(skeleton, ("torso_geom_13_ribcage_s", "clavicle_r", "clavicle_l")))
    hips = ("r_pelvis", "l_pelvis", sacrum)
    upper = skeleton.landmarks_mm[14] + np.array([[dx * scale, 0.0, 5.0] for dx in (-120, 120)])
    yield region("Abdomen", np.concatenate([_points(skeleton, hips), upper]))
    trochanters = np.array([extra[number] for number in (129, 130)])
    yield region("Pelvis", np.concatenate([_points(skeleton, hips), trochanters]))
    yield region("Clavicles", _points(skeleton, ("clavicle_r", "clavicle_l")))
    for side in SIDES:
        clavicle = _points(skeleton, (f"clavicle_{side}",))
        yield region("Clavicles", clavicle)
        shoulder = skeleton.joints_mm[f"shoulder_{side}"]
        girdle = _points(skeleton, (f"scapula_{side}", f"humerus_{side}", f"clavicle_{side}"))
        yield region("Shoulder", _near(girdle, shoulder, 80 * scale))
        head = skeleton.joints_mm[f"hip_{side}"]
        bones_of_hip = _points(skeleton, (f"{side}_pelvis", f"{side}_femur"))
        yield region("Hip", _near(bones_of_hip, head, 85 * scale))


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.linalg.norm(vector))


def _arm(skeleton: PosedSkeleton, side: str) -> Iterable[Region]:
    joints, scale = skeleton.joints_mm, skeleton.stature_mm / 1700
    elbow, wrist, shoulder = (joints[f"{joint}_{side}"] for joint in ("elbow", "wrist", "shoulder"))
    bones = skeleton.bones
    hand = [name for name, bone in bones.items() if bone.group == "hand" and name.endswith(f"_{side}")]
    tip = bones[f"3distph_{side}"].vertices.mean(0)
    fingers_up = _unit(tip - wrist)
    thumb_side = bones[f"2mc_{side}"].vertices.mean(0) - bones[f"5mc_{side}"].vertices.mean(0)
    across = _unit(thumb_side - (thumb_side @ fingers_up) * fingers_up)
    up = _unit(elbow - wrist)
    turned = _unit(across - (across @ up) * up)
    forearm = _points(skeleton, (f"ulna_{side}", f"radius_{side}"))
    humerus = _points(skeleton, (f"humerus_{side}",))
    limb = f"{side}_arm"

    def region(name: str, points: Array, right: Array, top: Array) -> Region:
        return Region((PART_IDS[name],), points, right, top, limb)

    whole_hand = _points(skeleton, hand)
    yield region("Hand", whole_hand, across, fingers_up)
    yield region("Wrist", _near(np.concatenate([whole_hand, forearm]), wrist, 48 * scale), across, fingers_up)
    yield region("Forearm", forearm, turned, up)
    yield region("Elbow", _near(np.concatenate([humerus, forearm]), elbow, 65 * scale), turned, up)
    upper = _unit(shoulder - elbow)
    beside = _unit(turned - (turned @ upper) * upper)
    shaft = humerus[np.abs((humerus - (shoulder + elbow) / 2) @ upper) < 105 * scale]
    yield region("Others", shaft, beside, upper)
    for finger in _FINGERS:
        names = [name for name in hand if name.startswith(finger) and "mc" not in name]
        points = _points(skeleton, names)
        along = _unit(points[(points @ fingers_up).argmax()] - points[(points @ fingers_up).argmin()])
        yield region("Finger", points, _unit(across - (across @ along) * along), along)


def _leg(skeleton: PosedSkeleton, side: str) -> Iterable[Region]:
    joints, scale = skeleton.joints_mm, skeleton.stature_mm / 1700
    hip, knee, ankle = (joints[f"{joint}_{side}"] for joint in ("hip", "knee", "ankle"))
    x = np.array([1.0, 0, 0])
    thigh, shin, foot = (
        _points(skeleton, [f"{side}_{name}" for name in names])
        for names in (("femur", "patella"), ("tibia", "fibula"), ("foot", "bofoot", "talus"))
    )
    up = _unit(hip - ankle)
    across = _unit(x - (x @ up) * up)
    limb = f"{side}_leg"

    def region(name: str, points: Array) -> Region:
        return Region((PART_IDS[name],), points, across, up, limb)

    yield region("Thigh", thigh)
    yield region("Knee", _near(np.concatenate([thigh, shin]), knee, 85 * scale))
    yield region("Lower Leg", shin)
    yield region("Ankle", _near(np.concatenate([shin, foot]), ankle, 70 * scale))
    toes = np.array([0.0, -1.0, 0.0])
    toes = _unit(toes - (toes @ across) * across)
    yield Region((PART_IDS["Feet"],), foot, across, toes, f"{side}_foot", end_on=toes)
