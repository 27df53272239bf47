# SPDX-License-Identifier: Apache-2.0
"""Convex solids for distances (coal), and groups of them in a tree of bounding boxes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import coal
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from carm_core.transforms import Array

_pace = threading.local()
_SHORTEST_PAUSE_S = 0.001


@contextmanager
def giving_way() -> Iterator[None]:
    """Make hulls in this thread at half speed, so that a thread that must not wait gets the interpreter in between."""
    _pace.since_s = time.monotonic()
    try:
        yield
    finally:
        del _pace.since_s


def _give_way() -> None:
    since_s = getattr(_pace, "since_s", None)
    if since_s is not None:
        time.sleep(max(_SHORTEST_PAUSE_S, time.monotonic() - since_s))
        _pace.since_s = time.monotonic()


class SolidGroup:
    """Obstacles of one kind."""

    def __init__(self, solids: list[coal.CollisionObject]) -> None:
        """Build one tree of the shapes.

        Args:
            solids: Where they stand.
        """
        self._solids = solids
        self._manager = broad_phase(solids)
        self._callback = coal.DistanceCallBackDefault()
        boxes = [solid.getAABB() for solid in solids]
        self._low, self._high = np.array([box.min_ for box in boxes]), np.array([box.max_ for box in boxes])
        self._touching: Array | None = None

    def distance(self, machine: coal.BroadPhaseCollisionManager) -> float:
        """Return the smallest distance, m."""
        self._callback.init()
        machine.distance(self._manager, self._callback)
        return float(self._callback.data.result.min_distance)

    def nearest_points(self) -> Array:
        """Return the points (2, 3) between which the last ``distance`` was found, m."""
        return points_of(self._callback.data.result)

    def touching_points(self) -> Array | None:
        """Return the points (2, 3) between which the last ``deepest`` was found, m: of the part, of the solid."""
        return self._touching

    def signed_distance(self, part: coal.CollisionObject, request: coal.DistanceRequest) -> float:
        """Return the distance of one part, m: how deep it is at most, as a negative number, on contact."""
        self._callback.init()
        self._manager.distance(part, self._callback)
        distance = float(self._callback.data.result.min_distance)
        return distance if distance > 0.0 else min(distance, self.deepest([part], request)[0])

    def deepest(
        self, parts: list[coal.CollisionObject], request: coal.DistanceRequest, which: NDArray[np.bool_] | None = None
    ) -> tuple[float, int]:
        """Return the smallest signed distance of all pairs, m, and the number of the part; one pair is in contact.

        Args:
            parts: Of the machine, P.
            request: Of coal.
            which: Parts to look at (P,); None: all.
        """
        found, self._touching = (math.inf, 0), None
        for number in range(len(parts)) if which is None else np.flatnonzero(which):
            part = parts[number]
            box = part.getAABB()
            for place in np.flatnonzero(((self._low <= box.max_) & (self._high >= box.min_)).all(axis=1)):
                result = coal.DistanceResult()
                distance = float(coal.distance(part, self._solids[place], request, result))
                if distance < found[0]:
                    found, self._touching = (distance, int(number)), points_of(result)
        return found


def points_of(result: coal.DistanceResult) -> Array:
    """Return the points (2, 3) between which a distance was found, m."""
    return np.array([result.getNearestPoint1(), result.getNearestPoint2()])


def broad_phase(solids: list[coal.CollisionObject]) -> coal.DynamicAABBTreeCollisionManager:
    """Return a tree of the solids' bounding boxes."""
    manager = coal.DynamicAABBTreeCollisionManager()
    for solid in solids:
        solid.computeAABB()
        manager.registerObject(solid)
    manager.setup()
    return manager


def primitive(kind: str, size_m: tuple[float, ...]) -> coal.CollisionGeometry:
    """Return a box (three sides, m) or a cylinder (radius and length, m)."""
    return coal.Box(*size_m) if kind == "box" else coal.Cylinder(*size_m)


def placed(geometry: coal.CollisionGeometry, matrix: Array) -> coal.CollisionObject:
    """Return a solid where a rigid transform (4, 4) puts it."""
    return coal.CollisionObject(geometry, coal.Transform3s(matrix[:3, :3], matrix[:3, 3]))


def _hull(points: Array) -> ConvexHull:
    _give_way()
    try:
        return ConvexHull(points)
    except QhullError:
        shift = np.array([[0.001, 0.0, 0.0], [0.0, 0.001, 0.0], [0.0, 0.0, 0.001]])
        return ConvexHull(np.concatenate([points, *(points + offset for offset in shift)]))


def corners(points: Array) -> Array:
    """Return the corners (M, 3) of the hull of points (N, 3), m."""
    hull = _hull(points)
    return np.asarray(hull.points[hull.vertices])


def outside_m(points: Array, pieces: list[Array], reach_m: float) -> Array:
    """Return how far points stick out of hulls.

    Args:
        points: (N, 3), m.
        pieces: Points (M, 3) of each hull, m; flat ones get a millimeter of thickness.
        reach_m: Look for hulls this near, m.

    Returns:
        (N,) distance to the nearest hull's planes, m, which is no more than the distance to the hull; negative inside,
        infinite where no hull is in reach.
    """
    nearest = np.full(len(points), np.inf)
    for piece in pieces:
        near = ((points >= piece.min(axis=0) - reach_m) & (points <= piece.max(axis=0) + reach_m)).all(axis=1)
        if near.any():
            planes = _hull(piece).equations
            nearest[near] = np.minimum(nearest[near], (points[near] @ planes[:, :3].T + planes[:, 3]).max(axis=1))
    return nearest


def convex_hull(points: Array) -> coal.CollisionObject:
    """Return the hull of points (N, 3), m; flat ones get a millimeter of thickness."""
    hull = _hull(points)
    points = hull.points
    number = np.zeros(len(points), dtype=int)
    number[hull.vertices] = np.arange(len(hull.vertices))
    a, b, c = points[hull.simplices].transpose(1, 0, 2)
    inwards = (np.cross(b - a, c - a) * hull.equations[:, :3]).sum(axis=1) < 0
    order = np.where(inwards[:, None], hull.simplices[:, ::-1], hull.simplices)
    vertices, faces = coal.StdVec_Vec3s(), coal.StdVec_Triangle()
    for vertex in points[hull.vertices]:
        vertices.append(vertex)
    for face in number[order].tolist():
        faces.append(coal.Triangle(*face))
    return coal.CollisionObject(coal.Convex(vertices, faces))
