# SPDX-License-Identifier: Apache-2.0
"""Obstacles around the machine: the patient's surface, staff zones, table and floor, as convex pieces.

The agent gets the patient's surface from a message, as a real system does (made from a CT or by a depth camera). Until
one arrives, the agent assumes a large body on the table. It keeps this assumption for the parts of the table that the
surface does not cover.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.errors import ConfigurationError
from carm_core.transforms import Array

DEFAULT_LENGTH_M = (-1.0, 1.0)
"""Where a patient of unknown shape lies along x, frame ``table``, m: on the whole table."""
DEFAULT_PROFILE_M = ((0.25, 0.0), (0.30, 0.06), (0.30, 0.22), (0.20, 0.34))
"""Half the width at a height, frame ``table``, m: a large supine body with its arms at its sides."""
_CELL_M = (0.06, 0.09)
"""The surface is cut into columns of this size along x and y, m; each column's hull is one convex piece."""
_MOST_CELLS = 1000
"""More than there are columns across."""
_TRUNK_BELOW_TOP_M = 0.4
"""From the top of the head to the middle of the thorax of an adult."""
_LONGEST_EDGE_M = 0.03
MOST_TRIANGLES = 150_000
"""A surface has at most so many triangles, and so many vertices."""
_MOST_PIECES = 400_000
"""Triangles with short edges that a surface is split into at most: cutting it takes 0.2 GB and seconds."""
_LARGEST_AREA_M2 = 40.0


@dataclass(frozen=True)
class StaffZone:
    """A box in which people stand.

    Attributes:
        low_m: Lower corner, frame ``table``, m.
        high_m: Upper corner, frame ``table``, m.
    """

    low_m: tuple[float, float, float]
    high_m: tuple[float, float, float]

    def holds(self, other: StaffZone) -> bool:
        """Return whether another zone lies within this one."""
        return all(a <= b for a, b in zip(self.low_m, other.low_m, strict=True)) and all(
            a >= b for a, b in zip(self.high_m, other.high_m, strict=True)
        )


def staff_zones(text: str) -> tuple[StaffZone, ...]:
    """Read staff zones: six numbers each, lower and upper corner, frame ``table``, m, between blanks or commas.

    Args:
        text: For example ``-0.6 -1.3 -0.95 0.2 -0.75 0.9``; empty for none.

    Raises:
        ConfigurationError: A word is no number, their count is wrong, or corners are not in order.
    """
    try:
        values = np.array([float(word) for word in text.replace(",", " ").replace(";", " ").split()])
    except ValueError as error:
        raise ConfigurationError(f"staff zones: {error}") from None
    if len(values) % 6:
        raise ConfigurationError(f"staff zones need 6 numbers each (lower and upper corner), got {len(values)}")
    corners = values.reshape(-1, 2, 3)
    if not np.isfinite(corners).all() or not (corners[:, 0] < corners[:, 1]).all():
        raise ConfigurationError(f"staff zones need finite corners, the lower first; got {text!r}")
    return tuple(StaffZone(tuple(low.tolist()), tuple(high.tolist())) for low, high in corners)


