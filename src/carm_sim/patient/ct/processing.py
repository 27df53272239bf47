# SPDX-License-Identifier: Apache-2.0
"""What may be done to a CT after reading: padding to air, taking the scanner's table off, resampling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.errors import PatientError
from carm_sim.patient.volume import AIR_HU, BODY_THRESHOLD_HU, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

FINEST_MM, COARSEST_MM = 0.3, 10.0

_PADDING_SHARE = 0.005
_TABLE_GRID_MM = 3.0
_TABLE_THICKNESS_MM = 14.0
_PART_SHARE = 0.01


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
        """Options as they stand behind a path, for example `remove_table&spacing=1.5`.

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


def image_of(volume: Volume) -> sitk.Image:
    """The volume as an ITK image; its axes must be orthogonal."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.hu.transpose(2, 1, 0)))
    affine, spacing = volume.transform_voxel_to_lps, volume.spacing_mm
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def padding_of(values: NDArray[Any], along: int, highest: float) -> NDArray[np.bool_] | None:
    """Which voxels are padding around the scanned field, of whatever value.

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
    """Which planes, along the first axis of (K, I, J), hold one value only; shape (K,)."""
    few = np.array([(plane[::16, ::16] == plane[0, 0]).all() for plane in planes])
    few[few] = [(plane == plane[0, 0]).all() for plane in planes[few]]
    return few


def without_table(volume: Volume) -> Volume:
    """The CT with air around the patient: what is thinner than `_TABLE_THICKNESS_MM` and apart from the body goes.

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
    """The CT on cubic voxels along the same axes, covering the same field.

    Linear interpolation, after a blur along those axes whose voxels grow, so that fine structures keep their mass.

    Args:
        volume: The CT.
        spacing_mm: Edge length of the new voxels.
    """
    import SimpleITK as sitk

    image = sitk.Cast(image_of(volume), sitk.sitkFloat32)
    old = volume.spacing_mm
    growth = spacing_mm / old
    sigma = np.where(growth > 1.05, 0.42 * np.sqrt(np.maximum(growth**2 - 1, 0)) * old, 0.0)
    if sigma.any():
        image = sitk.DiscreteGaussian(image, variance=(sigma**2).tolist(), maximumKernelWidth=64, useImageSpacing=True)
    size = np.maximum(1, np.ceil(np.array(volume.shape) / growth - 1e-6)).astype(int)
    directions = volume.transform_voxel_to_lps[:3, :3] / old
    first = (np.array(volume.shape) * old - size * spacing_mm) / 2 + (spacing_mm - old) / 2
    origin = volume.transform_voxel_to_lps[:3, 3] + directions @ first
    image = sitk.Resample(
        image, size.tolist(), sitk.Transform(), sitk.sitkLinear, origin.tolist(), [spacing_mm] * 3,
        directions.ravel().tolist(), float(AIR_HU),
    )  # fmt: skip
    hu = np.rint(sitk.GetArrayFromImage(image)).astype(np.int16).T
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions * spacing_mm, origin
    hu.setflags(write=False)
    return Volume(hu, affine)
