# SPDX-License-Identifier: Apache-2.0
"""What stands around the machine: the patient's surface, staff zones, table and floor, as convex pieces.

The agent knows the patient's surface as a real system does, from a message (a CT or a depth camera made it); until one
comes, a generous box on the table stands for the patient, and it goes on standing for what the surface does not cover
along the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.errors import ConfigurationError
from carm_core.transforms import Array

DEFAULT_PATIENT_M = ((-1.0, -0.30, 0.0), (1.0, 0.30, 0.35))
"""Opposite corners of the box that stands for a patient whose surface is unknown, frame `table`, m: wider than the
table by an arm's breadth, as high as a large supine body."""
_CELL_M = (0.06, 0.09)
"""The surface is cut into columns of this size along x and y, m; each column's hull is one convex piece."""
_LONGEST_EDGE_M = 0.03


@dataclass(frozen=True)
class StaffZone:
    """A box in which people stand.

    Attributes:
        low_m: lower corner, frame `table`, m.
        high_m: upper corner, frame `table`, m.
    """

    low_m: tuple[float, float, float]
    high_m: tuple[float, float, float]


def staff_zones(numbers: Sequence[float]) -> tuple[StaffZone, ...]:
    """Read staff zones from a flat list: six numbers each, lower corner and upper corner, frame `table`, m.

    Raises:
        ConfigurationError: the list has another length, a number is not finite, or corners are not in order.
    """
    values = np.asarray(list(numbers), dtype=np.float64)
    if len(values) % 6:
        raise ConfigurationError(f"staff zones need 6 numbers each (lower and upper corner), got {len(values)}")
    corners = values.reshape(-1, 2, 3)
    if not np.isfinite(corners).all() or not (corners[:, 0] < corners[:, 1]).all():
        raise ConfigurationError(f"staff zones need finite corners, the lower first; got {values.tolist()}")
    return tuple(StaffZone(tuple(low.tolist()), tuple(high.tolist())) for low, high in corners)


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh around the patient, in frame `table`.

    Attributes:
        vertices_m: (V, 3), m.
        triangles: indices of vertices (T, 3).
    """

    vertices_m: Array
    triangles: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check the mesh.

        Raises:
            ConfigurationError: it is empty, not finite, or an index is out of range.
        """
        vertices = np.asarray(self.vertices_m, dtype=np.float64)
        triangles = np.asarray(self.triangles, dtype=np.int64)
        if vertices.ndim != 2 or vertices.shape[1:] != (3,) or triangles.ndim != 2 or triangles.shape[1:] != (3,):
            raise ConfigurationError(
                f"a surface needs vertices (V, 3) and triangles (T, 3), got {vertices.shape} and {triangles.shape}"
            )
        if not len(triangles) or not np.isfinite(vertices).all() or np.abs(vertices).max() > 5.0:
            raise ConfigurationError("a surface needs triangles and finite vertices within 5 m of the table's center")
        if triangles.min() < 0 or triangles.max() >= len(vertices):
            raise ConfigurationError(
                f"a triangle names vertex {triangles.max()} of {len(vertices)}"
                if triangles.max() >= len(vertices)
                else f"a triangle names vertex {triangles.min()}"
            )
        object.__setattr__(self, "vertices_m", vertices)
        object.__setattr__(self, "triangles", triangles)

    def pieces(self) -> list[Array]:
        """Cut the surface into columns from its underside to its top.

        Returns:
            Points (N, 3) of each column, m; every triangle lies in the hulls of the columns that it touches.
        """
        fine = _subdivided(self.vertices_m[self.triangles])
        cells: dict[tuple[int, int], list[Array]] = {}
        low = np.floor(fine[:, :, :2].min(axis=1) / _CELL_M + 1e-9).astype(int)
        high = np.floor(fine[:, :, :2].max(axis=1) / _CELL_M - 1e-9).astype(int)
        for triangle, first, last in zip(fine, low, high, strict=True):
            for i in range(first[0], max(first[0], last[0]) + 1):
                for j in range(first[1], max(first[1], last[1]) + 1):
                    cells.setdefault((i, j), []).append(triangle)
        return [np.unique(np.concatenate(cells[key]).round(6), axis=0) for key in sorted(cells)]


def _subdivided(triangles: Array) -> Array:
    """Split triangles (T, 3, 3) at their longest edge until no edge is long."""
    done = []
    while len(triangles):
        edges = np.linalg.norm(np.roll(triangles, -1, axis=1) - triangles, axis=2)
        short = edges.max(axis=1) <= _LONGEST_EDGE_M
        done.append(triangles[short])
        triangles, edges = triangles[~short], edges[~short]
        if not len(triangles):
            break
        start = edges.argmax(axis=1)
        rows = np.arange(len(triangles))
        a, b, c = (triangles[rows, (start + k) % 3] for k in range(3))
        middle = (a + b) / 2
        triangles = np.concatenate([np.stack([a, middle, c], axis=1), np.stack([middle, b, c], axis=1)])
    return np.concatenate(done)


@dataclass(frozen=True, eq=False)
class Obstacles:
    """What the machine must not touch, besides table, floor and itself.

    Attributes:
        surface: of the patient; None: unknown, a box stands for it.
        patient_box_m: opposite corners of that box, frame `table`, m; None: no patient lies on the table.
        staff: where people stand.
    """

    surface: Surface | None = None
    patient_box_m: tuple[tuple[float, float, float], tuple[float, float, float]] | None = DEFAULT_PATIENT_M
    staff: tuple[StaffZone, ...] = ()
    version: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Number the obstacles by their content, so that a change is seen."""
        digest = hashlib.sha256(repr((self.patient_box_m, self.staff)).encode())
        if self.surface is not None:
            digest.update(np.ascontiguousarray(self.surface.vertices_m).tobytes())
            digest.update(np.ascontiguousarray(self.surface.triangles).tobytes())
        object.__setattr__(self, "version", digest.hexdigest()[:16])

    def patient_pieces(self) -> Iterator[Array]:
        """Yield points (N, 3), m, whose hulls cover the patient."""
        if self.surface is None:
            if self.patient_box_m is not None:
                yield box_points(*self.patient_box_m)
            return
        yield from self.surface.pieces()
        if self.patient_box_m is None:
            return
        low, high = np.array(self.patient_box_m)
        begin, end = self.surface.vertices_m[:, 0].min(), self.surface.vertices_m[:, 0].max()
        if begin > low[0]:
            yield box_points(low, (min(begin, high[0]), high[1], high[2]))
        if end < high[0]:
            yield box_points((max(end, low[0]), low[1], low[2]), high)


def box_points(low_m: ArrayLike, high_m: ArrayLike) -> Array:
    """Return the corners (8, 3) of a box, m."""
    corners = np.array([low_m, high_m], dtype=np.float64)
    return np.array([corners[[i, j, k], [0, 1, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
