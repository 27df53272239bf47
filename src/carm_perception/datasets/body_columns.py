# SPDX-License-Identifier: Apache-2.0
"""How deep landmarks lie between the front and the back of a body: frontal X-rays alone do not tell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.data_files import read_yaml
from carm_core.errors import PatientError
from carm_core.transforms import Array
from carm_sim.patient.patient import Patient

DEPTHS_FILE = Path(__file__).with_name("landmark_depths.yaml")
_LEAST_STD_MM = 15.0
"""In two CTs of people, spine and carina lie 14 to 42 mm farther from the back than in generated bodies."""
_GRID_MM, _SOFT_HU, _OPENED = 6.0, -200, 2
_SMALLEST_SHARE = 0.01
"""Parts below this share of the largest one's size are no limbs."""
_SCALE = 1.5
"""So much more, times what generated bodies differ."""


@dataclass(frozen=True)
class Depth:
    """Where a landmark lies along a line from the front of the body to its back.

    Attributes:
        y_mm: LPS y, mm.
        std_mm: Standard deviation, mm.
    """

    y_mm: float
    std_mm: float


class BodyColumns:
    """The front and the back of a body, seen from the front."""

    def __init__(self, patient: Patient) -> None:
        """Find the body in a CT.

        Args:
            patient: The CT; a scanner's table does not count.

        Raises:
            PatientError: The CT holds nothing but air.
        """
        self._volume = patient.volume
        self._step = np.maximum(1, np.round(_GRID_MM / self._volume.spacing_mm)).astype(int)
        body = _body(self._volume.hu[:: self._step[0], :: self._step[1], :: self._step[2]])
        if not body.any():
            raise PatientError(f"{patient.name}: the CT holds nothing but air")
        across = self._volume.transform_voxel_to_lps[:3, :3]
        if np.abs(across[1, 1]) < np.abs(across[1, [0, 2]]).max():  # the second axis is not front to back
            body = np.zeros((1, 1, 1), bool)
        wide: NDArray[np.bool_] = np.asarray(body | np.roll(body, 1, 0) | np.roll(body, -1, 0))
        self._there: NDArray[np.bool_] = np.asarray(wide.any(axis=1))
        self._first = wide.argmax(axis=1)
        self._last = body.shape[1] - 1 - np.flip(wide, axis=1).argmax(axis=1)

    def ends_mm(self, x_mm: float, z_mm: float) -> tuple[float, float] | None:
        """Return the LPS y of the front and the back at LPS x and z, mm; None where there is no body."""
        place = self._volume.voxel_from_lps(np.array([x_mm, float(self._volume.center_mm[1]), z_mm]))
        i, k = (round(float(place[axis] / self._step[axis])) for axis in (0, 2))
        if not (0 <= i < self._there.shape[0] and 0 <= k < self._there.shape[1]) or not self._there[i, k]:
            return None
        index = np.array([[place[0], j * self._step[1], place[2]] for j in (self._first[i, k], self._last[i, k])])
        one, two = self._volume.lps_from_voxel(index)[:, 1]
        half = 0.5 * self._step[1] * self._volume.spacing_mm[1]
        return float(min(one, two) - half), float(max(one, two) + half)

    def depth(self, landmark_id: int, x_mm: float, z_mm: float) -> Depth | None:
        """Return how deep a landmark at LPS x and z, mm, is likely to lie; None: nothing is known."""
        known, ends = _depths().get(landmark_id), self.ends_mm(x_mm, z_mm)
        if known is None or ends is None:
            return None
        front, back = ends
        y_mm = back - known["back"] if "back" in known else front + known["share"] * (back - front)
        return Depth(y_mm, max(_LEAST_STD_MM, _SCALE * known["std_mm"]))


def _body(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Return where the body is, lungs filled: sheets and a scanner's table, shell and foam, are too thin or light."""
    cross = ndimage.generate_binary_structure(3, 1)
    solid = np.asarray(hu > _SOFT_HU)
    opened = ndimage.binary_opening(solid, cross, iterations=_OPENED)
    labels, count = ndimage.label(opened if opened.any() else solid)
    if not count:
        return solid
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, count + 1))
    body = np.asarray(np.isin(labels, 1 + np.flatnonzero(sizes >= _SMALLEST_SHARE * sizes.max())))
    for slice_ in range(body.shape[2]):
        body[:, :, slice_] = ndimage.binary_fill_holes(body[:, :, slice_])
    return body


@cache
def _depths() -> dict[int, dict[str, float]]:
    return dict(read_yaml(DEPTHS_FILE))


def in_lps(patient: Patient, point_table_mm: Array) -> Array:
    """Return a point (3,) of frame ``table``, mm, in the CT's LPS."""
    return np.asarray(patient.transform_lps_to_table.inverse().apply(point_table_mm))
