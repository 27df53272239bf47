# SPDX-License-Identifier: Apache-2.0
"""CTs in one file (NIfTI, NRRD, MetaImage): their geometry is stated or refused, damage is noticed."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from carm_core.errors import PatientError
from carm_sim.patient.ct.files import (
    LANDMARK_FILE,
    LandmarkFile,
    ct_checksum,
    has_checksum,
    open_ct,
    read_ct,
    write_landmarks,
)
from carm_sim.patient.ct.source import inflated
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import load_patient

from . import dicom_series as made
from .ct_files import body, image_of, reoriented, write_nifti

RAS = np.diag([-1.0, -1, 1, 1]) @ made.block().transform_voxel_to_lps
TURNED = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])


def assert_is_block(path: Path) -> None:
    volume = read_ct(path)
    np.testing.assert_array_equal(volume.hu, made.block().hu)
    np.testing.assert_allclose(volume.transform_voxel_to_lps, made.block().transform_voxel_to_lps, atol=1e-3)


def turned(matrix: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    affine = RAS.copy()
    affine[:3, :3] = matrix @ affine[:3, :3]
    return affine


def nifti(
    path: Path, qform: np.ndarray | None = RAS, sform: np.ndarray | None = RAS, codes: tuple[int, int] = (1, 1),  # type: ignore[type-arg]
    unit: str = "mm", kind: type = nibabel.Nifti1Image, values: np.ndarray | None = None,  # type: ignore[type-arg]
) -> Path:  # fmt: skip
    image = kind(made.block().hu if values is None else values, RAS)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_whose_forms_agree_or_of_which_one_is_given(tmp_path: Path, name: str, kind: type) -> None:
    for codes in ((1, 1), (1, 0), (0, 1), (0, 2)):
        assert_is_block(nifti(tmp_path / name, codes=codes, kind=kind))


def test_nifti_that_does_not_say_how_it_lies(tmp_path: Path) -> None:
    with pytest.raises(PatientError, match="qform_code and sform_code are 0"):
        read_ct(nifti(tmp_path / "a.nii", codes=(0, 0)))


@pytest.mark.parametrize("sform", [turned(1.1 * np.eye(3)), turned(TURNED)])
def test_the_scanners_form_is_preferred_with_a_warning(
    tmp_path: Path, sform: np.ndarray, caplog: pytest.LogCaptureFixture  # type: ignore[type-arg]
) -> None:  # fmt: skip
    assert_is_block(nifti(tmp_path / "a.nii.gz", sform=sform, codes=(1, 4)))
    assert "the scanner's is taken (qform)" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sform": turned(np.diag([-1.0, 1, 1]))}, "contradict each other"),
        ({"sform": turned(TURNED), "codes": (2, 4)}, "contradict each other"),
        ({"sform": turned(1.1 * np.eye(3)), "codes": (0, 4)}, "two voxel spacings: 5 x 6 x 6 .pixdim. and 5.5 x"),
        ({"values": np.zeros((40, 34, 12, 3), np.int16)}, "three dimensions"),
        ({"values": np.zeros((40, 34, 12), np.complex64)}, "one number a voxel"),
    ],
)
def test_nifti_whose_geometry_contradicts_itself(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    path = nifti(tmp_path / "a.nii", **settings)  # type: ignore[arg-type]
    if settings.get("codes") == (0, 4):
        with path.open("r+b") as stream:
            stream.seek(80)
            stream.write(struct.pack("<3f", 5, 6, 6))
    with pytest.raises(PatientError, match=message):
        read_ct(path)


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1e-3), ("micron", 1e3), ("unknown", 1.0)])
def test_units_of_length_are_heeded(tmp_path: Path, unit: str, scale: float) -> None:
    affine = np.diag([scale, scale, scale, 1]) @ RAS
    assert_is_block(nifti(tmp_path / "a.nii", affine, affine, unit=unit))


@pytest.mark.parametrize(
    ("offset", "form", "values", "message"),
    [
        (42, "<3h", (30000, 30000, 30000), "absurd size"),
        (42, "<3h", (100, 100, 100), "cut off|contradict|absurd"),
        (42, "<3h", (-40, 34, 12), "absurd size"),
        (40, "<h", (99,), "three dimensions"),
        (70, "<h", (777,), "unknown data type 777"),
        (76, "<f", (7.0,), "qform is damaged"),
        (80, "<3f", (-5.0, 6.0, 6.0), "qform is damaged"),
        (80, "<3f", (0.0, 6.0, 6.0), "no voxel spacing"),
        (80, "<f", (float("nan"),), "no voxel spacing"),
        (108, "<f", (float("nan"),), "vox_offset"),
        (108, "<f", (1e7,), "cut off"),
        (112, "<f", (float("inf"),), "scaling"),
        (123, "<B", (5,), "unknown unit of length"),
        (256, "<f", (3.0,), "qform is damaged"),
        (256, "<f", (float("nan"),), "qform is damaged"),
        (280, "<f", (float("nan"),), "sform is damaged"),
        (344, "<4s", (b"ni1\0",), "pair of .hdr and .img"),
        (344, "<4s", (b"\0\0\0\0",), "Analyze"),
    ],
)
def test_nifti_headers_that_are_garbage(
    tmp_path: Path, offset: int, form: str, values: tuple[object, ...], message: str
) -> None:  # fmt: skip
    path = nifti(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(bytes(content))
    with pytest.raises(PatientError, match=message):
        read_ct(path)


def damaged(content: bytes) -> dict[str, bytes]:
    """A gzip stream, damaged in several ways."""
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0x5F
    wrong = bytearray(content)
    wrong[-6] ^= 0xFF
    return {
        "cut": content[: len(content) * 2 // 3],
        "without its end": content[:-8],
        "flipped": bytes(flipped),
        "wrong checksum": bytes(wrong),
        "wrong length": content[:-4] + b"\0\0\0\0",
        "more behind it": content + b"garbage",
        "far more inside": gzip.compress(gzip.decompress(content) + bytes(1 << 22)),
    }


@pytest.mark.parametrize("kind", list(damaged(gzip.compress(b""))))
def test_damaged_gzip_is_noticed(tmp_path: Path, kind: str) -> None:
    path = nifti(tmp_path / "a.nii.gz")
    stored = gzip.compress(gzip.decompress(path.read_bytes()), 0)
    path.write_bytes(damaged(stored)[kind])
    with pytest.raises(PatientError, match="damaged|cut off|more data"):
        read_ct(path)


def test_the_content_counts_not_the_name(tmp_path: Path) -> None:
    plain = nifti(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(plain)
    (tmp_path / "c.nii").write_bytes(gzip.compress(plain))
    (tmp_path / "d.nii.gz").write_bytes(gzip.compress(plain[:2000]) + gzip.compress(plain[2000:]))
    for name in ("b.nii.gz", "c.nii", "d.nii.gz"):
        assert_is_block(tmp_path / name)


def test_a_file_that_is_cut_says_the_whole_reason(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(PatientError, match="cut off: its header promises 32992 bytes, 2000 are there"):
        read_ct(path)


def test_nan_around_the_field_is_padding_and_inside_it_is_refused(tmp_path: Path) -> None:
    values = made.block().hu.astype(np.float32)
    values[:4] = values[-4:] = np.nan
    assert_is_block(nifti(tmp_path / "a.nii", values=values))
    values[20, 17, 6] = np.nan
    with pytest.raises(PatientError, match="NaN"):
        read_ct(nifti(tmp_path / "a.nii", values=values))


def written_by_itk(volume: Volume, path: Path, compress: bool) -> Path:
    sitk.WriteImage(image_of(volume), str(path), useCompression=compress)
    return path


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_nrrd_and_metaimage_come_out_as_itk_wrote_them(tmp_path: Path, name: str, compress: bool) -> None:
    straight = body()
    axes = np.array([[0, 1.0, 0], [0, 0, -1.0], [1.0, 0, 0]])
    turn = np.eye(4)
    turn[:3, :3] = TURNED
    oblique = reoriented(straight, axes)
    oblique = Volume(oblique.hu, turn @ oblique.transform_voxel_to_lps)
    volume = read_ct(written_by_itk(oblique, tmp_path / name, compress))
    np.testing.assert_array_equal(volume.hu, oblique.hu)
    np.testing.assert_allclose(volume.transform_voxel_to_lps, oblique.transform_voxel_to_lps, atol=1e-3)
    assert load_patient(str(tmp_path)).name == "a"


def edited(path: Path, change: Callable[[str], str], end: str) -> Path:
    """Change the header of a file in words."""
    content = path.read_bytes()
    at = content.index(end.encode()) + len(end)
    path.write_bytes(change(content[:at].decode()).encode() + content[at:])
    return path


def without(line: str) -> Callable[[str], str]:
    return lambda text: "\n".join(word for word in text.split("\n") if not word.startswith(line))


def instead(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("space:"), "no 'space'"),
        (without("space directions:"), "no 'space directions'"),
        (without("space origin:"), "no 'space origin'"),
        (instead("left-posterior-superior", "3D-right-handed"), "does not say where left and right are"),
        (instead("left-posterior-superior", "scanner-xyz"), "does not say where left and right are"),
        (instead("(5,0,0)", "(nan,0,0)"), "finite numbers"),
        (instead("(5,0,0)", "(0,0,0)"), "absurd voxel spacing"),
        (instead("(5,0,0)", "(5000,0,0)"), "absurd voxel spacing"),
        (instead("(5,0,0)", "none"), "finite numbers"),
        (instead("sizes: 40 34 12", "sizes: 40000 34000 12000"), "absurd size"),
        (instead("sizes: 40 34 12", "sizes: 40 34 1200"), "absurd|cut off"),
        (instead("type: short", "type: block"), "voxel type 'block'"),
        (instead("encoding: raw", "encoding: zrl"), "encoding 'zrl'"),
        (instead("kinds:", 'space units: "parsec" "parsec" "parsec"\nkinds:'), "unknown unit"),
        (instead("dimension: 3", "dimension: 4"), "three dimensions"),
    ],
)
def test_nrrd_headers_that_do_not_say_the_geometry(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    path = written_by_itk(made.block(), tmp_path / "a.nrrd", False)
    with pytest.raises(PatientError, match=message):
        read_ct(edited(path, change, "\n\n"))


def test_nrrd_in_other_spaces_units_and_packings(tmp_path: Path) -> None:
    def header(space: str, directions: str, origin: str, more: str = "") -> bytes:
        return (
            f"NRRD0004\ntype: int16\ndimension: 3\nspace: {space}\nsizes: 40 34 12\nspace directions: {directions}\n"
            f"space origin: {origin}\nendian: big\n{more}\n\n"
        ).encode()

    voxels = made.block().hu.astype(">i2").tobytes(order="F")
    directions, origin = "(-5,0,0) (0,-6,0) (0,0,6)", "(95.5,101.25,33)"
    for name, more, packed in (
        ("raw", "encoding: raw", voxels),
        ("gzip", "encoding: gzip", gzip.compress(voxels)),
        ("bzip2", "encoding: bzip2", bz2.compress(voxels)),
    ):
        (tmp_path / f"{name}.nrrd").write_bytes(header("RAS", directions, origin, more) + packed)
        assert_is_block(tmp_path / f"{name}.nrrd")
        (tmp_path / f"{name}.nrrd").write_bytes(header("RAS", directions, origin, more) + packed[:-9])
        with pytest.raises(PatientError, match="cut off|damaged"):
            read_ct(tmp_path / f"{name}.nrrd")
    units = 'space units: "m" "m" "m"\nencoding: raw'
    scaled = "(-.005,0,0) (0,-.006,0) (0,0,.006)", "(.0955,.10125,.033)"
    (tmp_path / "m.nrrd").write_bytes(header("right-anterior-superior", *scaled, units) + voxels)
    assert_is_block(tmp_path / "m.nrrd")
    (tmp_path / "d.nhdr").write_bytes(header("RAS", directions, origin, "encoding: raw\ndata file: d.raw"))
    with pytest.raises(PatientError, match=r"d.raw, which is not there"):
        read_ct(tmp_path / "d.nhdr")
    (tmp_path / "d.raw").write_bytes(voxels)
    assert_is_block(tmp_path / "d.nhdr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("ElementSpacing"), "no 'elementspacing'"),
        (without("TransformMatrix"), "no 'transformmatrix'"),
        (without("Offset"), "no 'offset'"),
        (without("DimSize"), "no 'dimsize'"),
        (instead("ElementSpacing = 5 6 6", "ElementSpacing = 0 6 6"), "no spacing"),
        (instead("ElementSpacing = 5 6 6", "ElementSpacing = -5 6 6"), "no spacing"),
        (instead("ElementSpacing = 5 6 6", "ElementSpacing = 5 6"), "3 finite numbers"),
        (instead("ElementSpacing = 5 6 6", "ElementSpacing = 5 6 nan"), "3 finite numbers"),
        (instead("TransformMatrix = 1 0 0 0 1 0", "TransformMatrix = 0 0 0 0 0 0"), "unit vectors"),
        (instead("TransformMatrix = 1 0 0 0 1 0", "TransformMatrix = 1 0 0 1 0 0"), "right angles"),
        (instead("DimSize = 40 34 12", "DimSize = 40000 34000 12000"), "absurd size"),
        (instead("DimSize = 40 34 12", "DimSize = 40 34 13"), "cut off"),
        (instead("NDims = 3", "NDims = 4"), "three dimensions"),
        (instead("MET_SHORT", "MET_SHORT_ARRAY"), "voxel type"),
        (instead("LOCAL", "LIST"), "several files"),
        (instead("LOCAL", "other.raw"), "which is not there"),
        (instead("BinaryData = True", "BinaryData = True\nElementNumberOfChannels = 3"), "one number a voxel"),
    ],
)
def test_metaimage_headers_that_do_not_say_the_geometry(
    tmp_path: Path, change: Callable[[str], str], message: str
) -> None:  # fmt: skip
    path = written_by_itk(made.block(), tmp_path / "a.mha", False)
    with pytest.raises(PatientError, match=message):
        read_ct(edited(path, change, "ElementDataFile = LOCAL\n"))


def test_damaged_compressed_metaimage(tmp_path: Path) -> None:
    path = written_by_itk(made.block(), tmp_path / "a.mha", True)
    content = path.read_bytes()
    for broken in (content[:-3], content[:-1] + bytes([content[-1] ^ 0xFF]), content[: len(content) - 60]):
        path.write_bytes(broken)
        with pytest.raises(PatientError, match="damaged|cut off"):
            read_ct(path)
    start = content.index(b"LOCAL\n") + 6
    path.write_bytes(content[:start] + zlib.compress(zlib.decompress(content[start:])[:-100]))
    with pytest.raises(PatientError, match="cut off"):
        read_ct(path)


def test_the_checksum_is_of_voxels_and_place_not_of_bytes(tmp_path: Path) -> None:
    volume = made.block()
    made.write(tmp_path / "series")
    flipped = Volume(np.ascontiguousarray(volume.hu[::-1]), volume.transform_voxel_to_lps @ np.array(
        [[-1.0, 0, 0, 39], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))  # fmt: skip
    write_nifti(flipped, tmp_path / "flipped.nii.gz")
    paths = [
        nifti(tmp_path / "a.nii"),
        nifti(tmp_path / "b.nii.gz"),
        written_by_itk(volume, tmp_path / "c.nrrd", True),
        written_by_itk(volume, tmp_path / "d.mha", False),
        tmp_path / "flipped.nii.gz",
        tmp_path / "series",
    ]
    assert len({ct_checksum(path) for path in paths}) == 1
    moved = RAS.copy()
    moved[0, 3] += 1.0
    hu = volume.hu.copy()
    hu[20, 17, 6] += 1
    others = [nifti(tmp_path / "e.nii", moved, moved), nifti(tmp_path / "f.nii", values=hu)]
    assert len({ct_checksum(path) for path in (*paths, *others)}) == 3


def test_landmarks_hold_for_the_same_ct_packed_again_and_old_files_stay_valid(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii.gz")
    write_landmarks(LandmarkFile(ct_checksum(path), {2: np.array([0.0, 0, 60])}, {}, ""), tmp_path / LANDMARK_FILE)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    assert set(load_patient(str(path)).landmarks_mm) == {2}

    assert has_checksum(open_ct(path), hashlib.sha256(path.read_bytes()).hexdigest())
    made.write(tmp_path / "series")
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in (tmp_path / "series").iterdir())
    assert has_checksum(open_ct(tmp_path / "series"), hashlib.sha256("".join(digests).encode()).hexdigest())
    assert not has_checksum(open_ct(path), "0" * 64)


def test_slices_whose_pixels_are_missing(tmp_path: Path) -> None:
    values = made.block().hu.copy()
    values[..., -2:] = 0
    assert (read_ct(nifti(tmp_path / "a.nii", values=values)).hu[..., -2:] == -1000).all()
    values[..., 4] = 0
    with pytest.raises(PatientError, match="1 of 12 slices inside the CT hold one value only .0 in slice 5."):
        read_ct(nifti(tmp_path / "a.nii", values=values))


def test_an_image_beside_a_series_needs_a_choice(tmp_path: Path) -> None:
    made.write(tmp_path)
    nifti(tmp_path / "a.nii")
    with pytest.raises(PatientError, match="holds a.nii and DICOM files"):
        load_patient(str(tmp_path))
    assert load_patient(str(tmp_path / "a.nii")).volume.shape == (40, 34, 12)
    assert load_patient(f"{tmp_path}?series={made.SERIES_UID}").volume.shape == (40, 34, 12)


@pytest.mark.parametrize("packed", [zlib.compress, gzip.compress, bz2.compress])
def test_a_compressed_file_is_not_unpacked_beyond_what_its_header_promises(packed: Callable[[bytes], bytes]) -> None:
    bomb = packed(bytes(100 << 20))
    tracemalloc.start()
    with pytest.raises(PatientError, match="holds more data than its header says"):
        inflated(Path("bomb"), bomb, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_members_and_padding_of_a_compressed_file() -> None:
    for packed in (gzip.compress, bz2.compress):
        assert inflated(Path("a"), packed(b"abc") + packed(b"de") + bytes(9), 5) == b"abcde"
        with pytest.raises(PatientError, match="ends early"):
            inflated(Path("a"), packed(b"abc")[:-1], 3)
        with pytest.raises(PatientError, match="damaged|ends early"):
            inflated(Path("a"), packed(b"abc") + b"x", 4)


def test_a_compressed_file_that_promises_too_much_is_refused_by_its_header(tmp_path: Path) -> None:
    """As a bomb of 25 MB does that unpacks to 11 GB."""
    path = nifti(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into("<3h", content, 42, 1000, 1000, 1000)
    struct.pack_into("<3f", content, 80, 2, 2, 2)
    struct.pack_into("<h", content, 252, 0)
    for row in range(3):
        struct.pack_into("<4f", content, 280 + 16 * row, *(2.0 * (column == row) for column in range(4)))
    bomb = tmp_path / "b.nii.gz"
    bomb.write_bytes(gzip.compress(content) + bytes(5 << 20))
    with pytest.raises(PatientError, match="no CT is compressed 200 times"):
        open_ct(bomb)


def test_a_ct_larger_than_the_free_memory_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written_by_itk(made.block(), tmp_path / "a.nrrd", False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    for file in (path, nifti(tmp_path / "a.nii.gz")):
        with pytest.raises(PatientError, match="of memory, 0.0 GiB are free"):
            open_ct(file)


@pytest.mark.parametrize("name", ["../d.raw", "/etc/passwd", "x/../../d.raw"])
def test_a_header_names_no_file_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = written_by_itk(made.block(), tmp_path / "in" / "a.mhd", False)
    (tmp_path / "in" / "a.raw").rename(tmp_path / "d.raw")
    path.write_text(path.read_text().replace("a.raw", name))
    with pytest.raises(PatientError, match="outside of the header's folder"):
        read_ct(path)


def test_what_is_no_file_is_refused() -> None:
    with pytest.raises(PatientError, match="neither a file nor a folder"):
        open_ct(Path("/dev/zero"))
