# SPDX-License-Identifier: Apache-2.0
"""The patient's outer surface as a closed triangle mesh: what a pre-operative CT or a depth camera would show.

The mesh runs along the faces of cells of about a centimeter that hold any part of the body, so that it encloses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.errors import PatientError
from carm_sim.patient.patient import Patient
from carm_sim.patient.volume import BODY_THRESHOLD_HU, Volume

_GRID_MM = 6.0
_CELLS = 2
"""Grid points of a cell along each axis."""
_SMALLEST_SHARE = 0.005
"""Parts below this share of the body's size are left out: sheets, cables, noise."""


@dataclass(frozen=True, eq=False)
class SurfaceMesh:
    """A closed triangle mesh in frame ``table``.

    Attributes:
        vertices_m: (V, 3), m.
        triangles: Indices of vertices (T, 3), counterclockwise from outside.
    """

    vertices_m: NDArray[np.float64]
    triangles: NDArray[np.int64]


def patient_surface(patient: Patient) -> SurfaceMesh:
    """Return the outer surface of a patient.

    Args:
        patient: On the table.

    Raises:
        PatientError: The CT holds nothing but air.
    """
    volume = patient.volume
    step = np.maximum(1, np.round(_GRID_MM / volume.spacing_mm)).astype(int)
    body = _body(volume, patient, step)
    cells = _pooled(body)
    corners, quads = _faces(cells)
    index = corners * _CELLS * step - step / 2
    lps = volume.lps_from_voxel(index.astype(np.float64))
    vertices = np.asarray(patient.transform_lps_to_table.apply(lps)) / 1000.0
    if np.linalg.det(volume.transform_voxel_to_lps[:3, :3]) < 0:
        quads = quads[:, ::-1]
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return SurfaceMesh(vertices, triangles)


def _body(volume: Volume, patient: Patient, step: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where the body is on a grid, lungs and bowels filled, the scanner's table and sheets left out."""
    solid = np.asarray(volume.hu[:: step[0], :: step[1], :: step[2]] > BODY_THRESHOLD_HU)
    opened = ndimage.binary_opening(solid, ndimage.generate_binary_structure(3, 1), iterations=1)
    labels, count = ndimage.label(opened if opened.any() else solid)
    if count == 0:
        raise PatientError(f"{patient.name}: the CT holds nothing but air")
    numbers = np.arange(1, count + 1)
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, numbers)
    centers = np.array(ndimage.center_of_mass(np.ones_like(labels), labels, numbers), dtype=np.float64) * step
    places = volume.lps_from_voxel(np.asarray(centers, dtype=np.float64))
    heights = np.asarray(patient.transform_lps_to_table.apply(places))[:, 2]
    kept = numbers[(sizes >= _SMALLEST_SHARE * sizes.max()) & (heights > 0.0)]
    body = np.isin(labels, kept if len(kept) else numbers[sizes.argmax() : sizes.argmax() + 1])
    for slice_ in range(body.shape[2]):
        body[:, :, slice_] = ndimage.binary_fill_holes(body[:, :, slice_])
    return body


def _pooled(body: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which cells hold any part of the body."""
    padding = [(0, -size % _CELLS) for size in body.shape]
    padded = np.pad(body, padding)
    i, j, k = (size // _CELLS for size in padded.shape)
    return np.asarray(padded.reshape(i, _CELLS, j, _CELLS, k, _CELLS).any(axis=(1, 3, 5)))


def _faces(cells: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return corners (V, 3), in cells, and quads (Q, 4) that bound the cells, outwards if the grid is right-handed."""
    padded = np.pad(cells, 1).astype(np.int8)
    quads = []
    for axis in range(3):
        change = np.diff(padded, axis=axis)
        others = [(axis + 1) % 3, (axis + 2) % 3]
        for sign in (-1, 1):
            places = np.argwhere(change == sign)
            base = places - 1
            base[:, axis] = places[:, axis]
            around = np.zeros((4, 3), dtype=np.int64)
            around[1, others[0]] = around[2, others[0]] = 1
            around[2, others[1]] = around[3, others[1]] = 1
            quads.append(base[:, None, :] + (around if sign < 0 else around[::-1]))
    flat = np.concatenate(quads).reshape(-1, 3)
    corners, inverse = np.unique(flat, axis=0, return_inverse=True)
    return corners, np.asarray(inverse, dtype=np.int64).reshape(-1, 4)
