# SPDX-License-Identifier: Apache-2.0
"""DICOM series as CT volumes: which files of a folder, which series, their Hounsfield values."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import PatientError
from carm_sim.patient.ct.pixels import PixelReader, read_dataset
from carm_sim.patient.ct.slices import Slice, arranged, slices_of
from carm_sim.patient.ct.source import MIN_VOXELS, CtSource, check_affine, check_memory, check_size, one_line

_MOST_FILES = 50_000
_EQUAL_CLAIM = 0.5
"""A series with this share of the largest one's slices may be meant as well."""
_PREAMBLE = slice(128, 132)
_GROUP_STARTS = (b"\x02\x00", b"\x08\x00", b"\x00\x08", b"\x00\x02")
_SUFFIXES = (".dcm", ".dicom", ".ima")
_DIRECTORY = "1.2.840.10008.1.3.10"
_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2."
_HIGHEST_TISSUE_HU = 4000.0
_BYTES_PER_PIXEL = 2
_TAGS = [
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription",
    "PatientName", "PatientID", "BodyPartExamined", "SliceThickness", "SpacingBetweenSlices", "GantryDetectorTilt",
    "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "AcquisitionNumber", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "TemporalPositionIdentifier",
    "TriggerTime", "NominalPercentageOfCardiacPhase", "NumberOfFrames", "Rows", "Columns", "PixelSpacing",
    "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "RescaleType", "LossyImageCompression",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Image:
    """A DICOM image by its header.

    Attributes:
        file: Where it is.
        dataset: Its elements without the pixels.
    """

    file: Path
    dataset: Any

    def text(self, keyword: str) -> str:
        """Return an element as text; empty when it is missing or garbage."""
        try:
            value = self.dataset.get(keyword)
        except Exception:  # pydicom refuses garbage in many ways
            return ""
        return "" if value is None else str(value).strip()

    @property
    def frames(self) -> int:
        """Number of frames."""
        text = self.text("NumberOfFrames")
        return max(1, int(text)) if text.isdecimal() and len(text) < 8 else 1

    @property
    def modality(self) -> str:
        """Modality; CT where none is given."""
        return self.text("Modality").upper() or "CT"

    @property
    def is_localizer(self) -> bool:
        """Whether the image says that it is a localizer (scout view)."""
        return "LOCALIZER" in self.text("ImageType").upper()

    @property
    def is_placed(self) -> bool:
        """Whether the image says where it lies."""
        return "ImagePositionPatient" in self.dataset or "PerFrameFunctionalGroupsSequence" in self.dataset

    @property
    def patient(self) -> tuple[str, str]:
        """Identity of the patient, spelled uniformly."""
        name = " ".join(self.text("PatientName").replace("^", " ").split())
        return self.text("PatientID"), name.casefold()


@dataclass(frozen=True, eq=False)
class Series:
    """Images with one SeriesInstanceUID."""

    uid: str
    images: Sequence[Image]

    @property
    def count(self) -> int:
        """Number of slices, localizers left out."""
        return sum(image.frames for image in self.images if not image.is_localizer)

    @property
    def modality(self) -> str:
        """Modality of the images; CT where one of them is."""
        kinds = [image.modality for image in self.images]
        return "CT" if "CT" in kinds else kinds[0]

    def __str__(self) -> str:
        """Say which it is, for people."""
        first = self.images[0]
        words = [word for word in (first.text("SeriesDescription"), f"series {first.text('SeriesNumber')}") if word]
        return f"{' '.join(words).strip()}: {self.count} {self.modality} images, ?series={self.uid}"


def is_dicom_content(start: bytes) -> bool:
    """Return whether the first 132 bytes of a file are those of a DICOM file, with or without the preamble."""
    return start[_PREAMBLE] == b"DICM" or (len(start) > 8 and start[:2] in _GROUP_STARTS and start[2:4] != b"\0\0\0\0")


def is_dicom_file(file: Path) -> bool:
    """Return whether a file's content is that of a DICOM file; False when it cannot be read."""
    try:
        with file.open("rb") as stream:
            return is_dicom_content(stream.read(_PREAMBLE.stop))
    except OSError:
        return False


def open_dicom(path: Path, wanted: str | None = None) -> CtSource:
    """Find the CT in a folder (with its subfolders) or in one multi-frame file, and check its slices.

    Args:
        path: Folder or file.
        wanted: SeriesInstanceUID of the series to take; None: the one that there is.

    Raises:
        PatientError: If there is no CT, more than one that may be meant, or its slices make no volume.
    """
    images = _images(path)
    if path.is_file() and images and images[0].frames == 1:
        raise PatientError(f"{path}: one slice of a DICOM series; give its folder, {path.parent}")
    series = _choose(path, images, wanted)
    source = series.images[0]
    reader = PixelReader()
    found = _slices(path, series)
    rows, columns = (max(one.matrix[axis] for one in found) for axis in (0, 1))
    check_size(path, (columns, rows, len(found)))
    slices, affine = arranged(path, found, reader)
    _warn_of_header(path, series, source)
    sizes = slices[0].matrix[1], slices[0].matrix[0], len(slices)
    check_size(path, sizes)
    check_affine(path, affine, sizes)
    files = list(dict.fromkeys(one.file for one in slices))
    voxels = sizes[0] * sizes[1] * sizes[2]
    check_memory(path, sum(file.stat().st_size for file in files), voxels * _BYTES_PER_PIXEL, voxels)
    facts = {
        "format": "DICOM" + (", multi-frame" if len(files) < len(slices) else ""),
        "series": str(series),
        "body_part": source.text("BodyPartExamined"),
    }
    return CtSource(path, files, lambda: (_hounsfield(slices, PixelReader()), affine), facts)


def _images(path: Path) -> list[Image]:
    """Return the images in a file, or in a folder and its subfolders, by their headers.

    Raises:
        PatientError: If a DICOM file cannot be read.
    """
    files = [path] if path.is_file() else sorted(_walk(path))
    found = []
    for file in files:
        try:
            with file.open("rb") as stream:
                start = stream.read(132)
        except OSError as error:
            raise PatientError(f"{file}: cannot be read ({error.strerror})") from error
        if not is_dicom_content(start):
            named = file.suffix.lower() in _SUFFIXES or (not file.suffix and not start.strip(b"\0"))
            if named and file.is_relative_to(path):
                reason = "the file is empty" if not start.strip(b"\0") else "not a DICOM file, by its content"
                raise PatientError(f"{file}: {reason}; copy the slice again, or take the file away")
            continue
        dataset = read_dataset(file, _TAGS)
        if "Rows" in dataset and "Columns" in dataset:
            found.append(Image(file, dataset))
        elif _is_cut_off(file, dataset):
            raise PatientError(f"{file}: the file is cut off (it has no image); copy the slice again, or take it away")
    return found


def _is_cut_off(file: Path, dataset: Any) -> bool:
    """Return whether a file without an image should have one; reports, structures and the like have none."""
    kinds = [str(dataset.get("SOPClassUID") or ""), str(_meta(dataset).get("MediaStorageSOPClassUID") or "")]
    if _DIRECTORY in kinds or file.name.upper() == "DICOMDIR":
        return False
    return "Modality" not in dataset or any(f"{kind}.".startswith(_CT_STORAGE) for kind in kinds)


def _meta(dataset: Any) -> Any:
    return getattr(dataset, "file_meta", {})


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found += [Path(root, name) for name in names if not name.startswith(".")]
        if len(found) > _MOST_FILES:
            raise PatientError(f"{folder}: more than {_MOST_FILES} files; give the folder of the series")
    return [file for file in found if file.is_file()]


def _choose(path: Path, images: Sequence[Image], wanted: str | None) -> Series:
    """Return the series that is meant."""
    groups: dict[str, list[Image]] = {}
    for image in images:
        groups.setdefault(image.text("SeriesInstanceUID"), []).append(image)
    all_series = [Series(uid, members) for uid, members in groups.items()]
    if not all_series:
        raise PatientError(f"{path}: no DICOM series in this folder or its subfolders{_other_formats(path)}")
    if wanted is not None:
        chosen = [series for series in all_series if series.uid == wanted]
        if not chosen:
            raise PatientError(f"{path}: no series {wanted}; there are {_list(all_series)}")
        if chosen[0].modality != "CT":
            raise PatientError(f"{path}: the series is of modality {chosen[0].modality}, not CT ({chosen[0]})")
        return _of_one_patient(path, chosen)
    scans = [series for series in all_series if series.modality == "CT"]
    if not scans:
        kinds = ", ".join(sorted({series.modality for series in all_series}))
        raise PatientError(f"{path}: the series is of modality {kinds}, not CT ({_list(all_series)})")
    _of_one_patient(path, scans)
    placed = [series for series in scans if any(image.is_placed for image in series.images)] or scans
    placed.sort(key=lambda series: series.count, reverse=True)
    first = placed[0]
    rivals = [s for s in placed if s.count >= max(MIN_VOXELS, _EQUAL_CLAIM * first.count)]
    if len(rivals) > 1:
        raise PatientError(f"{path}: {len(rivals)} CT series, any of which may be meant; choose one: {_list(rivals)}")
    others = [series for series in all_series if series is not first]
    if others:
        _logger.warning("%s: the CT taken is %s; left out: %s", path, first, _list(others))
    return first


def _of_one_patient(path: Path, scans: Sequence[Series]) -> Series:
    first: dict[tuple[str, str], tuple[Image, Series]] = {}
    for series in scans:
        for image in series.images:
            first.setdefault(image.patient, (image, series))
    if len(first) > 1:
        names = [
            f"{image.text('PatientName') or 'no name'} (ID {image.text('PatientID') or 'none'}, {image.file.name};"
            f" {series})"
            for image, series in first.values()
        ]
        raise PatientError(
            f"{path}: CTs of {len(first)} patients; choose one or take the others away: {'; '.join(names[:4])}"
        )
    return scans[0]


def _list(series: Sequence[Series]) -> str:
    return "; ".join(map(str, series[:6])) + (f"; and {len(series) - 6} more" if len(series) > 6 else "")


def _other_formats(path: Path) -> str:
    """Return what else there is in a folder that may be meant."""
    suffixes = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".zip")
    found = [file for file in (_walk(path) if path.is_dir() else []) if file.name.lower().endswith(suffixes)]
    return f"; did you mean {found[0]}?" if found else ""


