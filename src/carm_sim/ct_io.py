# SPDX-License-Identifier: Apache-2.0
"""Reading and writing CT volumes (NIfTI file or DICOM series folder) and the landmark file beside them."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from carm_core.errors import PatientError
from carm_core.landmarks import EXTRA_LANDMARKS, LANDMARKS
from carm_sim.ct_cache import cached_ct
from carm_sim.ct_dicom import MIN_VOXELS, SPACING_RANGE_MM, last_line, read_dicom, series_files
from carm_sim.ct_processing import CtOptions, image_of, padding_to_air, process
from carm_sim.volume import AIR_HU, BODY_THRESHOLD_HU, Volume

LANDMARK_FILE = "landmarks.yaml"
NIFTI_SUFFIXES = (".nii", ".nii.gz")

MIN_EXTENT_MM = 20.0
MAX_HU = 32767
HIGHEST_LOW_HU = -150
MIN_HU_RANGE = 300

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LandmarkFile:
    """Contents of a `landmarks.yaml`.

    Attributes:
        ct_sha256: Checksum of the CT that the positions belong to, see `ct_checksum`.
        positions_mm: Landmark id to its LPS position, shape (3,), in mm.
        methods: Landmark id to how the position was found.
        source: Where the CT and the positions come from.
    """

    ct_sha256: str
    positions_mm: dict[int, NDArray[np.float64]]
    methods: dict[int, str]
    source: str


def is_nifti(path: Path) -> bool:
    """Whether the file's name is that of a NIfTI image."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def ct_files(path: Path) -> list[Path]:
    """The files that make up a CT: the NIfTI file, or the slices of the largest CT series in a DICOM folder.

    Raises:
        PatientError: If the path is neither, or cannot be read.
    """
    if path.is_file():
        if not is_nifti(path):
            raise PatientError(f"{path}: not a NIfTI file (.nii, .nii.gz); give a DICOM series as its folder")
        return [path]
    if not path.is_dir():
        raise PatientError(f"{path}: no such file or folder")
    return series_files(path)


def ct_checksum(path: Path) -> str:
    """SHA-256 of a CT: of the NIfTI file, or of the sorted digests of a DICOM series' files (so names do not matter).

    Raises:
        PatientError: If the CT cannot be read.
    """
    files = ct_files(path)
    try:
        digests = sorted(_file_digest(file) for file in files)
    except OSError as error:
        raise PatientError(f"{path}: cannot be read ({error.strerror})") from error
    if path.is_file():
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def read_ct(path: Path, options: CtOptions | None = None) -> Volume:
    """Read a CT from a NIfTI file or a DICOM series folder.

    Everything below -1000 HU becomes air, and so does padding of any other value around the scanned field. The
    result is kept in the cache.

    Args:
        path: NIfTI file or DICOM folder.
        options: What to do with it: resample, take the table off.

    Raises:
        PatientError: If the CT is unreadable, empty or absurd: wrong number of dimensions, NaN, spacing out of range,
            values that are no Hounsfield units, nothing but air, missing slices, a tilted gantry.
    """
    files = ct_files(path)
    chosen = options or CtOptions()

    def read() -> Volume:
        values, affine = read_dicom(path, files) if path.is_dir() else _read_nifti(path)
        return process(_checked_volume(values, affine, path), chosen)

    return cached_ct(files, repr(chosen), read)


def write_nifti(volume: Volume, path: Path) -> None:
    """Write a volume as NIfTI; its axes must be orthogonal.

    Raises:
        PatientError: If the file cannot be written.
    """
    import SimpleITK as sitk

    image = image_of(volume)
    try:
        sitk.WriteImage(image, str(path))
    except RuntimeError as error:
        raise PatientError(f"{path}: cannot be written ({last_line(error)})") from error


