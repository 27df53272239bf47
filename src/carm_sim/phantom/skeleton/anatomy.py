# SPDX-License-Identifier: Apache-2.0
"""Points on the neutral, unscaled model that landmarks, fits and bone shapes are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from carm_core.landmarks import EXTRA_LANDMARKS
from carm_core.transforms import Array
from carm_sim.phantom.skeleton.shape import vertebra_of
from carm_sim.phantom.skeleton.skeleton import SIDES, Attached, SkeletonModel

T1_MESH, T12_MESH = "torso_geom_12_thoracic1_s", "torso_geom_1_thoracic12_s"
RIBCAGE, SACRUM, CERVICAL, SKULL, JAW = (
    "torso_geom_13_ribcage_s", "sacrum_geom_1_sacrum", "hat_cervical", "hat_skull", "hat_jaw",
)  # fmt: skip
HEAD_BODY = "neck"
_SIDE_WORDS = {"r": "Right", "l": "Left"}
_MIN_VERTEBRA_VERTICES = 400


@dataclass(frozen=True)
class Anatomy:
    """Points in mm of the neutral model.

    Attributes:
        t1_mm, t12_mm: Centers of the vertebral bodies.
        skull_mm: Center of the skull's bounding box.
        crown_mm: Top of the skull.
        neck_base_mm: Lower end of the cervical spine.
        angle_mm: Side to the inferior angle of the scapula.
        wrist_mm: Side to the center of the lunate.
        sternum_front_mm: Y of the front of the sternum.
        heel_mm: Lowest point of the right heel.
        extra: Id of each of ``EXTRA_LANDMARKS`` to where it is attached; those of the neck are on ``HEAD_BODY``.
        bone_centers_mm: Mesh name to the point that its random shape leaves in place.
        bone_boxes_mm: Mesh name to its bounding box, (2, 3).
    """

    t1_mm: Array
    t12_mm: Array
    skull_mm: Array
    crown_mm: Array
    neck_base_mm: Array
    angle_mm: dict[str, Array]
    wrist_mm: dict[str, Array]
    sternum_front_mm: float
    heel_mm: Array
    extra: dict[int, Attached]
    bone_centers_mm: dict[str, Array]
    bone_boxes_mm: dict[str, Array]


def vertebral_center(vertices: Array) -> Array:
    """Return the center of the vertebral body: the mean of the anterior half of the vertices, (V, 3) -> (3,)."""
    return np.asarray(vertices[vertices[:, 1] < np.median(vertices[:, 1])].mean(0))


@lru_cache(maxsize=2)
def anatomy_of(model: SkeletonModel) -> Anatomy:
    """Return the points of a model."""
    skull, cervical = model.mesh_points(SKULL), model.mesh_points(CERVICAL)
    lowest = {side: model.mesh_points(f"scapula_{side}") for side in SIDES}
    foot = model.mesh_points("r_foot")
    boxes = {}
    for name in model.mesh_bodies():
        points = model.mesh_points(name)
        boxes[name] = np.stack([points.min(0), points.max(0)])
    return Anatomy(
        t1_mm=vertebral_center(model.mesh_points(T1_MESH)),
        t12_mm=vertebral_center(model.mesh_points(T12_MESH)),
        skull_mm=(skull.min(0) + skull.max(0)) / 2,
        crown_mm=skull[skull[:, 2].argmax()],
        neck_base_mm=cervical[cervical[:, 2] < cervical[:, 2].min() + 12].mean(0),
        angle_mm={side: blade[np.argsort(blade[:, 2])[:6]].mean(0) for side, blade in lowest.items()},
        wrist_mm={side: model.mesh_points(f"lunate_{side}").mean(0) for side in SIDES},
        sternum_front_mm=float(model.mesh_points(RIBCAGE)[:, 1].min()),
        heel_mm=foot[foot[:, 2].argmin()],
        extra=_extra(model),
        bone_centers_mm=_bone_centers(model, skull),
        bone_boxes_mm=boxes,
    )


def _bone_centers(model: SkeletonModel, skull: Array) -> dict[str, Array]:
    promontory = _promontory(model)
    spine = vertebral_center(model.mesh_points("torso_geom_6_thoracic7_s"))
    centers = {}
    for name, body in model.mesh_bodies().items():
        if vertebra_of(name):
            centers[name] = vertebral_center(model.mesh_points(name))
        elif "ribcage" in name:
            centers[name] = spine
        elif name.startswith("hat_"):
            centers[name] = np.array([spine[0], model.mesh_points(CERVICAL)[:, 1].mean(), skull[:, 2].mean()])
        elif "pelvis" in name or "sacrum" in name:
            centers[name] = promontory
        else:
            centers[name] = model.neutral_origin(body)
    return centers


def _promontory(model: SkeletonModel) -> Array:
    """Return the front edge of the upper end plate of the sacrum."""
    sacrum = model.mesh_points(SACRUM)
    middle = (sacrum[:, 0].min() + sacrum[:, 0].max()) / 2
    central = sacrum[(np.abs(sacrum[:, 0] - middle) < 15) & (sacrum[:, 2] > sacrum[:, 2].max() - 22)]
    return np.asarray(central[central[:, 1].argmin()])


def _cervical_centers(model: SkeletonModel) -> list[Array]:
    """Return the centers of C7, C6, ... C1: the connected parts of the mesh of the cervical spine, from below."""
    points, faces = model.mesh_points(CERVICAL), model.mesh_faces(CERVICAL)
    _, unique = np.unique(points.round(3), axis=0, return_inverse=True)
    corner = unique.reshape(-1)[faces]
    count = int(corner.max()) + 1
    edges = (np.concatenate([corner[:, 0], corner[:, 1]]), np.concatenate([corner[:, 1], corner[:, 2]]))
    number, label = connected_components(coo_matrix((np.ones(len(edges[0])), edges), (count, count)), directed=False)
    label = label[unique.reshape(-1)]
    parts = [points[label == part] for part in range(number)]
    return sorted(
        (vertebral_center(part) for part in parts if len(part) > _MIN_VERTEBRA_VERTICES), key=lambda p: float(p[2])
    )


def _extra(model: SkeletonModel) -> dict[int, Attached]:
    ids = {mark.name: mark.id for mark in EXTRA_LANDMARKS}
    bodies = model.mesh_bodies()
    points: dict[str, Attached] = {
        f"C{7 - row}": (HEAD_BODY, CERVICAL, center) for row, center in enumerate(_cervical_centers(model)[:5])
    }
    for mesh, body in bodies.items():
        name = vertebra_of(mesh)
        if name is not None and name not in ("T1", "T12"):
            points[name] = (body, mesh, vertebral_center(model.mesh_points(mesh)))
    for side, word in _SIDE_WORDS.items():
        pelvis, femur = model.mesh_points(f"{side}_pelvis"), model.mesh_points(f"{side}_femur")
        thigh, shin = f"femur_{side}", f"tibia_{side}"
        points[f"{word} femoral head"] = (thigh, f"{side}_femur", model.neutral_origin(thigh))
        points[f"{word} knee"] = (shin, f"{side}_tibia", model.neutral_origin(shin))
        points[f"{word} ankle"] = (shin, f"{side}_tibia", model.neutral_origin(f"talus_{side}"))
        points[f"{word} acromioclavicular joint"] = (
            f"scapula_{side}", f"scapula_{side}", model.neutral_origin(f"scapula_{side}"),
        )  # fmt: skip
        outer = SIDES[side] * femur[:, 0] + 1000 * (femur[:, 2] < femur[:, 2].max() - 90) * -1.0
        points[f"{word} greater trochanter"] = (thigh, f"{side}_femur", femur[outer.argmax()])
        points[f"{word} iliac crest"] = (bodies[f"{side}_pelvis"], f"{side}_pelvis", pelvis[pelvis[:, 2].argmax()])
    middle = np.median(model.mesh_points(RIBCAGE)[:, 0])
    points["Sacral promontory"] = (bodies[SACRUM], SACRUM, _promontory(model))
    halves = [model.mesh_points(f"{side}_pelvis") for side in SIDES]
    inner = [half[half[:, 1] < half[:, 1].min() + 25] for half in halves]
    gap = np.mean([part[np.abs(part[:, 0] - middle).argmin()] for part in inner], axis=0)
    points["Pubic symphysis"] = (bodies["r_pelvis"], "r_pelvis", gap)
    return {ids[name]: attached for name, attached in points.items()}
