# SPDX-License-Identifier: Apache-2.0
"""Findings that change the patient's own tissue, as edits of a copy of the CT."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.errors import PatientError
from carm_core.transforms import Array
from carm_sim.devices.shapes import unit
from carm_sim.devices.site import BACK, CARINA, LEFT, LEFT_SIDE, UP, Site
from carm_sim.patient.volume import Volume

_LUNG_HU, _FLUID_HU = -400, 12
_COARSE_MM = 6.0


def pleural_effusion(site: Site) -> Volume:
    """Fluid in the back and the base of one lung, a fifth to two fifths of its air, under a tilted surface."""
    volume, outward = site.patient.volume, LEFT if site.side == LEFT_SIDE else -LEFT
    carina = site.mark(CARINA)
    step = np.maximum(1, np.round(_COARSE_MM / volume.spacing_mm)).astype(int)
    coarse = volume.hu[:: step[0], :: step[1], :: step[2]] < _LUNG_HU
    labels, _ = ndimage.label(ndimage.binary_erosion(coarse, border_value=1))
    outside = np.unique(np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()]))
    points = _positions(volume, step)
    beside = (points - carina) @ outward
    air = (labels > 0) & ~np.isin(labels, outside) & (np.abs(beside) < 190)
    air &= (points[..., 2] > carina[2] - 260) & (points[..., 2] < carina[2] + 170)
    lung = _one_lung(air, beside)
    if lung.sum() * np.prod(step * volume.spacing_mm) < 3e5:
        raise PatientError(f"{site.device}: no aerated lung found in patient {site.patient.name}")
    normal = unit(site.vary(0.9, 1.1) * BACK - site.vary(0.5, 0.9) * UP)
    depth = points @ normal
    level = np.quantile(depth[lung], 1 - site.vary(0.2, 0.4))
    flooded = ndimage.binary_dilation(lung, iterations=2) & (depth > level - 6)
    return _flood(volume, flooded, step, normal, level)


def _one_lung(air: NDArray[np.bool_], beside: Array) -> NDArray[np.bool_]:
    """Air that belongs to the side where ``beside`` is positive: grown, on both sides, from well beside the midline."""
    sides = np.where(air, np.where(beside > 32, 2, np.where(beside < -32, 1, 0)), 0).astype(np.uint8)
    for _ in range(40):
        grown = np.where(air & (sides == 0), ndimage.maximum_filter(sides, size=3), sides)
        if (grown == sides).all():
            break
        sides = grown
    labels, count = ndimage.label(sides == 2)
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    return np.asarray(labels == sizes.argmax() + 1) if count else np.zeros_like(air)


def _positions(volume: Volume, step: NDArray[np.int_]) -> Array:
    index = np.stack(
        np.meshgrid(*[np.arange(0, n, s) for n, s in zip(volume.shape, step, strict=True)], indexing="ij"), -1
    )
    return volume.lps_from_voxel(index.astype(float))


def _flood(volume: Volume, where: NDArray[np.bool_], step: NDArray[np.int_], normal: Array, level: float) -> Volume:
    """Turn air, and the voxels at its border, into fluid beyond a plane within a coarse mask."""
    hu = volume.hu.copy()
    low, high = np.argwhere(where).min(0) * step, (np.argwhere(where).max(0) + 1) * step
    part = tuple(slice(a, min(b, n)) for a, b, n in zip(low, high, volume.shape, strict=True))
    fine = where
    for axis in range(3):
        fine = np.repeat(fine, step[axis], axis)
    fine = fine[tuple(slice(0, n) for n in volume.shape)][part]
    affine = volume.transform_voxel_to_lps
    slopes = normal @ affine[:3, :3]
    depth = normal @ affine[:3, 3] - level
    for axis, run in enumerate(part):
        shape = [1, 1, 1]
        shape[axis] = -1
        depth = depth + slopes[axis] * np.arange(run.start, run.stop).reshape(shape)
    share = np.clip(depth / 3.0 + 0.5, 0, 1)
    block = hu[part]
    wet = fine & (block < _FLUID_HU)
    mixed = block + share * (_FLUID_HU - block)
    block[wet] = np.rint(mixed[wet]).astype(np.int16)
    return Volume(hu, volume.transform_voxel_to_lps)