def _slices(path: Path, series: Series) -> list[Slice]:
    """Return the slices of a series: CT images that are no localizers."""
    others = [image for image in series.images if image.modality != "CT"]
    localizers = [image for image in series.images if image.is_localizer and image not in others]
    for images, what in ((others, "no CT"), (localizers, "a localizer")):
        if images:
            names = ", ".join(image.file.name for image in images[:3]) + ", ..." * (len(images) > 3)
            _logger.warning("%s: left out of the series, as %s: %s", path, what, names)
    kept = [image for image in series.images if image not in others and image not in localizers]
    if not kept:
        raise PatientError(f"{path}: the series has only localizer images, no slices")
    for image in kept:
        if image.text("SamplesPerPixel") not in ("1", ""):
            raise PatientError(f"{image.file}: a color image, not CT")
    if sum(image.frames for image in kept) < MIN_VOXELS:
        raise PatientError(
            f"{path}: the series has only {sum(image.frames for image in kept)} slices,"
            f" at least {MIN_VOXELS} are needed"
        )
    return [one for image in kept for one in _slices_of(image)]


def _slices_of(image: Image) -> list[Slice]:
    try:
        return slices_of(image.file, image.dataset)
    except PatientError:
        raise
    except Exception as error:  # pydicom decodes elements when they are asked for, and refuses garbage in many ways
        raise PatientError(f"{image.file}: the header is damaged ({one_line(error)})") from error


