# SPDX-License-Identifier: Apache-2.0
"""Anatomy that hardware is fitted to: the patient's landmarks, skin, bones and airway. LPS, mm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from carm_core.errors import PatientError
from carm_core.landmarks import landmark
from carm_core.transforms import Array
from carm_sim.devices.shapes import smooth, unit
from carm_sim.patient.patient import Patient

LEFT, BACK, UP = np.eye(3)
FRONT = -BACK

T1, CARINA, T12, SKULL = 10, 11, 14, 1
HUMERAL_HEADS, ELBOWS, WRISTS, HEMIDIAPHRAGMS = (2, 3), (6, 7), (8, 9), (12, 13)
FIRST_EXTRA_THORACIC, FEMORAL_HEADS, KNEES, TROCHANTERS = 106, (121, 122), (123, 124), (129, 130)
RIGHT_SIDE, LEFT_SIDE = 0, 1
"""Index of the patient's side in pairs of landmarks."""

_THORACIC_CENTERS = np.concatenate([[0.0], np.cumsum(np.linspace(17.0, 25.0, 11))])
"""Where T1 to T12 are along a spine of usual height, mm from T1; their distances grow downwards."""

_BODY_TO_CANAL_MM, _CANAL_STEP_MM = 21.0, 16.0
_SKIN_HU = -300.0
_CORTEX_HU, _SPONGY_HU, _STERNUM_DEPTH_MM = 220.0, 130.0, 45
_CANAL_WALL_HU = 180.0
_COARSE_MM = 4.0


class MissingLandmarkError(PatientError):
    """Hardware cannot be placed: the patient lacks a landmark."""


