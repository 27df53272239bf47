# SPDX-License-Identifier: Apache-2.0
"""What may be done to a CT after reading: padding to air, taking the scanner's table off, resampling."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from carm_core.errors import PatientError
from carm_sim.patient.volume import AIR_HU, BODY_THRESHOLD_HU, Volume

FINEST_MM, COARSEST_MM = 0.3, 10.0

_PADDING_SHARE = 0.005
_TABLE_GRID_MM = 3.0
_TABLE_THICKNESS_MM = 14.0
_PART_SHARE = 0.01
_GROWTH_WITHOUT_BLUR = 1.05
_BLUR_OF_GROWTH = 0.42
"""Standard deviation of the blur before voxels grow, in units of the new voxel where it is much larger: about that of
a box as wide as the voxel (0.29) and of the linear interpolation (0.41)."""
_KERNEL_REACH = 4


@dataclass(frozen=True)
class CtOptions:
    """What to do with a CT.

    Attributes:
        spacing_mm: Edge length of the voxels to resample to; None keeps the scanner's.
        remove_table: Whether everything thin around the body (table top, mattress, blankets, cables) becomes air.
        series: SeriesInstanceUID of the series to take from a DICOM folder; None: the one that there is.
    """

    spacing_mm: float | None = None
    remove_table: bool = False
    series: str | None = None

    def __post_init__(self) -> None:
        """Check the spacing."""
        if self.spacing_mm is not None and not FINEST_MM <= self.spacing_mm <= COARSEST_MM:
            raise PatientError(f"a spacing of {self.spacing_mm:g} mm is not within {FINEST_MM:g} to {COARSEST_MM:g} mm")

    @staticmethod
    def parse(text: str) -> CtOptions:
        """Return the options as they stand behind a path, for example ``remove_table&spacing=1.5``.

        Raises:
            PatientError: If an option is unknown or its value is no spacing.
        """
        spacing, remove, series = None, False, None
        for word in filter(None, text.split("&")):
            found = re.fullmatch(r"spacing=(\d+(?:\.\d*)?)", word)
            if found:
                spacing = float(found.group(1))
            elif word == "remove_table":
                remove = True
            elif re.fullmatch(r"series=[0-9.]+", word):
                series = word.removeprefix("series=")
            else:
                raise PatientError(
                    f"unknown CT option {word!r}; known are remove_table, spacing=MILLIMETERS and series=UID"
                )
        return CtOptions(spacing, remove, series)


def process(volume: Volume, options: CtOptions) -> Volume:
    """Apply options to a CT."""
    if options.remove_table:
        volume = without_table(volume)
    if options.spacing_mm is not None:
        volume = resampled(volume, options.spacing_mm)
    return volume


def padding_of(values: NDArray[Any], along: int, highest: float) -> NDArray[np.bool_] | None:
    """Return which voxels are padding around the scanned field, of whatever value.

    Padding is one and the same value (or NaN) in voxels that are connected with the corners of the slices, and in so
    many of them that it cannot be tissue. A value above all that a CT may hold is padding wherever it is connected with
    the border of the slices. Slices of one value are padding too. (Padding below air is air after clipping.)

    Args:
        values: Hounsfield units, (I, J, K).
        along: Index axis along the body.
        highest: Highest value that a CT may hold.

    Returns:
        Mask, (I, J, K); None when there is no padding.
    """
    slices = np.moveaxis(values, along, 2)

    def corners(field: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([field[i, j] for i in (0, -1) for j in (0, -1)])

    def border(field: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([field[[0, -1]].ravel(), field[:, [0, -1]].ravel()])

    found, counts = np.unique(corners(slices), return_counts=True)
    many = [value for value, count in zip(found, counts, strict=True) if count >= 0.5 * counts.sum()]
    top = values.max()
    beyond = [top] if top > highest else []
    padding: NDArray[np.bool_] | None = None
    for value in [*(value for value in many if not AIR_HU >= value > -np.inf), *beyond]:
        equal = np.isnan(slices) if value != value else slices == value
        labels, _ = ndimage.label(equal)
        touching = np.unique((border if value in beyond else corners)(labels))
        mask = np.isin(labels, touching[touching > 0])
        if value in beyond or mask.mean() > _PADDING_SHARE:
            padding = mask if padding is None else padding | mask
    blank = blank_slices(np.moveaxis(slices, 2, 0)) & (slices[0, 0] > AIR_HU)
    if blank.any():
        padding = np.zeros(slices.shape, bool) if padding is None else padding
        padding[:, :, blank] = True
    return None if padding is None else np.moveaxis(padding, 2, along)


def blank_slices(planes: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which planes, along the first axis of (K, I, J), hold one value only; shape (K,)."""
    few = np.array([(plane[::16, ::16] == plane[0, 0]).all() for plane in planes])
    few[few] = [(plane == plane[0, 0]).all() for plane in planes[few]]
    return few


