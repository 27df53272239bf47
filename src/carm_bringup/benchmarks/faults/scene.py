# SPDX-License-Identifier: Apache-2.0
"""Who truly lies on the table, and how far the machine truly is from everything.

The distances are computed from points and boxes in closed form: another way than the supervisor's and the planner's,
which use convex pieces with margins.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from carm_core.collision.obstacles import StaffZone, Surface
from carm_core.landmarks import LANDMARKS
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import RobotGeometry, Shape, link_poses
from carm_core.transforms import Array

SPACING_M = 0.012
"""Distance of neighboring points on body, table and machine, m: contact is found to about half of it."""
_NEAR_M = 0.15
_STATIONS = np.array([0.0, 0.04, 0.12, 0.22, 0.26, 0.33, 0.45, 0.60, 0.75, 0.85, 1.05, 1.25, 1.45, 1.60, 1.68])
"""Distance from the top of the head, m."""
_HALF_WIDTHS = np.array([0.02, 0.07, 0.08, 0.06, 0.10, 0.22, 0.25, 0.24, 0.23, 0.22, 0.19, 0.13, 0.11, 0.10, 0.04])
_HEIGHTS = np.array([0.10, 0.19, 0.22, 0.14, 0.16, 0.20, 0.24, 0.23, 0.22, 0.21, 0.17, 0.14, 0.12, 0.20, 0.10])
_MIDLINE = {"T1": 0.27, "Carina": 0.38, "T12": 0.60}
_SIDES = {"humeral head": (0.33, 0.16), "scapular inferior angle": (0.46, 0.10), "hemidiaphragm": (0.52, 0.08)}


@dataclass(frozen=True)
class Body:
    """A patient of simple shape: ellipses along the table.

    Attributes:
        top_m: Where the top of the head is, frame ``table``, m along x.
        length: Scale of the length.
        girth: Scale of width and height.
    """

    top_m: float = 0.85
    length: float = 1.0
    girth: float = 1.0

    def ring(self, at_m: float, count: int) -> Array:
        """Return points (count, 3) around the body at a distance from the top of the head, frame ``table``, m."""
        way = at_m / self.length
        half = self.girth * float(np.interp(way, _STATIONS, _HALF_WIDTHS))
        height = self.girth * float(np.interp(way, _STATIONS, _HEIGHTS))
        turn = np.linspace(0.0, 2 * np.pi, count, endpoint=False)
        rows = [np.full(count, self.top_m - at_m), half * np.cos(turn), height / 2 * (1 + np.sin(turn))]
        return np.stack(rows, axis=1)

    @property
    def end_m(self) -> float:
        """Length of the body, m."""
        return float(_STATIONS[-1] * self.length)

    def points(self) -> Array:
        """Return points (N, 3) on the body, ``SPACING_M`` apart, frame ``table``, m."""
        rings = []
        for at_m in np.arange(0.0, self.end_m + SPACING_M, SPACING_M):
            around = np.ptp(self.ring(min(at_m, self.end_m), 24), axis=0)
            count = max(6, int(np.pi * (around[1] + around[2]) / 2 / SPACING_M))
            rings.append(self.ring(min(at_m, self.end_m), count))
        return np.concatenate(rings)

    def surface(self) -> Surface:
        """Return the body's surface as a triangle mesh, frame ``table``."""
        count, places = 20, np.linspace(0.0, self.end_m, 36)
        rings = np.concatenate([self.ring(float(at), count) for at in places])
        ends = np.stack([self.ring(float(at), count).mean(axis=0) for at in (places[0], places[-1])])
        faces = []
        for k in range(len(places) - 1):
            for i in range(count):
                a, b = k * count + i, k * count + (i + 1) % count
                faces += [(a, b, a + count), (b, b + count, a + count)]
        first, last = len(rings), len(rings) + 1
        base = (len(places) - 1) * count
        for i in range(count):
            faces += [(first, (i + 1) % count, i), (last, base + i, base + (i + 1) % count)]
        return Surface(np.concatenate([rings, ends]), np.array(faces, dtype=np.int64))

    def landmarks_mm(self) -> dict[int, Array]:
        """Return some landmarks, id to position (3,) in frame ``table``, mm."""
        found: dict[int, Array] = {}
        for landmark in LANDMARKS:
            if landmark.name in _MIDLINE:
                found[landmark.id] = self._inside(_MIDLINE[landmark.name], 0.0)
            for name, (way, across) in _SIDES.items():
                if landmark.name in (f"Right {name}", f"Left {name}"):
                    found[landmark.id] = self._inside(way, across if landmark.name.startswith("Left") else -across)
        return found

    def _inside(self, way: float, across: float) -> Array:
        height = self.girth * float(np.interp(way, _STATIONS, _HEIGHTS))
        return 1000.0 * np.array([self.top_m - way * self.length, self.girth * across, 0.4 * height])


