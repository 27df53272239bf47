# SPDX-License-Identifier: Apache-2.0
"""The session's export: what it holds, what it survives, what it never does."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from carm_bringup.console.session.build import build
from carm_bringup.console.session.exporter import Exporter, ExportError
from carm_bringup.console.session.store import ExposureRecord, Session
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()
SIDE = 256
FOCAL_PX = 1000 * CARM.source_detector_m / (CARM.detector.pitch_mm * 6)
START_NS = 1_795_523_596 * 10**9
EVIL = '<script>alert("x")</script>'


def record(number: int, **changed: Any) -> ExposureRecord:
    content: dict[str, Any] = {
        "time": 1_795_523_596.0 + number,
        "stamp_ns": START_NS + number * 10**9,
        "fluoroscopy": False,
        "voltage_kv": 72.0,
        "current_ma": 11.0,
        "pulse_s": 0.0125,
        "air_kerma_gy": 2e-5,
        "dose_area_product_gym2": 5e-7,
        "cumulative_air_kerma_gy": 2e-5 * (number + 1),
        "cumulative_dose_area_product_gym2": 5e-7 * (number + 1),
        "field_px": (0, 0, SIDE, SIDE),
        "positions": tuple(CARM.home),
        "size_px": (SIDE, SIDE),
        "focal_px": FOCAL_PX,
    }
    return ExposureRecord(**{**content, **changed})


def pixels(seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(1, 65535, (SIDE, SIDE), dtype=np.uint16)


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session()
    yield session
    session.close()


def exported(session: Session) -> dict[str, bytes]:
    """The files of the export, without the folder that they are in."""
    file = io.BytesIO()
    build(session.snapshot(), file)
    with zipfile.ZipFile(file) as content:
        return {name.partition("/")[2]: content.read(name) for name in content.namelist()}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Of a session with two exposures, a pulsed series, and a dialogue that wants to do harm."""
    session = Session()
    session.recording = "2026-11-30_10-00-00"
    session.note({"type": "asked", "who": "operator 1 (127.0.0.1)", "text": f"say {EVIL!r}"})
    session.note({"type": "said", "kind": "reason", "text": "It is off by 12 mm.", "reason": EVIL, "reply_to": ""})
    session.note({"type": "result", "ok": False, "text": "navigate to Carina: canceled"})
    session.expose(record(0), pixels(0))
    turned, *_ = CARM.inverse([0.0, 0.0, 0.12], 0.5, 0.0)
    session.expose(record(1, positions=tuple(float(v) for v in turned)), pixels(1))
    for number in range(5):
        session.expose(record(2, fluoroscopy=True, stamp_ns=START_NS + 2 * 10**9 + number * 66_666_667))
    found = exported(session)
    session.close()
    assert not session.folder.exists()
    return found


def test_the_images_are_dicom_with_the_detectors_pixels(files: dict[str, bytes]) -> None:
    for number in (0, 1):
        image = pydicom.dcmread(io.BytesIO(files[f"dicom/image_{number + 1:04d}.dcm"]))
        assert np.array_equal(image.pixel_array, pixels(number)[:, ::-1])
        assert float(image.KVP) == 72.0
    assert float(image.PositionerPrimaryAngle) == pytest.approx(np.degrees(0.5))


def test_the_dose_report_counts_pulsed_series_too(files: dict[str, bytes]) -> None:
    dose = pydicom.dcmread(io.BytesIO(files["dicom/dose_report.dcm"]))
    text = str(dose)
    assert text.count("Irradiation Event X-Ray Data") == 3
    total = next(
        one for item in dose.ContentSequence for one in item.get("ContentSequence", ())
        if one.ConceptNameCodeSequence[0].CodeMeaning == "Dose Area Product Total"
    )  # fmt: skip
    assert float(total.MeasuredValueSequence[0].NumericValue) == pytest.approx(7 * 5e-7)
    evidence = dose.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert len(evidence) == 2  # images that are not there are not referred to


def test_the_report_is_one_page_without_scripts_and_requests(files: dict[str, bytes]) -> None:
    page = files["report.html"].decode()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:image/jpeg)\w", page) == []
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('src="data:image/jpeg') == 2
    assert '<b class="right">L</b>' in page
    for shown in ("LAO 28.6°", "72 kV", "0.140 mGy", "operator 1", "It is off by 12 mm.", "2026-11-30_10-00-00"):
        assert shown in page, shown
    assert "Fluoroscopy, 5 frames" in page


