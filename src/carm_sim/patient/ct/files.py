# SPDX-License-Identifier: Apache-2.0
"""Reading CT volumes (a file or the folder of a DICOM series); the landmark file beside them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from carm_core.anatomy.axes import BONES, BoneAxes, made
from carm_core.data_files import read_yaml, shown
from carm_core.errors import PatientError, quoted
from carm_core.landmarks import EXTRA_LANDMARKS, LANDMARKS
from carm_sim.patient.ct.cache import cached_ct, cached_text
from carm_sim.patient.ct.dicom import is_dicom_content, open_dicom
from carm_sim.patient.ct.nifti import is_nifti_content, open_nifti
from carm_sim.patient.ct.nrrd_metaimage import is_meta_content, is_nrrd_content, open_meta, open_nrrd
from carm_sim.patient.ct.processing import CtOptions, blank_slices, padding_of, process
from carm_sim.patient.ct.source import CtSource, laid_in_lps, one_line
from carm_sim.patient.volume import AIR_HU, BODY_THRESHOLD_HU, Volume

LANDMARK_FILE = "landmarks.yaml"
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

MAX_HU = 32767
HIGHEST_LOW_HU = -150
LOWEST_AIR_HU = -1200
MIN_HU_RANGE = 300
_START_BYTES = 1024
_AXIS_SLACK = 0.01
_ROUNDING_OFFSET = 0.3137
"""Keeps positions with few decimals away from where rounding changes."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LandmarkFile:
    """Contents of a ``landmarks.yaml``.

    Attributes:
        ct_sha256: Checksum of the CT that the positions belong to, see ``ct_checksum``.
        positions_mm: Landmark id to its LPS position, shape (3,), in mm.
        methods: Landmark id to how the position was found.
        source: Where the CT and the positions come from.
        points_mm: Name of each further point, for example of a structure's centroid, to its LPS position (3,), mm.
        bones: Axes of bones by name, LPS, mm; may be missing from the file.
    """

    ct_sha256: str
    positions_mm: dict[int, NDArray[np.float64]]
    methods: dict[int, str]
    source: str
    points_mm: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    bones: dict[str, BoneAxes] = field(default_factory=dict)


def is_image(path: Path) -> bool:
    """Return whether the file's name is that of a CT in one file (NIfTI, NRRD, MetaImage)."""
    return path.name.lower().endswith(SUFFIXES)


def open_ct(path: Path, series: str | None = None) -> CtSource:
    """Find out what a file or folder is, and check its headers; warnings are logged.

    Args:
        path: NIfTI, NRRD or MetaImage file (told by its content), multi-frame DICOM file, or a folder with a DICOM
            series in it or below.
        series: SeriesInstanceUID to take from a folder.

    Raises:
        PatientError: If it is no CT, or its headers do not say without doubt where each voxel lies.
    """
    if path.is_dir():
        return open_dicom(path, series)
    if not path.exists():
        raise PatientError(f"{path}: no such file or folder")
    if not path.is_file():
        raise PatientError(f"{path}: neither a file nor a folder")
    try:
        with path.open("rb") as stream:
            start = stream.read(_START_BYTES)
    except OSError as error:
        raise PatientError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise PatientError(f"{path}: the file is empty")
    if is_dicom_content(start):
        return open_dicom(path, series)
    if series is not None:
        raise PatientError(f"{path}: series= chooses from a folder of DICOM files, this is one file")
    if is_nrrd_content(start):
        return open_nrrd(path)
    if is_meta_content(start):
        return open_meta(path)
    if is_nifti_content(start):
        return open_nifti(path)
    raise PatientError(
        f"{path}: not a CT; give a NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd) file, or the"
        " folder of a DICOM series"
    )


def ct_checksum(path: Path, series: str | None = None) -> str:
    """SHA-256 of a CT: of its voxels and their place in the patient, however the file is named, packed or laid out.

    The voxels are rounded to whole HU and put in the order of LPS; the corners of the grid are rounded to 0.1 mm.

    Raises:
        PatientError: If the CT cannot be read.
    """
    return _checksum(open_ct(path, series))


def has_checksum(source: CtSource, checksum: str) -> bool:
    """Return whether a checksum is that of a CT: by its files' bytes, as in older files, or by its voxels and geometry.

    Raises:
        PatientError: If the CT cannot be read.
    """
    return checksum == _byte_checksum(source) or checksum == _checksum(source)


