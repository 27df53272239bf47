# SPDX-License-Identifier: Apache-2.0
"""Broken bones: a fragment that has slipped, turned and left a gap, as an edit of a copy of the CT.

Only what is near the break moves, so that landmarks stay where they are: the fragment's shift fades out along the bone,
sideways, and around every landmark.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.errors import PatientError
from carm_core.transforms import Array
from carm_sim.devices.shapes import unit
from carm_sim.devices.site import (
    BACK,
    CARINA,
    ELBOWS,
    FEMORAL_HEADS,
    HUMERAL_HEADS,
    KNEES,
    LEFT,
    LEFT_SIDE,
    T1,
    T12,
    UP,
    WRISTS,
    MissingLandmarkError,
    Site,
)
from carm_sim.patient.volume import Volume

_BONE_HU, _BLOOD_HU = 160.0, 45.0
_TAPER_MM = 10.0
_STILL_MM, _FREE_MM = 7.0, 18.0
"""Nothing moves this near to a landmark, all of it from there on."""


@dataclass(frozen=True)
class Break:
    """Where and how a bone is broken. LPS, mm.

    Attributes:
        center_mm: Middle of the bone at the break (3,).
        axis: Along the bone, towards the fragment that moves (3,), unit length.
        radius_mm: Of the bone, about.
        reach_mm: From the break to where the fragment's shift has faded out.
        shift_mm: Shift of the fragment at the break (3,); along the axis it opens a gap or shortens the bone.
        slope: Slope of the break's plane against the axis (2,): rise per mm in two directions across.
    """

    center_mm: Array
    axis: Array
    radius_mm: float
    reach_mm: float
    shift_mm: Array
    slope: Array


def fracture(site: Site) -> Volume:
    """Return a broken bone: rib, collarbone, upper arm, forearm or thigh by variant, the next one that the patient has.

    Raises:
        PatientError: None of these bones is found.
    """
    refusals: list[PatientError] = []
    for step in range(len(BONES)):
        find = BONES[(site.variant + step) % len(BONES)]
        try:
            return broken(site, find(site))
        except PatientError as error:
            refusals.append(error)
    named = next((one for one in refusals if isinstance(one, MissingLandmarkError)), refusals[0])
    raise PatientError(f"{site.device}: no bone found that can be broken ({named})")


def rib(site: Site) -> Break:
    """Return a rib at the side of the chest, somewhat in front or behind: the first bone outside the lung."""
    carina, low = site.mark(CARINA), site.mark(T12)[2]
    aside = LEFT if site.side == LEFT_SIDE else -LEFT
    turn = site.vary(0.4, 0.8) * (1 if site.rng.random() < 0.6 else -1)
    outward = np.cos(turn) * aside + np.sin(turn) * BACK
    heights = site.vary(0.25, 0.5) + np.linspace(0, 0.3, 13)
    for share in heights:
        inner = np.array([carina[0], carina[1], carina[2] + share * (low - carina[2])]) + 60 * aside
        points = inner + np.arange(0.0, 130.0)[:, None] * outward
        hu = site.patient.volume.sample(points)
        hits = np.flatnonzero(hu > _BONE_HU)
        if len(hits) and (hu[max(0, hits[0] - 14) : hits[0]] < -400).any():
            seed, axis, radius = _bone(site, points[hits[0]], 22.0)
            if axis @ BACK > 0:
                axis = -axis
            return _break(site, seed, axis, min(radius, 7.0), 40.0, slip=1.3, gap=(0.0, 3.0))
    raise PatientError(f"{site.device}: no rib found in patient {site.patient.name}")


def collarbone(site: Site) -> Break:
    """Return the middle of a collarbone: the uppermost bone in front, between spine and shoulder."""
    head, spine = site.mark(HUMERAL_HEADS[site.side]), site.mark(T1)
    x = spine[0] + site.vary(0.52, 0.62) * (head[0] - spine[0])
    deep, high = np.arange(-95.0, 15.0), np.arange(-45.0, 75.0)
    points = np.stack(np.meshgrid([x], spine[1] + deep, head[2] + high, indexing="ij"), -1)[0]
    labels, count = ndimage.label(site.patient.volume.sample(points) > _BONE_HU)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    found = [points[labels == n + 1].mean(0) for n in range(count) if 30 < sizes[n] < 900]
    if not found:
        raise PatientError(f"{site.device}: no collarbone found in patient {site.patient.name}")
    outward = LEFT if site.side == LEFT_SIDE else -LEFT
    seed, axis, radius = _bone(site, max(found, key=lambda at: float(at[2] - at[1])), 20.0, outward)
    return _break(site, seed, -axis, min(radius, 9.0), 48.0, slip=1.3, gap=(-6.0, 2.0))


def upper_arm(site: Site) -> Break:
    """Return the shaft of a humerus."""
    return _shaft(site, HUMERAL_HEADS, ELBOWS, (0.35, 0.6), 13.0, 75.0)


def forearm(site: Site) -> Break:
    """Return the radius and ulna, a finger's breadth above the wrist."""
    wrist, elbow = site.mark(WRISTS[site.side]), site.mark(ELBOWS[site.side])
    site.within(wrist)
    along = unit(elbow - wrist)
    seed, _, radius = _bone(site, wrist + site.vary(26, 40) * along, 26.0, along)
    return _break(site, seed, along, float(np.clip(radius, 12.0, 24.0)), 80.0, slip=0.45, gap=(-4.0, 2.0))


