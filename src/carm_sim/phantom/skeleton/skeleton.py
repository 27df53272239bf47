# SPDX-License-Identifier: Apache-2.0
"""The skeleton: bone meshes of ``myo-sim``, scaled body by body and posed by MuJoCo.

The model's world axes are LPS: x towards the patient's left, y posterior, z superior. Lengths in mm.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.transforms import Array

SIDES = {"r": -1.0, "l": 1.0}
_GROUPS = (
    ("clavicle", r"^(clavicle|clavphant)"),
    ("scapula", r"^(scapula|scapphant)"),
    ("humerus", r"^(humphant|humphant1|humerus)_"),
    ("forearm", r"^(ulna|radius)_"),
    ("head", r"^(neck|head)$"),
    ("torso", r"^(torso|Arm_attachment|chest_[rl]|cervical_spine|head_attach|myoarm_[rl]_root)"),
    ("lumbar", r"^lumbar"),
    ("leg", r"^(femur|tibia|patella|talus|calcn|toes)"),
    ("pelvis", r"^(sacrum|pelvis|Full Body|myolegs_root)"),
)
_COARSE_FACES = 3000
_BULGE = 0.8
_LOWER_LEG = re.compile(r"tibia|fibula|talus|foot|patella")
_MOVED_MM = {"sacrum": (0.0, -18.0, -33.0), "lumbar5": (0.0, -14.0, 0.0), "torso": (0.0, 0.0, 7.0)}
"""What moves with a body, against the model, mm (LPS).