def test_the_numbers_can_be_read_by_a_program(files: dict[str, bytes]) -> None:
    content = json.loads(files["session.json"])
    assert [one.get("dicom", "") for one in content["exposures"]][:2] == [
        "dicom/image_0001.dcm",
        "dicom/image_0002.dcm",
    ]
    assert content["exposures"][1]["primary_deg"] == pytest.approx(np.degrees(0.5))
    assert [one["type"] for one in content["events"]] == ["asked", "said", "result"]
    assert content["recording"] == "2026-11-30_10-00-00"


def test_an_empty_session_and_unknown_geometry_are_exported(session: Session) -> None:
    assert set(exported(session)) == {"session.json", "report.html"}
    session.expose(record(0, positions=()), pixels())
    session.expose(record(1, focal_px=7.0), pixels())
    found = exported(session)
    assert set(found) == {"session.json", "report.html"}
    assert found["report.html"].count(b"view unknown") == 2


def test_a_session_is_bounded_and_says_what_it_left_out() -> None:
    session = Session(most_images=2, most_line_bytes=4000)
    for number in range(10):
        session.expose(record(number), pixels(number))
        session.note({"type": "said", "text": "a" * 900})
    assert len(list(session.folder.glob("*.npy"))) == 2
    content = json.loads(exported(session)["session.json"])
    assert content["notes_left_out"] == 6
    assert content["exposures_left_out"] + len(content["exposures"]) == 10
    session.close()


def test_a_full_disk_is_told_and_ends_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "save", full)
        session.expose(record(0), pixels())
    assert b"No space left on device" in exported(session)["report.html"]


def test_a_line_that_is_half_written_is_left_out(session: Session) -> None:
    session.note({"type": "said", "text": "whole"})
    with (session.folder / "notes.jsonl").open("a") as file:
        file.write('{"type":"sa')
    assert len(json.loads(exported(session)["session.json"])["events"]) == 1


def test_the_bag_that_is_being_recorded_is_part_of_the_session(session: Session, tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("of somebody else")
    bag = tmp_path / "recordings" / "now"
    bag.mkdir(parents=True)
    (bag / "now_0.mcap").write_bytes(b"messages")
    (bag / "notes.txt").write_text("not of the bag")
    (bag / "metadata.yaml").symlink_to(tmp_path / "secret.yaml")
    session.recordings = tmp_path / "recordings"
    for name in ("", "..", "../..", "elsewhere", str(tmp_path)):  # as anybody may say on the network
        session.recording = name
        assert not any(file.startswith("bag/") for file in exported(session))
    session.recording = "now"
    content = exported(session)
    assert {name: data for name, data in content.items() if name.startswith("bag/")} == {"bag/now_0.mcap": b"messages"}
    assert "folder now; copy as far as it went: bag/." in content["report.html"].decode()
    assert json.loads(content["session.json"])["bag"] == "bag/"


def test_the_signal_of_an_exposure_can_be_had_while_it_is_kept(tmp_path: Path) -> None:
    session = Session(most_images=2)
    for number in range(3):
        session.expose(record(number), pixels(number))
    session.expose(record(3))
    first, *kept, without = (session.signal(str(START_NS + number * 10**9)) for number in range(4))
    assert first is None
    assert without is None
    for number, found in enumerate(kept, 1):
        np.testing.assert_array_equal(found, pixels(number))
    assert session.signal("../exposures.jsonl") is None
    session.close()


def test_a_bag_that_is_too_large_is_not_copied(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carm_bringup.console.session.build._MOST_BAG_BYTES", 10)
    (tmp_path / "now").mkdir()
    (tmp_path / "now" / "now_0.mcap").write_bytes(bytes(11))
    session.recordings, session.recording = tmp_path, "now"
    content = exported(session)
    assert "bag/now_0.mcap" not in content
    assert "not copied" in content["report.html"].decode()


@pytest.mark.parametrize(
    ("code", "reason"),
    [("import time; time.sleep(60)", "more than 0.3 s"), ("raise SystemExit('no such thing')", "no such thing")],
)
def test_what_takes_too_long_or_fails_is_told(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    (tmp_path / "made_up.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    exporter = Exporter(session, 0.3 if "sleep" in code else 30.0, "made_up")
    for _ in range(2):  # the next one is not refused for the one that failed
        with pytest.raises(ExportError, match=reason):
            exporter.make()


def test_no_file_of_the_working_folder_is_run(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console may have been started in a folder that came from others."""
    (tmp_path / "made_up.py").write_text("open('was_run', 'w')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="No module named"):
        Exporter(session, 30.0, "made_up").make()
    assert not (tmp_path / "was_run").exists()
