# SPDX-License-Identifier: Apache-2.0
"""NRRD and MetaImage (MHA, MHD): a header in words and a block of numbers, in one file or two.

ITK's readers put 1 mm, no rotation and the origin where such a header says nothing; here it must say.
NRRD: https://teem.sourceforge.net/nrrd/format.html; MetaImage: https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import PatientError, quoted
from carm_sim.patient.ct.source import (
    CtSource,
    check_affine,
    check_amount,
    check_memory,
    check_size,
    inflated,
    read_bytes,
)

_HEADER_LIMIT = 1 << 20
_MOST_EXTRA_BYTES = 64 << 20
"""Bytes that a file may hold beside its voxels."""
_MOST_PACKED = 50_000
"""More times than bzip2 makes anything smaller."""

_AXES = {
    "left": (0, 1), "right": (0, -1), "posterior": (1, 1), "anterior": (1, -1), "superior": (2, 1), "inferior": (2, -1),
}  # fmt: skip
_LETTERS = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "S": "superior", "I": "inferior"}
_MM_PER_UNIT = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "µm": 0.001}

_NRRD_TYPES = {
    "int8": "i1", "signed char": "i1", "int8_t": "i1", "uint8": "u1", "uchar": "u1", "unsigned char": "u1",
    "uint8_t": "u1", "short": "i2", "short int": "i2", "signed short": "i2", "signed short int": "i2", "int16": "i2",
    "int16_t": "i2", "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2", "uint16": "u2",
    "uint16_t": "u2", "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4", "uint": "u4",
    "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4", "float": "f4", "double": "f8",
}  # fmt: skip
_META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


@dataclass(frozen=True)
class _Block:
    """Where the numbers are and how they are packed."""

    file: Path
    offset: int
    packing: str
    dtype: str
    sizes: tuple[int, ...]

    def read(self) -> NDArray[Any]:
        """Return the values [i, j, k].

        Raises:
            PatientError: If the block is damaged or cut off.
        """
        expected = int(np.prod(self.sizes, dtype=object)) * np.dtype(self.dtype).itemsize
        offset = -expected if self.offset == -1 else self.offset
        content: bytes | bytearray = read_bytes(self.file, expected + _MOST_EXTRA_BYTES, offset)
        if self.packing == "compressed":
            content = inflated(self.file, bytes(content), expected)
        check_amount(self.file, len(content), expected)
        return np.frombuffer(content, self.dtype, count=expected // np.dtype(self.dtype).itemsize).reshape(
            self.sizes, order="F"
        )


def is_nrrd_content(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of an NRRD header."""
    return start.startswith(b"NRRD0")


