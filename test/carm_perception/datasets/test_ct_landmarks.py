# SPDX-License-Identifier: Apache-2.0
"""Landmarks of a CT by itself and from labels: the geometry, and the command."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carm_bringup.cli.app import run
from carm_core.errors import GoalError
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.triangulation import Sighting
from carm_core.localization import Localization, Localizer, Query
from carm_core.robot.kinematics import CArm
from carm_perception.datasets import ct_landmarks
from carm_perception.datasets.body_columns import BodyColumns
from carm_perception.datasets.ct_landmarks import find_landmarks
from carm_perception.localizers.oracle import OracleLocalizer
from carm_sim.patient_loader import chest_ct_path, load_patient

CARM = CArm.from_config()
KNOWN = (10, 11, 12)
CARINA = 11


def sighting(point_mm: np.ndarray, primary_deg: float, off_mm: tuple[float, float] = (0.0, 0.0)) -> Sighting:
    view = CARM.view(CARM.inverse([0.0, 0.0, 0.15], np.radians(primary_deg), 0.0)[0])
    x, y = view.displacement_mm(point_mm)
    return Sighting(view, (float(x) + off_mm[0], float(y) + off_mm[1]), 4.0)


def test_what_most_sightings_agree_on_counts() -> None:
    patient = load_patient("chest_ct")
    space = ct_landmarks.Space(patient)
    point = patient.landmarks_table_mm[CARINA]
    good = [sighting(point, angle) for angle in (-30.0, -15.0, 0.0, 15.0, 30.0)]
    wrong = [sighting(point, angle, (60.0, -40.0)) for angle in (-20.0, 20.0)]
    place = space.place(CARINA, [*wrong, *good])
    assert place.agreeing == good
    np.testing.assert_allclose(place.point_mm, point, atol=6.0)
    with pytest.raises(GoalError, match="of 5 images agree"):
        space.place(CARINA, [sighting(point, 10.0 * i, (90.0 * (i % 3), -70.0 * i)) for i in range(5)])
    with pytest.raises(GoalError, match="only 0 of 0"):
        space.place(CARINA, [])


def test_images_from_the_front_alone_leave_the_depth_to_the_body() -> None:
    patient = load_patient("chest_ct")
    point = patient.landmarks_table_mm[CARINA]
    place = ct_landmarks.Space(patient).place(CARINA, [sighting(point, angle) for angle in (-5.0, 0.0, 5.0)])
    _, low, high = np.linalg.svd(place.covariance_mm2)[1][::-1]
    assert low < 20.0 < 100.0 < high  # mm²: known across, and in depth to 10 to 20 mm
    assert abs(place.point_mm[2] - point[2]) < 40.0


def test_columns_of_a_body_leave_the_scanners_table_out() -> None:
    patient = load_patient("chest_ct")
    columns = BodyColumns(patient)
    x, y, z = patient.landmarks_mm[CARINA]
    front, back = columns.ends_mm(x, z) or (0.0, 0.0)
    assert front < y < back
    assert 150.0 < back - front < 350.0
    assert columns.ends_mm(x + 1000.0, z) is None
    assert columns.depth(CARINA, x, z) is not None
    assert columns.depth(999, x, z) is None


class SomeLandmarks(Localizer):
    """Points to a few landmarks, with errors that are known; one of them is always far off in some views."""

    name = "some"

    def __init__(self) -> None:
        self.oracle = OracleLocalizer("chest_ct", 3.0, seed=1)

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        reply = self.oracle.localize(frame, query)
        kept = [replace(e, std_mm=3.0) for e in reply.estimates if e.id in KNOWN]
        if np.degrees(frame.primary_rad) > 25.0:
            kept = [replace(e, displacement_mm=(e.displacement_mm[0], e.displacement_mm[1] + 50.0)) for e in kept]
        return replace(reply, estimates=tuple(kept))


def test_landmarks_are_found_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ct_landmarks, "STATION_MM", 150.0)
    monkeypatch.setattr(ct_landmarks, "_PRIMARIES_DEG", (-30.0, 0.0, 30.0))
    monkeypatch.setattr(ct_landmarks, "_ROUNDS", 2)
    patient = load_patient("chest_ct")
    done: list[tuple[int, int]] = []
    findings = find_landmarks(patient, SomeLandmarks(), lambda number, all_: done.append((number, all_)))
    assert set(findings.found) == set(KNOWN)
    for number, found in findings.found.items():
        error_mm = float(np.linalg.norm(found.position_mm - patient.landmarks_mm[number]))
        assert error_mm < min(10.0, found.radius_90_mm)
        assert f"90 % within {found.radius_90_mm:.0f} mm" in found.method
    assert done[-1][0] == done[-1][1]


def test_the_command_takes_labels_and_writes_what_the_simulator_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ct = tmp_path / "my_ct.nii.gz"
    ct.symlink_to(chest_ct_path())
    labels = chest_ct_path().with_name("mask.nii.gz")
    words = ["patient", "landmarks", str(ct), "--segmentation", str(labels), "--sheet", str(tmp_path / "sheet.png")]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert "L2" in out
    assert "cut off by the end of the CT" in out
    patient = load_patient(str(ct))
    assert patient.landmarks_known
    np.testing.assert_allclose(patient.landmarks_mm[11], load_patient("chest_ct").landmarks_mm[11], atol=0.3)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.height == 700
    assert run(words) == 2  # the file exists
    assert "--force replaces it" in capsys.readouterr().err
    assert run([*words, "--force"]) == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["{ct}", "--segmentation", "{ct}"], "not a label map"),
        (["{ct}", "--segmentation", "/no/such/labels.nii.gz"], "cannot be read"),
        (["/no/such/ct.nii.gz"], "no such file or folder"),
        (["{ct}", "--output", "/no/such/folder/landmarks.yaml"], "must end in .yaml and lie in a folder that exists"),
        (["{ct}", "--sheet", "sheet.jpg"], "must end in .png"),
        (["{ct}", "--localizer", "nobody"], "localizer"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ct = tmp_path / "my_ct.nii.gz"
    ct.symlink_to(chest_ct_path())
    assert run(["patient", "landmarks", *(word.format(ct=ct) for word in words)]) == 2
    error = capsys.readouterr().err.strip()
    assert text in error
    assert "Traceback" not in error
    assert not (tmp_path / "landmarks.yaml").exists()
