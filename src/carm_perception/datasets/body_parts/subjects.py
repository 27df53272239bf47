# SPDX-License-Identifier: Apache-2.0
"""What is in the beam: whole generated bodies, single limbs of them in air, tables and objects. Lengths in mm, LPS."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from carm_core.imaging.projection import Detector, XrayView
from carm_core.transforms import rotation_about
from carm_perception.datasets.body_parts.exams import Exam
from carm_perception.datasets.body_parts.regions import ARMS, FEET, LEGS, OTHERS, TRUNK, Region, regions
from carm_sim.patient.volume import AIR_HU, Volume
from carm_sim.phantom import generate_phantom
from carm_sim.phantom.body import ARM_POSES, CROSSED, plan_body
from carm_sim.phantom.skeleton.posture import PosedSkeleton, pose_skeleton
from carm_sim.phantom.skeleton.skeleton import Bone

SPACINGS_MM = (2.5, 3.0)
ARM_CHANCES = (0.3, 0.4, 0.1, 0.2)
"""Of crossed, along, one up, raised: hands are imaged alone where they do not lie on the belly."""
_FLESH_HU, _FAR_MM = -600, 130.0
_REACH_MM = {"hand": 24.0, "forearm": 50.0, "humerus": 75.0, "foot": 40.0, "shin": 75.0, "thigh": 115.0}
"""How far from its bones the soft tissue of a limb reaches at most."""
_GRID_MM, _MARGIN_MM = 8.0, 70.0
_STUMP_MM = 40.0
"""Length of leg above the ankle that stays with a foot: on the cassette, the leg is bent out of the beam."""
OBJECTS_ALONE = "objects"
OBJECT_HU = {"foam": (-900, -600), "plastic": (-100, 250), "light metal": (1200, 2600)}
_OBJECT_SPACING_MM = 4.0


@dataclass(frozen=True, eq=False)
class Subject:
    """One body.

    Attributes:
        volumes: ``trunk`` (the whole body) and the limbs that can be imaged alone, by their names.
        regions: What is imaged of it.
    """

    volumes: dict[str, Volume]
    regions: list[Region]


def make_subject(seed: int, style: str = "standard", spacing_mm: float = SPACINGS_MM[0]) -> Subject:
    """Generate a body, and cut out its limbs.

    Args:
        seed: Of the body.
        style: Of the body.
        spacing_mm: Edge of its voxels.
    """
    arms = str(np.random.default_rng([seed, 60]).choice(ARM_POSES, p=ARM_CHANCES))
    body = generate_phantom(seed, spacing_mm, style, arms, whole_body=True)
    plan = plan_body(seed, style, arms)
    skeleton = pose_skeleton(plan, lower_legs=True)
    free = [limb for limb in ARMS if plan.arm_sides[limb[0]] != CROSSED]
    volumes = {TRUNK: body.volume} | {limb: cut_out(body.volume, skeleton, limb) for limb in (*free, *LEGS)}
    volumes |= {foot: _foot(volumes[leg], skeleton, foot[0]) for foot, leg in zip(FEET, LEGS, strict=True)}
    known = regions(skeleton, float(plan.head_rotation_rad[0]))
    return Subject(volumes, [one for one in known if one.limb in volumes])


def _limb_of(bone: Bone) -> tuple[str, str]:
    """Return the limb and the kind of tissue around a bone; the trunk's is no matter."""
    side = bone.name[0] if bone.name[1] == "_" else bone.name[-1]
    if bone.group in ("hand", "forearm", "humerus"):
        return f"{side}_arm", bone.group
    if bone.group == "leg":
        kind = "foot" if "foot" in bone.name or "talus" in bone.name else "shin"
        return f"{side}_leg", "thigh" if "femur" in bone.name or "patella" in bone.name else kind
    return TRUNK, ""


