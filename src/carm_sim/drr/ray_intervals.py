# SPDX-License-Identifier: Apache-2.0
"""Inner loops of ``carm_sim.drr.solids``: where rays enter and leave convex bodies, and unions of such intervals.

A body is a unit body of its kind under an affine map. In its coordinates a ray is ``origin + t · direction`` with t
from 0 (source) to 1 (detector); the direction is linear in the pixel's column and row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba as nb
import numpy as np
from numpy.typing import NDArray

ELLIPSOID, BOX, FRUSTUM, CAPSULE = range(4)
"""Kinds: unit ball; cube |x|, |y|, |z| ≤ 1; radius 1 + p·z for |z| ≤ 1; radius 1 around the z axis from -p to p."""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

_FLAT = 1e-18


def _compiled(kernel: Kernel) -> Kernel:
    jitted: Kernel = nb.njit(nogil=True, cache=True, error_model="numpy")(kernel)
    return jitted


def _inlined(kernel: Kernel) -> Kernel:
    jitted: Kernel = nb.njit(nogil=True, inline="always", error_model="numpy")(kernel)
    return jitted


@_compiled
def _quadratic(a: float, b: float, c: float) -> tuple[float, float]:
    """Where a·t² + 2b·t + c ≤ 0, for a ≥ 0."""
    if a < _FLAT:
        return (0.0, 1.0) if c <= 0 else (1.0, 0.0)
    discriminant = b * b - a * c
    if discriminant <= 0:
        return 1.0, 0.0
    root = np.sqrt(discriminant)
    return (-b - root) / a, (-b + root) / a


@_inlined
def _away_from_zero(d: float) -> float:
    """Return a number that can be divided by: rays along a face never come nearer to it."""
    return d if abs(d) >= 1e-300 else 1e-300


@_compiled
def _slab(o: float, d: float, half: float, low: float, high: float) -> tuple[float, float]:
    """Return the part of an interval where o + t·d lies within -half and half."""
    if abs(d) < 1e-300:
        return (low, high) if abs(o) <= half else (1.0, 0.0)
    one, other = (-half - o) / d, (half - o) / d
    return max(low, min(one, other)), min(high, max(one, other))


@_compiled
def _frustum(o: tuple[float, float, float], d: tuple[float, float, float], k: float) -> tuple[float, float]:
    low, high = _slab(o[2], d[2], 1.0, 0.0, 1.0)
    if high <= low:
        return 1.0, 0.0
    radius = 1 + k * o[2]
    a = d[0] * d[0] + d[1] * d[1] - k * k * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] - k * radius * d[2]
    c = o[0] * o[0] + o[1] * o[1] - radius * radius
    if a >= 0:
        enter, leave = _quadratic(a, b, c)
        return max(low, enter), min(high, leave)
    discriminant = b * b - a * c
    if discriminant <= 0:
        return low, high
    root = np.sqrt(discriminant)
    before, after = min(high, (-b + root) / a), max(low, (-b - root) / a)
    return (low, before) if before - low > high - after else (after, high)


@_compiled
def _capsule(o: tuple[float, float, float], d: tuple[float, float, float], half: float) -> tuple[float, float]:
    across = o[0] * o[0] + o[1] * o[1] - 1
    a = d[0] * d[0] + d[1] * d[1]
    b = o[0] * d[0] + o[1] * d[1]
    enter, leave = _quadratic(a, b, across)
    if leave <= enter:
        return 1.0, 0.0
    first, last = _slab(o[2], d[2], half, enter, leave)
    if last <= first:
        first, last = 1e300, -1e300
    for end in (-half, half):
        z = o[2] - end
        enter, leave = _quadratic(a + d[2] * d[2], b + z * d[2], across + z * z)
        if leave > enter:
            first, last = min(first, enter), max(last, leave)
    return first, last


@_compiled
def interval(
    kind: int, parameter: float, o: tuple[float, float, float], d: tuple[float, float, float]
) -> tuple[float, float]:
    """Where a ray is inside a body, between source (0) and detector (1).

    Args:
        kind: One of ``ELLIPSOID``, ``BOX``, ``FRUSTUM``, ``CAPSULE``.
        parameter: Taper of a frustum, half length of a capsule.
        o: Source in the body's coordinates.
        d: From source to pixel in the body's coordinates.

    Returns:
        Where it enters and leaves; leaving not after entering: it misses.
    """
    if kind == ELLIPSOID:
        a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
        enter, leave = _quadratic(a, b, o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1)
    elif kind == BOX:
        enter, leave = _slab(o[0], d[0], 1.0, 0.0, 1.0)
        enter, leave = _slab(o[1], d[1], 1.0, enter, leave)
        enter, leave = _slab(o[2], d[2], 1.0, enter, leave)
    elif kind == FRUSTUM:
        enter, leave = _frustum(o, d, parameter)
    else:
        enter, leave = _capsule(o, d, parameter)
    return max(0.0, enter), min(1.0, leave)


@_compiled
def _insert(enters: NDArray[np.float64], leaves: NDArray[np.float64], count: int, enter: float, leave: float) -> int:
    """Add an interval to a list that is sorted by its beginnings."""
    at = count
    while at > 0 and enters[at - 1] > enter:
        enters[at], leaves[at] = enters[at - 1], leaves[at - 1]
        at -= 1
    enters[at], leaves[at] = enter, leave
    return count + 1


@_compiled
def _merge(enters: NDArray[np.float64], leaves: NDArray[np.float64], count: int) -> int:
    """Merge intervals, sorted by their beginnings, that touch."""
    kept = 0
    for at in range(1, count):
        if enters[at] <= leaves[kept]:
            leaves[kept] = max(leaves[kept], leaves[at])
        else:
            kept += 1
            enters[kept], leaves[kept] = enters[at], leaves[at]
    return kept + 1 if count else 0


@_compiled
def _gather(
    which: NDArray[np.int64],
    count: int,
    kinds: NDArray[np.int64],
    parameters: NDArray[np.float64],
    origins: NDArray[np.float64],
    directions: NDArray[np.float64],
    column: float,
    row: float,
    enters: NDArray[np.float64],
    leaves: NDArray[np.float64],
) -> int:
    """Union of the intervals of some bodies along the ray of a point of the detector; the number of intervals."""
    found = 0
    for index in range(count):
        p = which[index]
        origin = (origins[p, 0], origins[p, 1], origins[p, 2])
        direction = (
            directions[p, 0, 0] + column * directions[p, 1, 0] + row * directions[p, 2, 0],
            directions[p, 0, 1] + column * directions[p, 1, 1] + row * directions[p, 2, 1],
            directions[p, 0, 2] + column * directions[p, 1, 2] + row * directions[p, 2, 2],
        )
        enter, leave = interval(kinds[p], parameters[p], origin, direction)
        if leave > enter:
            found = _insert(enters, leaves, found, enter, leave)
    return _merge(enters, leaves, found)


@_compiled
def _difference(
    enters: NDArray[np.float64],
    leaves: NDArray[np.float64],
    count: int,
    hole_enters: NDArray[np.float64],
    hole_leaves: NDArray[np.float64],
    holes: int,
) -> float:
    """Return the length of a union of intervals without that of another."""
    total = 0.0
    for i in range(count):
        total += leaves[i] - enters[i]
        for j in range(holes):
            total -= max(0.0, min(leaves[i], hole_leaves[j]) - max(enters[i], hole_enters[j]))
    return total


@_inlined
def _pixel(
    bodies: NDArray[np.int64],
    count: int,
    holes: NDArray[np.int64],
    hole_count: int,
    kinds: NDArray[np.int64],
    parameters: NDArray[np.float64],
    origins: NDArray[np.float64],
    directions: NDArray[np.float64],
    geometry: tuple[float, float, float, float],
    rays: int,
    column: int,
    row: int,
    enters: NDArray[np.float64],
    leaves: NDArray[np.float64],
    hole_enters: NDArray[np.float64],
    hole_leaves: NDArray[np.float64],
) -> float:
    """Return the mean length, mm, within a solid of the rays of a pixel; the arrays are as in ``add_chords``."""
    distance, middle_column, middle_row, pitch = geometry
    share, total = 1.0 / rays, 0.0
    for below in range(rays):
        y = row + (below + 0.5) * share - 0.5
        y_mm = (y - middle_row) * pitch
        for beside in range(rays):
            x = column + (beside + 0.5) * share - 0.5
            found = _gather(bodies, count, kinds, parameters, origins, directions, x, y, enters, leaves)
            if found == 0:
                continue
            cut = 0
            if hole_count > 0:
                cut = _gather(holes, hole_count, kinds, parameters, origins, directions, x, y, hole_enters, hole_leaves)
            x_mm = (x - middle_column) * pitch
            length = np.sqrt(distance * distance + x_mm * x_mm + y_mm * y_mm)
            total += length * _difference(enters, leaves, found, hole_enters, hole_leaves, cut)
    return total * share * share


@_compiled
def _within(
    boxes: NDArray[np.int64],
    strips: NDArray[np.float64],
    begin: int,
    end: int,
    row: int,
    which: NDArray[np.int64],
    lefts: NDArray[np.int64],
    rights: NDArray[np.int64],
) -> int:
    """Return the bodies of a range that a row may see, sorted by the first column that may; their number.

    ``which`` gets the bodies, ``lefts`` and ``rights`` the columns, the last one exclusive.
    """
    count = 0
    for p in range(begin, end):
        if not boxes[p, 1] <= row < boxes[p, 3]:
            continue
        left, right = boxes[p, 0], boxes[p, 2]
        across = strips[p, 0]
        if abs(across) > 1e-2:
            middle, half = (strips[p, 2] - strips[p, 1] * row) / across, strips[p, 3] / abs(across)
            left = max(left, int(min(max(np.floor(middle - half), -1e9), 1e9)))
            right = min(right, int(min(max(np.ceil(middle + half) + 1, -1e9), 1e9)))
        if left >= right:
            continue
        at = count
        while at > 0 and lefts[at - 1] > left:
            which[at], lefts[at], rights[at] = which[at - 1], lefts[at - 1], rights[at - 1]
            at -= 1
        which[at], lefts[at], rights[at] = p, left, right
        count += 1
    return count


@_compiled
def _box_row(
    origin: NDArray[np.float64],
    directions: NDArray[np.float64],
    geometry: tuple[float, float, float, float],
    factor: float,
    row: int,
    left: int,
    right: int,
    out: NDArray[np.float32],
) -> None:
    """Add the chords of one box, by the ray of each pixel's center, to columns ``left`` to ``right`` of a row.

    Args:
        origin: Source in the box's coordinates (3,).
        directions: As in ``add_chords``, of the box (3, 3).
        geometry: As in ``add_chords``.
        factor: Factor of the solid.
        row: Raw row.
        left: First raw column.
        right: One past the last.
        out: The columns (right - left,), mm.
    """
    distance, middle_column, middle_row, pitch = geometry
    y_mm = (row - middle_row) * pitch
    x0, x1, x2 = directions[0, 0], directions[1, 0], directions[2, 0] * row
    y0, y1, y2 = directions[0, 1], directions[1, 1], directions[2, 1] * row
    z0, z1, z2 = directions[0, 2], directions[1, 2], directions[2, 2] * row
    low_x, low_y, low_z = -1.0 - origin[0], -1.0 - origin[1], -1.0 - origin[2]
    high_x, high_y, high_z = 1.0 - origin[0], 1.0 - origin[1], 1.0 - origin[2]
    for index in range(right - left):
        column = float(left + index)
        dx, dy, dz = x0 + column * x1 + x2, y0 + column * y1 + y2, z0 + column * z1 + z2
        dx, dy, dz = _away_from_zero(dx), _away_from_zero(dy), _away_from_zero(dz)
        ax, bx, ay, by, az, bz = low_x / dx, high_x / dx, low_y / dy, high_y / dy, low_z / dz, high_z / dz
        enter = max(max(0.0, min(ax, bx)), max(min(ay, by), min(az, bz)))
        leave = min(min(1.0, max(ax, bx)), min(max(ay, by), max(az, bz)))
        x_mm = (column - middle_column) * pitch
        length = np.sqrt(distance * distance + x_mm * x_mm + y_mm * y_mm)
        out[index] += np.float32(factor * (length * max(0.0, leave - enter)))


@_compiled
def add_chords(
    kinds: NDArray[np.int64],
    parameters: NDArray[np.float64],
    origins: NDArray[np.float64],
    directions: NDArray[np.float64],
    boxes: NDArray[np.int64],
    strips: NDArray[np.float64],
    spans: NDArray[np.int64],
    factors: NDArray[np.float64],
    geometry: tuple[float, float, float, float],
    samples: NDArray[np.int64],
    corner: tuple[int, int],
    first: int,
    last: int,
    out: NDArray[np.float32],
) -> None:
    """Add the chords of solids to rows ``first`` to ``last`` of an image.

    Args:
        kinds: Kind of each body (bodies,).
        parameters: Its parameter (bodies,).
        origins: Source in its coordinates (bodies, 3).
        directions: From source to raw pixel 0, 0 in its coordinates, change per column, per row (bodies, 3, 3).
        boxes: Raw pixels that may see it: left, top, right, bottom; right and bottom exclusive (bodies, 4).
        strips: Strip of pixels that may see it, along its projected axis: normal's column and row, distance from pixel
            0, 0 along the normal, half width (bodies, 4).
        spans: First body, first hole, end of holes, material of each solid (solids, 4).
        factors: Factor of each solid (solids,).
        geometry: Source-detector distance, mm, principal point's column and row, pitch, mm.
        samples: Rays along each side of a pixel, of each solid (solids,).
        corner: Column and row of the image's first pixel.
        first: First row of the band, from the image's first.
        last: One past the last.
        out: Images (materials, rows, columns), mm.
    """
    most = 1
    for s in range(len(spans)):
        most = max(most, spans[s, 1] - spans[s, 0], spans[s, 2] - spans[s, 1])
    enters, leaves, hole_enters, hole_leaves = np.empty(most), np.empty(most), np.empty(most), np.empty(most)
    listed, lefts, rights = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    listed_holes, hole_lefts, hole_rights = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    live, live_holes = np.empty(most, np.int64), np.empty(most, np.int64)
    places = np.empty(most, np.int64)
    for s in range(len(spans)):
        rays, image = samples[s], out[spans[s, 3]]
        for row in range(first + corner[1], last + corner[1]):
            count = _within(boxes, strips, spans[s, 0], spans[s, 1], row, listed, lefts, rights)
            if count == 0:
                continue
            holes = _within(boxes, strips, spans[s, 1], spans[s, 2], row, listed_holes, hole_lefts, hole_rights)
            if count == 1 and holes == 0 and rays == 1 and kinds[listed[0]] == BOX:
                left, right = lefts[0], rights[0]
                line = image[row - corner[1], left - corner[0] : right - corner[0]]
                _box_row(origins[listed[0]], directions[listed[0]], geometry, factors[s], row, left, right, line)
                continue
            coming, near, column = 0, 0, lefts[0]
            while True:
                while coming < count and lefts[coming] <= column:
                    places[near] = coming
                    near, coming = near + 1, coming + 1
                kept = 0
                for index in range(near):
                    if rights[places[index]] > column:
                        places[kept] = places[index]
                        live[kept] = listed[places[index]]
                        kept += 1
                near = kept
                if near == 0:
                    if coming == count:
                        break
                    column = lefts[coming]
                    continue
                near_holes = 0
                for index in range(holes):
                    if hole_lefts[index] <= column < hole_rights[index]:
                        live_holes[near_holes] = listed_holes[index]
                        near_holes += 1
                length = _pixel(
                    live,
                    near,
                    live_holes,
                    near_holes,
                    kinds,
                    parameters,
                    origins,
                    directions,
                    geometry,
                    rays,
                    column,
                    row,
                    enters,
                    leaves,
                    hole_enters,
                    hole_leaves,
                )
                image[row - corner[1], column - corner[0]] += np.float32(factors[s] * length)
                column += 1
