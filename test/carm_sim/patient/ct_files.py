# SPDX-License-Identifier: Apache-2.0
"""CT volumes and DICOM series made for tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from carm_sim.patient.volume import Volume

RIGHT_BEAD_MM = np.array([-40.0, -10.0, 25.0])

POSITIONS = {
    "HFS": np.diag([1.0, 1, 1]),
    "HFP": np.diag([-1.0, -1, 1]),
    "FFS": np.diag([-1.0, 1, -1]),
    "FFP": np.diag([1.0, -1, -1]),
}
"""DICOM patient position to the axes in LPS of columns, rows and slices, as a scanner writes them."""


def body(spacing: tuple[float, float, float] = (4.0, 3.0, 5.0)) -> Volume:
    """A water block 160 x 90 x 150 mm, with a dense bead in the patient's right, upper, front part."""
    shape = (60, 50, 40)
    hu = np.full(shape, -1000, np.int16)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * np.array(spacing)
    points = np.stack(
        np.meshgrid(
            *[np.arange(n) * s + o for n, s, o in zip(shape, spacing, affine[:3, 3], strict=True)], indexing="ij"
        ),
        -1,
    )
    hu[(np.abs(points) < [80, 45, 75]).all(-1)] = 0
    hu[np.linalg.norm(points - RIGHT_BEAD_MM, axis=-1) < 8] = 1500
    return Volume(hu, affine)


def reoriented(volume: Volume, axes: np.ndarray) -> Volume:  # type: ignore[type-arg]
    """The same body with its index axes permuted and flipped: columns of `axes` are the new axes in LPS."""
    order = np.abs(axes).argmax(0)
    signs = axes[order, range(3)].astype(int)
    hu = volume.hu.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    affine = np.eye(4)
    affine[:3, :3] = axes * volume.spacing_mm[order]
    affine[:3, 3] = volume.center_mm - affine[:3, :3] @ (np.array(hu.shape) - 1) / 2
    return Volume(np.ascontiguousarray(hu), affine)


def image_of(volume: Volume) -> sitk.Image:
    """The volume as an ITK image."""
    affine, spacing = volume.transform_voxel_to_lps, volume.spacing_mm
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.hu.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def write_nifti(volume: Volume, path: Path) -> None:
    sitk.WriteImage(image_of(volume), str(path))


def bead_center(volume: Volume) -> np.ndarray:  # type: ignore[type-arg]
    """LPS position of the bead in `body`."""
    return volume.lps_from_voxel(np.argwhere(volume.hu > 1000).astype(float)).mean(0)


def write_dicom(
    volume: Volume, folder: Path, skip: int | None = None, tilt: float = 0.0, modality: str = "CT",
    position: str = "HFS", rescale: Sequence[tuple[float, float]] = ((1.0, -1024.0),), series: int = 1,
    every: int = 1, renumber: bool = False, between_mm: float | None = None,
) -> None:  # fmt: skip
    """A minimal CT series.

    Args:
        volume: What to write.
        folder: Where to.
        skip: A slice that is left out.
        tilt: Shift of each slice sideways against the one before, mm.
        modality: DICOM modality.
        position: DICOM patient position, written as it is.
        rescale: Slope and intercept; several are used in turn.
        series: Number of the series.
        every: Only every so manieth slice is written.
        renumber: Whether the slices that are left are numbered without gaps.
        between_mm: SpacingBetweenSlices; None: not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    affine, spacing = volume.transform_voxel_to_lps, volume.spacing_mm
    axes = affine[:3, :3] / spacing
    for k in range(volume.shape[2]):
        if k == skip or k % every:
            continue
        slope, intercept = rescale[k % len(rescale)]
        stored = np.rint((volume.hu[:, :, k].T.astype(float) - intercept) / slope)
        slice_ = sitk.GetImageFromArray(np.ascontiguousarray(stored.astype(np.int16)))
        slice_.SetSpacing(spacing[:2].tolist())
        corner = volume.lps_from_voxel(np.array([0.0, 0, k])) + axes[:, 1] * tilt * k
        tags = {
            "0008|0060": modality,
            "0018|5100": position,
            "0020|000e": f"1.2.826.0.1.3680043.2.1125.1.{series}",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.3.{series}.{k}",
            "0020|0013": str(k // every if renumber else k),
            "0020|0032": "\\".join(f"{value:.6f}" for value in corner),
            "0020|0037": "\\".join(f"{value:.6f}" for value in np.concatenate([axes[:, 0], axes[:, 1]])),
            "0028|1052": "0",
            "0028|1053": "1",
            "0018|0050": f"{spacing[2]}",
        }
        for tag, value in tags.items():
            slice_.SetMetaData(tag, value)
        file = folder / f"{series}-{k:04d}.dcm"
        writer.SetFileName(str(file))
        writer.Execute(slice_)
        set_element(file, 0x0028, 0x1052, f"{intercept:g}")
        set_element(file, 0x0028, 0x1053, f"{slope:g}")
        if between_mm is not None:
            set_element(file, 0x0018, 0x0088, None)
            set_element(file, 0x0018, 0x0088, f"{between_mm:g}", after=(0x0018, 0x0050))


def set_element(
    file: Path, group: int, element: int, value: str | None, after: tuple[int, int] | None = None
) -> None:  # fmt: skip
    """Give an element of a DICOM file (implicit VR, little endian) another value.

    Args:
        file: The file.
        group: The element's group.
        element: Its number.
        value: The new value; None takes the element out, if it is there.
        after: The element that a new one comes behind; None: it is there already.
    """
    content = file.read_bytes()
    tag = struct.pack("<HH", group, element)
    if value is None and tag not in content:
        return
    start = content.index(struct.pack("<HH", *after) if after else tag)
    (length,) = struct.unpack("<I", content[start + 4 : start + 8])
    end = start + 8 + length
    if after:
        start = end
    if value is None:
        changed = b""
    else:
        text = value.encode() + b" " * (len(value) % 2)
        changed = tag + struct.pack("<I", len(text)) + text
    file.write_bytes(content[:start] + changed + content[end:])