@dataclass(eq=False)
class Scene:
    """Body, staff, table and machine as they are.

    Attributes:
        carm: Kinematics.
        body: On the table.
        staff: Where people stand.
        geometry: Solids of the machine; None: those of ``config/carm.yaml``.
    """

    carm: CArm
    body: Body
    staff: tuple[StaffZone, ...] = ()
    geometry: RobotGeometry | None = None
    _shapes: tuple[Shape, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        """Sample everything."""
        geometry = self.geometry or RobotGeometry.from_config()
        self._shapes = geometry.moving
        boxes = [(2 * shape.half_extent_m, shape.transform_shape_to_link.translation) for shape in geometry.static]
        boxes += [(np.subtract(z.high_m, z.low_m), np.add(z.high_m, z.low_m) / 2) for z in self.staff]
        points = [self.body.points()] + [box_points(size, 2 * SPACING_M) + at for size, at in boxes]
        self._names = np.repeat(
            ["patient", *["table"] * len(geometry.static), *["staff"] * len(self.staff)], [len(p) for p in points]
        )
        self._points = np.concatenate(points)
        self._tree = cKDTree(self._points)
        places = {shape.id: number for number, shape in enumerate(self._shapes)}
        self._pairs = [(places[a.id], places[b.id]) for a, b in geometry.self_pairs()]
        self._half = np.array([shape.half_extent_m for shape in self._shapes])
        self._radii = np.linalg.norm(self._half, axis=1)
        self._skin = [box_points(2 * half, 2.5 * SPACING_M) for half in self._half]

    def clearance(self, positions: Array) -> tuple[float, str]:
        """Return the smallest distance, m, at most ``_NEAR_M``; zero or less on contact; and what is so near.

        Args:
            positions: (6,), m and rad.
        """
        poses = link_poses(self.carm, positions)
        placed = [poses[shape.link] @ shape.transform_shape_to_link for shape in self._shapes]
        centers = np.array([transform.translation for transform in placed])
        best, what = _NEAR_M, ""
        near = self._tree.query_ball_point(centers, self._radii + best)
        for number, rows in enumerate(near):
            if not rows:
                continue
            distances = self._to_box(number, placed[number], self._points[rows])
            least = int(distances.argmin())
            if distances[least] < best:
                best, what = float(distances[least]), str(self._names[rows[least]])
        for shape in self._shapes:
            if not shape.link.startswith("cart"):
                lowest = float(poses[shape.link].apply(shape.corners_m)[:, 2].min()) + self.carm.table_height_m
                if lowest < best:
                    best, what = lowest, "floor"
        for a, b in self._pairs:
            if np.linalg.norm(centers[a] - centers[b]) > self._radii[a] + self._radii[b]:
                continue
            for one, other in ((a, b), (b, a)):
                distance = float(self._to_box(one, placed[one], placed[other].apply(self._skin[other])).min())
                if distance < best:
                    best, what = distance, "self"
        return best, what

    def _to_box(self, number: int, transform: object, points: Array) -> Array:
        rotation, origin = transform.rotation, transform.translation  # type: ignore[attr-defined]
        local = np.abs((points - origin) @ rotation) - self._half[number]
        outside = np.linalg.norm(np.maximum(local, 0.0), axis=1)
        return np.asarray(np.where(outside > 0, outside, local.max(axis=1)))


def box_points(size_m: Array, step_m: float) -> Array:
    """Return points (N, 3) on the faces of a box about the origin, m.

    Args:
        size_m: Full lengths (3,), m.
        step_m: Distance of neighboring points at most, m.
    """
    axes = [np.linspace(-s / 2, s / 2, max(2, int(np.ceil(s / step_m)) + 1)) for s in size_m]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(grid[(np.abs(np.abs(grid) - np.asarray(size_m) / 2) < 1e-9).any(axis=1)])
