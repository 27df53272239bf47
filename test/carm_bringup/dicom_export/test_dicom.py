# SPDX-License-Identifier: Apache-2.0
"""Exposures as DICOM: read back, the numbers are those of the messages; `dciodvfy`, where installed, has no errors."""

import errno
import math
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.uid import JPEGLSLossless

from carm_bringup.dicom_export.collector import REPORT_FILE, DicomWriteError, ExposureCollector
from carm_core.errors import ConfigurationError
from carm_core.robot.kinematics import CArm

SIDE = 256
START_NS = 1_795_523_596 * 10**9
FRAME_NS = 66_666_667


class Session:
    """Feeds a collector with what the nodes publish."""

    def __init__(self, folder: Path) -> None:
        self.carm = CArm.from_config()
        self.collector = ExposureCollector(folder)
        self.random = np.random.default_rng(3)
        self.time_ns = START_NS

    def header(self) -> Any:
        return SimpleNamespace(stamp=SimpleNamespace(sec=self.time_ns // 10**9, nanosec=self.time_ns % 10**9))

    def move(self, **joints: float) -> None:
        positions = dict(zip(self.carm.joint_names, self.carm.home, strict=True)) | joints
        state = SimpleNamespace(header=self.header(), name=list(positions), position=list(positions.values()))
        self.collector.add("joint_states", state)

    def expose(
        self, fluoroscopy: bool = False, field: tuple[int, ...] = (0, 0, SIDE, SIDE), binning: float = 6
    ) -> NDArray[np.uint16]:
        raw = self.random.integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
        image = SimpleNamespace(header=self.header(), encoding="mono16", is_bigendian=0, height=SIDE, width=SIDE)
        image.step, image.data = 2 * SIDE, raw.tobytes()
        dose = SimpleNamespace(header=self.header(), fluoroscopy=fluoroscopy, tube_voltage_kv=72.0, field_px=field)
        dose.tube_current_ma, dose.exposure_time_s, dose.air_kerma_gy = 11.0, 0.0125, 2e-5
        dose.dose_area_product_gym2 = 5e-7
        focal_px = 1000 * self.carm.source_detector_m / (self.carm.detector.pitch_mm * binning)
        self.collector.add("xray/camera_info", SimpleNamespace(header=self.header(), k=[focal_px, 0.0, 128.0]))
        self.collector.add("xray/exposure", dose)
        self.collector.add("xray/image_raw", image)
        return raw


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Two single exposures and a run of six frames in which the arm tilts."""
    session = Session(tmp_path / "study")
    session.move()
    session.first = session.expose()  # type: ignore[attr-defined]
    session.time_ns += 10**9
    session.move(tilt=0.5, orbital=0.3)
    session.expose(field=(20, 30, 100, 110))
    session.time_ns += 4 * 10**9
    for number in range(6):
        session.time_ns += FRAME_NS
        session.move(tilt=0.02 * number)
        session.expose(fluoroscopy=True)
    session.collector.close()
    return session


def read(session: Session, name: str) -> Any:
    return pydicom.dcmread(session.collector.folder / name)


def find(items: Any, meaning: str) -> list[Any]:
    """All content items of a name, at any depth."""
    found = []
    for item in items:
        if item.ConceptNameCodeSequence[0].CodeMeaning == meaning:
            found.append(item)
        found += find(item.get("ContentSequence", []), meaning)
    return found


def value(item: Any) -> float:
    return float(item.MeasuredValueSequence[0].NumericValue)


def test_pixels_are_those_of_the_detector(session: Session) -> None:
    image = read(session, "image_0001.dcm")
    assert image.file_meta.TransferSyntaxUID == JPEGLSLossless
    assert np.array_equal(image.pixel_array, session.first[:, ::-1])  # type: ignore[attr-defined]


def test_geometry_technique_and_dose(session: Session) -> None:
    image, view = read(session, "image_0002.dcm"), session.carm.view(session.carm.home, 3)
    positions = dict(zip(session.carm.joint_names, session.carm.home, strict=True)) | {"tilt": 0.5, "orbital": 0.3}
    primary, secondary = session.carm.angles(list(positions.values()))
    assert float(image.PositionerPrimaryAngle) == pytest.approx(math.degrees(primary), abs=1e-6)
    assert float(image.PositionerSecondaryAngle) == pytest.approx(math.degrees(secondary), abs=1e-6)
    assert float(image.DistanceSourceToDetector) == view.source_detector_mm
    assert float(image.DistanceSourceToPatient) == view.source_isocenter_mm
    assert [float(v) for v in image.ImagerPixelSpacing] == pytest.approx([0.194 * 6] * 2)
    assert [float(v) for v in image.PixelSpacing] == pytest.approx([0.194 * 6 * 530 / 1020] * 2)
    assert (float(image.KVP), float(image.AveragePulseWidth)) == (72.0, 12.5)
    assert float(image.ImageAndFluoroscopyAreaDoseProduct) == pytest.approx(0.05)  # dGy cm²
    assert (image.CollimatorLeftVerticalEdge, image.CollimatorRightVerticalEdge) == (20, 101)
    assert (image.CollimatorUpperHorizontalEdge, image.CollimatorLowerHorizontalEdge) == (30, 111)


def test_orientation_is_that_of_the_display(session: Session) -> None:
    assert list(read(session, "image_0001.dcm").PatientOrientation) == ["L", "F"]


def test_nothing_about_a_patient_is_invented_and_research_is_marked(session: Session) -> None:
    for file in session.collector.folder.glob("*.dcm"):
        content = pydicom.dcmread(file)
        assert str(content.PatientName).startswith("Anonymous")
        assert (content.PatientBirthDate, content.PatientSex) == ("", "")
        assert "Research" in content.StudyDescription
    assert read(session, "image_0001.dcm").ContentQualification == "RESEARCH"


def test_a_run_is_one_image_with_the_times_of_its_frames(session: Session) -> None:
    run = read(session, "image_0003.dcm")
    assert run.NumberOfFrames == 6
    assert run.pixel_array.shape == (6, SIDE, SIDE)
    assert [float(step) for step in run.FrameTimeVector][1:] == pytest.approx([66.667] * 5, abs=0.01)
    assert run.PositionerMotion == "DYNAMIC"
    assert len(run.PositionerPrimaryAngleIncrement) == 6
    assert run.RadiationSetting == "SC"


def test_identifiers_are_unique_and_belong_together(session: Session) -> None:
    files = [pydicom.dcmread(file) for file in sorted(session.collector.folder.glob("*.dcm"))]
    assert len({file.SOPInstanceUID for file in files}) == len(files) == 4
    assert len({file.StudyInstanceUID for file in files}) == 1
    assert all(len(file.SOPInstanceUID) <= 64 and file.SOPInstanceUID.is_valid for file in files)
    report = read(session, REPORT_FILE)
    events = {item.UID for item in find(report.ContentSequence, "Irradiation Event UID")}
    assert events == {file.IrradiationEventUID for file in files if file.Modality == "XA"}


def test_dose_report_sums_the_exposures(session: Session) -> None:
    report = read(session, REPORT_FILE)
    assert report.SOPClassUID.name == "X-Ray Radiation Dose SR Storage"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "10001"

    def single(meaning: str) -> float:
        (item,) = find(report.ContentSequence, meaning)
        return value(item)

    assert single("Dose Area Product Total") == pytest.approx(8 * 5e-7)
    assert single("Dose (RP) Total") == pytest.approx(8 * 2e-5)
    assert single("Fluoro Dose Area Product Total") == pytest.approx(6 * 5e-7)
    assert single("Acquisition Dose Area Product Total") == pytest.approx(2 * 5e-7)
    assert single("Total Number of Radiographic Frames") == 2
    assert single("Pulse Rate") == pytest.approx(15.0, rel=1e-3)
    assert sum(map(value, find(report.ContentSequence, "Dose Area Product"))) == pytest.approx(8 * 5e-7)
    assert len(find(report.ContentSequence, "Irradiation Event X-Ray Data")) == 3


def test_an_exposure_without_joint_states_is_not_given_a_pose(tmp_path: Path) -> None:
    session = Session(tmp_path / "study")
    session.expose()
    session.collector.close()
    assert session.collector.skipped == 1
    assert list(session.collector.folder.iterdir()) == []


def test_spacing_is_that_of_the_camera_model_also_for_a_part_of_the_detector(tmp_path: Path) -> None:
    session = Session(tmp_path / "study")
    session.move()
    session.expose(binning=2)  # 256 of 768 pixels
    session.time_ns += FRAME_NS
    session.move()
    session.expose(binning=1.5)  # of another detector
    session.collector.close()
    assert session.collector.skipped == 1
    image = read(session, "image_0001.dcm")
    assert [float(value) for value in image.ImagerPixelSpacing] == pytest.approx([0.388, 0.388])


def test_a_study_is_never_mixed_with_another(session: Session) -> None:
    with pytest.raises(ConfigurationError, match="holds DICOM files already"):
        ExposureCollector(session.collector.folder)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(tmp_path / "study")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    session.move()
    with pytest.raises(DicomWriteError, match="No space left on device"):
        session.expose()


def test_a_session_that_is_killed_leaves_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it writes the second image: the first one and the report about it are there, nothing by half."""
    session = Session(tmp_path / "study")
    session.move()
    session.expose()
    written = pydicom.Dataset.save_as

    def killed(self: pydicom.Dataset, file: Path, **options: Any) -> None:
        written(self, file, **options)
        file.write_bytes(file.read_bytes()[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(pydicom.Dataset, "save_as", killed)
    session.time_ns += 10**9
    session.move()
    with pytest.raises(KeyboardInterrupt):
        session.expose()
    files = sorted(session.collector.folder.glob("*.dcm"))
    assert [file.name for file in files] == [REPORT_FILE, "image_0001.dcm"]
    report, image = (pydicom.dcmread(file) for file in files)
    assert image.pixel_array.shape == (SIDE, SIDE)
    named = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in named] == [image.SOPInstanceUID]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_what_was_written_before_a_full_or_read_only_disk_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    session = Session(tmp_path / "study")
    session.move()
    session.expose()
    before = {file.name: file.read_bytes() for file in session.collector.folder.iterdir()}

    def full(self: pydicom.Dataset, file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    session.time_ns += 10**9
    session.move()
    with pytest.raises(DicomWriteError, match=os.strerror(code)):
        session.expose()
    assert {file.name: file.read_bytes() for file in session.collector.folder.iterdir()} == before


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(session: Session) -> None:
    for file in sorted(session.collector.folder.glob("*.dcm")):
        done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []
