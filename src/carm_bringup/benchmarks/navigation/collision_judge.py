# SPDX-License-Identifier: Apache-2.0
"""Collisions in the navigation bench: the planner's obstacles, and an independent judge.

The planner sees what the agent's node would: the patient's surface as convex pieces, with a margin. The judge looks at
points of the CT's body and of the table, and at the machine's boxes in closed form, without margin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, Surface
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import RobotGeometry, link_poses
from carm_core.robot.trajectory import Trajectory
from carm_core.transforms import Array
from carm_sim.patient.patient import Patient
from carm_sim.patient.surface import patient_surface
from carm_sim.patient.volume import BODY_THRESHOLD_HU

_POINT_MM = 10.0
_TABLE_STEP_M = 0.03
_LEAST_STEP_S = 0.02
_FASTEST_M_S = 0.6
"""No point of the machine is faster than this at the joints' velocity limits, m/s."""


class Judge:
    """Measures true clearances of executed trajectories."""

    def __init__(self, patient: Patient, carm: CArm) -> None:
        """Convert the patient's body and the table to points.

        Args:
            patient: On the table.
            carm: The arm.
        """
        geometry = RobotGeometry.from_config()
        self._carm, self._shapes = carm, geometry.moving
        tops = [shape.half_extent_m * 2 for shape in geometry.of_link("table")]
        places = [shape.transform_shape_to_link.translation for shape in geometry.of_link("table")]
        plates = [_box_points(size) + at for size, at in zip(tops, places, strict=True)]
        self._points = np.concatenate([_body_points(patient), *plates])

    def clearance_m(self, positions: Array) -> float:
        """Return the smallest distance of the machine to body, table and floor, m; zero or less on contact.

        Args:
            positions: (6,), m and rad.
        """
        poses = link_poses(self._carm, positions)
        best = np.inf
        for shape in self._shapes:
            transform = poses[shape.link] @ shape.transform_shape_to_link
            local = np.abs((self._points - transform.translation) @ transform.rotation) - shape.half_extent_m
            near = np.linalg.norm(np.maximum(local, 0.0), axis=1).min()
            best = min(best, float(near) if near > 0 else float(local.max(axis=1).min()))
            if not shape.link.startswith("cart"):
                lowest = float(poses[shape.link].apply(shape.corners_m)[:, 2].min())
                best = min(best, lowest + self._carm.table_height_m)
        return best

    def along_m(self, trajectory: Trajectory) -> float:
        """Return the smallest clearance along a trajectory, up to the first contact, m."""
        time_s, best = 0.0, np.inf
        while True:
            clearance = self.clearance_m(trajectory.sample(time_s)[0])
            best = min(best, clearance)
            if best <= 0 or time_s >= trajectory.duration_s:
                return best
            time_s = min(trajectory.duration_s, time_s + max(_LEAST_STEP_S, clearance / _FASTEST_M_S))


@dataclass(frozen=True, eq=False)
class Surroundings:
    """A patient as planner and judge know it.

    Attributes:
        model: For the planner.
        judge: For the figures.
    """

    model: CollisionModel
    judge: Judge

    @classmethod
    def of(cls, patient: Patient, carm: CArm) -> Surroundings:
        """Build both for a patient on the table."""
        mesh = patient_surface(patient)
        obstacles = Obstacles(Surface(mesh.vertices_m, mesh.triangles))
        return cls(CollisionModel(carm, obstacles), Judge(patient, carm))


def _body_points(patient: Patient) -> Array:
    """Return points (N, 3) of the body's outside, frame ``table``, m."""
    volume = patient.volume
    step = np.maximum(1, np.round(_POINT_MM / volume.spacing_mm)).astype(int)
    solid: NDArray[np.bool_] = volume.hu[:: step[0], :: step[1], :: step[2]] > BODY_THRESHOLD_HU
    solid = ndimage.binary_opening(solid)
    outside = solid & ~ndimage.binary_erosion(solid)
    index = np.argwhere(outside) * step
    points = np.asarray(patient.transform_lps_to_table.apply(volume.lps_from_voxel(index.astype(np.float64))))
    kept = points[points[:, 2] > 0.0]
    return np.asarray(kept / 1000.0)


def _box_points(size_m: Array) -> Array:
    """Return points (N, 3) on the faces of a box about the origin, m."""
    axes = [np.linspace(-s / 2, s / 2, max(2, round(s / _TABLE_STEP_M) + 1)) for s in size_m]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(grid[(np.abs(np.abs(grid) - size_m / 2) < 1e-9).any(axis=1)])