def is_meta_content(start: bytes) -> bool:
    """Return whether the first bytes of a file are those of a MetaImage header."""
    return re.match(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=", start) is not None


def open_nrrd(path: Path) -> CtSource:
    """Check the header of an NRRD file.

    Raises:
        PatientError: If the header does not say how the image lies, or is damaged.
    """
    head, offset = _split(path, re.compile(rb"\r?\n\r?\n"))
    fields = _fields(path, head.split("\n")[1:], re.compile(r"([^:=]+):\s(.*)"))
    sizes = _sizes(path, fields, "sizes", "dimension")
    words = _need(path, fields, "space").lower()
    letters = words.upper()
    if len(letters) == 3 and set(letters) <= set(_LETTERS):
        words = "-".join(_LETTERS[letter] for letter in letters)
    axes = [_AXES.get(word) for word in words.split("-")]
    if len(axes) != 3 or sorted(axis[0] for axis in axes if axis) != [0, 1, 2]:
        raise PatientError(f"{path}: the header's space {quoted(words)} does not say where left and right are")
    to_lps = np.zeros((3, 3))
    for column, axis in enumerate(axes):
        if axis:
            to_lps[axis[0], column] = axis[1]
    columns = _vectors(path, fields, "space directions", 3)
    origin = _vectors(path, fields, "space origin", 1)[0]
    scale = np.array([_unit(path, unit) for unit in re.findall(r'"([^"]*)"', fields.get("space units", ""))] or [1.0])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = to_lps @ (np.array(columns).T * scale[:, None]), to_lps @ (origin * scale)
    kind = _dtype(path, _NRRD_TYPES, _need(path, fields, "type").lower(), fields.get("endian", "little"))
    packings = {"raw": "raw", **dict.fromkeys(("gzip", "gz", "bzip2", "bz2"), "compressed")}
    packing = _choice(path, "encoding", packings, _need(path, fields, "encoding").lower())
    if any(fields.get(name, "0") not in ("0", "") for name in ("line skip", "lineskip")):
        raise PatientError(f"{path}: a header with 'line skip' is not supported")
    skip = _whole(path, "byte skip", fields.get("byte skip", fields.get("byteskip", "0")))
    file = _beside(path, fields.get("data file", fields.get("datafile", "")))
    at = -1 if skip == -1 else skip + (offset if file == path else 0)
    return _source(path, _Block(file, at, packing, kind, sizes), affine, "NRRD")


def open_meta(path: Path) -> CtSource:
    """Check the header of a MetaImage file.

    Raises:
        PatientError: If the header does not say how the image lies, or is damaged.
    """
    head, offset = _split(path, re.compile(rb"ElementDataFile[ \t]*=[^\n]*\n?"), keep=True)
    fields = _fields(path, head.split("\n"), re.compile(r"([^=]+)=(.*)"))
    sizes = _sizes(path, fields, "dimsize", "ndims")
    if fields.get("elementnumberofchannels", "1") != "1" or fields.get("binarydata", "True").lower() == "false":
        raise PatientError(f"{path}: a CT has one number a voxel, in binary form")
    spacing = _numbers(path, fields, "elementspacing", 3)
    if (spacing <= 0).any():
        raise PatientError(f"{path}: ElementSpacing {fields['elementspacing']!r} is no spacing")
    rows = _numbers(path, fields, _first(fields, "transformmatrix", "orientation", "rotation"), 9).reshape(3, 3)
    if np.abs(np.linalg.norm(rows, axis=1) - 1).max() > 1e-3:
        raise PatientError(f"{path}: the rows of TransformMatrix are no unit vectors")
    origin = _numbers(path, fields, _first(fields, "offset", "position", "origin"), 3)
    scale = _unit(path, fields.get("distanceunits", "mm"))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rows.T * spacing * scale, origin * scale
    big = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "False")).lower() == "true"
    kind = _dtype(path, _META_TYPES, _need(path, fields, "elementtype").upper(), "big" if big else "little")
    packed = fields.get("compresseddata", "False").lower() == "true"
    name = _need(path, fields, "elementdatafile")
    local = name.upper() == "LOCAL"
    file = path if local else _beside(path, name)
    skip = _whole(path, "HeaderSize", fields.get("headersize", "0"))
    at = offset if local else skip
    return _source(path, _Block(file, at, "compressed" if packed else "raw", kind, sizes), affine, "MetaImage")


def _source(path: Path, block: _Block, affine: NDArray[np.float64], name: str) -> CtSource:
    check_affine(path, affine, block.sizes)
    expected = int(np.prod(block.sizes, dtype=object)) * np.dtype(block.dtype).itemsize
    size = block.file.stat().st_size
    if (size if block.packing == "raw" else size * _MOST_PACKED) < expected:
        check_amount(block.file, size, expected)
    check_memory(
        block.file, expected if block.packing == "raw" else size, expected, int(np.prod(block.sizes, dtype=object))
    )
    files = [path] if block.file == path else [path, block.file]
    return CtSource(path, files, lambda: (block.read(), affine), {"format": name})