def cut_out(volume: Volume, skeleton: PosedSkeleton, limb: str) -> Volume:
    """Return a limb in air: what is nearer to its bones than to any others, and not too far from them.

    Args:
        volume: The body, its axes along LPS.
        skeleton: Its bones.
        limb: One of ``ARMS`` and ``LEGS``.
    """
    points, own, reach = [], [], []
    for bone in skeleton.bones.values():
        where, kind = _limb_of(bone)
        some = bone.vertices[:: max(1, len(bone.vertices) // 300)]
        points.append(some)
        own += [where == limb] * len(some)
        reach += [_REACH_MM.get(kind, 0.0)] * len(some)
    bones, mine, reaches = np.concatenate(points), np.array(own), np.array(reach)
    corners = volume.voxel_from_lps(np.stack([bones[mine].min(0) - _MARGIN_MM, bones[mine].max(0) + _MARGIN_MM]))
    low = np.clip(np.floor(corners.min(0)), 0, np.array(volume.shape) - 2).astype(int)
    high = np.clip(np.ceil(corners.max(0)), low + 1, np.array(volume.shape) - 1).astype(int)
    hu = volume.hu[low[0] : high[0] + 1, low[1] : high[1] + 1, low[2] : high[2] + 1]
    counts = [max(2, math.ceil(size * step / _GRID_MM)) for size, step in zip(hu.shape, volume.spacing_mm, strict=True)]
    axes = [np.linspace(first, last, count) for first, last, count in zip(low, high, counts, strict=True)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    flesh = volume.hu[tuple(np.moveaxis(np.rint(index).astype(int), -1, 0))] > _FLESH_HU
    flesh = ndimage.binary_dilation(flesh, iterations=2)
    grid = volume.lps_from_voxel(index[flesh])
    near, nearest = cKDTree(bones[mine]).query(grid)
    far, _ = cKDTree(bones[~mine]).query(grid, distance_upper_bound=_FAR_MM)
    inside = np.full(flesh.shape, -_GRID_MM)
    inside[flesh] = np.minimum(np.minimum(far, _FAR_MM) - near, reaches[mine][nearest] - near)
    zoom = [size / count for size, count in zip(hu.shape, counts, strict=True)]
    fine = ndimage.zoom(inside.astype(np.float32), zoom, order=1, mode="nearest", grid_mode=False)
    affine = volume.transform_voxel_to_lps.copy()
    affine[:3, 3] = volume.lps_from_voxel(low.astype(float))
    return Volume(np.where(fine > 0, hu, np.int16(AIR_HU)), affine)


def _foot(leg: Volume, skeleton: PosedSkeleton, side: str) -> Volume:
    """Return a leg without what is above the ankle by more than ``_STUMP_MM``."""
    top = skeleton.joints_mm[f"ankle_{side}"] + np.array([0.0, 0.0, _STUMP_MM])
    last = int(np.clip(leg.voxel_from_lps(top)[2], 2, leg.shape[2]))
    return Volume(np.ascontiguousarray(leg.hu[:, :, :last]), leg.transform_voxel_to_lps)


def draw_objects(rng: np.random.Generator) -> Volume:
    """Draw what is imaged without a patient: nothing, a table, boxes, balls and rods of foam, plastic and metal."""
    side = 80
    hu = np.full((side, side, side), AIR_HU, np.int16)
    place = (np.indices(hu.shape, np.float32) - (side - 1) / 2) * _OBJECT_SPACING_MM
    if rng.random() < 0.5:
        top, thick = rng.uniform(60, 100), rng.uniform(15, 50)
        shell = rng.uniform(2, 5)
        inside = (place[1] > top) & (place[1] < top + thick)
        core = (place[1] > top + shell) & (place[1] < top + thick - shell)
        inside &= np.abs(place[0]) < rng.uniform(60, 260)
        hu[inside] = np.where(core[inside], rng.integers(-950, -850), rng.integers(-300, 200))
    for _ in range(int(rng.integers(0, 7))):
        turn = rotation_about("z", rng.uniform(0, np.pi)) @ rotation_about("x", rng.uniform(0, np.pi))
        local = np.einsum("ij,jabc->iabc", turn, place - rng.normal(0, 50, 3)[:, None, None, None])
        size = np.exp(rng.uniform(np.log(6), np.log(90), 3))
        kind = rng.integers(3)
        if kind == 0:
            inside = (np.abs(local) < size[:, None, None, None]).all(0)
        elif kind == 1:
            inside = np.square(local / size[:, None, None, None]).sum(0) < 1
        else:
            inside = (np.hypot(local[0], local[1]) < size[0] / 2) & (np.abs(local[2]) < 2 * size[2])
        if rng.random() < 0.3:
            inside &= np.hypot(local[0], local[1]) > 0.6 * size[0] / 2
        low, high = OBJECT_HU[str(rng.choice(list(OBJECT_HU), p=(0.3, 0.5, 0.2)))]
        hu[inside] = rng.integers(low, high)
    affine = np.diag([_OBJECT_SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = -(side - 1) / 2 * _OBJECT_SPACING_MM
    return Volume(hu, affine)


def draw_object_exam(rng: np.random.Generator, pixels: int) -> Exam:
    """Draw a radiograph of ``draw_objects``: from any side, of any field."""
    turn = rotation_about("z", rng.uniform(0, 2 * np.pi)) @ rotation_about("x", rng.normal(0, 0.4) + np.pi / 2)
    distance, behind = float(rng.uniform(1000, 1500)), float(rng.uniform(100, 300))
    size = np.exp(rng.uniform(np.log(100), np.log(400), 2))
    pitch = float(size.max()) / pixels
    rows, columns = (max(24, round(side / pitch)) for side in size.tolist())
    detector = Detector(rows, columns, pitch)
    view = XrayView(-(distance - behind) * turn[:, 2], turn, detector, distance, distance - behind)
    return Exam(view, False, (OTHERS,), "none", OBJECTS_ALONE, 0)
