# SPDX-License-Identifier: Apache-2.0
"""DICOM series: geometry that is missing, garbage or doubled is refused by file name; which series is meant."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from carm_core.errors import PatientError
from carm_sim.patient.ct.files import read_ct
from carm_sim.patient_loader import load_patient

from . import dicom_series as made

Change = Callable[[int, Dataset], object]


def assert_is_block(path: Path | str) -> None:
    volume = load_patient(str(path)).volume
    np.testing.assert_array_equal(volume.hu, made.block().hu)
    np.testing.assert_allclose(volume.transform_voxel_to_lps, made.block().transform_voxel_to_lps, atol=1e-3)


def only(k: int, change: Callable[[Dataset], object]) -> Change:
    return lambda index, data: change(data) if index == k else None


def put(keyword: str, value: object) -> Callable[[Dataset], object]:
    def change(data: Dataset) -> None:
        if value is None:
            delattr(data, keyword)
        elif isinstance(value, bytes):
            made.set_raw(data, keyword, value)
        else:
            setattr(data, keyword, value)

    return change


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("PixelSpacing", None, "004.dcm: .*PixelSpacing is missing"),
        ("PixelSpacing", b"", "004.dcm: .*PixelSpacing is missing"),
        ("PixelSpacing", [0, 0], r"004.dcm: .*PixelSpacing 0\\0"),
        ("PixelSpacing", b"-8\\8 ", r"004.dcm: .*-8\\8"),
        ("PixelSpacing", b"8,0\\8,0 ", r"004.dcm: PixelSpacing is 8,0\\8,0, not 2 finite numbers"),
        ("PixelSpacing", b"nan\\8 ", "004.dcm: PixelSpacing"),
        ("PixelSpacing", b"1e9\\8 ", "004.dcm: .*PixelSpacing"),
        ("PixelSpacing", b"8 ", "004.dcm: PixelSpacing is 8"),
        ("PixelSpacing", [4, 4], r"PixelSpacing is 4\\4 in 004.dcm, 6\\5 in the other 11"),
        ("ImagePositionPatient", b"1\\nan\\3", r"004.dcm: ImagePositionPatient is 1\\nan\\3"),
        ("ImagePositionPatient", b"1\\2 ", "004.dcm: ImagePositionPatient"),
        ("ImagePositionPatient", b"1e9\\2\\3 ", "004.dcm: absurd ImagePositionPatient"),
        ("ImagePositionPatient", ["-92.5", "-101.25", "57"], "004.dcm lies 3.00 mm aside"),
        ("ImageOrientationPatient", b"0\\0\\0\\0\\0\\0 ", "004.dcm: ImageOrientationPatient"),
        ("ImageOrientationPatient", [-1, 0, 0, 0, 1, 0], "differ in orientation: .*004.dcm"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0, -1], "004.dcm.*localizer"),
        ("FrameOfReferenceUID", "1.2.8", "FrameOfReferenceUID: 004.dcm"),
        ("StudyInstanceUID", "1.2.8", "StudyInstanceUID: 004.dcm"),
        ("PatientID", "J2", "2 patients.*004.dcm"),
        ("RescaleSlope", b"nan ", "004.dcm: RescaleSlope is nan"),
        ("RescaleSlope", "0", "004.dcm: absurd rescale slope 0"),
        ("RescaleType", "ED", "004.dcm: .*RescaleType ED"),
        ("Rows", 60000, r"Rows\\Columns is 60000\\40 in 004.dcm"),
        ("SamplesPerPixel", 3, "004.dcm: a color image"),
        ("PixelData", bytes(500), "004.dcm: .*pixel data is less than expected"),
        ("PixelData", None, "004.dcm: the image has no pixel data"),
    ],
)
def test_one_slice_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, keyword: str, value: object, message: str
) -> None:  # fmt: skip
    made.write(tmp_path, only(4, put(keyword, value)))
    with pytest.raises(PatientError, match=message):
        read_ct(tmp_path)


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"])
def test_a_series_that_does_not_say_its_geometry(tmp_path: Path, keyword: str) -> None:
    made.write(tmp_path, lambda k, data: (delattr(data, keyword), setattr(data, "ImagerPixelSpacing", [8, 8])))
    with pytest.raises(PatientError, match=f"000.dcm: .*{keyword}"):
        read_ct(tmp_path)


def test_a_size_that_is_absurd_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    made.write(tmp_path, lambda k, data: (put("Rows", 60000)(data), put("Columns", 60000)(data)))
    with pytest.raises(PatientError, match="absurd size 60000 x 60000 x 12"):
        read_ct(tmp_path)


def test_a_small_tilt_is_not_overlooked(tmp_path: Path) -> None:
    def tilt(k: int, data: Dataset) -> None:
        x, y, z = map(float, data.ImagePositionPatient)
        data.ImagePositionPatient = [x, round(y + 0.1 * k, 3), z]

    made.write(tmp_path, tilt)
    with pytest.raises(PatientError, match=r"tilted gantry \(1.0 deg\)"):
        read_ct(tmp_path)


def other(series: str, **elements: object) -> Change:
    def change(k: int, data: Dataset) -> None:
        data.SeriesInstanceUID = series
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword, value in elements.items():
            setattr(data, keyword, value)

    return change


def test_the_ct_among_pet_is_meant(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made.write(tmp_path)
    made.write(tmp_path, other("1.2.3.2", Modality="PT", SeriesDescription="PET"), "pt")
    assert_is_block(tmp_path)
    assert "the CT taken is series 2: 12 CT images" in caplog.text
    assert "left out: PET" in caplog.text
    with pytest.raises(PatientError, match="modality PT, not CT"):
        load_patient(f"{tmp_path}?series=1.2.3.2")


def test_two_series_of_equal_claim_need_a_choice(tmp_path: Path) -> None:
    made.write(tmp_path)
    made.write(tmp_path, other("1.2.3.2", SeriesDescription="Lung", PixelData=bytes(2720)), "lung")
    with pytest.raises(PatientError, match=r"2 CT series.*\?series=1.2.3.1; Lung.*\?series=1.2.3.2"):
        load_patient(str(tmp_path))
    assert_is_block(f"{tmp_path}?series=1.2.3.1")
    with pytest.raises(PatientError, match=r"no series 1.2.3.7; there are .*series=1.2.3.1"):
        load_patient(f"{tmp_path}?series=1.2.3.7")


def test_two_patients_need_a_choice(tmp_path: Path) -> None:
    made.write(tmp_path)
    made.write(tmp_path, other("1.2.3.2", PatientID="J2", PatientName="Roe^Max"), "b")
    with pytest.raises(PatientError, match=r"2 patients.*Doe\^Jane.*Roe\^Max"):
        load_patient(str(tmp_path))
    assert_is_block(f"{tmp_path}?series=1.2.3.1")


def test_copies_are_dropped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made.write(tmp_path)
    for file in sorted(tmp_path.glob("*.dcm")):
        shutil.copy(file, tmp_path / f"copy_{file.name}")
    data = pydicom.dcmread(tmp_path / "copy_003.dcm")
    data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(tmp_path / "copy_003.dcm")
    assert_is_block(tmp_path)
    assert "12 slices are there twice" in caplog.text
    assert "copy_000.dcm" in caplog.text


def test_different_slices_at_one_position(tmp_path: Path) -> None:
    made.write(tmp_path)
    data = pydicom.dcmread(tmp_path / "003.dcm")
    data.PixelData = bytes(len(data.PixelData))
    made.save(data, tmp_path / "x.dcm")
    with pytest.raises(PatientError, match="different slices at the same position .*003.dcm and x.dcm"):
        read_ct(tmp_path)


@pytest.mark.parametrize("shift_mm", [0.0, 3.0])
def test_two_phases_in_one_series(tmp_path: Path, shift_mm: float) -> None:
    def phase(k: int, data: Dataset) -> None:
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.AcquisitionNumber = 2
        x, y, z = map(float, data.ImagePositionPatient)
        data.ImagePositionPatient = [x, y, z + shift_mm]

    made.write(tmp_path, lambda k, data: setattr(data, "AcquisitionNumber", 1))
    made.write(tmp_path, phase, "b")
    with pytest.raises(PatientError, match="several phases.*000.dcm .AcquisitionNumber 1.*b000.dcm"):
        read_ct(tmp_path)


def test_two_phases_that_nothing_tells_apart(tmp_path: Path) -> None:
    made.write(tmp_path)
    made.write(tmp_path, other(made.SERIES_UID, PixelData=bytes(2720)), "b")
    with pytest.raises(PatientError, match=r"several phases.*same position \(12 of 12\)"):
        read_ct(tmp_path)


def test_a_localizer_under_the_series_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made.write(tmp_path)
    scout = made.slice_of(made.block(), 0)
    scout.ImageType, scout.ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [1, 0, 0, 0, 0, -1]
    made.save(scout, tmp_path / "scout.dcm")
    assert_is_block(tmp_path)
    assert "a localizer: scout.dcm" in caplog.text


def test_a_folder_of_folders_is_searched(tmp_path: Path) -> None:
    made.write(tmp_path / "DICOM" / "S0001")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "README.TXT").write_text("viewer")
    (tmp_path / "DICOM" / "S0001" / "._000.dcm").write_bytes(b"\0\5\x16\7")
    assert_is_block(tmp_path)
    with pytest.raises(PatientError, match="one slice of a DICOM series; give its folder, .*S0001"):
        load_patient(str(tmp_path / "DICOM" / "S0001" / "003.dcm"))


@pytest.mark.parametrize("length", [0, 200, 400, 700, 1000])
def test_a_last_slice_that_is_cut_off_is_not_overlooked(tmp_path: Path, length: int) -> None:
    made.write(tmp_path)
    last = tmp_path / "011.dcm"
    last.write_bytes(last.read_bytes()[:length])
    with pytest.raises(PatientError, match="011.dcm"):
        read_ct(tmp_path)


@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_a_last_slice_of_zeros_is_not_overlooked(tmp_path: Path, suffix: str) -> None:
    made.write(tmp_path)
    (tmp_path / "011.dcm").unlink()
    (tmp_path / f"011{suffix}").write_bytes(bytes(1000))
    with pytest.raises(PatientError, match="011.*empty"):
        read_ct(tmp_path)


def packed(syntax: str, bits: int = 16, unsigned: bool = False) -> Change:
    def change(k: int, data: Dataset) -> None:
        data.BitsStored, data.HighBit = bits, bits - 1
        if unsigned:
            data.PixelRepresentation, data.RescaleIntercept = 0, "-1024"
            data.PixelData = (made.block().hu[:, :, k].T + 1024).astype("<u2").tobytes()
        data.compress(syntax, generate_instance_uid=False)

    return change


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_compressed_pixels(tmp_path: Path, syntax: str, bits: int, unsigned: bool) -> None:
    made.write(tmp_path, packed(syntax, bits, unsigned))
    assert_is_block(tmp_path)


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("name", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEG2000Lossless"])
def test_pixels_of_another_encoder(tmp_path: Path, name: str, unsigned: bool) -> None:
    import gdcm

    def change(k: int, data: Dataset) -> None:
        if unsigned:
            data.PixelRepresentation, data.RescaleIntercept = 0, "-1024"
            data.PixelData = (made.block().hu[:, :, k].T + 1024).astype("<u2").tobytes()

    made.write(tmp_path, change)
    for file in tmp_path.iterdir():
        reader, writer, to = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(str(file))
        assert reader.Read()
        to.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        to.SetInput(reader.GetImage())
        assert to.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(to.GetOutput())
        writer.SetFileName(str(file))
        assert writer.Write()
    assert_is_block(tmp_path)


def test_deflated_series_and_one_that_is_cut(tmp_path: Path) -> None:
    def deflated(k: int, data: Dataset) -> None:
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    made.write(tmp_path, deflated)
    assert_is_block(tmp_path)
    (tmp_path / "005.dcm").write_bytes((tmp_path / "005.dcm").read_bytes()[:-20])
    with pytest.raises(PatientError, match="005.dcm"):
        read_ct(tmp_path)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("whole_file", [True, False])
def test_compressed_pixels_that_are_cut_off(tmp_path: Path, syntax: str, whole_file: bool) -> None:
    from pydicom.encaps import encapsulate, get_frame

    made.write(tmp_path, packed(syntax))
    file = tmp_path / "005.dcm"
    if whole_file:
        file.write_bytes(file.read_bytes()[:-40])
    else:
        data = pydicom.dcmread(file)
        frame = get_frame(data.PixelData, 0, number_of_frames=1)
        data.PixelData = encapsulate([frame[: len(frame) * 2 // 3]])
        data.save_as(file)
    with pytest.raises(PatientError, match="005.dcm"):
        read_ct(tmp_path)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_compressed_image_that_is_larger_than_its_header_says(tmp_path: Path, syntax: str) -> None:
    """A decoder would allocate what the image says."""
    made.write(tmp_path, packed(syntax))
    file = tmp_path / "005.dcm"
    head, tag, pixels = file.read_bytes().partition(b"\xe0\x7f\x10\x00")
    for width, height in ((40, 34), (34, 40)):
        for form in (">II", ">HH"):
            pixels = pixels.replace(struct.pack(form, width, height), struct.pack(form, 60000, 60000))
    file.write_bytes(head + tag + pixels)
    with pytest.raises(PatientError, match="005.dcm: the compressed pixels are 60000 x 60000, the header says 40 x 34"):
        read_ct(tmp_path)


def test_a_deflated_file_is_not_unpacked_without_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deflated(k: int, data: Dataset) -> None:
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data.PixelData = bytes(3 << 20)

    monkeypatch.setattr("carm_sim.patient.ct.pixels._MOST_INFLATED_BYTES", 1 << 20)
    made.write(tmp_path, deflated)
    with pytest.raises(PatientError, match="000.dcm: the data set unpacks to more than 1 MiB"):
        read_ct(tmp_path)


def test_a_count_of_frames_that_is_absurd(tmp_path: Path) -> None:
    for count in ("99999999", "999999999999", "-5", "\N{SUPERSCRIPT TWO}"):
        made.write(
            tmp_path,
            lambda k, data, count=count: (
                setattr(data, "NumberOfFrames", 1),
                made.set_raw(data, "NumberOfFrames", count.encode()),
            ),
        )  # type: ignore[misc]
        with pytest.raises(PatientError):
            read_ct(tmp_path)


def test_enhanced_multi_frame_ct(tmp_path: Path) -> None:
    order = [3, 0, 1, 2, 11, 10, 9, 8, 7, 6, 5, 4]
    made.save(made.enhanced(made.block(), order), tmp_path / "enhanced.dcm")
    assert_is_block(tmp_path)
    assert_is_block(tmp_path / "enhanced.dcm")


def test_enhanced_multi_frame_ct_without_places(tmp_path: Path) -> None:
    data = made.enhanced(made.block(), list(range(12)))
    del data.PerFrameFunctionalGroupsSequence[5].PlanePositionSequence
    made.save(data, tmp_path / "enhanced.dcm")
    with pytest.raises(PatientError, match="does not say where it lies"):
        read_ct(tmp_path)
    del data.PerFrameFunctionalGroupsSequence
    made.save(data, tmp_path / "enhanced.dcm")
    with pytest.raises(PatientError, match="12 frames in one file that do not say where"):
        read_ct(tmp_path)


@pytest.mark.parametrize("stated", [True, False])
def test_padding_above_all_tissue_becomes_air(tmp_path: Path, stated: bool) -> None:
    i, j = np.meshgrid(np.arange(40) - 19.5, np.arange(34) - 16.5, indexing="ij")
    outside = (i / 20.5) ** 2 + (j / 17.5) ** 2 > 1
    assert (made.block().hu[outside] == -1000).all()

    def change(k: int, data: Dataset) -> None:
        stored = made.block().hu[:, :, k].astype(np.int32) + 1024
        stored[outside] = 63536
        data.PixelRepresentation, data.RescaleIntercept = 0, "-1024"
        data.PixelData = stored.T.astype("<u2").tobytes()
        if stated:
            data.add_new(0x00280120, "US", 63536)

    made.write(tmp_path, change)
    assert_is_block(tmp_path)


def test_sign_in_the_highest_stored_bit(tmp_path: Path) -> None:
    def change(k: int, data: Dataset) -> None:
        data.BitsStored, data.HighBit = 12, 11
        data.PixelData = (made.block().hu[:, :, k].T.astype(np.int32) & 0x0FFF).astype("<u2").tobytes()

    made.write(tmp_path, change)
    assert_is_block(tmp_path)
