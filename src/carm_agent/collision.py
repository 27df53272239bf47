# SPDX-License-Identifier: Apache-2.0
"""Distances between the machine and everything that it must not touch, at one position and along whole paths.

Between two checked positions no point of the machine moves further than a bound that follows from the joints' travel;
a stretch of path is safe when the clearances at its ends exceed that bound, and is halved otherwise (Schwarzer, Saha,
Latombe, "Adaptive Dynamic Collision Checking for Single and Multiple Articulated Robots in Complex Environments",
IEEE Transactions on Robotics 21(3), 2005). So nothing slips between two samples, however thin.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NoReturn

import coal
import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import ConvexHull, QhullError

from carm_agent.obstacles import Obstacles, box_points
from carm_core.errors import ConfigurationError, GoalError
from carm_core.kinematics import CArm
from carm_core.robot_geometry import LINKS, RIGID_GROUP, RobotGeometry, link_frames
from carm_core.transforms import Array

PEOPLE = ("patient", "staff")
"""Obstacles near which the machine moves slowly."""


class CollisionError(GoalError):
    """A path comes too close to something.

    Attributes:
        clearance: the smallest clearance that was found, with what it is to.
    """

    def __init__(self, clearance: Clearance, limit_m: float, where: str) -> None:
        """Say what comes too close to what.

        Args:
            clearance: the smallest clearance that was found.
            limit_m: the smallest one allowed, m.
            where: where on the path.
        """
        self.clearance = clearance
        near = f"would come within {1000 * clearance.distance_m:.0f} mm of"
        touching = near if clearance.distance_m > 0 else "would touch"
        super().__init__(
            f"{clearance.part} {touching} {clearance.obstacle} {where}; at least {1000 * limit_m:.0f} mm are needed"
        )


class Verdict(StrEnum):
    """How close a path comes."""

    CLEAR = "clear"
    WARNING = "warning"
    COLLISION = "collision"


@dataclass(frozen=True)
class Margins:
    """How close is too close.

    Attributes:
        patient_m: added around the patient's surface, m.
        collision_m: a smaller clearance is a collision, m.
        warning_m: a smaller one is a warning, m.
        slow_m: motions that come nearer to people than this are slowed down, m.
        slowest: share of the velocity that is left when they come as near as they may.
    """

    patient_m: float = 0.02
    collision_m: float = 0.01
    warning_m: float = 0.05
    slow_m: float = 0.10
    slowest: float = 0.25

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ConfigurationError: a number is negative, or a warning comes later than a collision.
        """
        if not 0 <= self.collision_m <= self.warning_m or self.patient_m < 0 or self.slow_m <= self.collision_m:
            raise ConfigurationError(
                f"margins must not be negative and need collision <= warning and collision < slow; got {self}"
            )

    def verdict(self, distance_m: float) -> Verdict:
        """Judge a clearance, m."""
        if distance_m < self.collision_m:
            return Verdict.COLLISION
        return Verdict.WARNING if distance_m < self.warning_m else Verdict.CLEAR

    def velocity_share(self, people_m: float) -> float:
        """Return the share of the velocity, 0 to 1, at a distance to people, m."""
        near = (people_m - self.collision_m) / (self.slow_m - self.collision_m)
        return self.slowest + (1.0 - self.slowest) * max(0.0, min(1.0, near))


@dataclass(frozen=True)
class Clearance:
    """The smallest distance of the machine to anything.

    Attributes:
        distance_m: m; negative inside.
        part: part of the machine.
        obstacle: patient, staff, table, floor, or another part of the machine.
        people_m: smallest distance to patient and staff, m; infinite without any.
    """

    distance_m: float
    part: str
    obstacle: str
    people_m: float = math.inf


@dataclass(frozen=True, eq=False)
class PathCheck:
    """What a path comes close to.

    Attributes:
        closest: smallest clearance found on the path.
        people_m: smallest distance to people found on the path, m.
        at: progress along the path there, 0 to 1.
        bound_m: no point of the path has a smaller clearance than this, m.
        evaluations: positions checked.
    """

    closest: Clearance
    people_m: float
    at: float
    bound_m: float
    evaluations: int


