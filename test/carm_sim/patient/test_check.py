# SPDX-License-Identifier: Apache-2.0
"""`carm patient check`: the report, the sheet, what is refused; and warnings on a node's log."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carm_bringup.cli import app as cli
from carm_sim.nodes.logs import RosLogHandler
from carm_sim.patient.check import contact_sheet, examine, lung_liters, orientation
from carm_sim.patient.ct.files import LANDMARK_FILE, LandmarkFile, ct_checksum, write_landmarks
from carm_sim.patient.volume import Volume

from . import dicom_series as made
from .ct_files import body, reoriented, write_nifti


def check(*words: object) -> int:
    return cli.run(["patient", "check", *map(str, words)])


def test_a_ct_is_described_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.write(tmp_path / "cd" / "DICOM", lambda k, data: setattr(data, "BodyPartExamined", "ABDOMEN"))
    sheet, report = tmp_path / "sheet.png", tmp_path / "report.json"
    assert check(tmp_path / "cd", "--sheet", sheet, "--json", report) == 0
    text = capsys.readouterr().out
    for words in (
        "40 x 34 x 12 voxels, 200 x 204 x 72 mm",
        "5 x 6 x 6 mm",
        "columns to the left, rows to the back, slices to the head",
        "-1000 to 1200 HU",
        "not the chest (no lungs); the DICOM header says ABDOMEN",
        "warning      no landmarks.yaml beside the CT",
        "?series=1.2.3.1",
    ):
        assert words in text
    found = json.loads(report.read_text())["results"]["patient"]
    assert (found["accepted"], found["size"], found["hu"]) == (True, [40, 34, 12], [-1000, 1200])
    with Image.open(sheet) as picture:
        assert picture.size[0] == 900
        assert np.asarray(picture).std() > 20


def test_what_is_refused_is_told_in_one_line_and_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    made.write(tmp_path / "s", lambda k, data: delattr(data, "PixelSpacing"))
    assert check(tmp_path / "s", "--sheet", tmp_path / "x.png", "--json", tmp_path / "x.json") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "000.dcm: the slice does not say how large its pixels are" in error
    found = json.loads((tmp_path / "x.json").read_text())["results"]["patient"]
    assert not found["accepted"]
    assert "PixelSpacing" in found["reason"]
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("words", [["none.nii"], ["x.nii", "--sheet", "x.jpg"], ["x.nii", "--json", "no/such/x.json"]])
def test_bad_input(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_nifti(body(), tmp_path / "x.nii")
    assert check(*words) == 2


def test_landmarks_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "ct.nii.gz"
    write_nifti(body(), path)
    write_landmarks(LandmarkFile(ct_checksum(path), {2: np.zeros(3)}, {}, ""), tmp_path / LANDMARK_FILE)
    report, patient = examine(str(tmp_path))
    assert patient is not None
    assert (report.landmarks, report.warnings) == (1, [])


def test_orientation_in_words() -> None:
    assert orientation(body()) == "columns to the left, rows to the back, slices to the head"
    axes = np.array([[0, -1.0, 0], [0, 0, 1.0], [-1.0, 0, 0]])
    assert orientation(reoriented(body(), axes)) == "columns to the feet, rows to the right, slices to the back"
    turn = np.eye(4)
    turn[:2, :2] = [[0.96, -0.28], [0.28, 0.96]]
    assert "turned by up to 16.3 deg" in orientation(Volume(body().hu, turn @ body().transform_voxel_to_lps))


def test_lungs_are_told_from_the_air_around() -> None:
    hu = np.full((60, 50, 40), -1000, np.int16)
    hu[5:55, 5:45] = 30
    volume = Volume(hu, np.diag([5.0, 5, 5, 1]))
    assert lung_liters(volume) == 0
    hu[10:25, 15:35, 5:35] = -850
    assert lung_liters(Volume(hu, volume.transform_voxel_to_lps)) == pytest.approx(15 * 20 * 30 * 125e-6, rel=0.1)


@pytest.mark.parametrize("axes", [np.eye(3), np.array([[0, -1.0, 0], [0, 0, 1.0], [-1.0, 0, 0]])])
def test_the_sheet_shows_the_patients_right_on_the_left_and_the_head_up(axes: np.ndarray) -> None:  # type: ignore[type-arg]
    volume = reoriented(body(), axes)
    report, _ = examine("")
    coronal = np.asarray(contact_sheet(volume, report))[20:300, 10:290]
    row, column = np.argwhere(coronal == 255).mean(0)
    tissue = np.argwhere(coronal > 100).mean(0)
    assert row < tissue[0] - 10, "the bead is in the upper part"
    assert column < tissue[1] - 10, "the bead is in the patient's right"


def test_what_the_importer_warns_of_goes_to_the_nodes_log() -> None:
    class RosLogger:
        def __init__(self) -> None:
            self.said: list[str] = []

        def warning(self, text: str) -> None:
            self.said.append(f"warning {text}")

        def error(self, text: str) -> None:
            self.said.append(f"error {text}")

    ros = RosLogger()
    handler = RosLogHandler(ros)
    logger = logging.getLogger("carm_sim.patient.ct.dicom")
    logger.info("nothing")
    logger.warning("%d copies", 3)
    logger.error("bad")
    handler.close()
    logger.warning("later")
    assert ros.said == ["warning 3 copies", "error bad"]
