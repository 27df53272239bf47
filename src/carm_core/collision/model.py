# SPDX-License-Identifier: Apache-2.0
"""Distances between the machine and obstacles, at one position and along whole paths."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import coal
import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.collision.clearance import PEOPLE, Clearance, Margins
from carm_core.collision.continuous_check import PathCheck, PathSearch
from carm_core.collision.convex_shapes import SolidGroup, broad_phase, convex_hull, placed, points_of, primitive
from carm_core.collision.obstacles import Obstacles, box_points
from carm_core.robot.kinematics import LINKS, CArm
from carm_core.robot.shapes import RIGID_GROUP, RobotGeometry
from carm_core.transforms import Array


class _Nearest(NamedTuple):
    distance_m: float
    part: str
    obstacle: str
    allowance_m: float = 0.0
    line_m: Array | None = None

    def or_nearer(self, other: _Nearest) -> _Nearest:
        """Return what is nearer."""
        return other if other.distance_m < self.distance_m else self


@dataclass(frozen=True, eq=False)
class _Allowances:
    """What is added to the distances of parts that were too near at the start, m; see ``CollisionModel.leaving``.

    Attributes:
        groups: To the groups of obstacles (G, P), by part.
        floor: To the floor (P,).
        pairs: Between parts of the machine (K,).
        near: For each group the parts with an allowance.
        others: For each group the other parts.
    """

    groups: Array
    floor: Array
    pairs: Array
    near: list[NDArray[np.intp]]
    others: list[coal.BroadPhaseCollisionManager]


def _allowances(distance_m: Array, limit_m: float, loss_m: float) -> Array:
    """Return what to add to distances, m, for the limit to leave room for a loss; 0 where there is enough."""
    loss = np.where(distance_m > 0.0, np.clip(distance_m / 2, loss_m / 3, loss_m), loss_m)
    return np.maximum(0.0, limit_m + loss - distance_m)


def _with_margin(line_m: Array | None, distance_m: float, margin_m: float) -> Array | None:
    """Return a line (2, 3) from the machine to an obstacle, m, up to a margin around the obstacle.

    Args:
        line_m: To the obstacle itself; None: not known.
        distance_m: Its length; negative where they overlap.
        margin_m: Around the obstacle.
    """
    if line_m is None or not margin_m or distance_m == 0.0:
        return line_m
    machine, obstacle = line_m
    return np.array([machine, obstacle + (machine - obstacle) * (margin_m / distance_m)])


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
        self._solids = [coal.CollisionObject(primitive(shape.kind, shape.size_m)) for shape in moving]
        self._machine = broad_phase(self._solids)
        index = {shape.id: number for number, shape in enumerate(moving)}
        pairs = [(index[a.id], index[b.id]) for a, b in self.geometry.self_pairs()]
        self._pairs = np.array(pairs, dtype=int).reshape(-1, 2)
        self._pair_radii = np.linalg.norm(self._half, axis=1)[self._pairs].sum(axis=1)
        self._on_floor = np.array([shape.link.startswith("cart") for shape in moving])
        self._groups = self._obstacle_groups()
        self._request, self._found = coal.DistanceRequest(), coal.DistanceResult()
        self._weights = self._reach()
        self._allowances = self._no_allowances = self._allowed(
            np.zeros((len(self._groups), len(moving))), np.zeros(len(moving)), np.zeros(len(pairs))
        )

    def copy(self) -> CollisionModel:
        """Return a model of the same things for another thread."""
        return CollisionModel(self.carm, self.obstacles, self.margins, self.geometry)

    def leaving(self, start: ArrayLike, loss_m: float, before: CollisionModel | None = None) -> CollisionModel:
        """Return the model for an arm that is too near to something at the start and moves away from it.

        Each part may come as near to what it is too near to as it is now, less a loss; nothing else may be approached
        closer than the margins say. The clearances of the returned model count these allowances, so the same limit
        holds for all of them. It shares its solids with this model: use both in one thread.

        Args:
            start: Joint positions (6,), m and rad.
            loss_m: What may be lost of each distance on the way out, m; where little is left, half of it.
            before: What this returned for an earlier position: its allowances become smaller, but not larger.
        """
        rotations, centers = self._place(np.asarray(start, dtype=np.float64))
        limit_m = self.margins.collision_m
        groups = np.full((len(self._groups), len(self._solids)), np.inf)
        for row, (_, margin, group) in zip(groups, self._groups, strict=True):
            if group.distance(self._machine) - margin < limit_m + loss_m:
                row[:] = [group.signed_distance(solid, self._request) - margin for solid in self._solids]
        distances = groups, self._floor_m(rotations, centers), np.array([self._pair_m(*pair) for pair in self._pairs])
        groups, floor, pairs = (_allowances(distance, limit_m, loss_m) for distance in distances)
        if before is not None:
            then = before._allowances
            groups, floor = np.minimum(groups, then.groups), np.minimum(floor, then.floor)
            pairs = np.minimum(pairs, then.pairs)
        leaving = copy.copy(self)
        leaving._allowances = self._allowed(groups, floor, pairs)
        return leaving

    def _allowed(self, groups: Array, floor: Array, pairs: Array) -> _Allowances:
        near = [np.flatnonzero(row) for row in groups]
        others = [
            broad_phase([self._solids[part] for part in np.flatnonzero(row == 0.0)]) if row.any() else self._machine
            for row in groups
        ]
        return _Allowances(groups, floor, pairs, near, others)

    def _obstacle_groups(self) -> list[tuple[str, float, SolidGroup]]:
        margins = self.margins
        shown = self.obstacles.surface.pieces() if self.obstacles.surface is not None else ()
        patient = [convex_hull(points) for points in shown]
        assumed = [convex_hull(points) for points in self.obstacles.assumed_pieces()]
        staff = [convex_hull(box_points(zone.low_m, zone.high_m)) for zone in self.obstacles.staff]
        table = [
            placed(primitive(shape.kind, shape.size_m), shape.transform_shape_to_link.matrix)
            for shape in self.geometry.of_link("table")
        ]
        zones = [("staff", 0.0, [zone]) for zone in staff]
        people = [("patient", margins.patient_m, patient), ("patient", margins.patient_m, assumed), *zones]
        groups = [*people, ("table", 0.0, table)]
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
        allowances = self._allowances
        floor = self._floor_m(rotations, centers) + allowances.floor
        lowest = int(floor.argmin())
        best = _Nearest(float(floor[lowest]), self._names[lowest], "floor", float(allowances.floor[lowest]))
        if named:
            best = best._replace(line_m=self._line_to_floor(lowest, rotations, centers))
        people = math.inf
        for (name, margin, group), near, others, allowed in zip(
            self._groups, allowances.near, allowances.others, allowances.groups, strict=True
        ):
            for part in near:
                true = group.signed_distance(self._solids[part], self._request) - margin
                people = min(people, true) if name in PEOPLE else people
                best = best.or_nearer(_Nearest(true + allowed[part], self._names[part], name, allowed[part]))
            if len(near):
                others.update()
            distance = group.distance(others)
            if deepest and distance <= 0.0:
                distance, part = group.deepest(self._solids, self._request, allowed == 0.0)
                line = _with_margin(group.touching_points(), distance, margin)
                found = _Nearest(distance - margin, self._names[part], name, line_m=line)
            else:
                found = _Nearest(distance - margin, "", name)
            people = min(people, found.distance_m) if name in PEOPLE else people
            if found.distance_m < best.distance_m:
                if named and not found.part:
                    part, line = self._part_at(group.nearest_points(), rotations, centers)
                    line_m = _with_margin(line, distance, margin) if distance > 0.0 else None
                    found = found._replace(part=part, line_m=line_m)
                best = found
        best = self._itself(centers, best)
        part, obstacle = best.part.replace("_", " "), best.obstacle.replace("_", " ")
        return Clearance(float(best.distance_m), part, obstacle, people, float(best.allowance_m), best.line_m)

    def _part_at(self, points: Array, rotations: Array, centers: Array) -> tuple[str, Array]:
        """Return the part on whose surface one of the points (2, 3) lies, and the points, that one first."""
        local = np.abs(np.einsum("pnj,njk->pnk", points[:, None] - centers, rotations))
        outside = local - self._half
        distance = np.linalg.norm(np.maximum(outside, 0.0), axis=2) + np.abs(np.minimum(outside.max(axis=2), 0.0))
        at, part = np.unravel_index(int(distance.argmin()), distance.shape)
        return self._names[int(part)], points if at == 0 else points[::-1]

    def _place(self, positions: Array) -> tuple[Array, Array]:
        frames, origins = self.carm.link_frames(positions)
        turns, places = frames[self._links], origins[self._links]
        rotations = turns @ self._rotations
        centers = (turns @ self._origins[:, :, None])[:, :, 0] + places
        for solid, rotation, center in zip(self._solids, rotations, centers, strict=True):
            solid.setRotation(rotation)
            solid.setTranslation(center)
            solid.computeAABB()
        self._machine.update()
        return rotations, centers

    def _floor_m(self, rotations: Array, centers: Array) -> Array:
        """Return the distance of each part to the floor (P,), m; the cart's parts stand on it, boxes or in a box."""
        lowest = centers[:, 2] - (np.abs(rotations[:, 2, :]) * self._half).sum(axis=1) + self.carm.table_height_m
        return np.where(self._on_floor, np.inf, lowest)

    def _line_to_floor(self, part: int, rotations: Array, centers: Array) -> Array:
        """Return the line (2, 3) from the lowest point of a part straight down to the floor, m."""
        lowest = centers[part] - rotations[part] @ (np.sign(rotations[part, 2]) * self._half[part])
        return np.array([lowest, [*lowest[:2], -self.carm.table_height_m]])

    def _pair_m(self, first: int, second: int) -> float:
        """Return the distance between two parts, m."""
        self._found.clear()
        return float(coal.distance(self._solids[first], self._solids[second], self._request, self._found))

    def _itself(self, centers: Array, best: _Nearest) -> _Nearest:
        """Check the pairs whose bounding spheres are closer than the smallest distance so far."""
        if not len(self._pairs):
            return best
        between = centers[self._pairs[:, 0]] - centers[self._pairs[:, 1]]
        allowances = self._allowances.pairs
        apart = np.sqrt((between**2).sum(axis=1)) - self._pair_radii + allowances
        candidates = np.flatnonzero(apart < best.distance_m)
        for number in candidates[np.argsort(apart[candidates])]:
            if apart[number] >= best.distance_m:
                break
            a, b = self._pairs[number]
            distance = self._pair_m(a, b) + allowances[number]
            if distance < best.distance_m:
                line = points_of(self._found) if best.line_m is not None else None
                best = _Nearest(distance, self._names[a], self._names[b], allowances[number], line)
        return best

    def check_path(
        self,
        position: Callable[[float], Array],
        travel: Callable[[float, float], Array],
        knots: ArrayLike,
        resolution: float = 0.2,
        most_evaluations: int = 20_000,
    ) -> PathCheck:
        """Check a whole path, and find its smallest clearance.

        Args:
            position: Joint positions (6,) at a progress from 0 to 1.
            travel: Bound of each joint's travel (6,) between two progresses.
            knots: Progresses at which to look first, from 0 to 1.
            resolution: The smallest clearance is found to this accuracy, as a share of it.
            most_evaluations: A path that grazes something for long is given up after so many positions.

        Raises:
            CollisionError: The path comes closer than the margins allow, or so close that it cannot be told apart.
        """
        search = PathSearch(self, position, travel, self.margins.collision_m)
        progresses = np.asarray(knots, dtype=np.float64)
        for low, high in pairwise(progresses):
            search.add(float(low), float(high))
        bound = search.refine(resolution, most_evaluations)
        _, at = search.closest
        closest = self.clearance(position(at))
        if self._allowances is not self._no_allowances:
            true = copy.copy(self)
            true._allowances = self._no_allowances
            looks = ((true.clearance(position(share), deepest=True), share) for share in (0.0, at))
            closest, at = min(looks, key=lambda look: look[0].distance_m)
        return PathCheck(closest, search.people_m, at, bound, search.evaluations)