def thigh(site: Site) -> Break:
    """Return the shaft of a femur."""
    return _shaft(site, FEMORAL_HEADS, KNEES, (0.4, 0.6), 18.0, 110.0)


BONES: tuple[Callable[[Site], Break], ...] = (rib, collarbone, upper_arm, forearm, thigh)
"""What may be broken; a variant picks the first one tried."""


def broken(site: Site, at: Break) -> Volume:
    """Return the patient's volume with a broken bone; voxels away from the break are as they were."""
    volume = site.patient.volume
    outer = at.radius_mm + _TAPER_MM
    slack = float(np.linalg.norm(at.shift_mm)) + outer * float(np.linalg.norm(at.slope)) + 3.0
    ends = at.center_mm + np.array([[-slack], [at.reach_mm]]) * at.axis
    corners = np.concatenate([ends - outer - slack, ends + outer + slack])
    boxed = np.array(np.meshgrid(*np.stack([corners.min(0), corners.max(0)], 1), indexing="ij")).reshape(3, -1).T
    index = volume.voxel_from_lps(boxed)
    low = np.maximum(np.floor(index.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(index.max(0)).astype(int) + 1, volume.shape)
    if (high - low < 2).any():
        raise PatientError(f"{site.device}: the CT of {site.patient.name} does not cover its place")
    part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grid = np.stack(
        np.meshgrid(*[np.arange(a, b, dtype=float) for a, b in zip(low, high, strict=True)], indexing="ij"), -1
    )
    points = volume.lps_from_voxel(grid)
    shift = _shift(at, points, np.array(list(site.marks.values())))
    moving = np.linalg.norm(shift, axis=-1) > 1e-3
    here, there = points[moving], (points - shift)[moving]
    old = volume.hu[part][moving].astype(float)
    stays, comes = _before(at, here), ~_before(at, there)
    new = np.where(stays, old, np.minimum(old, _BLOOD_HU))
    moved = volume.sample(there)
    new = np.where(comes, np.where(stays, np.maximum(new, moved), moved), new)
    hu = volume.hu.copy()
    block = hu[part]
    block[moving] = np.rint(new).astype(np.int16)
    return Volume(hu, volume.transform_voxel_to_lps)


def _shift(at: Break, points: Array, marks: Array) -> Array:
    """Return the shift (..., 3) of what is at points (..., 3), were it part of the fragment."""
    offset = points - at.center_mm
    along = offset @ at.axis
    beside = np.linalg.norm(offset - along[..., None] * at.axis, axis=-1)
    fade = (1 - np.clip(along / at.reach_mm, 0, 1)) ** 2
    start = float(np.linalg.norm(at.shift_mm)) + (at.radius_mm + _TAPER_MM) * float(np.linalg.norm(at.slope))
    fade = np.where(along < -start - 1, 0.0, fade)
    weight = fade * _rise(1 - (beside - at.radius_mm) / _TAPER_MM)
    for mark in marks:
        weight = weight * _rise((np.linalg.norm(points - mark, axis=-1) - _STILL_MM) / (_FREE_MM - _STILL_MM))
    return np.asarray(weight[..., None] * at.shift_mm)


def _before(at: Break, points: Array) -> NDArray[np.bool_]:
    """Return whether points (..., 3) belong to the fragment that stays; the break is ragged."""
    offset = points - at.center_mm
    first, second = _across(at.axis)
    u, v = offset @ first, offset @ second
    rough = 0.12 * at.radius_mm * (np.sin(4.1 * u / at.radius_mm + 1) + np.sin(5.3 * v / at.radius_mm))
    return np.asarray(offset @ at.axis < at.slope[0] * u + at.slope[1] * v + rough)


def _across(axis: Array) -> tuple[Array, Array]:
    """Return two directions across an axis; the first one is seen in a frontal view as far as the axis allows."""
    first = np.cross(axis, BACK)
    first = unit(first if np.linalg.norm(first) > 0.2 else np.cross(axis, UP))
    return first, np.cross(axis, first)


def _rise(share: Array) -> Array:
    """Smooth from 0 at 0 to 1 at 1."""
    t = np.clip(share, 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t))


