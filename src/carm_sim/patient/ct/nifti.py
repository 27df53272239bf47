# SPDX-License-Identifier: Apache-2.0
"""NIfTI images as CT volumes."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import PatientError
from carm_sim.patient.ct.source import (
    CtSource,
    check_affine,
    check_amount,
    check_memory,
    check_size,
    inflated,
    one_line,
    read_bytes,
    shown,
)

_GZIP = b"\x1f\x8b"
_HEADER_BYTES = 544
_MOST_DEFLATED = 1100
"""Most times that deflate makes anything smaller."""
_MOST_EXTRA_BYTES = 64 << 20
"""Bytes that a file may hold beside its voxels: extensions, and what does not compress."""
_MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0\r\n\x1a\n")}
_PAIR = (b"ni1\0", b"ni2\0")
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Spatial units of ``xyzt_units``. Many writers leave it 0 (unknown): NIfTI is in mm unless it says otherwise."""
_SCANNER = 1
_SCALE_TOLERANCE = 0.01
_CODES = {0: "unknown", 1: "scanner", 2: "aligned", 3: "Talairach", 4: "MNI template", 5: "template"}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_logger = logging.getLogger(__name__)


def is_nifti_content(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a NIfTI image, a compressed one or a header of another kind."""
    return start[:2] == _GZIP or _sizeof(start) is not None


def open_nifti(path: Path) -> CtSource:
    """Check the header of a NIfTI file.

    Returns:
        The CT; the voxels are decoded to the end of the file, so that a checksum at its end is looked at.

    Raises:
        PatientError: If the header does not say, or says twice, how the image lies; if it is no NIfTI header; if it
            promises more than the file holds.
    """
    start = _beginning(path)
    header = _header(path, _start(path, start))
    sizes = _sizes(path, header)
    affine = _affine(path, header)
    check_affine(path, affine, sizes)
    expected = int(header["vox_offset"]) + int(np.prod(sizes, dtype=object)) * header.get_data_dtype().itemsize
    size, packed = path.stat().st_size, start[:2] == _GZIP
    if not packed or size * _MOST_DEFLATED < expected:
        check_amount(path, size, expected)
    check_memory(path, size, expected, int(np.prod(sizes, dtype=object)))

    def read() -> tuple[NDArray[Any], NDArray[np.float64]]:
        content: bytes | bytearray = read_bytes(path, expected + _MOST_EXTRA_BYTES)
        if packed:
            content = inflated(path, bytes(content), expected)
        return _voxels(path, content).reshape(sizes, order="A"), affine

    return CtSource(path, [path], read, {"format": "NIfTI"})


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(1 << 16)
    except OSError as error:
        raise PatientError(f"{path}: cannot be read ({error.strerror})") from error


def _start(path: Path, start: bytes) -> bytes:
    if start[:2] != _GZIP:
        return start[:_HEADER_BYTES]
    try:
        return zlib.decompressobj(47).decompress(start, _HEADER_BYTES)
    except zlib.error as error:
        raise PatientError(f"{path}: the compressed data is damaged ({one_line(error)})") from error


def _sizeof(start: bytes) -> int | None:
    sizes = (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    return next((size for size in sizes if size in _MAGIC), None)


def _header(path: Path, start: bytes) -> Any:
    import nibabel
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    size = _sizeof(start)
    if size is None:
        raise PatientError(f"{path}: not a NIfTI image (its header does not start like one)")
    at, magic = _MAGIC[size]
    found = start[at : at + len(magic)]
    if found != magic:
        if found[:4] in _PAIR:
            raise PatientError(f"{path}: a NIfTI pair of .hdr and .img; make one .nii file of it")
        raise PatientError(
            f"{path}: an Analyze header, which does not say where left and right are; convert the CT to NIfTI anew"
        )
    kind = nibabel.Nifti1Header if size == 348 else nibabel.Nifti2Header
    try:
        return kind(start[:size], check=False)
    except (HeaderDataError, WrapStructError, ValueError) as error:
        raise PatientError(f"{path}: not a readable NIfTI header ({one_line(error)})") from error


def _sizes(path: Path, header: Any) -> tuple[int, int, int]:
    from nibabel.spatialimages import HeaderDataError

    try:
        kind = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise PatientError(f"{path}: unknown data type {int(header['datatype'])} in the header") from error
    count = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1 : count + 1]] if 1 <= count <= 7 else []
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3 or kind.kind not in "iuf":
        raise PatientError(
            f"{path}: a CT has three dimensions and one number a voxel,"
            f" this image is {' x '.join(map(str, sizes)) or 'of no size'} {kind}"
        )
    check_size(path, sizes)
    if np.isinf([header["scl_slope"], header["scl_inter"]]).any():
        raise PatientError(f"{path}: absurd scaling in the header (scl_slope or scl_inter is infinite)")
    offset = float(header["vox_offset"])
    if not 348 <= offset < 1 << 30:
        raise PatientError(f"{path}: absurd start of the voxels in the file (vox_offset {offset:g})")
    return sizes[0], sizes[1], sizes[2]


def _affine(path: Path, header: Any) -> NDArray[np.float64]:
    """Return the affine from voxels to LPS in mm, from the one or two that the header gives."""
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MM_PER_UNIT:
        raise PatientError(f"{path}: unknown unit of length in the header (xyzt_units {int(header['xyzt_units'])})")
    spacing = np.abs(np.asarray(header["pixdim"][1:4], float))
    if not np.isfinite(spacing).all() or (spacing == 0).any():
        raise PatientError(f"{path}: the header gives no voxel spacing (pixdim {shown(header['pixdim'][1:4])})")
    codes = {name: int(header[f"{name}_code"]) for name in ("qform", "sform")}
    if not any(code > 0 for code in codes.values()):
        raise PatientError(
            f"{path}: the header does not say where left and right, front and back are"
            " (qform_code and sform_code are 0)"
        )
    found: dict[str, NDArray[np.float64]] = {}
    for name, code in codes.items():
        if code > 0:
            found[name] = _form(path, header, name)
    chosen = _chosen(path, found, codes, np.array(header["dim"][1:4]), spacing)
    scale = np.linalg.norm(found[chosen][:3, :3], axis=0) / spacing
    if np.abs(scale - 1).max() > _SCALE_TOLERANCE:
        raise PatientError(
            f"{path}: the header gives two voxel spacings: {shown(spacing)} (pixdim) and"
            f" {shown(scale * spacing)} ({chosen}, {_code(codes[chosen])})"
        )
    if codes[chosen] > 2:
        _logger.warning(
            "%s: its positions are those of a template, not of a scanner (%s %s)", path, chosen, _code(codes[chosen])
        )
    affine = _RAS_TO_LPS @ found[chosen]
    affine[:3] *= _MM_PER_UNIT[unit]
    return affine


def _form(path: Path, header: Any, name: str) -> NDArray[np.float64]:
    from nibabel.spatialimages import HeaderDataError

    if name == "qform" and float(header["pixdim"][0]) not in (-1.0, 0.0, 1.0):
        raise PatientError(f"{path}: the header's qform is damaged (pixdim[0] is {float(header['pixdim'][0]):g})")
    try:
        form = np.array(header.get_qform() if name == "qform" else header.get_sform(), float)
    except (ValueError, HeaderDataError) as error:
        raise PatientError(f"{path}: the header's {name} is damaged ({one_line(error)})") from error
    if not np.isfinite(form).all() or abs(np.linalg.det(form[:3, :3])) < 1e-12:
        raise PatientError(f"{path}: the header's {name} is damaged (not a finite, invertible matrix)")
    return form


def _chosen(
    path: Path, found: dict[str, NDArray[np.float64]], codes: dict[str, int], sizes: NDArray[Any],
    spacing: NDArray[np.float64],
) -> str:  # fmt: skip
    """Return which of qform and sform holds: either where they agree, else the scanner's."""
    if len(found) == 1:
        return next(iter(found))
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*sizes - 1, 1.0]
    apart = np.abs(corners @ (found["qform"] - found["sform"]).T).max()
    if apart <= 0.25 * spacing.min():
        return "sform"
    scanners = [name for name in found if codes[name] == _SCANNER]
    said = f"qform ({_code(codes['qform'])}) and sform ({_code(codes['sform'])})"
    if len(scanners) != 1:
        raise PatientError(f"{path}: the header says in two ways how the image lies: {said} contradict each other")
    _logger.warning("%s: %s differ; the scanner's is taken (%s)", path, said, scanners[0])
    return scanners[0]


def _code(code: int) -> str:
    return f"code {code}, {_CODES.get(code, 'unknown')}"


def _voxels(path: Path, content: bytes | bytearray) -> NDArray[Any]:
    """The values, scaled as the header says. nibabel reads them, since ITK's reader silently turns NaN into 0."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    kind = nibabel.Nifti1Image if _sizeof(bytes(content[:4])) == 348 else nibabel.Nifti2Image
    try:
        return np.asanyarray(kind.from_bytes(content).dataobj)
    except (ImageFileError, HeaderDataError, OSError, ValueError, MemoryError) as error:
        raise PatientError(f"{path}: not a readable CT ({one_line(error)})") from error
