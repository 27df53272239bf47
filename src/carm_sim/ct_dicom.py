# SPDX-License-Identifier: Apache-2.0
"""DICOM series as CT volumes: which files, whether they make a volume, their voxels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import PatientError

MIN_VOXELS = 8
SPACING_RANGE_MM = (0.05, 20.0)
SLICE_TOLERANCE = 0.05

_MODALITY, _POSITION, _ORIENTATION = "0008|0060", "0020|0032", "0020|0037"
_SLOPE, _INTERCEPT = "0028|1053", "0028|1052"
_THICKNESS, _BETWEEN, _NUMBER = "0018|0050", "0018|0088", "0020|0013"
_UNKNOWN_BETWEEN_MM = 1.0
"""ITK writes this SpacingBetweenSlices into series of single slices."""
_GAP = 1.5
"""Slices this many times as far apart as they should be are not all there."""

_logger = logging.getLogger(__name__)


def series_files(folder: Path) -> list[Path]:
    """The slices of the largest series in a folder, in order along the body.

    Raises:
        PatientError: If there is no series.
    """
    import SimpleITK as sitk

    series = [
        [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)]
        for uid in _quiet_series_ids(folder)
    ]
    if not series:
        raise PatientError(f"{folder}: no DICOM series in this folder")
    series.sort(key=len, reverse=True)
    if len(series) > 1:
        _logger.info("%s: %d series, taking the largest (%d slices)", folder, len(series), len(series[0]))
    return series[0]


def read_dicom(path: Path, files: list[Path]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Hounsfield values [i, j, k] and the affine from voxels to LPS mm.

    Rescale slope and intercept are applied slice by slice.

    Raises:
        PatientError: If the slices do not make up a CT volume.
    """
    import SimpleITK as sitk

    rescales = _check_slices(path, files)
    whole = all(slope.is_integer() and intercept.is_integer() for slope, intercept in rescales)
    pixel_type = sitk.sitkInt32 if whole else sitk.sitkFloat32
    try:
        image = sitk.ReadImage([str(file) for file in files], pixel_type)
    except RuntimeError as error:
        raise PatientError(f"{path}: not a readable CT ({last_line(error)})") from error
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, affine


def _check_slices(path: Path, files: list[Path]) -> set[tuple[float, float]]:
    """Check that the slices are those of one CT; returns the pairs of rescale slope and intercept in it."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    positions, orientations, rescales, said = [], [], set(), []
    for file in files:
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise PatientError(f"{file}: not a readable DICOM slice ({last_line(error)})") from error
        tags = {tag: reader.GetMetaData(tag).strip() for tag in reader.GetMetaDataKeys()}
        modality = tags.get(_MODALITY, "CT")
        if modality != "CT":
            raise PatientError(f"{path}: the series is of modality {modality}, not CT")
        if len(files) == 1 and reader.GetDimension() == 3 and reader.GetSize()[2] > 1:
            raise PatientError(f"{path}: an enhanced multi-frame CT; convert it to NIfTI or to single slices first")
        if not tags.get(_POSITION) or not tags.get(_ORIENTATION):
            raise PatientError(
                f"{file}: the slice does not say where it lies (ImagePositionPatient, ImageOrientationPatient),"
                " so left and right, head and feet are unknown"
            )
        rescales.add((_number(file, tags.get(_SLOPE, "1")), _number(file, tags.get(_INTERCEPT, "0"))))
        positions.append(reader.GetOrigin())
        orientations.append(reader.GetDirection())
        said.append([_number_or_nan(tags.get(tag, "")) for tag in (_THICKNESS, _BETWEEN, _NUMBER)])
    if len(files) < MIN_VOXELS:
        raise PatientError(f"{path}: the series has only {len(files)} slices, at least {MIN_VOXELS} are needed")
    step_mm = _check_slice_positions(path, np.array(positions), np.array(orientations))
    _check_every_slice(path, step_mm, np.array(said))
    return rescales


def _number(file: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise PatientError(f"{file}: rescale slope or intercept is no number ({text!r})") from error


def _number_or_nan(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _check_every_slice(path: Path, step_mm: float, said: NDArray[np.float64]) -> None:
    """Look for slices that are missing evenly, which positions alone do not tell.

    Args:
        path: The folder, for messages.
        step_mm: Distance of neighboring slices.
        said: SliceThickness, SpacingBetweenSlices, mm, and InstanceNumber of each slice (slices, 3); NaN: not given.

    Raises:
        PatientError: SpacingBetweenSlices says that the slices were closer, or their numbers have gaps and there is
            room between them.
    """
    thickness, between = (float(np.nanmedian(column)) if np.isfinite(column).any() else 0.0 for column in said.T[:2])
    unknown = between == _UNKNOWN_BETWEEN_MM < thickness
    if abs(between) > 0 and not unknown and step_mm > _GAP * abs(between):
        raise PatientError(
            f"{path}: slices are missing: they lie {step_mm:.2f} mm apart, but were made every {abs(between):.2f} mm"
            " (SpacingBetweenSlices)"
        )
    if not (thickness > 0 and step_mm > _GAP * thickness):
        return
    strides = np.abs(np.diff(said[:, 2]))
    if np.isfinite(strides).all() and strides.min() >= 2:
        raise PatientError(
            f"{path}: slices are missing: they lie {step_mm:.2f} mm apart, are {thickness:.2f} mm thick, and their"
            f" numbers go up by {np.median(strides):.0f} (InstanceNumber)"
        )
    _logger.warning(
        "%s: the slices are %.2f mm thick but lie %.2f mm apart; what is between them is interpolated",
        path, thickness, step_mm,
    )  # fmt: skip


def _check_slice_positions(path: Path, positions: NDArray[np.float64], orientations: NDArray[np.float64]) -> float:
    """Check that the slices lie evenly along their normal; returns their distance, mm."""
    if np.abs(orientations - orientations[0]).max() > 1e-3:
        raise PatientError(f"{path}: the slices of the series differ in orientation")
    normal = orientations[0].reshape(3, 3)[:, 2]
    steps = np.diff(positions, axis=0)
    along = steps @ normal
    step = float(np.median(along))
    if abs(step) < SPACING_RANGE_MM[0] or not np.isfinite(step):
        raise PatientError(f"{path}: the slices of the series have the same position")
    sideways = np.linalg.norm(steps - along[:, None] * normal, axis=1)
    if np.median(sideways) > SLICE_TOLERANCE * abs(step):
        angle = np.degrees(np.arctan2(np.median(sideways), abs(step)))
        raise PatientError(f"{path}: the series was taken with a tilted gantry ({angle:.1f} deg); resample it first")
    worst = int(np.abs(along - step).argmax())
    if abs(along[worst] - step) > max(SLICE_TOLERANCE * abs(step), 0.02):
        raise PatientError(
            f"{path}: slices are missing or unevenly spaced ({abs(along[worst]):.2f} mm after slice {worst + 1},"
            f" elsewhere {abs(step):.2f} mm)"
        )
    return abs(step)


def _quiet_series_ids(path: Path) -> tuple[str, ...]:
    import SimpleITK as sitk

    previous = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return tuple(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path)))
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(previous)


def last_line(error: Exception) -> str:
    """The last line of an error's text, or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
