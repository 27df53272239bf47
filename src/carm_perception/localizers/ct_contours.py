# SPDX-License-Identifier: Apache-2.0
"""Edges of the registered CT's bones in an X-ray image, as lines."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.projection import XrayView, display_from_raw
from carm_core.transforms import Array, RigidTransform
from carm_perception.registration.model import averaged, reduced
from carm_sim.drr.shear_warp.renderer import Renderer
from carm_sim.patient.volume import Volume

_SIDE_PX = 320
_VOXEL_MM = 1.5
_BONE_HU = 300.0
"""What is above is drawn; blood with contrast agent mostly is not."""
_COMPRESSION = 2.0
"""1/mm of bone attenuation: thin bones show beside thick ones."""
_BLUR_PX = 1.3
_CANNY = (30, 80)
_SHORTEST_PX = 24
_SMOOTHED_PX = 7
_SIMPLER_PX = 0.4
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))


class CtContours:
    """Draws the bones of a CT where it was found. One thread at a time owns an instance."""

    def __init__(self, volume: Volume) -> None:
        """Prepare; the first lines of each direction take longer.

        Args:
            volume: The CT.
        """
        self._renderer = Renderer(averaged(volume, _VOXEL_MM), _bone, threads=1)

    def lines(
        self, view: XrayView, transform_lps_to_table: RigidTransform, field: NDArray[np.bool_] | None = None
    ) -> list[Array]:
        """Return lines (N, 2) along edges of bones: columns and rows in the display image, px.

        Args:
            view: Of the image, frame ``table``.
            transform_lps_to_table: Where the CT lies, mm.
            field: Draw here only (rows, columns); None: everywhere.
        """
        small = reduced(view, _SIDE_PX)
        there = small.transformed(transform_lps_to_table.inverse())
        image = display_from_raw(self._renderer.line_integrals(there))
        gray = np.log1p(_COMPRESSION * np.maximum(image, 0.0))
        gray *= 255.0 / max(float(gray.max()), 1e-3)
        edges = cv2.Canny(cv2.GaussianBlur(gray.astype(np.uint8), (0, 0), _BLUR_PX), *_CANNY)
        if field is not None:
            edges[cv2.resize(field.astype(np.uint8), edges.shape[::-1], interpolation=cv2.INTER_NEAREST) == 0] = 0
        edges[[0, -1]] = 0
        edges[:, [0, -1]] = 0
        factor = view.detector.columns / small.detector.columns
        smooth = (_smoothed(chain) for chain in chains(edges > 0, _SHORTEST_PX))
        return [(cv2.approxPolyDP(line, _SIMPLER_PX, False)[:, 0] + 0.5) * factor - 0.5 for line in smooth]


def chains(edges: NDArray[np.bool_], shortest: int) -> list[NDArray[np.int32]]:
    """Return the curves of a mask: pixels (N, 2), column and row, each a neighbor of the one before; ends first.

    Args:
        edges: (rows, columns), nothing at its borders.
        shortest: Curves of fewer pixels are left out.
    """
    left = set(zip(*(places.tolist() for places in np.nonzero(edges)), strict=True))

    def next_to(row: int, column: int) -> tuple[int, int] | None:
        return next((place for r, c in _STEPS if (place := (row + r, column + c)) in left), None)

    ends = [(r, c) for r, c in left if sum((r + i, c + j) in left for i, j in _STEPS) == 1]
    found: list[NDArray[np.int32]] = []
    for start in (*sorted(ends), *sorted(left)):
        if start not in left:
            continue
        curve: list[tuple[int, int]] = []
        place: tuple[int, int] | None = start
        while place is not None:
            left.remove(place)
            curve.append(place[::-1])
            place = next_to(*place)
        if len(curve) >= shortest:
            found.append(np.array(curve, np.int32))
    return found


def _smoothed(chain: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return a curve (N, 2) without the steps of its pixels."""
    smooth = cv2.blur(chain.astype(np.float32), (1, _SMOOTHED_PX), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(smooth, np.float32)


def _bone(hu: Array) -> Array:
    return np.asarray(np.where(hu > _BONE_HU, hu / 1000.0, 0.0))