def _shaft(
    site: Site, tops: tuple[int, int], ends: tuple[int, int], shares: tuple[float, float], radius: float, reach: float
) -> Break:
    """Return a long bone between two landmarks, broken at a share of its length; the far fragment moves."""
    top, end = site.mark(tops[site.side]), site.mark(ends[site.side])
    site.within(end)
    along = unit(end - top)
    seed, axis, _ = _bone(site, top + site.vary(*shares) * (end - top), 32.0, along)
    reach = min(reach, 0.85 * float((end - seed) @ axis))
    return _break(site, seed, axis, radius, reach, slip=0.9, gap=(-9.0, 4.0))


def _break(
    site: Site, center: Array, axis: Array, radius: float, reach: float, slip: float, gap: tuple[float, float]
) -> Break:
    """Return a break with a random shift of about a share of the radius, mostly seen in a frontal view."""
    first, second = _across(axis)
    turn = site.vary(-0.7, 0.7) + (np.pi if site.rng.random() < 0.5 else 0.0)
    across = np.cos(turn) * first + np.sin(turn) * second
    shift = site.vary(0.75, 1.3) * slip * radius * across + site.vary(*gap) * axis
    slope = site.rng.uniform(-0.7, 0.7, 2)
    return Break(center, axis, radius, reach, shift, slope)


def _bone(site: Site, near_mm: Array, reach_mm: float, along: Array | None = None) -> tuple[Array, Array, float]:
    """Return the middle (3,) and axis (3,) of the bone near a place, and its radius.

    Args:
        site: The patient.
        near_mm: A place at or beside the bone (3,).
        reach_mm: How far around it to look.
        along: Which way the axis points (3,), about; None: either way.

    Raises:
        PatientError: There is no bone.
    """
    steps = np.arange(-reach_mm, reach_mm + 0.1, 1.5)
    points = near_mm + np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1)
    distance = np.linalg.norm(points - near_mm, axis=-1)
    labels, _ = ndimage.label((site.patient.volume.sample(points) > _BONE_HU) & (distance < reach_mm))
    if not labels.any():
        raise PatientError(f"{site.device}: no bone found in the patient {site.patient.name} where it should be")
    label = labels.ravel()[np.where(labels > 0, distance, np.inf).argmin()]
    bone = points[labels == label]
    center = bone.mean(0)
    _, _, axes = np.linalg.svd(bone - center, full_matrices=False)
    axis = axes[0]
    if along is not None and abs(axis @ along) < 0.8:
        axis = unit(along)
    elif along is not None and axis @ along < 0:
        axis = -axis
    offset = bone - center
    beside = np.linalg.norm(offset - (offset @ axis)[:, None] * axis, axis=1)
    return center, axis, float(np.quantile(beside, 0.9))