def removes_staff_zone(old: str, new: str) -> bool:
    """Return whether a part of some staff zone would no longer be kept clear; guard of the parameter ``staff_zones``.

    Args:
        old: See ``staff_zones``.
        new: See ``staff_zones``.

    Raises:
        ConfigurationError: A text is malformed.
    """
    kept = staff_zones(new)
    return not all(any(other.holds(zone) for other in kept) for zone in staff_zones(old))


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh around the patient, in frame ``table``.

    Attributes:
        vertices_m: (V, 3), m.
        triangles: Indices of vertices (T, 3).
        along_m: Stretch along x that it shows, m; elsewhere a body is assumed. None: from end to end.
        area_m2: Of all triangles, m2.
    """

    vertices_m: Array
    triangles: NDArray[np.int64]
    along_m: tuple[float, float] | None = None
    area_m2: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Check the mesh.

        Raises:
            ConfigurationError: It is empty, not finite, or an index is out of range.
        """
        vertices = np.asarray(self.vertices_m, dtype=np.float64)
        triangles = np.asarray(self.triangles, dtype=np.int64)
        if vertices.ndim != 2 or vertices.shape[1:] != (3,) or triangles.ndim != 2 or triangles.shape[1:] != (3,):
            raise ConfigurationError(
                f"a surface needs vertices (V, 3) and triangles (T, 3), got {vertices.shape} and {triangles.shape}"
            )
        if max(len(triangles), len(vertices)) > MOST_TRIANGLES:
            raise ConfigurationError(
                f"a surface of {len(triangles)} triangles and {len(vertices)} vertices is no patient's"
                f" (at most {MOST_TRIANGLES})"
            )
        if not len(triangles) or not len(vertices) or not np.isfinite(vertices).all() or np.abs(vertices).max() > 5.0:
            raise ConfigurationError("a surface needs triangles and finite vertices within 5 m of the table's center")
        if triangles.min() < 0 or triangles.max() >= len(vertices):
            raise ConfigurationError(
                f"a triangle names vertex {triangles.max()} of {len(vertices)}"
                if triangles.max() >= len(vertices)
                else f"a triangle names vertex {triangles.min()}"
            )
        a, b, c = vertices[triangles].transpose(1, 0, 2)
        area_m2 = float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()) / 2
        if area_m2 > _LARGEST_AREA_M2:
            raise ConfigurationError(
                f"a surface of {area_m2:.0f} m2 is no patient's (at most {_LARGEST_AREA_M2:.0f} m2)"
            )
        object.__setattr__(self, "vertices_m", vertices)
        object.__setattr__(self, "triangles", triangles)
        object.__setattr__(self, "area_m2", area_m2)

    @property
    def shown_m(self) -> tuple[float, float]:
        """Stretch along x that the surface shows, m."""
        along = self.vertices_m[:, 0]
        return self.along_m or (float(along.min()), float(along.max()))

    @property
    def trunk_m(self) -> Array:
        """Position (2,) above the middle of the trunk, x and y, m: below the top, or halfway if the surface is short.

        Across it is the median of the surface there: an arm on one side does not pull it away.
        """
        along = self.vertices_m[:, 0]
        x = float(along.max() - min(_TRUNK_BELOW_TOP_M, np.ptp(along) / 2))
        near = np.abs(along - x) <= max(_CELL_M[0], float(np.abs(along - x).min()))
        return np.array([x, np.median(self.vertices_m[near, 1])])

    def pieces(self) -> list[Array]:
        """Cut the surface into columns from its underside to its top.

        Returns:
            Points (N, 3) of each column, m; every triangle lies in the hulls of the columns that it touches.

        Raises:
            ConfigurationError: The triangles are so long that there would be too many pieces.
        """
        fine = _subdivided(self.vertices_m[self.triangles])
        low = np.floor(fine[:, :, :2].min(axis=1) / _CELL_M + 1e-9).astype(int)
        high = np.maximum(low, np.floor(fine[:, :, :2].max(axis=1) / _CELL_M - 1e-9).astype(int))
        cells, owners = [], []
        for shift in ((0, 0), (0, 1), (1, 0), (1, 1)):  # an edge is shorter than a cell
            touched = np.flatnonzero((low + shift <= high).all(axis=1))
            cells.append(low[touched] + shift)
            owners.append(touched)
        numbers = np.concatenate(cells) @ (_MOST_CELLS, 1)
        order = np.argsort(numbers, kind="stable")
        members = fine[np.concatenate(owners)[order]]
        borders = np.flatnonzero(np.diff(numbers[order])) + 1
        return [group.reshape(-1, 3) for group in np.split(members, borders)]


def _subdivided(triangles: Array) -> Array:
    """Split triangles (T, 3, 3) at their longest edge until no edge is long.

    Raises:
        ConfigurationError: There would be too many.
    """
    done: list[Array] = []
    count = 0
    while len(triangles):
        if count + len(triangles) > _MOST_PIECES:
            raise ConfigurationError(
                f"a surface with so many long triangles is no patient's: over {_MOST_PIECES} pieces"
            )
        edges = np.linalg.norm(np.roll(triangles, -1, axis=1) - triangles, axis=2)
        short = edges.max(axis=1) <= _LONGEST_EDGE_M
        done.append(triangles[short])
        count += len(done[-1])
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
        surface: Of the patient; None: unknown.
        assume_patient: A generous body stands for what no surface shows; False: only what is known counts.
        staff: Where people stand.
    """

    surface: Surface | None = None
    assume_patient: bool = True
    staff: tuple[StaffZone, ...] = ()
    version: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Compute a number from the obstacles, so that a change is detected."""
        along_m = None if self.surface is None else self.surface.along_m
        digest = hashlib.sha256(repr((self.assume_patient, self.staff, along_m)).encode())
        if self.surface is not None:
            digest.update(np.ascontiguousarray(self.surface.vertices_m).tobytes())
            digest.update(np.ascontiguousarray(self.surface.triangles).tobytes())
        object.__setattr__(self, "version", digest.hexdigest()[:16])

    def patient_pieces(self) -> Iterator[Array]:
        """Yield points (N, 3), m, whose hulls cover the patient."""
        if self.surface is not None:
            yield from self.surface.pieces()
        yield from self.assumed_pieces()

    def assumed_pieces(self) -> Iterator[Array]:
        """Yield points (N, 3), m, whose hulls cover the part of the patient that no surface shows."""
        begin, end = DEFAULT_LENGTH_M
        low, high = (end, end) if self.surface is None else self.surface.shown_m
        for first, last in ((begin, min(end, low)), (max(begin, high), end)) if self.assume_patient else ():
            if first < last:
                yield _body_points(first, last)


def _body_points(begin_m: float, end_m: float) -> Array:
    """Return corners (N, 3) of the assumed body between two places along x, m."""
    return np.array(
        [[x, side * width, height] for x in (begin_m, end_m) for width, height in DEFAULT_PROFILE_M for side in (1, -1)]
    )


def box_points(low_m: ArrayLike, high_m: ArrayLike) -> Array:
    """Return the corners (8, 3) of a box, m."""
    corners = np.array([low_m, high_m], dtype=np.float64)
    return np.array([corners[[i, j, k], [0, 1, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
