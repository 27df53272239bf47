# SPDX-License-Identifier: Apache-2.0
"""The shear-warp factorization of a cone-beam view.

A perspective view of a voxel grid factors into a scale and a shift of each slice, onto a plane of the volume
that is parallel to the slices, and one homography from that plane to the detector (Lacroute and Levoy,
SIGGRAPH 1994). In voxel indices this holds for any affine, so that oblique and anisotropic volumes need
nothing special.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carm_core.errors import ConfigurationError
from carm_core.imaging.projection import XrayView
from carm_core.transforms import Array

FINEST_PITCH = 0.4
"""The intermediate image need not be finer than this, in cells of the stack: the cubic warp restores the rest."""
COARSEST_PITCH = 0.5
"""Nor may it be coarser than this, in cells, however large the detector's pixels."""
_AVERAGED = 1.4
"""Factor of the finest pitch where cells are averages of fine voxels: they hold less detail (an error of 0.1 %)."""
COLUMN_MULTIPLE = 16
"""The intermediate image's number of columns is a multiple of this: the kernels work on several at once."""
_MARGIN = 2  # pixels around the intermediate image that the cubic kernel reads


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays in voxel indices: pixel (column, row) looks along ``origin + column * right + row * down``.

    Attributes:
        source: Source (3,).
        origin: From the source to the raw pixel (0, 0) (3,).
        right: One column (3,).
        down: One row (3,).
    """

    source: Array
    origin: Array
    right: Array
    down: Array

    @classmethod
    def of(cls, view: XrayView, transform_lps_to_voxel: Array) -> Rays:
        """Map a view in LPS to voxel indices by an affine (4, 4)."""
        linear = transform_lps_to_voxel[:3, :3]
        pitch = view.detector.pitch_mm
        column, row = view.center_px
        corner = view.forward * view.source_detector_mm - pitch * (column * view.right + row * view.down)
        return cls(
            linear @ view.source_mm + transform_lps_to_voxel[:3, 3],
            linear @ corner,
            linear @ view.right * pitch,
            linear @ view.down * pitch,
        )

    def toward(self, columns: Array, rows: Array) -> Array:
        """Return the vectors (..., 3) from the source to pixels."""
        return self.origin + columns[..., None] * self.right + rows[..., None] * self.down


@dataclass(frozen=True, eq=False)
class Factorization:
    """One view of one slice stack.

    Attributes:
        axis: Volume axis across the slices.
        scales: Distance of each slice from the source in units of the plane's (slices,); 0: not between
            source and detector.
        source: Row and column of the source, in voxels.
        origin: Row and column of the intermediate image's first pixel on the plane, in voxels.
        pitch: Spacing of its pixels along rows and columns, in voxels.
        shape: Rows and columns of the intermediate image.
        horizontal: Homography to its columns (3,): see ``carm_sim.drr.shear_warp.kernels.warp``.
        vertical: Homography to its rows (3,).
        depth: Denominator of both (3,).
        foot: Row and column of the intermediate image on the perpendicular from the source, in pixels.
        slant: Slip of a ray between neighboring volume slices per distance from ``foot``, root mean square over
            the slices: 1 / voxel.
    """

    axis: int
    scales: Array
    source: tuple[float, float]
    origin: tuple[float, float]
    pitch: tuple[float, float]
    shape: tuple[int, int]
    horizontal: Array
    vertical: Array
    depth: Array
    foot: tuple[float, float]
    slant: float


def principal_axis(rays: Rays, corners: Array, steps: Array) -> int:
    """Return the axis along which the flattest ray of the field still crosses the most slices.

    Args:
        rays: Rays in voxel indices.
        corners: Pixels (column, row) that span the field (N, 2).
        steps: Voxels per stack slice along each axis (3,), more where thick slices make an axis less exact.

    Raises:
        ConfigurationError: The field is so wide that its rays do not cross the slices of any axis in one
            direction.
    """
    ends = rays.toward(corners[:, 0], corners[:, 1]) / steps
    same_sign = (ends > 0).all(0) | (ends < 0).all(0)
    crossed = np.where(same_sign, np.abs(ends).min(0), 0.0)
    axis = int(np.argmax(crossed))
    if crossed[axis] < 1e-3 * np.abs(ends).max():
        raise ConfigurationError("the X-ray field is too wide to be rendered in one piece; make it smaller")
    return axis


def factorize(
    rays: Rays,
    corners: Array,
    axes: tuple[int, int, int],
    positions: Array,
    cells: Array,
    finest: float = FINEST_PITCH,
) -> Factorization | None:
    """Factor a view of a stack whose slices lie at ``positions`` along ``axes[0]``.

    Args:
        rays: Rays in voxel indices.
        corners: Corner pixels (column, row) of the field, its center last (5, 2).
        axes: Volume axes along slices, rows and columns.
        positions: Voxel index of each slice (slices,).
        cells: Voxels per cell of the stack along rows and columns (2,).
        finest: Finest spacing of the intermediate image, in cells.

    Returns:
        None when no slice lies between source and detector.
    """
    p, r, c = axes
    ends = rays.toward(corners[:, 0], corners[:, 1])
    sign = np.sign(ends[-1, p])
    ahead = sign * (positions - rays.source[p])
    between = (ahead > 1e-3 * np.abs(ends[:, p]).max()) & (ahead < np.abs(ends[:, p]).max())
    if not between.any():
        return None
    plane = float(positions[between].mean())
    reach = plane - rays.source[p]
    on_plane = rays.source + ends * (reach / ends[:, p])[:, None]
    jacobian = np.array(
        [
            [reach * (step[a] - ends[-1, a] * step[p] / ends[-1, p]) / ends[-1, p] for step in (rays.right, rays.down)]
            for a in (r, c)
        ]
    )
    pixel = 1 / np.linalg.norm(np.linalg.inv(jacobian), axis=0)
    finest *= _AVERAGED if cells.max() > 1 else 1.0
    pitch = np.clip(pixel, finest * cells, max(finest, COARSEST_PITCH) * cells)
    low, high = on_plane[:, [r, c]].min(0), on_plane[:, [r, c]].max(0)
    origin = low - _MARGIN * pitch
    shape = np.ceil((high - low) / pitch).astype(int) + 2 * _MARGIN + 1
    shape[1] = -(-shape[1] // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
    pencil = np.stack([rays.origin, rays.right, rays.down])
    row_0, column_0 = (rays.source[[r, c]] - origin) / pitch
    scales = (positions[between] - rays.source[p]) / reach
    slant = float(np.sqrt(np.mean(scales**-2.0)) / abs(reach))
    return Factorization(
        axis=p,
        scales=np.where(between, (positions - rays.source[p]) / reach, 0.0),
        source=(float(rays.source[r]), float(rays.source[c])),
        origin=(float(origin[0]), float(origin[1])),
        pitch=(float(pitch[0]), float(pitch[1])),
        shape=(int(shape[0]), int(shape[1])),
        horizontal=column_0 * pencil[:, p] + reach / pitch[1] * pencil[:, c],
        vertical=row_0 * pencil[:, p] + reach / pitch[0] * pencil[:, r],
        depth=pencil[:, p].copy(),
        foot=(float(row_0), float(column_0)),
        slant=slant,
    )
