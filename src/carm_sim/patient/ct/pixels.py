# SPDX-License-Identifier: Apache-2.0
"""Stored pixel values of DICOM images, of every transfer syntax that CTs come in."""

from __future__ import annotations

import logging
import warnings
import zlib
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
_JPEG2000_START = b"\xff\x4f\xff\x51"
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Start of frame of JPEG (ITU-T T.81, table B.1) and of JPEG-LS (T.87)."""
_LONGEST_WRAPPER = 1024
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_MOST_INFLATED_BYTES = 256 << 20
_STEP_BYTES = 1 << 20


def read_dataset(file: Path, tags: list[str] | None = None) -> Any:
    """A DICOM data set; with tags, only those, without the pixels. Files without the DICOM preamble are read too.

    Raises:
        PatientError: If the file cannot be read.
    """
    import pydicom

    try:
        _check_deflated(file)
        with _quiet():
            return pydicom.dcmread(file, force=True, stop_before_pixels=tags is not None, specific_tags=tags)
    except PatientError:
        raise
    except OSError as error:
        raise PatientError(f"{file}: cannot be read ({error.strerror or one_line(error)})") from error
    except Exception as error:  # a damaged file fails in pydicom in many ways
        raise PatientError(f"{file}: not a readable DICOM file ({one_line(error)})") from error


def _check_deflated(file: Path) -> None:
    """Unpack a deflated data set in steps before pydicom unpacks it at once."""
    with file.open("rb") as stream:
        if _DEFLATED not in stream.read(4096):
            return
    from pydicom.filereader import _read_file_meta_info, read_preamble

    with file.open("rb") as stream:
        read_preamble(stream, force=True)
        if _read_file_meta_info(stream).get("TransferSyntaxUID") != _DEFLATED.decode():
            return
        unpacker, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while (packed := unpacker.unconsumed_tail or stream.read(_STEP_BYTES)) and not unpacker.eof:
            count += len(unpacker.decompress(packed, _STEP_BYTES))
            if count > _MOST_INFLATED_BYTES:
                raise PatientError(f"{file}: the data set unpacks to more than {_MOST_INFLATED_BYTES >> 20} MiB")


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
        coded = coded_size(packed)
        if coded != (dataset.Rows, dataset.Columns):
            said = "no size" if coded is None else f"{coded[1]} x {coded[0]}"
            raise PatientError(f"the compressed pixels are {said}, the header says {dataset.Columns} x {dataset.Rows}")
    plugin = _PLUGINS.get(str(syntax).removeprefix(_JPEG_FAMILY)[:2], "")
    return np.asarray(pixel_array(dataset, index=frame, raw=True, decoding_plugin=plugin))


def coded_size(packed: bytes) -> tuple[int, int] | None:
    """Return rows and columns that a JPEG, JPEG-LS or JPEG 2000 image says it has; None where it says none.

    A decoder allocates what the image says, whatever the DICOM header around it says.
    """
    at = packed[:_LONGEST_WRAPPER].find(_JPEG2000_START)
    if at >= 0 and not packed.startswith(b"\xff\xd8"):
        sizes = packed[at + 8 : at + 24]
        right, down, left, up = (int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 16, 4))
        return (down - up, right - left) if len(sizes) == 16 else None
    at = 2
    while packed[at : at + 1] == b"\xff" and len(packed) >= at + 9:
        marker, length = packed[at + 1], int.from_bytes(packed[at + 2 : at + 4], "big")
        if marker in _FRAME_MARKERS:
            return int.from_bytes(packed[at + 5 : at + 7], "big"), int.from_bytes(packed[at + 7 : at + 9], "big")
        at += 1 if marker == 0xFF else 2 + length
    return None


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