def _split(path: Path, end: re.Pattern[bytes], keep: bool = False) -> tuple[str, int]:
    """Return the header's text and where it ends."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_HEADER_LIMIT)
    except OSError as error:
        raise PatientError(f"{path}: cannot be read ({error.strerror})") from error
    found = end.search(start)
    if found is None and keep:
        raise PatientError(f"{path}: the header has no 'ElementDataFile'")
    stop = found.end() if found else len(start)
    text = start[: stop if keep or not found else found.start()]
    return text.decode("utf-8", "replace").replace("\r", ""), stop


def _fields(path: Path, lines: Sequence[str], pattern: re.Pattern[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        found = pattern.fullmatch(line.strip())
        if found is None or line.startswith("#"):
            continue
        name, value = found.group(1).strip().lower(), found.group(2).strip()
        if fields.setdefault(name, value) != value:
            raise PatientError(
                f"{path}: the header gives {quoted(name)} twice: {quoted(fields[name])} and {quoted(value)}"
            )
    return fields


def _need(path: Path, fields: Mapping[str, str], name: str) -> str:
    if not fields.get(name):
        raise PatientError(f"{path}: the header has no {name!r}, which a CT needs for its place in the patient")
    return fields[name]


def _first(fields: Mapping[str, str], *names: str) -> str:
    return next((name for name in names if name in fields), names[0])


def _whole(path: Path, name: str, text: str) -> int:
    if not re.fullmatch(r"-1|\d{1,12}", text):
        raise PatientError(f"{path}: {name} {quoted(text)} is no count of bytes")
    return int(text)


def _numbers(path: Path, fields: Mapping[str, str], name: str, count: int) -> NDArray[np.float64]:
    text = _need(path, fields, name)
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise PatientError(f"{path}: the header's {name!r} needs {count} finite numbers, it has {quoted(text, 120)}")
    return values


def _vectors(path: Path, fields: Mapping[str, str], name: str, count: int) -> list[NDArray[np.float64]]:
    text = _need(path, fields, name)
    try:
        found = [np.array([float(x) for x in words.split(",")]) for words in re.findall(r"\(([^)]*)\)", text)]
    except ValueError:
        found = []
    if len(found) != count or any(vector.shape != (3,) or not np.isfinite(vector).all() for vector in found):
        raise PatientError(
            f"{path}: the header's {name!r} needs {count} x 3 finite numbers, it has {quoted(text, 120)}"
        )
    return found


def _sizes(path: Path, fields: Mapping[str, str], name: str, dimension: str) -> tuple[int, int, int]:
    words = _need(path, fields, name).split()
    if _need(path, fields, dimension) != "3" or len(words) != 3 or not all(re.fullmatch(r"\d{1,9}", w) for w in words):
        raise PatientError(
            f"{path}: a CT has three dimensions and one number a voxel, this image is {' x '.join(words)[:100]}"
            f" ({dimension} {fields[dimension]})"
        )
    sizes = [int(word) for word in words]
    check_size(path, sizes)
    return sizes[0], sizes[1], sizes[2]


def _unit(path: Path, text: str) -> float:
    if text.strip().lower() not in _MM_PER_UNIT:
        raise PatientError(f"{path}: unknown unit of length {quoted(text)} in the header")
    return _MM_PER_UNIT[text.strip().lower()]


def _choice(path: Path, name: str, known: Mapping[str, str], text: str) -> str:
    if text not in known:
        raise PatientError(f"{path}: {name} {quoted(text)} is not supported")
    return known[text]


def _dtype(path: Path, known: Mapping[str, str], text: str, endian: str) -> str:
    return ("<" if endian.lower() == "little" else ">") + _choice(path, "a voxel type", known, text)


def _beside(path: Path, name: str) -> Path:
    """Return the data file that a header names, in the header's folder; the header itself where it names none."""
    if not name:
        return path
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise PatientError(f"{path}: the voxels are said to be in {quoted(name)}, outside of the header's folder")
    file = path.parent / name
    if name.upper().startswith("LIST") or "%" in name:
        raise PatientError(f"{path}: a header whose voxels lie in several files is not supported")
    if not file.is_file():
        raise PatientError(f"{path}: the voxels are in {name[:200]}, which is not there")
    return file
