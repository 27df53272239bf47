# SPDX-License-Identifier: Apache-2.0
"""Regular grids in LPS and the compiled loops on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from carm_core.transforms import Array

Field = NDArray[np.float32]

_Job = TypeVar("_Job")
_Found = TypeVar("_Found")

_MAX_THREADS = 2


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, cached on disk where a cache folder is writable."""
    try:
        return numba.njit(nogil=True, cache=True, fastmath=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        return numba.njit(nogil=True, fastmath=True)(function)  # type: ignore[no-any-return]


def in_order(work: Callable[[_Job], _Found], jobs: Sequence[_Job]) -> Iterator[_Found]:
    """``work`` of each job, in their order, made by two threads."""
    threads = min(_MAX_THREADS, numba.config.NUMBA_NUM_THREADS, len(jobs))
    if threads < 2:
        yield from map(work, jobs)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, jobs)


def in_slabs(work: Callable[[int, int], Any], count: int, size: int = 16) -> None:
    """Call ``work(first, last)`` for slabs of ``size`` planes that cover ``range(count)``, on two threads."""
    for _ in in_order(lambda first: work(first, min(first + size, count)), range(0, count, size)):
        pass


@dataclass(frozen=True)
class Grid:
    """Axis-aligned grid of voxel centers in LPS.

    Attributes:
        origin_mm: Center of voxel (0, 0, 0), shape (3,).
        spacing_mm: Edge length of the cubic voxels.
        shape: Number of voxels along x, y, z.
    """

    origin_mm: Array
    spacing_mm: float
    shape: tuple[int, int, int]

    @staticmethod
    def around(low_mm: Array, high_mm: Array, spacing_mm: float) -> Grid:
        """Return the grid that covers a box."""
        count = np.ceil((high_mm - low_mm) / spacing_mm).astype(int) + 1
        return Grid(np.array(low_mm, float), spacing_mm, (int(count[0]), int(count[1]), int(count[2])))

    def coarse(self, factor: int = 2) -> Grid:
        """Return a grid ``factor`` times coarser that covers this one, with the same first voxel center."""
        count = [-(-(size - 1) // factor) + 2 for size in self.shape]
        return Grid(self.origin_mm, self.spacing_mm * factor, (count[0], count[1], count[2]))

    def axes(self) -> tuple[Field, Field, Field]:
        """Return the coordinates along x, y, z in mm, shaped to broadcast: (I, 1, 1), (1, J, 1), (1, 1, K)."""
        x, y, z = (
            (self.origin_mm[a] + self.spacing_mm * np.arange(self.shape[a])).astype(np.float32) for a in range(3)
        )
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def index_of(self, points_mm: Array) -> Array:
        """Return the fractional voxel indices of LPS points, (..., 3)."""
        return np.asarray((points_mm - self.origin_mm) / self.spacing_mm)

    def box(self, low_mm: Array, high_mm: Array) -> tuple[slice, slice, slice]:
        """Index slices of the part of the grid inside a box."""
        start = np.clip(np.floor(self.index_of(low_mm)).astype(int), 0, self.shape)
        stop = np.clip(np.ceil(self.index_of(high_mm)).astype(int) + 1, 0, self.shape)
        return slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])

    def part(self, box: tuple[slice, slice, slice]) -> Grid:
        """Return the grid of a box of this grid."""
        start = np.array([edge.start for edge in box])
        size = [edge.stop - edge.start for edge in box]
        return Grid(self.origin_mm + start * self.spacing_mm, self.spacing_mm, (size[0], size[1], size[2]))