def read_landmarks(path: Path) -> LandmarkFile:
    """Read a `landmarks.yaml`.

    Raises:
        PatientError: If the file is unreadable, an id is unknown or double, or a position is not three finite
            numbers.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PatientError(f"{path}: unreadable landmark file ({last_line(error)})") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("landmarks"), list):
        raise PatientError(f"{path}: a landmark file needs the keys 'ct_sha256' and 'landmarks' (a list)")
    positions: dict[int, NDArray[np.float64]] = {}
    methods: dict[int, str] = {}
    known = {mark.id for mark in LANDMARKS}
    for entry in content["landmarks"]:
        identifier, position = _landmark_entry(entry, path)
        if identifier not in known and identifier <= 100:
            raise PatientError(f"{path}: unknown landmark id {identifier}")
        if identifier in positions:
            raise PatientError(f"{path}: landmark id {identifier} is given twice")
        positions[identifier] = position
        methods[identifier] = str(entry.get("method", ""))
    checksum = content.get("ct_sha256")
    if not isinstance(checksum, str) or len(checksum) != 64:
        raise PatientError(f"{path}: 'ct_sha256' must be the CT's SHA-256 (64 hexadecimal digits)")
    return LandmarkFile(checksum.lower(), positions, methods, str(content.get("source", "")))


def write_landmarks(landmarks: LandmarkFile, path: Path) -> None:
    """Write a `landmarks.yaml`.

    Raises:
        PatientError: If the file cannot be written.
    """
    names = {mark.id: mark.name for mark in (*LANDMARKS, *EXTRA_LANDMARKS)}
    content = {
        "source": landmarks.source,
        "frame": "LPS of the CT, mm",
        "ct_sha256": landmarks.ct_sha256,
        "landmarks": [
            {
                "id": identifier,
                "name": names.get(identifier, ""),
                "position_mm": [round(float(value), 2) for value in landmarks.positions_mm[identifier]],
                "method": landmarks.methods.get(identifier, ""),
            }
            for identifier in sorted(landmarks.positions_mm)
        ],
    }
    text = "# SPDX-License-Identifier: Apache-2.0\n" + yaml.safe_dump(
        content, sort_keys=False, width=110, default_flow_style=None
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PatientError(f"{path}: cannot be written ({error.strerror})") from error


def _landmark_entry(entry: Any, path: Path) -> tuple[int, NDArray[np.float64]]:
    if not isinstance(entry, Mapping) or "id" not in entry or "position_mm" not in entry:
        raise PatientError(f"{path}: each landmark needs 'id' and 'position_mm', got {entry!r}")
    identifier = entry["id"]
    if not isinstance(identifier, int) or isinstance(identifier, bool):
        raise PatientError(f"{path}: a landmark id is a whole number, got {identifier!r}")
    try:
        position = np.array(entry["position_mm"], dtype=float)
    except (TypeError, ValueError) as error:
        raise PatientError(f"{path}: landmark {identifier} needs three numbers in 'position_mm'") from error
    if position.shape != (3,) or not np.isfinite(position).all():
        raise PatientError(f"{path}: landmark {identifier} needs three finite numbers in 'position_mm'")
    return identifier, position


def _read_nifti(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Values [i, j, k, ...] and the affine from voxels to LPS mm.

    nibabel reads it, since ITK's reader silently turns NaN into 0.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        if path.stat().st_size == 0:
            raise PatientError(f"{path}: the file is empty")
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(image.affine, float)
    except (ImageFileError, OSError, ValueError, EOFError, zlib.error) as error:
        raise PatientError(f"{path}: not a readable CT ({last_line(error)})") from error
    return values, affine


def _checked_volume(values: NDArray[Any], affine: NDArray[np.float64], path: Path) -> Volume:
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    size = " x ".join(map(str, values.shape))
    if values.ndim != 3 or values.dtype.kind not in "iuf":
        raise PatientError(
            f"{path}: a CT has three dimensions and one number a voxel, this image is {size} {values.dtype}"
        )
    if min(values.shape) < MIN_VOXELS:
        raise PatientError(f"{path}: absurd size {size}, at least {MIN_VOXELS} voxels are needed along each axis")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = SPACING_RANGE_MM
    if not ((spacing >= low) & (spacing <= high)).all() or (spacing * values.shape < MIN_EXTENT_MM).any():
        shown = " x ".join(f"{value:g}" for value in spacing)
        raise PatientError(f"{path}: absurd voxel spacing {shown} mm for size {size}")
    directions = affine[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
        raise PatientError(f"{path}: the voxel axes are not at right angles (tilted gantry?); resample the CT first")
    lowest, highest = float(values.min()), float(values.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise PatientError(f"{path}: the CT contains NaN or infinite values")
    if highest <= BODY_THRESHOLD_HU:
        raise PatientError(f"{path}: the CT holds nothing but air (highest value {highest:g} HU)")
    if lowest > HIGHEST_LOW_HU or highest > MAX_HU or highest - lowest < MIN_HU_RANGE:
        raise PatientError(f"{path}: values from {lowest:g} to {highest:g} are not Hounsfield units")
    hu = np.empty(values.shape, np.int16, order="F" if values.flags.f_contiguous else "C")
    np.clip(np.rint(values) if values.dtype.kind == "f" else values, AIR_HU, MAX_HU, out=hu, casting="unsafe")
    padding_to_air(hu, int(np.abs(affine[2, :3]).argmax()))
    hu.setflags(write=False)
    return Volume(hu, affine)


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