def without_table(volume: Volume) -> Volume:
    """The CT with air around the patient: what is thinner than ``_TABLE_THICKNESS_MM`` and apart from the body goes.

    Arms and hands that lie beside the trunk stay. Skin and hair stay within a margin of half that thickness.

    Raises:
        PatientError: If there is nothing but air.
    """
    step = np.maximum(1, np.round(_TABLE_GRID_MM / volume.spacing_mm)).astype(int)
    solid = np.asarray(volume.hu[:: step[0], :: step[1], :: step[2]] > BODY_THRESHOLD_HU)
    cross = ndimage.generate_binary_structure(3, 1)
    reach = max(1, round(_TABLE_THICKNESS_MM / 2 / _TABLE_GRID_MM))
    thick = ndimage.binary_opening(solid, cross, iterations=reach)
    labels, count = ndimage.label(thick)
    if count == 0:
        raise PatientError("the CT holds nothing but air and thin sheets, so the table cannot be told from the body")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = np.isin(labels, np.flatnonzero(sizes >= _PART_SHARE * sizes.max()))
    cube = ndimage.generate_binary_structure(3, 3)
    body = ndimage.binary_dilation(body, cube, iterations=reach, mask=solid | body)
    along = int(np.abs(volume.transform_voxel_to_lps[2, :3]).argmax())
    for plane in np.moveaxis(body, along, 0):
        plane |= ndimage.binary_fill_holes(plane)
    body = ndimage.binary_dilation(body, cross, iterations=1)
    index = [np.minimum(np.arange(size) // s, n - 1) for size, s, n in zip(volume.shape, step, body.shape, strict=True)]
    hu = np.where(body[np.ix_(*index)], volume.hu, np.int16(AIR_HU))
    hu.setflags(write=False)
    return Volume(hu, volume.transform_voxel_to_lps)


def resampled(volume: Volume, spacing_mm: float) -> Volume:
    """Return the CT on cubic voxels along the same axes, covering the same field.

    Linear interpolation, after a blur along those axes whose voxels grow, so that fine structures keep their mass.

    Args:
        volume: The CT.
        spacing_mm: Edge length of the new voxels.
    """
    old, sizes = volume.spacing_mm, np.array(volume.shape)
    growth = spacing_mm / old
    values = volume.hu.T.astype(np.float32)
    for axis in np.flatnonzero(growth > _GROWTH_WITHOUT_BLUR):
        kernel = _gaussian(_BLUR_OF_GROWTH**2 * (growth[axis] ** 2 - 1))
        ndimage.correlate1d(values, kernel, 2 - axis, output=values, mode="nearest")
    new_sizes = np.maximum(1, np.ceil(sizes / growth - 1e-6)).astype(int)
    first = (sizes - new_sizes * growth) / 2 + (growth - 1) / 2
    values = ndimage.affine_transform(
        values, growth[::-1], first[::-1], tuple(new_sizes[::-1]), order=1, mode="nearest"
    )
    hu = np.rint(values).astype(np.int16).T
    hu.setflags(write=False)
    affine = np.eye(4)
    affine[:3, :3] = volume.transform_voxel_to_lps[:3, :3] * growth
    affine[:3, 3] = volume.lps_from_voxel(first)
    return Volume(hu, affine)


def _gaussian(variance: float) -> NDArray[np.float64]:
    """Return the discrete Gaussian kernel of a variance in squared voxels: it keeps its variance however narrow it is.

    Source: Lindeberg, "Scale-space for discrete signals", IEEE PAMI 12(3), 1990.
    """
    radius = math.ceil(_KERNEL_REACH * math.sqrt(variance)) + 1
    weights = special.ive(np.arange(-radius, radius + 1), variance)
    return np.asarray(weights / weights.sum())