@compiled
def splat(field: Any, index: Any, weight: Any) -> None:
    """Add point weights to a field with trilinear shares: field [I, J, K], index [N, 3] fractional, weight [N]."""
    size_i, size_j, size_k = field.shape
    for n in range(index.shape[0]):
        i, j, k = int(np.floor(index[n, 0])), int(np.floor(index[n, 1])), int(np.floor(index[n, 2]))
        if i < 0 or j < 0 or k < 0 or i >= size_i - 1 or j >= size_j - 1 or k >= size_k - 1:
            continue
        u, v, w = index[n, 0] - i, index[n, 1] - j, index[n, 2] - k
        p = weight[n]
        field[i, j, k] += p * (1 - u) * (1 - v) * (1 - w)
        field[i + 1, j, k] += p * u * (1 - v) * (1 - w)
        field[i, j + 1, k] += p * (1 - u) * v * (1 - w)
        field[i + 1, j + 1, k] += p * u * v * (1 - w)
        field[i, j, k + 1] += p * (1 - u) * (1 - v) * w
        field[i + 1, j, k + 1] += p * u * (1 - v) * w
        field[i, j + 1, k + 1] += p * (1 - u) * v * w
        field[i + 1, j + 1, k + 1] += p * u * v * w


@compiled
def fill_planes(solid: Any) -> None:
    """Fill the holes of each plane of a boolean field (planes, rows, columns) in place; neighbors share an edge."""
    planes, rows, columns = solid.shape
    outside = np.empty((rows, columns), np.bool_)
    stack = np.empty((rows * columns, 2), np.int64)
    for p in range(planes):
        outside[:] = False
        size = 0
        for r in range(rows):
            for c in range(columns):
                border = r == 0 or c == 0 or r == rows - 1 or c == columns - 1
                if border and not solid[p, r, c]:
                    outside[r, c] = True
                    stack[size, 0], stack[size, 1] = r, c
                    size += 1
        while size > 0:
            size -= 1
            r, c = stack[size, 0], stack[size, 1]
            for n in range(4):
                a = r + (n == 0) - (n == 1)
                b = c + (n == 2) - (n == 3)
                if 0 <= a < rows and 0 <= b < columns and not outside[a, b] and not solid[p, a, b]:
                    outside[a, b] = True
                    stack[size, 0], stack[size, 1] = a, b
                    size += 1
        for r in range(rows):
            for c in range(columns):
                solid[p, r, c] = not outside[r, c]


@compiled
def _resample(coarse: Any, start: Any, step: float, first: int, out: Any) -> None:
    """Planes of a resampled field from number ``first`` on."""
    size_i, size_j, size_k = out.shape
    row = np.empty(coarse.shape[2], np.float32)
    below, share = np.empty(size_k, np.int64), np.empty(size_k, np.float32)
    for k in range(size_k):
        z = min(max(start[2] + k * step, 0.0), coarse.shape[2] - 1.001)
        below[k] = int(z)
        share[k] = np.float32(z - below[k])
    for i in range(size_i):
        x = min(max(start[0] + (first + i) * step, 0.0), coarse.shape[0] - 1.001)
        a = int(x)
        u = np.float32(x - a)
        for j in range(size_j):
            y = min(max(start[1] + j * step, 0.0), coarse.shape[1] - 1.001)
            b = int(y)
            v = np.float32(y - b)
            for c in range(coarse.shape[2]):
                low = coarse[a, b, c] + u * (coarse[a + 1, b, c] - coarse[a, b, c])
                high = coarse[a, b + 1, c] + u * (coarse[a + 1, b + 1, c] - coarse[a, b + 1, c])
                row[c] = low + v * (high - low)
            for k in range(size_k):
                c = below[k]
                out[i, j, k] = row[c] + share[k] * (row[c + 1] - row[c])


@dataclass(frozen=True)
class Resampler:
    """Trilinear values of a coarse field on another grid, a few planes at a time.

    Attributes:
        coarse: The field, (I, J, K).
        start: Index of the target's first voxel in it, (3,).
        step: The target's spacing over that of the field.
    """

    coarse: Field
    start: Array
    step: float

    @staticmethod
    def of(coarse: Field, source: Grid, target: Grid) -> Resampler:
        """From a field on one grid to another one; the border value continues outwards."""
        start = (target.origin_mm - source.origin_mm) / source.spacing_mm
        return Resampler(np.ascontiguousarray(coarse, np.float32), start, target.spacing_mm / source.spacing_mm)

    def planes(self, first: int, out: Field) -> Field:
        """Fill ``out`` with the planes of the target from number ``first`` on; returns it."""
        _resample(self.coarse, self.start, self.step, first, out)
        return out


