# SPDX-License-Identifier: Apache-2.0
"""A CT volume in Hounsfield units with its place in the patient's LPS frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.errors import PatientError

AIR_HU = -1000
BODY_THRESHOLD_HU = -300
_BODY_GRID_MM = 4.0


@dataclass(frozen=True)
class Volume:
    """Hounsfield units on a regular grid.

    Attributes:
        hu: int16 array, shape (I, J, K). Everything outside the scanned field is ``AIR_HU``.
        transform_voxel_to_lps: (4, 4) affine from voxel indices (voxel centers) to LPS in mm
            (x towards the patient's left, y posterior, z superior).

    Raises:
        PatientError: On construction, if the array is not a three-dimensional int16 array or the affine is singular.
    """

    hu: NDArray[np.int16]
    transform_voxel_to_lps: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check the grid and freeze the affine."""
        if self.hu.ndim != 3 or min(self.hu.shape) < 1:
            raise PatientError(f"a CT volume needs three dimensions, this one has shape {self.hu.shape}")
        if self.hu.dtype != np.int16:
            raise PatientError(f"a CT volume needs int16 Hounsfield units, this one has {self.hu.dtype}")
        affine = np.array(self.transform_voxel_to_lps, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise PatientError("the CT's voxel grid has no valid position (singular or non-finite affine)")
        affine.setflags(write=False)
        object.__setattr__(self, "transform_voxel_to_lps", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each index."""
        i, j, k = self.hu.shape
        return i, j, k

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance of neighboring voxel centers along each index, shape (3,), in mm."""
        return np.asarray(np.linalg.norm(self.transform_voxel_to_lps[:3, :3], axis=0))

    @property
    def center_mm(self) -> NDArray[np.float64]:
        """Center of the grid in LPS, shape (3,), in mm."""
        return self.lps_from_voxel((np.array(self.shape) - 1) / 2)

    def lps_from_voxel(self, index: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map (fractional) voxel indices, shape (..., 3), to LPS positions in mm."""
        affine = self.transform_voxel_to_lps
        return np.asarray(np.asarray(index, float) @ affine[:3, :3].T + affine[:3, 3])

    def voxel_from_lps(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map LPS positions in mm, shape (..., 3), to fractional voxel indices."""
        affine = self.transform_voxel_to_lps
        inverse = np.linalg.inv(affine[:3, :3])
        return np.asarray((np.asarray(points_mm, float) - affine[:3, 3]) @ inverse.T)

    def contains(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether LPS positions, shape (..., 3), lie inside the grid (voxel borders included)."""
        index = self.voxel_from_lps(points_mm)
        return np.asarray(((index >= -0.5) & (index <= np.array(self.shape) - 0.5)).all(-1))

    def sample(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the trilinear HU at LPS positions, shape (..., 3) -> (...); air outside the grid."""
        points = np.asarray(points_mm, float)
        index = self.voxel_from_lps(points.reshape(-1, 3)).T
        values = ndimage.map_coordinates(
            self.hu, index, output=np.float64, order=1, mode="constant", cval=float(AIR_HU)
        )
        return np.asarray(values).reshape(points.shape[:-1])

    def body_box_mm(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the bounding box of the patient's body in LPS: lower and upper corner, each (3,), in mm.

        The body is the largest connected region above ``BODY_THRESHOLD_HU`` on a grid of about 4 mm, after an opening
        that cuts off the scanner's table top and sheets.

        Raises:
            PatientError: If there is nothing but air.
        """
        step = np.maximum(1, np.round(_BODY_GRID_MM / self.spacing_mm)).astype(int)
        solid = np.asarray(self.hu[:: step[0], :: step[1], :: step[2]] > BODY_THRESHOLD_HU)
        cross = ndimage.generate_binary_structure(3, 1)
        opened = ndimage.binary_opening(solid, cross, iterations=2)
        labels, count = ndimage.label(opened if opened.any() else solid)
        if count == 0:
            raise PatientError(f"the CT holds nothing but air (no voxel above {BODY_THRESHOLD_HU} HU)")
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        index = np.argwhere(labels == sizes.argmax()) * step
        corners = self.lps_from_voxel(index)
        half = np.abs(self.transform_voxel_to_lps[:3, :3]) @ (step / 2)
        return corners.min(0) - half, corners.max(0) + half
