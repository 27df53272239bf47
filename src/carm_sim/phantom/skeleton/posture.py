# SPDX-License-Identifier: Apache-2.0
"""From a body's plan to posed bones and the landmarks on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from carm_core.transforms import Array
from carm_sim.phantom.body import ALONG, UP, BodyPlan
from carm_sim.phantom.skeleton.anatomy import HEAD_BODY, SKULL, T1_MESH, T12_MESH, Anatomy, anatomy_of
from carm_sim.phantom.skeleton.shape import draw_shapes
from carm_sim.phantom.skeleton.skeleton import SIDES, Bone, Pose, SkeletonModel, skeleton_model
from carm_sim.phantom.skeleton.warp import Warp

_SIDE_LANDMARKS = {
    "r": {"head": 2, "angle": 4, "elbow": 6, "wrist": 8},
    "l": {"head": 3, "angle": 5, "elbow": 7, "wrist": 9},
}
_JOINTS = (
    "sternoclavicular_r2", "sternoclavicular_r3",
    "acromioclavicular_r1", "acromioclavicular_r2", "acromioclavicular_r3",
    "elv_angle", "shoulder_elv", "shoulder_rot", "elbow_flexion", "pro_sup", "flexion",
)  # fmt: skip
_LOWER = np.array([-0.9, -0.5, -0.7, -0.7, -0.8, -1.4, 0.0, -1.5, 0.0, -1.5, -0.8])
_UPPER = np.array([0.7, 0.7, 0.7, 0.7, 0.9, 2.3, 3.0, 2.0, 2.4, 1.5, 0.8])
_PRIOR_RAD = np.array([0.35, 0.25, 0.35, 0.3, 0.35, 0.6, 0.5, 0.6, 0.6, 0.5, 0.4])
_PRIOR_WEIGHT_MM = 2.5
_SCALP_AND_SOLE_MM = 24.0
_WEIGHTS = {  # of shoulder, scapular angle, elbow, wrist and finger base along x, y, z
    "crossed": np.array([[1.5, 0.4, 1.9], [1.4, 0.8, 1.6], [1.6, 0.3, 1.4], [1.7, 0.6, 1.3], [0, 0.4, 0]]),
    ALONG: np.array([[1.3, 0.4, 1.3], [1.0, 0.8, 1.0], [0.4, 0.6, 0.4], [0.3, 0.5, 0.3], [0, 0.3, 0]]),
    UP: np.array([[0, 0, 0], [0, 0.5, 0], [0.2, 0.3, 0.2], [0.2, 0.3, 0.2], [0, 0.1, 0]]),
}


_LIVING_UP_WEIGHTS = np.array([[0.6, 0.2, 0.9], [0.9, 0.6, 1.0], [0.2, 0.3, 0.2], [0.2, 0.3, 0.2], [0, 0.1, 0]])
"""The same for raised arms of the style ``living``, whose shoulder girdle has aims of its own."""
_ABDUCTED = 0.45
"""Part of the arms along the body of the style ``living`` that lie apart from it."""


@dataclass(frozen=True)
class PosedSkeleton:
    """Bones in LPS with the landmarks on them.

    Attributes:
        bones: Mesh name to bone surface, mm.
        landmarks_mm: Landmark id to LPS position, mm: 1 to 10 and 14 lie on bones, 11 to 13 are aims for the organs.
        joints_mm: Points that the soft tissue follows: `shoulder_r`, `elbow_r`, `wrist_r`, `hand_r`, `hip_r`, ... .
        belly_front_mm: Y of the belly's front surface at the forearms.
        extra_mm: Id of each of ``carm_core.landmarks.EXTRA_LANDMARKS`` to its LPS position, mm.
        stature_mm: From heel to crown, with the soft tissue over both.
    """

    bones: dict[str, Bone]
    landmarks_mm: dict[int, Array]
    joints_mm: dict[str, Array]
    belly_front_mm: float
    extra_mm: dict[int, Array]
    stature_mm: float


def pose_skeleton(plan: BodyPlan, with_bones: bool = True, lower_legs: bool = False) -> PosedSkeleton:
    """Return the scale and pose the skeleton so that its landmarks follow the plan.

    Args:
        plan: The body.
        with_bones: False leaves ``bones`` empty, which is much faster.
        lower_legs: Whether ``bones`` reach below the knees.
    """
    model = skeleton_model()
    anatomy = anatomy_of(model)
    rng = np.random.default_rng([plan.seed, 2])
    shapes = draw_shapes(plan, anatomy.bone_centers_mm, anatomy.bone_boxes_mm, model.mesh_bodies())
    moved = {"sacrum": np.array([0.0, *plan.traits.spine_on_pelvis_mm])}
    straight = Pose({}, _scales(plan), shapes, moved)
    t1 = model.posed_points(straight, {10: ("torso", T1_MESH, anatomy.t1_mm)})[10]
    chest_depth = (anatomy.t1_mm[1] - anatomy.sternum_front_mm) * (1 + plan.traits.barrel)
    front = float(t1[1] - chest_depth * plan.torso_depth)
    belly_front = front - 8.0 - 75.0 * max(0.0, plan.fatness - 0.25) + 12.0 * max(0.0, 0.3 - plan.fatness)
    angles: dict[str, float] = {}
    for side in SIDES:
        angles |= _fit_arm(model, anatomy, plan, side, straight, t1, belly_front, rng)
    pose = Pose(angles, straight.scales, shapes, moved)
    skull = shapes[SKULL](anatomy.skull_mm[None])[0]
    warp = Warp(plan, anatomy, t1, skull)
    posed = model.posed_points(pose, anatomy.extra | {14: ("torso", T12_MESH, anatomy.t12_mm)})
    landmarks, joints = _side_points(model, anatomy, pose)
    landmarks |= {10: t1, 14: posed.pop(14)}
    landmarks = {key: warp.trunk(point[None])[0] for key, point in landmarks.items()}
    landmarks[1] = warp.head(skull[None])[0]
    landmarks |= _organ_aims(plan, landmarks[10])
    extra = {}
    for key, (body, mesh, neutral) in anatomy.extra.items():
        on_neck = body == HEAD_BODY
        extra[key] = warp.head(shapes[mesh](neutral[None]))[0] if on_neck else warp.trunk(posed[key][None])[0]
    joints = {key: warp.trunk(point[None])[0] for key, point in joints.items()}
    heel = model.posed_points(pose, {0: ("calcn_r", "", anatomy.heel_mm)})[0]
    crown = warp.height_of_head(shapes[SKULL](anatomy.crown_mm[None])[0])
    stature = crown + float(t1[2] - heel[2]) + _SCALP_AND_SOLE_MM
    bones = _warped_bones(model, pose, warp, lower_legs) if with_bones else {}
    return _tilted(PosedSkeleton(bones, landmarks, joints, belly_front, extra, stature), plan.tilt_rad)


def _scales(plan: BodyPlan) -> dict[str, Array]:
    frame, sex = plan.frame_scale, (0.97 if plan.female else 1.0)
    girdle = frame**0.5 * sex * 0.97
    return {
        "torso": np.array([plan.torso_width, plan.torso_depth, frame]),
        "clavicle": np.full(3, girdle * 0.95),
        "scapula": np.full(3, girdle),
        "humerus": np.array([0.97 * sex, 0.97 * sex, 1.0]) * plan.limb_scale,
        "forearm": np.array([0.97 * sex, 0.97 * sex, 1.0]) * plan.limb_scale,
        "hand": np.full(3, plan.limb_scale * sex),
        "lumbar": np.array([frame**0.5, frame**0.5, frame]),
        "pelvis": np.array([1.06 if plan.female else 1.0, 1.0, 0.91 if plan.female else 0.94]) * frame**0.6,
        "leg": np.array([0.97 * sex * frame**0.6, 0.97 * sex * frame**0.6, plan.leg_scale]),
    }


def _start_angles(kind: str) -> Array:
    """Return the joint angles to start the fit from, in the order of ``_JOINTS``."""
    if kind == UP:
        return np.array([0, 0, 0, 0, 0, 0.4, 2.4, 0.2, 1.0, 0.2, 0.0])
    if kind == ALONG:
        return np.array([0, 0, 0, 0, 0, 0.0, 0.15, 0.0, 0.25, 0.3, 0.0])
    return np.array([0.1, 0.15, 0.1, 0.0, 0.1, 1.0, 0.5, 0.6, 1.6, 0.5, 0.0])


def _arm_aims(kind: str, plan: BodyPlan, side: str, t1: Array, belly_front: float, rng: np.random.Generator) -> Array:
    """Where head of the humerus, scapular angle, elbow, wrist and finger base should be, (5, 3) in mm relative to T1.

    NaN means free.
    """
    marks, sign, free = _SIDE_LANDMARKS[side], SIDES[side], np.nan
    aims = np.full((5, 3), free)
    if kind != UP:
        for row, key in enumerate((marks["head"], marks["angle"])):
            inferior, left = plan.targets_mm[key]
            aims[row] = left, (-40.0 + rng.normal(0, 10), 40.0 * plan.torso_depth + rng.normal(0, 4))[row], -inferior
    else:
        aims[1, 1] = 44.0 * plan.torso_depth
        if plan.style == "living":
            aims[:2] = _raised_girdle(plan, sign, rng)
    if kind == "crossed":
        wrist = belly_front - t1[1] - 26.0 + rng.normal(0, 6)
        for row, key, depth in ((2, marks["elbow"], -85.0 + rng.normal(0, 12)), (3, marks["wrist"], wrist)):
            inferior, left = plan.targets_mm[key]
            aims[row] = left, depth, -inferior
        aims[4, 1] = wrist + 8.0
        return aims
    upper, fore = 288.0 * plan.limb_scale, 245.0 * plan.limb_scale
    shoulder = aims[0] if kind == ALONG else np.array([sign * 150.0 * plan.torso_width, -30.0, 40.0])
    if kind == ALONG:
        out = sign * (rng.uniform(15, 55) + 45 * plan.fatness)
        apart = sign * rng.uniform(-35, 40)
        if plan.style == "living" and rng.random() < _ABDUCTED:
            out, apart = sign * (rng.uniform(60, 330) + 45 * plan.fatness), sign * rng.uniform(-120, 220)
        aims[2] = shoulder + _along(np.array([out, rng.uniform(0, 50), -upper]), upper)
        aims[3] = aims[2] + _along(np.array([apart, rng.uniform(-60, -5), -fore]), fore)
        aims[4, 1] = aims[3, 1] - 5.0
        return aims
    aims[2] = shoulder + _along(np.array([sign * rng.uniform(0.15, 1.0), rng.uniform(-0.25, 0.15), 1.0]), upper)
    aims[3] = aims[2] + _along(
        np.array([-sign * rng.uniform(-0.2, 1.2), rng.uniform(-0.3, 0.1), rng.uniform(0.1, 1.0)]), fore
    )
    aims[4, 1] = aims[3, 1]
    return aims


def _raised_girdle(plan: BodyPlan, sign: float, rng: np.random.Generator) -> Array:
    """Where head of the humerus and scapular angle are with a raised arm, relative to T1, (2, 3) in mm.

    In two chest CTs with raised arms the angle lies 0.55 to 0.60 of the way from T1 to T12, 106 to 136 mm from the
    midline; further out where the shoulder blade turns more.
    """
    trunk = plan.targets_mm[14][0]
    head = [rng.normal(128, 12) * plan.torso_width, rng.normal(-20, 10), -rng.normal(-0.05, 0.06) * trunk]
    angle = [
        float(np.clip(rng.normal(138, 24), 95, 195)) * plan.torso_width,
        rng.uniform(0, 44) * plan.torso_depth,
        -rng.normal(0.54, 0.06) * trunk,
    ]
    return np.array([head, angle]) * (sign, 1.0, 1.0)


def _along(direction: Array, length: float) -> Array:
    return np.asarray(direction / np.linalg.norm(direction) * length)


def _fit_arm(
    model: SkeletonModel, anatomy: Anatomy, plan: BodyPlan, side: str, straight: Pose, t1: Array,
    belly_front: float, rng: np.random.Generator,
) -> dict[str, float]:  # fmt: skip
    """Return the joint angles of one arm and shoulder girdle that bring its landmarks to their aims."""
    kind = plan.arm_sides[side]
    aims = _arm_aims(kind, plan, side, t1, belly_front, rng)
    start = _start_angles(kind)
    start[:5] += rng.normal(0, 0.05, 5)
    weights = _LIVING_UP_WEIGHTS if kind == UP and plan.style == "living" else _WEIGHTS[kind]
    weights = weights * np.isfinite(aims)
    aims = np.nan_to_num(aims) + t1
    names = [f"{joint}_{side}" for joint in _JOINTS]
    bodies = tuple(f"{body}_{side}" for body in ("humerus", "scapula", "ulna", "radius", "2proxph"))
    angle_local = _angle_local(model, anatomy, straight, side)
    wrist_local = _wrist_local(model, anatomy, straight, side)

    def residuals(angles: Array) -> Array:
        frames = model.frames(replace(straight, angles=dict(zip(names, angles.tolist(), strict=True))), bodies)
        humerus, scapula, ulna, radius, finger = (frames[body] for body in bodies)
        points = np.stack([
            humerus[0],
            scapula[0] + scapula[1] @ angle_local,
            (ulna[0] + radius[0]) / 2,
            radius[0] + radius[1] @ wrist_local,
            finger[0],
        ])  # fmt: skip
        beyond = np.maximum(angles - _UPPER, 0) + np.maximum(_LOWER - angles, 0)
        prior = _PRIOR_WEIGHT_MM * (angles - start) / _PRIOR_RAD
        return np.concatenate([(weights * (points - aims)).ravel(), prior, 60.0 * beyond])

    fitted = _least_squares(residuals, start)
    return {name: float(angle) for name, angle in zip(names, fitted, strict=True)}


def _least_squares(residuals: Callable[[Array], Array], start: Array, iterations: int = 14) -> Array:
    """Return the Levenberg-Marquardt with a forward-difference Jacobian."""
    values, damping, step = start.copy(), 1e-2, 1e-5
    error = residuals(values)
    for _ in range(iterations):
        jacobian = np.stack([(residuals(values + step * unit) - error) / step for unit in np.eye(len(values))], axis=1)
        normal = jacobian.T @ jacobian
        move = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1.0), -jacobian.T @ error)
        move *= min(1.0, 0.5 / np.abs(move).max())
        trial = residuals(values + move)
        gain = float(error @ error - trial @ trial)
        if gain > 0:
            values, error, damping = values + move, trial, max(damping / 4, 1e-6)
            if gain < 0.3:
                break
        else:
            damping *= 8
    return values


def _angle_local(model: SkeletonModel, anatomy: Anatomy, pose: Pose, side: str) -> Array:
    """Return the inferior angle of the scapula in the axes of the scapula, mm."""
    name = f"scapula_{side}"
    return model.local_point(name, pose.shapes[name](anatomy.angle_mm[side][None])[0]) * model.scale_of(
        name, pose.scales
    )


def _wrist_local(model: SkeletonModel, anatomy: Anatomy, pose: Pose, side: str) -> Array:
    """Return the center of the wrist in the axes of the radius, mm."""
    name = f"radius_{side}"
    return model.local_point(name, anatomy.wrist_mm[side]) * model.scale_of(name, pose.scales)


def _side_points(model: SkeletonModel, anatomy: Anatomy, pose: Pose) -> tuple[dict[int, Array], dict[str, Array]]:
    names = ("humerus", "ulna", "radius", "scapula", "thirdmc", "femur", "tibia", "talus", "toes")
    frames = model.frames(pose, tuple(f"{body}_{side}" for body in names for side in SIDES))
    landmarks, joints = {}, {}
    for side, marks in _SIDE_LANDMARKS.items():
        scapula, radius = frames[f"scapula_{side}"], frames[f"radius_{side}"]
        landmarks[marks["angle"]] = scapula[0] + scapula[1] @ _angle_local(model, anatomy, pose, side)
        landmarks[marks["wrist"]] = radius[0] + radius[1] @ _wrist_local(model, anatomy, pose, side)
        landmarks[marks["head"]] = frames[f"humerus_{side}"][0]
        landmarks[marks["elbow"]] = (frames[f"ulna_{side}"][0] + radius[0]) / 2
        joints[f"shoulder_{side}"] = landmarks[marks["head"]]
        joints[f"elbow_{side}"] = landmarks[marks["elbow"]]
        joints[f"wrist_{side}"] = landmarks[marks["wrist"]]
        joints[f"hand_{side}"] = frames[f"thirdmc_{side}"][0]
        joints[f"acromion_{side}"] = scapula[0]
        for joint, body in (("hip", "femur"), ("knee", "tibia"), ("ankle", "talus"), ("toes", "toes")):
            joints[f"{joint}_{side}"] = frames[f"{body}_{side}"][0]
    return landmarks, joints


def _organ_aims(plan: BodyPlan, t1: Array) -> dict[int, Array]:
    """Return the carina and diaphragm domes in the coronal plane; their depth is refined by the organs."""
    aims = {}
    for key, depth in ((11, -38.0), (12, -60.0), (13, -55.0)):
        inferior, left = plan.targets_mm[key]
        if key != 11:
            limit = 108.0 * plan.torso_width
            left = float(np.clip(left, -limit, limit))
            inferior = min(inferior, plan.targets_mm[14][0] - 12.0)
        else:
            inferior = float(np.clip(inferior, 0.12 * plan.targets_mm[14][0], 0.42 * plan.targets_mm[14][0]))
        aims[key] = t1 + np.array([left, depth * plan.torso_depth, -inferior])
    return aims


def _warped_bones(model: SkeletonModel, pose: Pose, warp: Warp, lower_legs: bool) -> dict[str, Bone]:
    neutral = model.bones(Pose(shapes=pose.shapes))
    bones = {}
    for name, bone in model.bones(pose, lower_legs).items():
        vertices = warp.head(neutral[name].vertices) if bone.group == "head" else warp.trunk(bone.vertices)
        bones[name] = Bone(name, bone.group, vertices, bone.faces)
    return bones


def _tilted(posed: PosedSkeleton, angle: float) -> PosedSkeleton:
    """Rotate everything about T1 in the coronal plane; positive angles turn the feet towards the patient's left."""
    pivot = posed.landmarks_mm[10]
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])

    def turn(points: Array) -> Array:
        return np.asarray((points - pivot) @ rotation.T + pivot)

    return PosedSkeleton(
        bones={name: Bone(name, bone.group, turn(bone.vertices), bone.faces) for name, bone in posed.bones.items()},
        landmarks_mm={key: turn(point) for key, point in posed.landmarks_mm.items()},
        joints_mm={key: turn(point) for key, point in posed.joints_mm.items()},
        belly_front_mm=posed.belly_front_mm,
        extra_mm={key: turn(point) for key, point in posed.extra_mm.items()},
        stature_mm=posed.stature_mm,
    )
