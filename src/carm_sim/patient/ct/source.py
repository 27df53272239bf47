# SPDX-License-Identifier: Apache-2.0
"""A CT on disk whose geometry is known and whose voxels are not read yet; the limits that every format shares."""

from __future__ import annotations

import bz2
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from carm_core.errors import PatientError

MIN_VOXELS = 8
MAX_VOXELS = 2**30
SPACING_RANGE_MM = (0.05, 20.0)
FARTHEST_MM = 1e5
RIGHT_ANGLE_TOLERANCE = 1e-3

MOST_COMPRESSED = 200
"""Real CTs, padded ones too, compress to a hundredth at the very most; a stream of zeros to a thousandth."""
_SMALL_BYTES = 256 << 20
_WORKING_BYTES = 8
"""Memory for each voxel beside the file's content: scaled values, Hounsfield units, masks."""
_TRAILING_BYTES = 1 << 20
_STEP_BYTES = 16 << 20


@dataclass(frozen=True)
class CtSource:
    """A CT whose headers were checked.

    Attributes:
        path: What was asked for.
        files: The files that make it up, in order.
        read: Reads and decodes the voxels: values [i, j, k], integers or floating point, and the (4, 4) affine from
            voxel indices to LPS in mm. Raises PatientError when a file is damaged.
        facts: What the headers say, for people: name of the fact to its text.
    """

    path: Path
    files: Sequence[Path]
    read: Callable[[], tuple[NDArray[Any], NDArray[np.float64]]]
    facts: Mapping[str, str] = field(default_factory=dict)


def one_line(error: BaseException) -> str:
    """Return the text of an error in one line, or its type where it has none."""
    text = "; ".join(line.strip().rstrip(";") for line in str(error).splitlines() if line.strip())
    return text or type(error).__name__


def shown(values: Sequence[float] | NDArray[np.float64]) -> str:
    """Return the numbers as a person reads them: ``0.7 x 0.7 x 5``."""
    return " x ".join(f"{float(value):g}" for value in values)


def check_size(path: Path, sizes: Sequence[int]) -> None:
    """Check a size before anything is allocated for it.

    Raises:
        PatientError: If there are too few or too many voxels.
    """
    text = " x ".join(map(str, sizes))
    if min(sizes) < MIN_VOXELS:
        raise PatientError(f"{path}: absurd size {text}, at least {MIN_VOXELS} voxels are needed along each axis")
    count = 1
    for size in sizes:
        count *= int(size)
    if count > MAX_VOXELS:
        raise PatientError(f"{path}: absurd size {text}, a CT of more than {MAX_VOXELS:.1e} voxels is not read")


def check_affine(path: Path, affine: NDArray[np.float64], sizes: Sequence[int]) -> None:
    """Check that a voxel grid lies where a patient can lie.

    Args:
        path: For messages.
        affine: (4, 4), voxel indices to LPS in mm.
        sizes: Voxels along each axis.

    Raises:
        PatientError: If a number is not finite, a spacing is absurd, or the axes are not at right angles.
    """
    if not np.isfinite(affine).all():
        raise PatientError(f"{path}: the position or the spacing of the voxels is not finite")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = SPACING_RANGE_MM
    extent = spacing * np.array(sizes)
    if not ((spacing >= low) & (spacing <= high)).all() or (extent < 20.0).any() or (extent > 3000.0).any():
        raise PatientError(f"{path}: absurd voxel spacing {shown(spacing)} mm for size {' x '.join(map(str, sizes))}")
    if np.abs(affine[:3, 3]).max() > FARTHEST_MM:
        raise PatientError(f"{path}: absurd position of the first voxel ({shown(affine[:3, 3])} mm)")
    directions = affine[:3, :3] / spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > RIGHT_ANGLE_TOLERANCE:
        raise PatientError(f"{path}: the voxel axes are not at right angles (tilted gantry?); resample the CT first")