def _byte_checksum(source: CtSource) -> str:
    """SHA-256 of the one file, or of the sorted digests of a DICOM series' files (so names do not matter)."""
    try:
        digests = sorted(_file_digest(file) for file in source.files)
    except OSError as error:
        raise PatientError(f"{source.path}: cannot be read ({error.strerror})") from error
    if source.path.is_file():
        return _file_digest(source.path)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _checksum(source: CtSource) -> str:
    def compute() -> str:
        values, affine = source.read()
        laid = laid_in_lps(values, affine)
        digest = hashlib.sha256(repr([laid.shape, _corners(affine, values.shape)]).encode())
        for plane in np.moveaxis(laid, 2, 0):
            whole = np.clip(np.rint(np.nan_to_num(plane, nan=-32768)), -32768, 32767).astype("<i2")
            digest.update(np.ascontiguousarray(whole).tobytes())
        return digest.hexdigest()

    return cached_text(source.files, f"checksum {source.facts.get('series', '')}", compute)


def _corners(affine: NDArray[np.float64], sizes: Sequence[int]) -> list[list[int]]:
    """The corners of a voxel grid in tenths of a millimeter, sorted, so that the order of the axes does not matter."""
    index = np.stack(np.meshgrid(*[(0, size - 1) for size in sizes], indexing="ij"), -1).reshape(-1, 3)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    return sorted(np.floor(points * 10 + _ROUNDING_OFFSET).astype(int).tolist())


def read_ct(path: Path, options: CtOptions | None = None) -> Volume:
    """Read a CT from a file or a DICOM folder.

    Everything below -1000 HU becomes air, and so does padding of any other value around the scanned field. The
    result is kept in the cache.

    Args:
        path: As for ``open_ct``.
        options: Which series, and what to do with it: resample, take the table off.

    Raises:
        PatientError: If the CT is unreadable, damaged, empty or absurd: its place is not given or given twice, wrong
            number of dimensions, NaN, spacing out of range, values that are no Hounsfield units, nothing but air,
            missing slices, a tilted gantry, several series that may be meant.
    """
    chosen = options or CtOptions()
    return read_source(open_ct(path, chosen.series), chosen)


def read_source(source: CtSource, options: CtOptions) -> Volume:
    """Read a CT that was opened; see ``read_ct``."""

    def read() -> Volume:
        try:
            values, affine = source.read()
            return process(_checked_volume(values, affine, source.path), options)
        except MemoryError as error:
            raise PatientError(f"{source.path}: the CT does not fit into this machine's memory") from error

    return cached_ct(source.files, repr(options), read)


def read_landmarks(path: Path) -> LandmarkFile:
    """Read a ``landmarks.yaml``.

    Raises:
        PatientError: If the file is unreadable, an id is unknown or double, a position is not three finite numbers,
            or the axes of a bone make no sense.
    """
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise PatientError(f"{path}: unreadable landmark file ({one_line(error)})") from error
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
    points = content.get("points", {})
    if not isinstance(points, Mapping) or not all(isinstance(name, str) for name in points):
        raise PatientError(f"{path}: 'points' must be names with a position each")
    named = {name: _position(place, f"point {quoted(name)}", path) for name, place in points.items()}
    bones = _bones(content.get("bones", {}), path)
    return LandmarkFile(checksum.lower(), positions, methods, str(content.get("source", "")), named, bones)


