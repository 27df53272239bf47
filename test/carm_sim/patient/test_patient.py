# SPDX-License-Identifier: Apache-2.0
"""Patients from disk and by name: round trips, orientation, bad input."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carm_core.errors import PatientError
from carm_sim import patient_loader
from carm_sim.patient import patient as patients
from carm_sim.patient.ct.files import (
    LANDMARK_FILE,
    LandmarkFile,
    ct_checksum,
    read_landmarks,
    write_landmarks,
)
from carm_sim.patient.patient import place_on_table
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import load_patient

from .ct_files import RIGHT_BEAD_MM, body, write_nifti


def with_landmarks(volume: Volume, folder: Path) -> Path:
    path = folder / "ct.nii.gz"
    write_nifti(volume, path)
    points = {"rib_left_4": np.array([1.5, -2.0, 3.0])}
    file = LandmarkFile(ct_checksum(path), {2: RIGHT_BEAD_MM}, {2: "made"}, "made for a test", points)
    write_landmarks(file, folder / LANDMARK_FILE)
    return path


def test_nifti_round_trip_keeps_voxels_and_place(tmp_path: Path) -> None:
    path = with_landmarks(body(), tmp_path)
    loaded = load_patient(str(path))
    np.testing.assert_array_equal(loaded.volume.hu, body().hu)
    np.testing.assert_allclose(loaded.volume.transform_voxel_to_lps, body().transform_voxel_to_lps, atol=1e-5)
    np.testing.assert_allclose(loaded.landmarks_mm[2], RIGHT_BEAD_MM)
    assert loaded.landmarks_known
    assert {name: place.tolist() for name, place in loaded.points_mm.items()} == {"rib_left_4": [1.5, -2.0, 3.0]}
    assert load_patient(str(tmp_path)).name == "ct"


def test_table_placement_left_is_left() -> None:
    volume = body()
    transform = place_on_table(volume)
    x, y, z = transform.apply(RIGHT_BEAD_MM)
    assert (x > 0, y > 0) == (True, True), "superior is +x, the patient's right is +y"
    low, high = volume.body_box_mm()
    assert transform.apply(np.array([0, high[1], 0]))[2] == pytest.approx(0), "the back rests on the table"
    assert transform.apply(np.array([0, low[1], 0]))[2] == pytest.approx(high[1] - low[1])
    np.testing.assert_allclose(transform.apply((low + high) / 2)[:2], 0, atol=1e-9)
    assert z > transform.apply(np.array([0.0, 10.0, 0.0]))[2], "anterior is up"


def test_no_landmark_file_means_unknown_truth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_nifti(body(), tmp_path / "ct.nii.gz")
    with caplog.at_level(logging.WARNING):
        loaded = load_patient(str(tmp_path / "ct.nii.gz"))
    assert not loaded.landmarks_known
    assert loaded.landmarks_mm == {}
    assert "ground truth unknown" in loaded.source
    assert "ground truth is unknown" in caplog.text


def test_landmarks_of_another_ct(tmp_path: Path) -> None:
    path = with_landmarks(body(), tmp_path)
    write_nifti(body((4.0, 3.0, 4.0)), path)
    with pytest.raises(PatientError, match="landmarks of another CT"):
        load_patient(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("landmarks: [", "unreadable"),
        ("[]", "needs the keys"),
        ("landmarks: [{id: 2}]", "each landmark needs"),
        ("landmarks: [{id: 2, position_mm: [1, 2]}]", "three finite numbers"),
        ("landmarks: [{id: 2, position_mm: [1, 2, .nan]}]", "three finite numbers"),
        ("landmarks: [{id: 55, position_mm: [1, 2, 3]}]", "unknown landmark id 55"),
        ("landmarks: [{id: 2, position_mm: [1, 2, 3]}, {id: 2, position_mm: [1, 2, 3]}]", "given twice"),
        ("landmarks: [{id: true, position_mm: [1, 2, 3]}]", "whole number"),
        ("landmarks: []", "ct_sha256"),
        (f"{{ct_sha256: '{'a' * 64}', landmarks: [], points: [1]}}", "names with a position each"),
        (
            f"{{ct_sha256: '{'a' * 64}', landmarks: [], points: {{L3: [1, 2]}}}}",
            "point 'L3' needs three finite numbers",
        ),
    ],
)
def test_bad_landmark_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / LANDMARK_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(PatientError, match=message):
        read_landmarks(tmp_path / LANDMARK_FILE)


def test_landmark_outside_the_ct(tmp_path: Path) -> None:
    path = with_landmarks(body(), tmp_path)
    write_landmarks(LandmarkFile(ct_checksum(path), {2: np.array([999.0, 0, 0])}, {}, ""), tmp_path / LANDMARK_FILE)
    with pytest.raises(PatientError, match="outside the CT"):
        load_patient(str(path))


def absurd(values: np.ndarray, spacing: tuple[float, ...] = (3.0, 3.0, 3.0)) -> sitk.Image:  # type: ignore[type-arg]
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing[: image.GetDimension()])
    return image


CUBE = np.linspace(-1000, 1000, 20**3).reshape(20, 20, 20)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (absurd(np.full((20, 20, 20), -1000, np.int16)), "nothing but air"),
        (absurd(np.where(CUBE > 900, np.nan, CUBE).astype(np.float32)), "NaN"),
        (absurd(CUBE.astype(np.float32), (0.001, 0.001, 0.001)), "absurd voxel spacing"),
        (absurd(CUBE[:3].astype(np.int16)), "absurd size"),
        (absurd(CUBE[0].astype(np.int16)), "three dimensions"),
        (absurd(np.linspace(0, 255, 20**3).reshape(20, 20, 20).astype(np.uint8)), "not Hounsfield units"),
        (absurd(np.linspace(0, 1, 20**3).reshape(20, 20, 20).astype(np.float32)), "not Hounsfield units"),
        (absurd(CUBE.astype(np.float32) * 1e6), "not Hounsfield units"),
    ],
)
def test_absurd_images(tmp_path: Path, image: sitk.Image, message: str) -> None:
    sitk.WriteImage(image, str(tmp_path / "ct.nii"))
    with pytest.raises(PatientError, match=message):
        load_patient(str(tmp_path / "ct.nii"))


@pytest.mark.parametrize("content", [b"", b"not an image at all"])
def test_unreadable_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ct.nii.gz").write_bytes(content)
    with pytest.raises(PatientError) as error:
        load_patient(str(tmp_path / "ct.nii.gz"))
    assert "\n" not in str(error.value)


def test_paths_that_are_no_ct(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
    for spec, message in (
        (str(tmp_path / "none.nii"), "no such file"),
        (str(tmp_path / "notes.txt"), "not a CT; give a NIfTI"),
        (str(tmp_path), "no DICOM series"),
    ):
        with pytest.raises(PatientError, match=message):
            load_patient(spec)


@pytest.mark.parametrize(
    ("name", "nearest"), [("chest_cy", "chest_ct"), ("phantm:7", "phantom:7"), ("Chest-CT", "chest_ct")]
)
def test_unknown_name_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(PatientError, match=nearest):
        load_patient(name)


@pytest.mark.parametrize("spec", ["phantom:", "phantom:-1", "phantom:x", "phantom:1.5"])
def test_phantom_needs_a_seed(spec: str) -> None:
    with pytest.raises(PatientError, match="seed"):
        load_patient(spec)


def test_missing_chest_ct_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_loader, "_CHEST_CT_WHEEL", ("no-such-wheel", "x", "pip install it"))
    with pytest.raises(PatientError, match="pip install it"):
        load_patient("chest_ct")


@pytest.fixture(scope="module")
def chest() -> patients.Patient:
    return load_patient("chest_ct")


def test_chest_ct_landmarks_are_on_their_sides(chest: patients.Patient) -> None:
    marks = chest.landmarks_table_mm
    assert set(marks) == {2, 3, 4, 5, 10, 11, 12, 13, 14}
    for right, left in ((2, 3), (4, 5), (12, 13)):
        assert marks[right][1] > 20 > -20 > marks[left][1]
    assert marks[10][0] > marks[11][0] > marks[12][0] > marks[14][0]
    assert marks[12][0] > marks[13][0], "the right dome is the higher one"
    assert all(0 < point[2] < 300 for point in marks.values())


def test_chest_ct_landmarks_fit_the_tissue(chest: patients.Patient) -> None:
    volume, marks = chest.volume, chest.landmarks_mm
    rng = np.random.default_rng(0)
    for bone in (4, 5, 10, 14):
        assert np.mean(volume.sample(marks[bone] + rng.normal(0, 3, (200, 3)))) > 100
    directions = rng.normal(size=(400, 3)) * [1, 1, -1]
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    directions = directions[directions[:, 2] < 0.4]
    for head in (2, 3):
        rays = marks[head] + directions[:, None] * np.arange(12, 34, 1.0)[None, :, None]
        assert np.median(volume.sample(rays).max(1)) > 300, "a cortical shell surrounds the center of the humeral head"
    carina = volume.sample(marks[11] + np.array([[-12.0, -3, 0], [12.0, 5, 0], [0, 0, 0]]))
    assert carina[2] > carina[:2].max() + 200
    for dome in (12, 13):
        assert volume.sample(marks[dome] + np.array([0, 0, 9.0])) < -600
        assert volume.sample(marks[dome] - np.array([0, 0, 9.0])) > -100
    assert volume.hu.min() >= -1000
