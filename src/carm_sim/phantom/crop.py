# SPDX-License-Identifier: Apache-2.0
"""Bodies cut to the field of a chest or abdomen CT."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from carm_sim.patient.volume import AIR_HU, Volume
from carm_sim.phantom.generator import PhantomBody


def crop_to_ct_field(body: PhantomBody, seed: int) -> PhantomBody:
    """Crop a body to the field of a CT scanner.

    A random length around the chest is kept, from the lower neck or shoulders to the upper abdomen or pelvis, and in it
    a round field of view. ``landmarks_mm`` then holds what is left inside; ``anatomical_landmarks_mm`` stays complete.

    Args:
        body: A whole body.
        seed: Seed of the cut, apart from the body's own.
    """
    rng = np.random.default_rng([body.seed, seed, 5])
    volume, marks = body.volume, body.anatomical_landmarks_mm
    top = marks[10][2] + rng.uniform(0, 110)
    bottom = marks[14][2] - rng.uniform(15, 190)
    index = volume.voxel_from_lps(np.array([[*marks[10][:2], bottom], [*marks[10][:2], top]]))[:, 2]
    start, stop = max(0, round(float(index[0]))), min(volume.shape[2], round(float(index[1])))
    hu = volume.hu[:, :, start:stop].copy()
    affine = np.array(volume.transform_voxel_to_lps)
    affine[:3, 3] = volume.lps_from_voxel(np.array([0.0, 0.0, float(start)]))
    radius = rng.uniform(170, 260)
    center = (marks[11][:2] + marks[14][:2]) / 2 + rng.normal(0, 12, 2)
    grid = np.indices(hu.shape[:2]).reshape(2, -1).T
    position = grid * volume.spacing_mm[:2] + affine[:2, 3]
    outside = (np.linalg.norm(position - center, axis=1) > radius).reshape(hu.shape[:2])
    hu[outside] = AIR_HU
    kept = np.argwhere(~outside)
    low, high = kept.min(0), kept.max(0) + 1
    hu = np.ascontiguousarray(hu[low[0] : high[0], low[1] : high[1]])
    affine[:2, 3] += low * volume.spacing_mm[:2]
    cropped = Volume(hu, affine)
    inside = {
        key: point
        for key, point in marks.items()
        if bool(cropped.contains(point)) and np.linalg.norm(point[:2] - center) < radius
    }
    return replace(body, volume=cropped, landmarks_mm=inside)
