# SPDX-License-Identifier: Apache-2.0
"""Distances between the machine and obstacles, at one position and along whole paths."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import coal
import numpy as np
from numpy.typing import ArrayLike

from carm_core.collision.clearance import PEOPLE, Clearance, Margins
from carm_core.collision.continuous_check import PathCheck, PathSearch
from carm_core.collision.convex_shapes import SolidGroup, broad_phase, convex_hull, placed, primitive
from carm_core.collision.obstacles import Obstacles, box_points
from carm_core.robot.kinematics import LINKS, CArm
from carm_core.robot.shapes import RIGID_GROUP, RobotGeometry
from carm_core.transforms import Array


class CollisionModel:
    """The machine among obstacles. Not thread-safe: one per thread, see ``copy``."""

    def __init__(
        self,
        carm: CArm,
        obstacles: Obstacles | None = None,
        margins: Margins | None = None,
        geometry: RobotGeometry | None = None,
    ) -> None:
        """Build the solids.

        Args:
            carm: The arm.
            obstacles: What stands around it; None: a patient of unknown shape, no staff.
            margins: How close is too close.
            geometry: The machine's solids; None: those of ``config/carm.yaml``.
        """
        self.carm = carm
        self.obstacles = obstacles or Obstacles()
        self.margins = margins or Margins()
        self.geometry = geometry or RobotGeometry.from_config()
        moving = self.geometry.moving
        self._links = [LINKS.index(shape.link) for shape in moving]
        self._names = [shape.name for shape in moving]
        self._rotations = np.array([shape.transform_shape_to_link.rotation for shape in moving])
        self._origins = np.array([shape.transform_shape_to_link.translation for shape in moving])
        self._half = np.array([shape.half_extent_m for shape in moving])
        self._radii = np.linalg.norm(self._half, axis=1)
        self._solids = [coal.CollisionObject(primitive(shape.kind, shape.size_m)) for shape in moving]
        self._machine = broad_phase(self._solids)
        index = {shape.id: number for number, shape in enumerate(moving)}
        pairs = [(index[a.id], index[b.id]) for a, b in self.geometry.self_pairs()]
        self._pairs = np.array(pairs, dtype=int).reshape(-1, 2)
        self._on_floor = np.array([shape.link.startswith("cart") for shape in moving])
        self._groups = self._obstacle_groups()
        self._request = coal.DistanceRequest()
        self._weights = self._reach()

    def copy(self) -> CollisionModel:
        """Return a model of the same things for another thread."""
        return CollisionModel(self.carm, self.obstacles, self.margins, self.geometry)

    def _obstacle_groups(self) -> list[tuple[str, float, SolidGroup]]:
        margins = self.margins
        patient = [convex_hull(points) for points in self.obstacles.patient_pieces()]
        staff = [convex_hull(box_points(zone.low_m, zone.high_m)) for zone in self.obstacles.staff]
        table = [
            placed(primitive(shape.kind, shape.size_m), shape.transform_shape_to_link.matrix)
            for shape in self.geometry.of_link("table")
        ]
        groups = (("patient", margins.patient_m, patient), ("staff", 0.0, staff), ("table", 0.0, table))
        return [(name, margin, SolidGroup(solids)) for name, margin, solids in groups if solids]

    def _reach(self) -> Array:
        """Return how far any point of the machine moves at most per unit of each joint, m/m or m/rad (6,)."""
        tilt, orbital, wigwag = 0.0, 0.0, 0.0
        for shape in self.geometry.moving:
            if shape.link in (*RIGID_GROUP, "tilt_link"):
                offset = np.zeros(3)
                if shape.link == "xray_source":
                    offset[2] = -self.carm.source_isocenter_m
                elif shape.link == "detector":
                    offset[2] = self.carm.source_detector_m - self.carm.source_isocenter_m
                corners = shape.corners_m + offset
                if shape.link != "tilt_link":
                    orbital = max(orbital, float(np.hypot(corners[:, 1], corners[:, 2]).max()))
                    tilt = max(tilt, float(np.linalg.norm(corners, axis=1).max()))
                else:
                    tilt = max(tilt, float(np.hypot(corners[:, 0], corners[:, 2]).max()))
                far = float(np.linalg.norm(corners, axis=1).max())
                wigwag = max(wigwag, self.carm.column_to_isocenter_m + far)
            elif shape.link == "wigwag_link":
                wigwag = max(wigwag, float(np.hypot(shape.corners_m[:, 0], shape.corners_m[:, 1]).max()))
        return np.array([1.0, 1.0, 1.0, wigwag, tilt, orbital])

    def motion_bound_m(self, travel: ArrayLike) -> float:
        """Return how far any point of the machine moves at most, m.

        Args:
            travel: Distance that each joint covers (6,), m or rad.
        """
        return float(self.motion_bounds_m(np.asarray(travel, dtype=np.float64)[None, :])[0])

    def motion_bounds_m(self, travels: Array) -> Array:
        """Return ``motion_bound_m`` (N,), m, for many travels (N, 6), m or rad."""
        travelled = np.abs(travels) * self._weights
        return np.asarray(np.sqrt((travelled[:, :3] ** 2).sum(axis=1)) + travelled[:, 3:].sum(axis=1))

    def clearance(self, positions: ArrayLike, *, named: bool = True, deepest: bool = False) -> Clearance:
        """Return the smallest distance at a position.

        Args:
            positions: (6,), m and rad.
            named: Say which part of the machine is the closest; the part is empty otherwise, unless known anyway.
            deepest: On contact, return the deepest of all; any one otherwise, which is quicker.
        """
        rotations, centers = self._place(np.asarray(positions, dtype=np.float64))
        best = self._floor(rotations, centers)
        people = math.inf
        for name, margin, group in self._groups:
            distance, points = group.distance(self._machine)
            if deepest and distance <= 0.0:
                distance = group.deepest(self._solids, self._request)
            distance -= margin
            if name in PEOPLE:
                people = min(people, distance)
            if distance < best[0]:
                best = (distance, self._part_at(points, rotations, centers) if named else "", name)
        best = self._itself(centers, best)
        return Clearance(best[0], best[1].replace("_", " "), best[2].replace("_", " "), people)

    def _part_at(self, points: Array, rotations: Array, centers: Array) -> str:
        """Return the part on whose surface one of the points (2, 3) lies."""
        local = np.abs(np.einsum("pnj,njk->pnk", points[:, None] - centers, rotations))
        outside = local - self._half
        distance = np.linalg.norm(np.maximum(outside, 0.0), axis=2) + np.abs(np.minimum(outside.max(axis=2), 0.0))
        return self._names[int(distance.min(axis=0).argmin())]

    def _place(self, positions: Array) -> tuple[Array, Array]:
        frames, origins = self.carm.link_frames(positions)
        turns, places = frames[self._links], origins[self._links]
        rotations = turns @ self._rotations
        centers = (turns @ self._origins[:, :, None])[:, :, 0] + places
        for solid, rotation, center in zip(self._solids, rotations, centers, strict=True):
            solid.setTransform(coal.Transform3s(rotation, center))
            solid.computeAABB()
        self._machine.update()
        return rotations, centers

    def _floor(self, rotations: Array, centers: Array) -> tuple[float, str, str]:
        """Return the cart's parts stand on the floor; the others are boxes or lie in one."""
        lowest = centers[:, 2] - (np.abs(rotations[:, 2, :]) * self._half).sum(axis=1) + self.carm.table_height_m
        lowest = np.where(self._on_floor, np.inf, lowest)
        index = int(lowest.argmin())
        return float(lowest[index]), self._names[index], "floor"

    def _itself(self, centers: Array, best: tuple[float, str, str]) -> tuple[float, str, str]:
        """Check the pairs whose bounding spheres are closer than the smallest distance so far."""
        if not len(self._pairs):
            return best
        first, second = self._pairs.T
        apart = np.linalg.norm(centers[first] - centers[second], axis=1) - self._radii[first] - self._radii[second]
        candidates = np.flatnonzero(apart < best[0])
        for number in candidates[np.argsort(apart[candidates])]:
            if apart[number] >= best[0]:
                break
            a, b = self._pairs[number]
            found = coal.DistanceResult()
            distance = float(coal.distance(self._solids[a], self._solids[b], self._request, found))
            if distance < best[0]:
                best = (distance, self._names[a], self._names[b])
        return best

    def check_path(
        self,
        position: Callable[[float], Array],
        travel: Callable[[float, float], Array],
        knots: ArrayLike,
        limit_m: float | None = None,
        resolution: float = 0.2,
        most_evaluations: int = 20_000,
    ) -> PathCheck:
        """Check a whole path, and find its smallest clearance.

        Args:
            position: Joint positions (6,) at a progress from 0 to 1.
            travel: Bound of each joint's travel (6,) between two progresses.
            knots: Progresses at which to look first, from 0 to 1.
            limit_m: Smallest clearance allowed, m; None: that of the margins.
            resolution: The smallest clearance is found to this accuracy, as a share of it.
            most_evaluations: A path that grazes something for long is given up after so many positions.

        Raises:
            CollisionError: The path comes closer than allowed, or so close that it cannot be told apart.
        """
        limit = self.margins.collision_m if limit_m is None else limit_m
        search = PathSearch(self, position, travel, limit)
        progresses = np.asarray(knots, dtype=np.float64)
        for low, high in pairwise(progresses):
            search.add(float(low), float(high))
        bound = search.refine(resolution, most_evaluations)
        _, at = search.closest
        return PathCheck(self.clearance(position(at)), search.people_m, at, bound, search.evaluations)
