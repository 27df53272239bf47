# SPDX-License-Identifier: Apache-2.0
"""X-ray images out of files: PNG, JPEG, TIFF and DICOM (CR, DX, RF, XA), as display images with bones bright.

What a file does not say about its geometry stays unknown: the scale that a network needs is then assumed, and
millimeters are not claimed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ImageError, PatientError
from carm_core.imaging.display import Window, gray_table, open_picture
from carm_core.imaging.frame import XrayFrame
from carm_perception.networks.preprocessing import FIELD_MM

PICTURES, DICOM = (".png", ".jpg", ".jpeg", ".tif", ".tiff"), (".dcm", ".dicom")
LONGEST_PX = 8192
LARGEST_BYTES = 512 << 20
_FORMATS = ("PNG", "JPEG", "TIFF")
_WINDOW_PERCENTILES = (0.5, 99.5)
_LONGEST_MM = 5000.0
_CALIBRATED = ("GEOMETRY", "FIDUCIAL")


@dataclass(frozen=True, eq=False)
class ImageFile:
    """One image of a file.

    Attributes:
        path: The file.
        number: Of the frame, from 0; None: the file holds one image only.
        frame: The image; its scale is assumed where ``scale_known`` is false.
        scale_known: The file says how many millimeters at the depth of the body a pixel is.
        note: What is not known, in one line; empty: all is.
    """

    path: Path
    number: int | None
    frame: XrayFrame
    scale_known: bool
    note: str = ""

    @property
    def name(self) -> str:
        """The file's name, with the number of the frame."""
        return str(self.path) if self.number is None else f"{self.path}#{self.number}"


def image_files(path: Path) -> list[Path]:
    """Return a file, or the images of a folder and its subfolders, in order of their names.

    Raises:
        ImageError: There is no such file or folder, or no image in it.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{path}: no such file or folder")
    found = sorted(file for file in path.rglob("*") if file.is_file() and _is_image(file))
    if not found:
        raise ImageError(f"{path}: no image in it ({', '.join((*PICTURES, *DICOM))})")
    return found


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in PICTURES or _is_dicom(file)


def _is_dicom(file: Path) -> bool:
    if file.suffix.lower() in DICOM:
        return True
    if file.suffix:
        return False
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def read_images(path: Path, mm_per_px: float = math.nan, invert: bool = False) -> Iterator[ImageFile]:
    """Read a file.

    Args:
        path: A picture or a DICOM file.
        mm_per_px: Millimeters per pixel at the depth of the body; NaN: what the file says.
        invert: Bones are dark in the file although it says nothing of the kind.

    Yields:
        Its image, or each of its frames.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ImageError(f"larger than {LARGEST_BYTES >> 20} MiB")
        images = _dicom_frames(path, mm_per_px) if _is_dicom(path) else _picture(path, mm_per_px)
        for image in images:
            yield _inverted(image) if invert else image
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror or error})") from error
    except PatientError as error:
        raise ImageError(str(error)) from error
    except ImageError as error:
        raise ImageError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error


def _inverted(image: ImageFile) -> ImageFile:
    frame = image.frame
    turned = XrayFrame(255 - frame.image, frame.mm_per_px_at_isocenter, 0.0, frame.primary_rad, frame.secondary_rad)
    return ImageFile(image.path, image.number, turned, image.scale_known, image.note)


def _picture(path: Path, mm_per_px: float) -> Iterator[ImageFile]:
    picture = open_picture(path.read_bytes(), _FORMATS, LONGEST_PX)
    values = np.asarray(picture if picture.mode in ("L", "I;16") else picture.convert("L"))
    gray = values if values.dtype == np.uint8 else _stretched(values.astype(float))
    yield _image(path, None, np.asarray(gray, np.uint8), mm_per_px, math.nan, "the scale of the image is not known")


def _image(
    path: Path,
    number: int | None,
    gray: NDArray[np.uint8],
    mm_per_px: float,
    assumed: float,
    note: str,
    angles_rad: tuple[float, float] = (math.nan, math.nan),
) -> ImageFile:
    """Put an image together.

    Args:
        path: The file.
        number: Of the frame.
        gray: Display image.
        mm_per_px: At the depth of the body; NaN: not known.
        assumed: To be assumed then; NaN: such that the network sees the whole image.
        note: What is then not known.
        angles_rad: Positioner angles.
    """
    if min(gray.shape) < 16:
        raise ImageError(f"{gray.shape[1]} x {gray.shape[0]} pixels are too few")
    known = math.isfinite(mm_per_px)
    scale = mm_per_px if known else assumed if math.isfinite(assumed) else FIELD_MM / max(gray.shape)
    return ImageFile(path, number, XrayFrame(gray, scale, 0.0, *angles_rad), known, "" if known else note)