def write_landmarks(landmarks: LandmarkFile, path: Path) -> None:
    """Write a ``landmarks.yaml``.

    Raises:
        PatientError: If the file cannot be written.
    """
    names = {mark.id: mark.name for mark in (*LANDMARKS, *EXTRA_LANDMARKS)}
    content: dict[str, Any] = {
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
    if landmarks.points_mm:
        content["points"] = {
            name: [round(float(value), 2) for value in place] for name, place in sorted(landmarks.points_mm.items())
        }
    if landmarks.bones:
        content["bones"] = {name: _written(axes) for name, axes in landmarks.bones.items()}
    text = "# SPDX-License-Identifier: Apache-2.0\n" + yaml.safe_dump(
        content, sort_keys=False, width=110, default_flow_style=None
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PatientError(f"{path}: cannot be written ({error.strerror})") from error


def _written(axes: BoneAxes) -> dict[str, Any]:
    """Return a bone's axes as ``landmarks.yaml`` holds them: its back follows from head and left."""
    parts: dict[str, Any] = {"origin_mm": [round(float(value), 2) for value in axes.origin_mm]}
    for key, direction in (("left", axes.left), ("head", axes.head)):
        parts[key] = [round(float(value), 4) + 0.0 for value in direction]
    return parts | {"method": axes.method}


def _bones(entries: Any, path: Path) -> dict[str, BoneAxes]:
    """Return the axes of bones by name; bones that newer versions may know are passed over."""
    if not isinstance(entries, Mapping):
        raise PatientError(f"{path}: 'bones' must map names of bones to their axes, got {shown(entries)}")
    bones = {}
    for name, entry in entries.items():
        if name not in BONES:
            continue
        try:
            origin, left, head = (np.array(entry[key], dtype=float) for key in ("origin_mm", "left", "head"))
            usable = all(part.shape == (3,) and np.isfinite(part).all() for part in (origin, left, head))
        except (ValueError, TypeError, KeyError, OverflowError):
            usable = False
        if not usable or abs(np.linalg.norm(left) - 1) > _AXIS_SLACK or abs(np.linalg.norm(head) - 1) > _AXIS_SLACK:
            raise PatientError(f"{path}: bone {name} needs 'origin_mm', and 'left' and 'head' of length 1")
        if abs(float(left @ head)) > _AXIS_SLACK:
            raise PatientError(f"{path}: 'left' and 'head' of bone {name} must be perpendicular")
        bones[str(name)] = made(str(name), origin, head, left, str(entry.get("method", "")))
    return bones


def _landmark_entry(entry: Any, path: Path) -> tuple[int, NDArray[np.float64]]:
    if not isinstance(entry, Mapping) or "id" not in entry or "position_mm" not in entry:
        raise PatientError(f"{path}: each landmark needs 'id' and 'position_mm', got {shown(entry)}")
    identifier = entry["id"]
    if not isinstance(identifier, int) or isinstance(identifier, bool):
        raise PatientError(f"{path}: a landmark id is a whole number, got {shown(identifier)}")
    return identifier, _position(entry["position_mm"], f"landmark {identifier}", path)


def _position(value: Any, whose: str, path: Path) -> NDArray[np.float64]:
    try:
        position = np.array(value, dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise PatientError(f"{path}: {whose} needs three numbers as its position") from error
    if position.shape != (3,) or not np.isfinite(position).all():
        raise PatientError(f"{path}: {whose} needs three finite numbers as its position")
    return position


def _checked_volume(values: NDArray[Any], affine: NDArray[np.float64], path: Path) -> Volume:
    along = int(np.abs(affine[2, :3]).argmax())
    _check_blank(values, along, path)
    padding = padding_of(values, along, MAX_HU)
    inside = values if padding is None else values[~padding]
    lowest, highest = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise PatientError(f"{path}: the CT contains NaN or infinite values")
    if highest <= BODY_THRESHOLD_HU:
        raise PatientError(f"{path}: the CT holds nothing but air (highest value {highest:g} HU)")
    if lowest < LOWEST_AIR_HU:
        lowest = float(inside[inside >= LOWEST_AIR_HU].min())
    if lowest > HIGHEST_LOW_HU or highest > MAX_HU or highest - lowest < MIN_HU_RANGE:
        raise PatientError(f"{path}: values from {lowest:g} to {highest:g} are not Hounsfield units")
    hu = np.empty(values.shape, np.int16, order="F" if values.flags.f_contiguous else "C")
    for index in range(values.shape[2]):
        plane = values[..., index] if padding is None else np.where(padding[..., index], AIR_HU, values[..., index])
        hu[..., index] = np.clip(np.rint(plane), AIR_HU, MAX_HU)
    hu.setflags(write=False)
    return Volume(hu, affine)


def _check_blank(values: NDArray[Any], along: int, path: Path) -> None:
    """Refuse slices of one value among the others: their pixels were lost. At the ends of a CT they are padding.

    Raises:
        PatientError: If there are such slices.
    """
    planes = np.moveaxis(values, along, 0)
    blank = blank_slices(planes)
    filled = np.flatnonzero(~blank)
    lost = [index for index in np.flatnonzero(blank) if filled.size and filled[0] < index < filled[-1]]
    if lost:
        value = float(planes[lost[0], 0, 0])
        raise PatientError(
            f"{path}: {len(lost)} of {len(planes)} slices inside the CT hold one value only ({value:g} in slice"
            f" {lost[0] + 1}): their pixels are missing"
        )


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
