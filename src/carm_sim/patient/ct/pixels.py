# SPDX-License-Identifier: Apache-2.0
"""Stored pixel values of DICOM images, of every transfer syntax that CTs come in."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import PatientError
from carm_sim.patient.ct.source import one_line

_JPEG_FAMILY = "1.2.840.10008.1.2.4."
_PLUGINS = {"80": "pyjpegls", "81": "pyjpegls", "90": "pylibjpeg", "91": "pylibjpeg", "20": "pylibjpeg"}
"""Decoder by the start of the rest of the transfer syntax; JPEG is left to the one that there is (GDCM)."""
_PYDICOM_PREFIX = "Unable to decode as exceptions were raised by all available plugins:; "
_END_OF_IMAGE = b"\xff\xd9"


def read_dataset(file: Path, tags: list[str] | None = None) -> Any:
    """A DICOM data set; with tags, only those, without the pixels. Files without the DICOM preamble are read too.

    Raises:
        PatientError: If the file cannot be read.
    """
    import pydicom

    try:
        with _quiet():
            return pydicom.dcmread(file, force=True, stop_before_pixels=tags is not None, specific_tags=tags)
    except OSError as error:
        raise PatientError(f"{file}: cannot be read ({error.strerror or one_line(error)})") from error
    except Exception as error:  # a damaged file fails in pydicom in many ways
        raise PatientError(f"{file}: not a readable DICOM file ({one_line(error)})") from error


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Keep pydicom and the decoders from writing to the terminal and the log; gives what pydicom warned of."""
    said: list[str] = []
    loggers = [logging.getLogger(name) for name in ("pydicom", "openjpeg", "pylibjpeg")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
            said += [str(warning.message) for warning in caught]
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class PixelReader:
    """Decodes frames; keeps the file that was read last."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._file: Path | None = None
        self._dataset: Any = None
        _quiet_gdcm()

    def stored(self, file: Path, frame: int) -> NDArray[np.int32]:
        """Stored values of a frame, shape (rows, columns), with the sign that PixelRepresentation says.

        Raises:
            PatientError: If the pixels are missing, cut off or damaged, or cannot be decoded here.
        """
        if file != self._file:
            self._dataset, self._file = read_dataset(file), file
        dataset = self._dataset
        if "PixelData" not in dataset:
            raise PatientError(f"{file}: the image has no pixel data (the file is cut off?)")
        try:
            with _quiet() as said:
                values = _decoded(dataset, frame)
                bits = int(dataset.BitsStored), int(dataset.HighBit), bool(dataset.PixelRepresentation)
        except PatientError as error:
            raise PatientError(f"{file}: {error}") from error
        except Exception as error:  # each decoder fails in its own way
            reason = one_line(error).removeprefix(
                "Unable to decode as exceptions were raised by all available plugins:; "
            )
            raise PatientError(f"{file}: the pixels cannot be decoded ({reason})") from error
        if damage := [text for text in said if "RLE" in text]:
            raise PatientError(f"{file}: the compressed pixels are damaged ({damage[0]})")
        if values.shape != (dataset.Rows, dataset.Columns) or values.dtype.kind not in "iu":
            raise PatientError(f"{file}: the pixels are {values.shape} {values.dtype}, not one whole number each")
        return _signed(values, *bits)


def _decoded(dataset: Any, frame: int) -> NDArray[Any]:
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not hasattr(dataset, "file_meta"):
        from pydicom.dataset import FileMetaDataset

        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    syntax = dataset.file_meta.TransferSyntaxUID
    frames = int(dataset.get("NumberOfFrames") or 1)
    if str(syntax).startswith(_JPEG_FAMILY):
        packed = get_frame(dataset.PixelData, frame, number_of_frames=frames)
        if not packed.rstrip(b"\0").endswith(_END_OF_IMAGE):
            raise PatientError(f"the compressed pixels end early ({syntax.name} without its end marker)")
    plugin = _PLUGINS.get(str(syntax).removeprefix(_JPEG_FAMILY)[:2], "")
    return np.asarray(pixel_array(dataset, index=frame, raw=True, decoding_plugin=plugin))


def _signed(values: NDArray[Any], stored: int, high: int, signed: bool) -> NDArray[np.int32]:
    """Return the sign and shift as BitsStored, HighBit and PixelRepresentation say.

    Values whose upper bits are 0 get their sign from the highest stored bit; values that use the upper bits (padding
    of some scanners, values beyond the stored bits) stay what they are.
    """
    wide = values.astype(np.int64)
    width = 8 * values.dtype.itemsize
    if not 0 < stored <= width or not stored - 1 <= high < width:
        raise PatientError(f"absurd depth: {stored} bits stored, the highest is {high}, of {width}")
    if high != stored - 1:
        wide = (wide & ((1 << width) - 1)) >> (high + 1 - stored) & ((1 << stored) - 1)
    if signed:
        negative = (wide >= 1 << (stored - 1)) & (wide < 1 << stored)
        wide = np.where(negative, wide - (1 << stored), wide)
    return wide.astype(np.int32)


def _quiet_gdcm() -> None:
    """GDCM writes to the terminal; what it cannot read is told by an exception too."""
    try:
        import gdcm
    except ImportError:
        return
    for silence in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff, gdcm.Trace.DebugOff):
        silence()