The model's spine stands too high and too far behind its hips: the promontory 122 mm above their axis and 26 mm behind
it, L5 160 and 45 mm. In a CT of an abdomen (TotalSegmentator's example) they lie 81 and 12, 117 and 10 mm; in the
XCAT man of the Mesh-based Human Phantom for Simulation, whose skeleton is one surface, about 82 and 5, 108 and 15 mm.
The bodies of T12 and L1 are 23 mm apart and overlap; elsewhere about them 30 mm are between neighbors.
"""
_RIBS = "ribcage"
_LOWERED_MM, _LOWERED_FROM_MM, _BESIDE_MM = 46.0, 145.0, (20.0, 75.0)
"""How far the lower ribs are lowered beside the spine, from which height above the lowest, over which distance from the
midline. The model's end 35 mm below the center of T12, those of the XCAT man 83 mm (in textbooks: at L3)."""
_CARRIED_BY = {"femur_r": "r_pelvis", "femur_l": "l_pelvis", "clavicle_r": _RIBS, "clavicle_l": _RIBS}

Shape = Callable[[Array], Array]
Attached = tuple[str, str, Array]
"""Name of the body that a point moves with, name of the mesh whose shape it follows, neutral position (3,) in mm."""


@dataclass(frozen=True)
class Bone:
    """One bone surface.

    Attributes:
        name: Mesh name in ``myo-sim``.
        group: Body group whose scale applies.
        vertices: (V, 3) in mm.
        faces: (F, 3) vertex indices.
    """

    name: str
    group: str
    vertices: Array
    faces: NDArray[np.int64]


@dataclass
class Pose:
    """Joint angles in rad by MuJoCo joint name, scale factors by body group, shapes by mesh name.

    Scale factors are along the world's axes at the neutral pose; a shape maps points (N, 3) in mm of the neutral model
    and is applied before the scale. ``moved_mm`` holds the displacement (3,) by body name, before the scale.
    """

    angles: dict[str, float] = field(default_factory=dict)
    scales: dict[str, Array] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    moved_mm: Mapping[str, Array] = field(default_factory=dict)


def refined(vertices: Array, faces: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    """Split each triangle into four and bulge the new vertices towards the smooth surface (Phong tessellation).

    Boubekeur and Alexa, Phong Tessellation, SIGGRAPH Asia 2008. The given vertices stay; open surfaces are allowed.

    Args:
        vertices: (V, 3).
        faces: (F, 3) vertex indices.

    Returns:
        Vertices (W, 3) and faces (4F, 3).
    """
    _, keep, back = np.unique(vertices.round(6), axis=0, return_index=True, return_inverse=True)
    points, triangles = vertices[keep], back.reshape(-1)[faces]
    corner = points[triangles]
    cross = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals = np.zeros_like(points)
    for column in range(3):
        np.add.at(normals, triangles[:, column], cross)
    normals /= np.maximum(np.linalg.norm(normals, axis=1), 1e-12)[:, None]
    sides = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges, of_side = np.unique(sides, axis=0, return_inverse=True)
    ends = points[edges]
    middle = ends.mean(1)
    height = np.einsum("eic,eic->ei", middle[:, None] - ends, normals[edges])
    bulged = middle - _BULGE * (height[:, :, None] * normals[edges]).mean(1)
    first, second, third = (len(points) + of_side.reshape(-1, 3)).T
    a, b, c = triangles.T
    split = np.stack([[a, first, third], [first, b, second], [third, second, c], [first, second, third]], axis=1)
    return np.concatenate([points, bulged]), split.reshape(3, -1).T.astype(np.int64)


class SkeletonModel:
    """The ``myofullbody`` model, prepared once; ``bones`` and ``frames`` are functions of a ``Pose``."""

    def __init__(self) -> None:
        """Load and prepare the model (about a second)."""
        import mujoco

        self._mujoco = mujoco
        self._model = _load_model()
        self._data = mujoco.MjData(self._model)
        mujoco.mj_resetDataKeyframe(self._model, self._data, 0)
        self._neutral = self._data.qpos.copy()
        mujoco.mj_kinematics(self._model, self._data)
        model = self._model
        self._neutral_rotation = self._data.xmat.reshape(-1, 3, 3).copy()
        for name, shift_mm in _MOVED_MM.items():
            body = model.body(name).id
            model.body_pos[body] += self._in_parent(body, np.array(shift_mm))
        mujoco.mj_kinematics(self._model, self._data)
        self._body_positions = model.body_pos.copy()
        self._neutral_origin_mm = self._data.xpos * 1000
        self._rotations = np.abs(self._neutral_rotation.round(0))
        self._groups = [_group_of(model.body(i).name) for i in range(model.nbody)]
        self._inherit_groups()
        self._addresses = {model.joint(i).name: int(model.jnt_qposadr[i]) for i in range(model.njnt)}
        self._rhythm = self._couplings()
        self._bodies = {model.body(i).name: i for i in range(model.nbody)}
        self._meshes = self._collect_meshes()
        self._last_shaped: tuple[object, ...] | None = None

    def _inherit_groups(self) -> None:
        for body in range(1, self._model.nbody):
            if self._groups[body] is None:
                self._groups[body] = self._groups[self._model.body_parentid[body]] or "pelvis"
        for body in range(1, self._model.nbody):
            if self._groups[body] == "forearm" and not re.match(r"^(ulna|radius)_", self._model.body(body).name):
                self._groups[body] = "hand"

    def _couplings(self) -> dict[str, list[tuple[str, float]]]:
        """Joints that follow ``shoulder_elv`` and ``elv_angle`` linearly (scapulohumeral rhythm of the model)."""
        model = self._model
        rhythm: dict[str, list[tuple[str, float]]] = {}
        for equality in range(model.neq):
            if model.eq_type[equality] != self._mujoco.mjtEq.mjEQ_JOINT or model.eq_obj2id[equality] < 0:
                continue
            leader = model.joint(model.eq_obj2id[equality]).name
            if leader.startswith(("shoulder_elv", "elv_angle")):
                follower = model.joint(model.eq_obj1id[equality]).name
                rhythm.setdefault(leader, []).append((follower, float(model.eq_data[equality][1])))
        return rhythm

    def _collect_meshes(self) -> list[tuple[str, int, Array, NDArray[np.int64]]]:
        model, meshes = self._model, []
        for geom in range(model.ngeom):
            if model.geom_type[geom] != self._mujoco.mjtGeom.mjGEOM_MESH:
                continue
            mesh = model.geom_dataid[geom]
            start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            vertices = model.mesh_vert[start : start + count].astype(float)
            start, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
            faces = model.mesh_face[start : start + count].astype(np.int64)
            if count < _COARSE_FACES:
                vertices, faces = refined(vertices, faces)
            rotation = np.empty(9)
            self._mujoco.mju_quat2Mat(rotation, model.geom_quat[geom])
            body = int(model.geom_bodyid[geom])
            local = (vertices @ rotation.reshape(3, 3).T + model.geom_pos[geom]) * 1000
            neutral = local @ self._neutral_rotation[body].T + self._neutral_origin_mm[body]
            name = model.mesh(mesh).name
            meshes.append((name, body, _with_low_ribs(neutral) if _RIBS in name else neutral, faces))
        return meshes

    def _in_parent(self, body: int, shift_mm: Array) -> Array:
        """Return a shift (3,) in mm of the neutral model in the axes of a body's parent, m."""
        return np.asarray(self._neutral_rotation[self._model.body_parentid[body]].T @ shift_mm / 1000)

    def _local_scale(self, body: int, scales: dict[str, Array]) -> Array:
        scale = scales.get(self._groups[body] or "")
        return np.ones(3) if scale is None else self._rotations[body].T @ np.broadcast_to(scale, 3)

    def _place_joints(self, pose: Pose) -> None:
        """Origin of each body in its parent: scaled, and moved with the bone that carries the joint."""
        model = self._model
        carriers = {
            body: shape for body, mesh in _CARRIED_BY.items() for name, shape in pose.shapes.items() if mesh in name
        }
        for body in range(1, model.nbody):
            parent = model.body_parentid[body]
            position = self._body_positions[body].copy()
            shape = carriers.get(model.body(body).name)
            if shape is not None:
                origin = self._neutral_origin_mm[body]
                position += self._in_parent(body, shape(origin[None])[0] - origin)
            if (moved := pose.moved_mm.get(model.body(body).name)) is not None:
                position += self._in_parent(body, moved)
            model.body_pos[body] = position * self._local_scale(parent, pose.scales)

    def _apply(self, pose: Pose) -> None:
        model, data = self._model, self._data
        shaped = (pose.scales, pose.shapes, pose.moved_mm)
        if self._last_shaped is None or any(a is not b for a, b in zip(shaped, self._last_shaped, strict=True)):
            self._place_joints(pose)
            self._last_shaped = shaped
        data.qpos[:] = self._neutral
        for leader, followers in self._rhythm.items():
            for follower, slope in followers:
                data.qpos[self._addresses[follower]] = slope * pose.angles.get(leader, 0.0)
        for joint, angle in pose.angles.items():
            if joint in self._rhythm or joint not in self._addresses:
                continue
            data.qpos[self._addresses[joint]] += angle
        for leader in self._rhythm:
            data.qpos[self._addresses[leader]] = pose.angles.get(leader, 0.0)
        self._mujoco.mj_kinematics(model, data)

    def frames(self, pose: Pose, names: tuple[str, ...]) -> dict[str, tuple[Array, Array]]:
        """Return the origin (3,) in mm and rotation (3, 3) of some bodies."""
        self._apply(pose)
        return {
            name: (self._data.xpos[self._bodies[name]] * 1000, self._data.xmat[self._bodies[name]].reshape(3, 3).copy())
            for name in names
        }

    def local_point(self, body: str, point_mm: Array) -> Array:
        """Return a point (..., 3) given in mm at the neutral, unscaled pose, in the body's own axes (mm)."""
        index = self._bodies[body]
        return np.asarray((point_mm - self._neutral_origin_mm[index]) @ self._neutral_rotation[index])

    def posed_points(self, pose: Pose, attached: Mapping[int, Attached]) -> dict[int, Array]:
        """Return the points of the neutral model, each moved with its bone: key to position (3,) in mm."""
        self._apply(pose)
        points = {}
        for key, (body, mesh, neutral) in attached.items():
            shape = pose.shapes.get(mesh)
            shaped = neutral if shape is None else shape(neutral[None])[0]
            index = self._bodies[body]
            local = self.local_point(body, shaped) * self._local_scale(index, pose.scales)
            points[key] = self._data.xpos[index] * 1000 + self._data.xmat[index].reshape(3, 3) @ local
        return points

    def neutral_origin(self, body: str) -> Array:
        """Return the origin (3,) of a body in the neutral model, mm: for limbs, the joint that it hangs on."""
        return np.asarray(self._neutral_origin_mm[self._bodies[body]])

    def scale_of(self, body: str, scales: dict[str, Array]) -> Array:
        """Scale factors along the body's own axes, shape (3,)."""
        return self._local_scale(self._bodies[body], scales)

    def mesh_points(self, *names: str) -> Array:
        """Return the vertices (V, 3) of some meshes in the neutral model, mm."""
        known = {name: neutral for name, _, neutral, _ in self._meshes}
        return np.concatenate([known[name] for name in names])

    def mesh_faces(self, name: str) -> NDArray[np.int64]:
        """Return the faces (F, 3) of a mesh."""
        return next(faces for known, _, _, faces in self._meshes if known == name)

    def mesh_bodies(self) -> dict[str, str]:
        """Return the mesh name to the name of the body that it belongs to."""
        return {name: self._model.body(body).name for name, body, _, _ in self._meshes}

    def bones(self, pose: Pose, lower_legs: bool = False) -> dict[str, Bone]:
        """Return all bone surfaces at a pose; those from the knees down only if asked for."""
        self._apply(pose)
        bones = {}
        for name, body, neutral, faces in self._meshes:
            if _LOWER_LEG.search(name) and not lower_legs:
                continue
            shape = pose.shapes.get(name)
            points = neutral if shape is None else shape(neutral)
            local = (points - self._neutral_origin_mm[body]) @ self._neutral_rotation[body]
            scaled = local * self._local_scale(body, pose.scales)
            rotation = self._data.xmat[body].reshape(3, 3)
            vertices = scaled @ rotation.T + self._data.xpos[body] * 1000
            bones[name] = Bone(name, self._groups[body] or "", vertices, faces)
        return bones


def _with_low_ribs(points: Array) -> Array:
    """Return the rib cage (N, 3) with its lower ribs sloping down as far as people's do."""
    share = np.clip((points[:, 2].min() + _LOWERED_FROM_MM - points[:, 2]) / _LOWERED_FROM_MM, 0, 1) ** 1.3
    near, far = _BESIDE_MM
    beside = np.clip((np.abs(points[:, 0] - np.median(points[:, 0])) - near) / (far - near), 0, 1)
    moved = points.copy()
    moved[:, 2] -= _LOWERED_MM * share * beside * beside * (3 - 2 * beside)
    return moved


def _group_of(name: str) -> str | None:
    return next((group for group, pattern in _GROUPS if re.match(pattern, name)), None)


def _load_model() -> Any:
    """Load the model in silence: MuJoCo would print warnings and write a log file to the working directory."""
    import mujoco

    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda _: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import myo_sim

            return myo_sim.load_model("myofullbody")
    finally:
        mujoco.set_mju_user_warning(handler)


@lru_cache(maxsize=1)
def skeleton_model() -> SkeletonModel:
    """Return the model, loaded on first use (about 1.5 s)."""
    return SkeletonModel()