def _warn_of_header(path: Path, series: Series, source: Image) -> None:
    if not source.text("Modality"):
        _logger.warning("%s: the images do not say their modality; they are taken as CT", path)
    if source.text("LossyImageCompression") == "01":
        _logger.warning("%s: the images were compressed with loss", path)
    if not (
        source.text("RescaleSlope")
        or source.text("PerFrameFunctionalGroupsSequence")
        or source.text("SharedFunctionalGroupsSequence")
    ):
        _logger.warning("%s: the images have no rescale slope and intercept; their values are taken as HU", path)


def _hounsfield(slices: Sequence[Slice], reader: PixelReader) -> NDArray[Any]:
    """Return the Hounsfield values [column, row, slice]; rescaling is applied slice by slice."""
    whole = all(float(number).is_integer() for one in slices for number in one.rescale or (1.0, 0.0))
    values: NDArray[Any] | None = None
    for index, one in enumerate(slices):
        stored = reader.stored(one.file, one.frame)
        slope, intercept = one.rescale or (1.0, 0.0)
        hu = stored * int(slope) + int(intercept) if whole else (stored * slope + intercept).astype(np.float32)
        if one.padding is not None:
            pattern = stored % 65536
            marked = (pattern >= one.padding[0]) & (pattern <= one.padding[1])
            hu[marked & (hu > _HIGHEST_TISSUE_HU)] = -32768
        if values is None:
            values = np.empty((len(slices), *hu.shape), hu.dtype)
        values[index] = hu
    assert values is not None
    return values.transpose(2, 1, 0)