@dataclass(frozen=True)
class Site:
    """A patient, seen by a generator.

    Attributes:
        patient: The patient.
        device: Name of what is to be placed, for messages.
        rng: Random numbers of this device on this patient.
        variant: Number of the variant that was asked for.
    """

    patient: Patient
    device: str
    rng: np.random.Generator
    variant: int = 0

    @cached_property
    def marks(self) -> dict[int, Array]:
        """All landmarks of the patient."""
        return {**self.patient.extra_landmarks_mm, **self.patient.landmarks_mm}

    def has(self, *ids: int) -> bool:
        """Return whether the patient has all of these landmarks."""
        return all(identifier in self.marks for identifier in ids)

    def mark(self, identifier: int) -> Array:
        """Return the position (3,) of a landmark.

        Raises:
            MissingLandmarkError: The patient does not have it.
        """
        if identifier not in self.marks:
            name = landmark(identifier).name
            raise MissingLandmarkError(
                f"{self.device} needs the landmark {name}, which the patient {self.patient.name} does not have"
            )
        return np.asarray(self.marks[identifier], np.float64)

    def within(self, point_mm: Array) -> None:
        """Check that the patient's volume reaches to a place.

        Raises:
            PatientError: It does not.
        """
        if not self.patient.volume.contains(point_mm):
            raise PatientError(
                f"{self.device}: the CT of {self.patient.name} does not cover its place; phantoms with ?whole_body do"
            )

    def jitter(self, spread_mm: float | ArrayLike) -> Array:
        """Return a random offset (3,), normal, cut at twice the spread."""
        return np.asarray(np.clip(self.rng.normal(size=3), -2, 2) * np.asarray(spread_mm))

    def vary(self, low: float, high: float) -> float:
        """Return a random number in a range."""
        return float(self.rng.uniform(low, high))

    @cached_property
    def side(self) -> int:
        """A random side of the body, for what may be on either."""
        return int(self.rng.integers(2))

    @cached_property
    def box_mm(self) -> tuple[Array, Array]:
        """Lowest and highest corner of the volume."""
        shape = np.array(self.patient.volume.shape)
        ends = self.patient.volume.lps_from_voxel(np.array([np.zeros(3), shape - 1.0]))
        return ends.min(0), ends.max(0)

    def inward(self, target_mm: ArrayLike, direction: ArrayLike, reach_mm: float = 450.0) -> tuple[Array, Array]:
        """Points (N, 3) on the way to a target from outside, along a direction, every mm, and the HU there (N,)."""
        steps = np.arange(-reach_mm, 0.5)[:, None]
        points = np.asarray(target_mm, np.float64) + steps * unit(direction)
        return points, self.patient.volume.sample(points)

    @cached_property
    def _around(self) -> tuple[NDArray[np.bool_], NDArray[np.int_]]:
        """Air around the body, without its openings, on a coarse grid; and the grid's step in voxels."""
        volume = self.patient.volume
        step = np.maximum(1, np.round(_COARSE_MM / volume.spacing_mm)).astype(int)
        air = np.asarray(volume.hu[:: step[0], :: step[1], :: step[2]] < _SKIN_HU)
        wide = ndimage.binary_opening(np.pad(air, 3, mode="edge"), iterations=2)[3:-3, 3:-3, 3:-3]
        labels, _ = ndimage.label(wide)
        outside = np.unique(np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()]))
        return np.isin(labels, outside[outside > 0]), step

    def skin(self, target_mm: ArrayLike, direction: ArrayLike) -> Array:
        """Where a line to a target within the body enters it for the last time (3,); the target if it does not.

        Arms in front of the body do not count, unless they touch it; nor does the air in it.
        """
        points, hu = self.inward(target_mm, direction)
        around, step = self._around
        index = np.rint(self.patient.volume.voxel_from_lps(points) / step).astype(int)
        beyond = ((index < 0) | (index >= around.shape)).any(1)
        index = np.clip(index, 0, np.array(around.shape) - 1)
        air = np.flatnonzero(beyond | around[tuple(index.T)])
        first = air[-1] if len(air) else 0
        inside = np.flatnonzero(hu[first:] > _SKIN_HU)
        return np.asarray(points[first + inside[0]] if len(inside) else target_mm, np.float64)

    def front_skin(self, x: float, z: float) -> Array:
        """Return the skin (3,) in front of a place in the coronal plane."""
        return self.skin((x, self.mid_y, z), BACK)

    def front_normal(self, x: float, z: float, step_mm: float = 18.0) -> Array:
        """Return the direction (3,) out of the skin in front of a place."""
        across = self.front_skin(x + step_mm, z) - self.front_skin(x - step_mm, z)
        along = self.front_skin(x, z + step_mm) - self.front_skin(x, z - step_mm)
        tilt = [np.clip(v[1] / (2 * step_mm), -1.0, 1.0) for v in (across, along)]
        return unit([tilt[0], -1.0, tilt[1]])

    def on_front(self, points_xz: ArrayLike, above_mm: float, step_mm: float = 8.0) -> Array:
        """Return a curve (N, 3) over the skin of the front through places in the coronal plane (P, 2)."""
        flat = np.asarray(points_xz, np.float64)
        curve = smooth(np.stack([flat[:, 0], np.zeros(len(flat)), flat[:, 1]], 1), step_mm)
        depth = np.array([self.front_skin(x, z)[1] for x, _, z in curve])
        curve[:, 1] = ndimage.gaussian_filter1d(np.minimum(depth, ndimage.minimum_filter1d(depth, 3)), 1.0) - above_mm
        return smooth(curve, 3.0)

    @cached_property
    def mid_y(self) -> float:
        """Depth of the body's middle."""
        return float((self.mark(CARINA) if self.has(CARINA) else self.mark(T1))[1])

    @cached_property
    def spine(self) -> Array:
        """Centers (12, 3) of the bodies of T1 to T12."""
        first, last = self.mark(T1), self.mark(T12)
        extra = [FIRST_EXTRA_THORACIC + n for n in range(10)]
        if self.has(*extra):
            return np.stack([first, *(self.mark(i) for i in extra), last])
        share: Array = _THORACIC_CENTERS / _THORACIC_CENTERS[-1]
        line: Array = first + share[:, None] * (last - first)
        centers = self._bodies_by_canal(line)
        known = np.isfinite(centers[:, 0])
        if known.sum() < 5:
            return line
        weight = np.where(np.isin(np.arange(12), (0, 11)), 5.0, 1.0)
        for axis in range(2):
            fit = np.polyfit(share[known], (centers - line)[known, axis], 4, w=weight[known])
            line[:, axis] += np.polyval(fit, share)
        return line

    def _bodies_by_canal(self, line: Array) -> Array:
        """Return the centers (12, 3) of the vertebral bodies in front of the spinal canal, NaN where no canal is found.

        The canal is a hole in the bone of some slices seen on top of each other. It is followed from T12 upwards, until
        the upper thoracic spine leans too much.
        """
        centers = np.full((12, 3), np.nan)
        centers[[0, 11]] = line[[0, 11]]
        expected = line[11] + _BODY_TO_CANAL_MM * BACK
        for n in range(11, 0, -1):
            holes = sorted(_canals(self, line[n]), key=lambda hole: float(np.linalg.norm((hole - expected)[:2])))
            if holes and np.linalg.norm((holes[0] - expected)[:2]) < _CANAL_STEP_MM:
                expected = holes[0]
                centers[n] = line[n] if n == 11 else expected + _BODY_TO_CANAL_MM * FRONT
        return np.asarray(centers)

    def spine_axes(self, level: int) -> Array:
        """Return the axes of a vertebra (0 is T1) as columns (3, 3): left, front, up along the spine."""
        line = self.spine
        up = unit(line[max(level - 1, 0)] - line[min(level + 1, len(line) - 1)])
        left = unit(LEFT - up * up[0])
        return np.stack([left, np.cross(left, up) * np.sign(np.cross(left, up) @ FRONT), up], 1)

    def spine_at(self, z: float) -> Array:
        """Return the center (3,) of the spine at a height; beyond T1 and T12 on their line."""
        line = self.spine[::-1]
        if z < line[0, 2]:
            along = unit(0.3 * (line[1] - line[0]) + 20 * UP)
            return np.asarray(line[0] + (z - line[0, 2]) / along[2] * along)
        return np.array([np.interp(z, line[:, 2], line[:, 0]), np.interp(z, line[:, 2], line[:, 1]), z])

    @cached_property
    def sternum(self) -> Array:
        """Middle of the sternum's front (N, 3), from manubrium to xiphoid, every few mm of height."""
        spine, rows = self.spine, []
        expected = np.nan
        for z in np.linspace(spine[2, 2] - 8, spine[8, 2], 28):
            x = float(0.6 * self.spine_at(z)[0] + 0.4 * self.mark(T1)[0])
            found = self._front_bones(np.array([x, self.spine_at(z)[1] - 40, z]))
            if np.isfinite(expected):
                found = sorted((at for at in found if abs(at - expected) < 11), key=lambda at: abs(at - expected))
            rows.append((x, found[0] if found else np.nan, z))
            expected = (found[0] if found else expected) - 1.5
        line = np.array(rows)
        known = np.isfinite(line[:, 1])
        if known.sum() < 6:
            raise PatientError(f"{self.device}: no sternum found in patient {self.patient.name}")
        fit = np.polyfit(line[known, 2], line[known, 1], 2)
        rest = np.abs(line[:, 1] - np.polyval(fit, line[:, 2]))
        good = known & (rest <= max(8.0, 2 * float(np.median(rest[known]))))
        fit = np.polyfit(line[good, 2], line[good, 1], 2)
        line[:, 1] = np.polyval(fit, line[:, 2])
        return line

    def _front_bones(self, inside_mm: Array) -> list[float]:
        """Depths y where the sternum's front may be: first bone behind the skin, first bone before the heart."""
        skin = self.skin(inside_mm, BACK)
        points = np.linspace(skin, inside_mm, max(2, int(inside_mm[1] - skin[1]) + 1))
        hu = np.max([self.patient.volume.sample(points + dx * LEFT) for dx in (-6, 0, 6)], 0)
        near = np.flatnonzero(hu[:_STERNUM_DEPTH_MM] > _SPONGY_HU)
        bone = np.flatnonzero(hu > _CORTEX_HU)
        inner = bone[bone > bone[-1] - 22] if len(bone) else bone
        return [float(points[at[0], 1]) for at in (near, inner) if len(at)]

    def behind_sternum(self, z: float) -> float:
        """Return the depth y of the sternum's front at a height, beyond its ends that of the end."""
        line = self.sternum[::-1]
        return float(np.interp(z, line[:, 2], line[:, 1]))

    def in_chest(self, left_mm: float, forward: float, down_mm: float) -> Array:
        """A place (3,) in the chest: mm left of the carina, share of the way to the sternum, mm below the carina."""
        carina = self.mark(CARINA)
        z = carina[2] - down_mm
        front = self.behind_sternum(z) + 15
        return np.array([carina[0] + left_mm, carina[1] + forward * (front - carina[1]), z])

    @cached_property
    def airway(self) -> Array:
        """Middle of the trachea (N, 3) from the carina upwards, as far as there is air."""
        center = self.mark(CARINA) + 8 * UP
        grid = np.stack(np.meshgrid(np.arange(-14, 15.0), np.arange(-14, 15.0), indexing="ij"), -1)
        line = [center]
        top = min(self.mark(T1)[2] + 30, self.box_mm[1][2] - 4)
        while line[-1][2] + 4 < top:
            points = line[-1] + 4 * UP + np.concatenate([grid, np.zeros((*grid.shape[:2], 1))], -1)
            air = self.patient.volume.sample(points) < -600
            labels, _ = ndimage.label(air)
            label = labels[14, 14]
            if label == 0 or not 30 < (labels == label).sum() < 500:
                break
            line.append(points[labels == label].mean(0))
        return np.array(line)


def _canals(site: Site, near_mm: Array, step_mm: float = 1.5) -> list[Array]:
    """Return the centers (3,) of what may be the spinal canal around a place: holes in the bone of 20 mm of height."""
    across, deep = np.arange(-45, 46, step_mm), np.arange(-25, 111, step_mm)
    flat = np.stack(np.meshgrid(across, deep, [0.0], indexing="ij"), -1)[:, :, 0]
    heights = (np.array([0, 0, dz]) for dz in np.arange(-10, 11, 4.0))
    dense = np.max([site.patient.volume.sample(near_mm + flat + dz) for dz in heights], 0)
    bone = ndimage.binary_closing(dense > _CANAL_WALL_HU)
    labels, count = ndimage.label(ndimage.binary_fill_holes(bone) & ~bone)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:] * step_mm**2
    return [near_mm + flat[labels == n + 1].mean(0) for n in range(count) if 60 < areas[n] < 700]