def laid_in_lps(values: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """A view of voxels [i, j, k] as [left, posterior, superior], each index growing that way (as near as it goes)."""
    from nibabel.orientations import apply_orientation, io_orientation

    return np.asarray(apply_orientation(values, io_orientation(affine)))


def read_bytes(path: Path, most_bytes: int, offset: int = 0) -> bytes:
    """Return the content of a file.

    Args:
        path: The file.
        most_bytes: No more than this is read.
        offset: Where it begins; negative: that far from the end.

    Raises:
        PatientError: If it is empty or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            if offset < 0:
                offset = max(0, stream.seek(0, os.SEEK_END) + offset)
            stream.seek(offset)
            content = stream.read(min(most_bytes, max(0, os.fstat(stream.fileno()).st_size - offset)))
    except OSError as error:
        raise PatientError(f"{path}: cannot be read ({error.strerror})") from error
    if not content:
        raise PatientError(f"{path}: the file is empty")
    return content


def check_memory(path: Path, packed_bytes: int, expected: int, voxels: int) -> None:
    """Check, before anything is allocated, that a CT can be unpacked and that it is worth it.

    Args:
        path: For messages.
        packed_bytes: Size of what holds the voxels, compressed or not.
        expected: Bytes that it unpacks to; equal to ``packed_bytes`` where nothing is compressed.
        voxels: Number of voxels.

    Raises:
        PatientError: If the header promises more than a CT of the file's size can hold, or this machine can.
    """
    if expected > _SMALL_BYTES and expected > MOST_COMPRESSED * packed_bytes:
        raise PatientError(
            f"{path}: the header promises {expected} bytes, the compressed file has {packed_bytes}:"
            f" no CT is compressed {MOST_COMPRESSED} times"
        )
    needed = packed_bytes + expected + voxels * _WORKING_BYTES
    available = int(psutil.virtual_memory().available)
    if needed > available:
        raise PatientError(
            f"{path}: the CT needs {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are free"
        )


def inflated(path: Path, packed: bytes, expected: int) -> bytearray:
    """Decompress a gzip, zlib or bzip2 stream to its end, so that its checksum is looked at.

    Args:
        path: For messages.
        packed: The stream; a gzip or bzip2 stream may have several members.
        expected: Bytes that the header promises.

    Raises:
        PatientError: If the stream is damaged, ends early, or holds another amount than promised.
    """
    content, limit = bytearray(), expected + _TRAILING_BYTES
    left = memoryview(packed)
    while len(left) and len(content) <= limit and any(left[:_TRAILING_BYTES]):
        stream: Any = bz2.BZ2Decompressor() if bytes(left[:3]) == b"BZh" else zlib.decompressobj(47)
        bits: bytes | memoryview = left
        try:
            while not stream.eof and len(content) <= limit:
                before = len(content)
                content += stream.decompress(bits, min(_STEP_BYTES, limit - len(content) + 1))
                bits = b"" if isinstance(stream, bz2.BZ2Decompressor) else stream.unconsumed_tail
                if len(content) == before and not len(bits) and not stream.eof:
                    raise PatientError(f"{path}: the compressed data ends early (the file is cut off)")
        except (zlib.error, OSError, ValueError, EOFError) as error:
            reason = "its checksum does not fit" if re.search("(data|length) check", str(error)) else one_line(error)
            raise PatientError(f"{path}: the compressed data is damaged ({reason})") from error
        left = memoryview(stream.unused_data)
    check_amount(path, len(content), expected)
    return content


def check_amount(path: Path, count: int, expected: int) -> None:
    """Check that a file holds about as many bytes as its header promises.

    Raises:
        PatientError: If it holds fewer, or far more.
    """
    if count < expected:
        raise PatientError(f"{path}: the file is cut off: its header promises {expected} bytes, {count} are there")
    if count > expected + _TRAILING_BYTES:
        raise PatientError(f"{path}: the file holds more data than its header says ({expected} bytes)")