def _stretched(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return gray between the 0.5th and the 99.5th percentile."""
    low, high = np.percentile(values, _WINDOW_PERCENTILES)
    gray = 255 * (values - low) / max(high - low, 1e-9)
    return np.asarray(np.clip(np.rint(gray), 0, 255), np.uint8)


def _dicom_frames(path: Path, mm_per_px: float) -> Iterator[ImageFile]:
    from carm_sim.patient.ct.pixels import PixelReader, read_dataset

    dataset = read_dataset(path)
    rows, columns = (_number(dataset, key) for key in ("Rows", "Columns"))
    if not (0 < rows <= LONGEST_PX and 0 < columns <= LONGEST_PX):
        raise ImageError(f"not a DICOM image, or one of {columns:g} x {rows:g} pixels (at most {LONGEST_PX})")
    count = _number(dataset, "NumberOfFrames")
    frames = int(count) if math.isfinite(count) and count >= 1 else 1
    scale, assumed = _spacing(dataset)
    pixels = PixelReader()
    for number in range(frames):
        gray = _upright(_gray(pixels.stored(path, number), dataset), dataset)
        yield _image(
            path,
            number if frames > 1 else None,
            gray,
            mm_per_px if math.isfinite(mm_per_px) else scale,
            assumed,
            "the file does not say at which depth the body lies",
            _angles(dataset, number),
        )


def _number(dataset: Any, key: str, place: int = 0) -> float:
    """Return an element, or one of its values, as a number; NaN when it is missing or garbage."""
    try:
        value = dataset.get(key)
        return float(value[place] if hasattr(value, "__len__") and not isinstance(value, str) else value)
    except Exception:  # pydicom refuses garbage in many ways
        return math.nan


def _text(dataset: Any, key: str, place: int = 0) -> str:
    try:
        value = dataset.get(key)
        return str(value if value is None or isinstance(value, str) else value[place]).strip().upper()
    except Exception:  # pydicom refuses garbage in many ways
        return ""


def _spacing(dataset: Any) -> tuple[float, float]:
    """Return millimeters per pixel at the depth of the body, NaN where it is not known, and else what to assume."""
    detector = _length(dataset, "ImagerPixelSpacing")
    source_detector, source_patient = (_length(dataset, f"DistanceSourceTo{what}") for what in ("Detector", "Patient"))
    if detector * source_patient > 0 and 0 < source_patient <= source_detector:
        return detector * source_patient / source_detector, math.nan
    magnification = _number(dataset, "EstimatedRadiographicMagnificationFactor")
    if detector > 0 and magnification >= 1:
        return detector / magnification, math.nan
    spacing = _length(dataset, "PixelSpacing")
    if spacing > 0 and _text(dataset, "PixelSpacingCalibrationType") in _CALIBRATED:
        return spacing, math.nan
    return math.nan, detector if detector > 0 else spacing


def _length(dataset: Any, key: str) -> float:
    value = _number(dataset, key)
    return value if 0 < value < _LONGEST_MM else math.nan


def _angles(dataset: Any, frame: int) -> tuple[float, float]:
    """Return the positioner angles of a frame, rad; NaN where they are not given."""
    found = []
    for axis in ("Primary", "Secondary"):
        angle = _number(dataset, f"Positioner{axis}Angle")
        change = _number(dataset, f"Positioner{axis}AngleIncrement", frame)
        angle += change if math.isfinite(change) else 0.0
        found.append(math.radians(angle) if abs(angle) <= 360 else math.nan)
    return found[0], found[1]


def _gray(stored: NDArray[np.int32], dataset: Any) -> NDArray[np.uint8]:
    """Return the display image of stored values, bones bright.

    Where the values tell the intensity of the beam (XA and RF: LIN and LOG; DX: by the sign), that decides what is
    bright; else the photometric interpretation.
    """
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    relation = _text(dataset, "PixelIntensityRelationship")
    sign = _number(dataset, "PixelIntensityRelationshipSign")
    if relation == "LIN" and sign != -1 and stored.min() >= 0 and stored.max() < 1 << 16:
        raw = stored.astype(np.uint16)
        return np.asarray(gray_table(raw, Window())[raw], np.uint8)
    try:
        values = apply_modality_lut(stored, dataset)
        shown = np.asarray(apply_voi_lut(values, dataset), float)
    except Exception as error:  # pydicom refuses garbage in many ways
        raise ImageError(f"the window or table of gray values cannot be applied ({type(error).__name__})") from error
    has_window = ("WindowCenter" in dataset or "VOILUTSequence" in dataset) and float(np.ptp(shown)) > 0
    gray = _scaled(shown) if has_window else _stretched(np.asarray(values, float))
    intensity = sign if abs(sign) == 1 else 1.0 if relation in ("LIN", "LOG") else math.nan
    dark_bones = intensity > 0 if math.isfinite(intensity) else _monochrome1(dataset)
    return 255 - gray if dark_bones else gray


def _monochrome1(dataset: Any) -> bool:
    return _text(dataset, "PhotometricInterpretation") == "MONOCHROME1"


def _scaled(shown: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return gray between the smallest and the largest value."""
    low, high = float(shown.min()), float(shown.max())
    return np.asarray(np.rint(255 * (shown - low) / (high - low)), np.uint8)


def _upright(gray: NDArray[np.uint8], dataset: Any) -> NDArray[np.uint8]:
    """Turn an image as clinicians read it: the patient's left, or back, on the right, and the head up."""
    right, down = (_text(dataset, "PatientOrientation", place)[:1] for place in (0, 1))
    if right in ("H", "F") and down in ("L", "R", "A", "P"):
        gray, right, down = gray.T, down, right
    if right == "R":
        gray = gray[:, ::-1]
    if down == "H":
        gray = gray[::-1]
    return np.ascontiguousarray(gray)