class CollisionModel:
    """The machine among obstacles. Not thread-safe: one per thread, see :meth:`copy`."""

    def __init__(
        self,
        carm: CArm,
        obstacles: Obstacles | None = None,
        margins: Margins | None = None,
        geometry: RobotGeometry | None = None,
    ) -> None:
        """Build the solids.

        Args:
            carm: the arm.
            obstacles: what stands around it; None: a patient of unknown shape, no staff.
            margins: how close is too close.
            geometry: the machine's solids; None: those of `config/carm.yaml`.
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
        self._solids = [coal.CollisionObject(_solid(shape.kind, shape.size_m)) for shape in moving]
        self._machine = _manager(self._solids)
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

    def _obstacle_groups(self) -> list[tuple[str, float, _Group]]:
        margins = self.margins
        patient = [_convex(points) for points in self.obstacles.patient_pieces()]
        staff = [_convex(box_points(zone.low_m, zone.high_m)) for zone in self.obstacles.staff]
        table = [
            _placed(_solid(shape.kind, shape.size_m), shape.transform_shape_to_link.matrix)
            for shape in self.geometry.of_link("table")
        ]
        groups = (("patient", margins.patient_m, patient), ("staff", 0.0, staff), ("table", 0.0, table))
        return [(name, margin, _Group(solids)) for name, margin, solids in groups if solids]

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
            travel: distance that each joint covers (6,), m or rad.
        """
        travelled = np.abs(np.asarray(travel, dtype=np.float64)) * self._weights
        return float(np.linalg.norm(travelled[:3]) + travelled[3:].sum())

    def clearance(self, positions: ArrayLike, *, named: bool = True, deepest: bool = False) -> Clearance:
        """Return the smallest distance at a position.

        Args:
            positions: (6,), m and rad.
            named: say which part of the machine is the closest; the part is empty otherwise, unless known anyway.
            deepest: on contact, return the deepest of all; any one otherwise, which is quicker.
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
        frames, origins = link_frames(self.carm, positions)
        turns, places = frames[self._links], origins[self._links]
        rotations = turns @ self._rotations
        centers = (turns @ self._origins[:, :, None])[:, :, 0] + places
        for solid, rotation, center in zip(self._solids, rotations, centers, strict=True):
            solid.setTransform(coal.Transform3s(rotation, center))
            solid.computeAABB()
        self._machine.update()
        return rotations, centers

    def _floor(self, rotations: Array, centers: Array) -> tuple[float, str, str]:
        """The cart's parts stand on the floor; the others are boxes or lie in one."""
        lowest = centers[:, 2] - (np.abs(rotations[:, 2, :]) * self._half).sum(axis=1) + self.carm.table_height_m
        lowest = np.where(self._on_floor, np.inf, lowest)
        index = int(lowest.argmin())
        return float(lowest[index]), self._names[index], "floor"

    def _itself(self, centers: Array, best: tuple[float, str, str]) -> tuple[float, str, str]:
        """Look at the pairs whose bounding spheres come closer than what was found so far."""
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
            position: joint positions (6,) at a progress from 0 to 1.
            travel: bound of each joint's travel (6,) between two progresses.
            knots: progresses at which to look first, from 0 to 1.
            limit_m: smallest clearance allowed, m; None: that of the margins.
            resolution: the smallest clearance is found to this accuracy, as a share of it.
            most_evaluations: a path that grazes something for long is given up after so many positions.

        Raises:
            CollisionError: the path comes closer than allowed, or so close that it cannot be told apart.
        """
        limit = self.margins.collision_m if limit_m is None else limit_m
        search = _Search(self, position, travel, limit)
        progresses = np.asarray(knots, dtype=np.float64)
        for low, high in pairwise(progresses):
            search.add(float(low), float(high))
        bound = search.refine(resolution, most_evaluations)
        _, at = search.closest
        return PathCheck(self.clearance(position(at)), search.people_m, at, bound, search.evaluations)


class _Search:
    """Best-first refinement of the stretches of a path, the one that may come closest first."""

    def __init__(
        self,
        model: CollisionModel,
        position: Callable[[float], Array],
        travel: Callable[[float, float], Array],
        limit_m: float,
    ) -> None:
        self._model, self._position, self._travel, self._limit_m = model, position, travel, limit_m
        self._known: dict[float, Clearance] = {}
        self._heap: list[tuple[float, float, float, float]] = []

    @property
    def evaluations(self) -> int:
        return len(self._known)

    @property
    def closest(self) -> tuple[Clearance, float]:
        at = min(self._known, key=lambda progress: self._known[progress].distance_m)
        return self._known[at], at

    @property
    def people_m(self) -> float:
        return min(clearance.people_m for clearance in self._known.values())

    def at(self, progress: float) -> Clearance:
        if progress not in self._known:
            clearance = self._model.clearance(self._position(progress), named=False, deepest=self._limit_m < 0.0)
            self._known[progress] = clearance
            if clearance.distance_m < self._limit_m:
                self._refuse(progress)
        return self._known[progress]

    def _refuse(self, progress: float) -> NoReturn:
        clearance = self._model.clearance(self._position(progress))
        raise CollisionError(clearance, self._limit_m, _where(progress))

    def add(self, low: float, high: float) -> None:
        """Put a stretch on the heap, by the least clearance that it can have."""
        ends = self.at(low).distance_m, self.at(high).distance_m
        motion = self._model.motion_bound_m(self._travel(low, high))
        bound = min(*ends, (sum(ends) - motion) / 2)
        heapq.heappush(self._heap, (bound, low, high, motion))

    def refine(self, resolution: float, most_evaluations: int) -> float:
        if not self._heap:
            return self.at(0.0).distance_m
        while True:
            bound, low, high, motion = self._heap[0]
            closest, at = self.closest
            if bound >= self._limit_m and bound >= closest.distance_m - resolution * abs(closest.distance_m):
                return bound
            if motion < _SHORTEST_MOTION_M or self.evaluations >= most_evaluations:
                self._refuse(at)
            heapq.heappop(self._heap)
            middle = (low + high) / 2
            self.add(low, middle)
            self.add(middle, high)


_SHORTEST_MOTION_M = 2e-4


class _Group:
    """Obstacles of one kind."""

    def __init__(self, solids: list[coal.CollisionObject]) -> None:
        self._solids = solids
        self._manager = _manager(solids)
        self._callback = coal.DistanceCallBackDefault()

    def distance(self, machine: coal.BroadPhaseCollisionManager) -> tuple[float, Array]:
        """Return the smallest distance, m, and the nearest points (2, 3), m."""
        self._callback.init()
        machine.distance(self._manager, self._callback)
        result = self._callback.data.result
        return float(result.min_distance), np.array([result.getNearestPoint1(), result.getNearestPoint2()])

    def deepest(self, parts: list[coal.CollisionObject], request: coal.DistanceRequest) -> float:
        """Return the smallest signed distance of all pairs, m."""
        return float(
            min(coal.distance(part, solid, request, coal.DistanceResult()) for part in parts for solid in self._solids)
        )


def _manager(solids: list[coal.CollisionObject]) -> coal.DynamicAABBTreeCollisionManager:
    manager = coal.DynamicAABBTreeCollisionManager()
    for solid in solids:
        solid.computeAABB()
        manager.registerObject(solid)
    manager.setup()
    return manager


def _solid(kind: str, size_m: tuple[float, ...]) -> coal.CollisionGeometry:
    return coal.Box(*size_m) if kind == "box" else coal.Cylinder(*size_m)


def _placed(solid: coal.CollisionGeometry, matrix: Array) -> coal.CollisionObject:
    return coal.CollisionObject(solid, coal.Transform3s(matrix[:3, :3], matrix[:3, 3]))


def _convex(points: Array) -> coal.CollisionObject:
    """Return the hull of points (N, 3); flat ones get a millimeter of thickness."""
    try:
        hull = ConvexHull(points)
    except QhullError:
        shift = np.array([[0.001, 0.0, 0.0], [0.0, 0.001, 0.0], [0.0, 0.0, 0.001]])
        points = np.concatenate([points, *(points + offset for offset in shift)])
        hull = ConvexHull(points)
    number = np.zeros(len(points), dtype=int)
    number[hull.vertices] = np.arange(len(hull.vertices))
    a, b, c = points[hull.simplices].transpose(1, 0, 2)
    inwards = (np.cross(b - a, c - a) * hull.equations[:, :3]).sum(axis=1) < 0
    order = np.where(inwards[:, None], hull.simplices[:, ::-1], hull.simplices)
    corners, faces = coal.StdVec_Vec3s(), coal.StdVec_Triangle()
    for vertex in points[hull.vertices]:
        corners.append(vertex)
    for face in number[order].tolist():
        faces.append(coal.Triangle(*face))
    return coal.CollisionObject(coal.Convex(corners, faces))


def _where(progress: float) -> str:
    if progress <= 0.0:
        return "at the start"
    return "at the goal" if progress >= 1.0 else f"{100 * progress:.0f} % along the path"