def resample(coarse: Field, source: Grid, target: Grid) -> Field:
    """Return the trilinear values of a coarse field on another grid; the border value continues outwards."""
    out = np.empty(target.shape, np.float32)
    resampler = Resampler.of(coarse, source, target)
    in_slabs(lambda first, last: resampler.planes(first, out[first:last]), target.shape[0])
    return out


def smooth_noise(grid: Grid, scale_mm: float, rng: np.random.Generator) -> Field:
    """Return the band-limited noise of about unit variance whose features are ``scale_mm`` wide.

    It is a function of the place in LPS: what the grid reaches to changes neither the noise nor what ``rng`` draws.
    """
    key, offset = int(rng.integers(2**63)), rng.uniform(0, scale_mm, 3)
    first = np.floor((grid.origin_mm - offset) / scale_mm).astype(int)
    count = np.ceil(np.array(grid.shape) * grid.spacing_mm / scale_mm).astype(int) + 3
    coarse = _lattice_normals(first, count, key) * np.float32(1.8)
    return resample(coarse, Grid(offset + first * scale_mm, scale_mm, (count[0], count[1], count[2])), grid)


def _lattice_normals(first: Array, count: Array, key: int) -> Field:
    """Return a standard normal number for each point of an integer lattice, by the mixing steps of SplitMix64."""
    bits: NDArray[np.uint64] = np.full((1, 1, 1), key, np.uint64)
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = -1
        along = np.arange(first[axis], first[axis] + count[axis]).astype(np.uint64).reshape(shape)
        bits = _mixed_bits(bits ^ along)
    return np.asarray(ndtri(((bits >> np.uint64(11)).astype(float) + 0.5) / 2**53), np.float32)


def _mixed_bits(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


@compiled
def capsule_union(field: Any, origin: Any, spacing: float, capsules: Any, blend: float) -> None:
    """Union of a signed distance field with tapered capsules, in place.

    ``capsules`` is [N, 8]: start, end, radius at start, radius at end (mm). ``blend`` (mm) rounds the seams.
    """
    size_i, size_j, size_k = field.shape
    for n in range(capsules.shape[0]):
        c = capsules[n]
        reach = max(c[6], c[7]) + 40.0
        low = np.empty(3, np.int64)
        high = np.empty(3, np.int64)
        for a in range(3):
            size = (size_i, size_j, size_k)[a]
            low[a] = min(max(int((min(c[a], c[a + 3]) - reach - origin[a]) / spacing), 0), size)
            high[a] = min(max(int((max(c[a], c[a + 3]) + reach - origin[a]) / spacing) + 1, 0), size)
        dx, dy, dz = c[3] - c[0], c[4] - c[1], c[5] - c[2]
        square = dx * dx + dy * dy + dz * dz + 1e-9
        for i in range(low[0], high[0]):
            px = origin[0] + i * spacing - c[0]
            for j in range(low[1], high[1]):
                py = origin[1] + j * spacing - c[1]
                for k in range(low[2], high[2]):
                    pz = origin[2] + k * spacing - c[2]
                    t = min(max((px * dx + py * dy + pz * dz) / square, 0.0), 1.0)
                    ex, ey, ez = px - t * dx, py - t * dy, pz - t * dz
                    d = np.sqrt(ex * ex + ey * ey + ez * ez) - (c[6] + t * (c[7] - c[6]))
                    f = field[i, j, k]
                    h = max(blend - abs(f - d), 0.0) / blend
                    field[i, j, k] = min(f, d) - h * h * blend * 0.25


def occupancy(distance: Field, spacing_mm: float) -> Field:
    """Return the share of each voxel inside a surface, from its signed distance (negative inside), with soft edges."""
    share = distance * np.float32(-1 / spacing_mm)
    share += np.float32(0.5)
    return np.asarray(np.clip(share, 0, 1, out=share))


def smooth_min(first: Field, second: Field, blend_mm: float) -> Field:
    """Return the union of two signed distance fields with a rounded seam (polynomial smooth minimum)."""
    h = np.maximum(np.float32(blend_mm) - np.abs(first - second), 0) / np.float32(blend_mm)
    return np.asarray(np.minimum(first, second) - h * h * np.float32(blend_mm * 0.25))
