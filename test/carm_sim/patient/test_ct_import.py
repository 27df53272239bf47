# SPDX-License-Identifier: Apache-2.0
"""CT import: orientation, patient position, rescaling, padding, table, resampling, series that are refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from carm_core.errors import PatientError
from carm_sim.patient.ct.files import (
    LANDMARK_FILE,
    MAX_HU,
    LandmarkFile,
    ct_checksum,
    read_ct,
    write_landmarks,
)
from carm_sim.patient.ct.processing import CtOptions, padding_of, resampled, without_table
from carm_sim.patient.patient import place_on_table
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import load_patient

from .ct_files import (
    POSITIONS,
    RIGHT_BEAD_MM,
    bead_center,
    body,
    image_of,
    reoriented,
    set_element,
    write_dicom,
    write_nifti,
)

AXES = [
    np.eye(3)[list(order)].T * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]


def on_table(prone: bool) -> Volume:
    """The test body with a table top 6 mm thick below it and a blanket over it, air between."""
    volume = body()
    hu = volume.hu.copy()
    below, above = (slice(45, 47), slice(3, 4))
    hu[5:55, below], hu[5:55, above] = 200, -100
    return Volume(hu[:, ::-1].copy() if prone else hu, volume.transform_voxel_to_lps)


@pytest.mark.parametrize("axes", AXES)
def test_nifti_of_every_orientation(tmp_path: Path, axes: np.ndarray) -> None:  # type: ignore[type-arg]
    write_nifti(reoriented(body(), axes), tmp_path / "ct.nii")
    volume = read_ct(tmp_path / "ct.nii")
    np.testing.assert_allclose(bead_center(volume), bead_center(body()), atol=1e-3)
    assert volume.sample(-RIGHT_BEAD_MM) == pytest.approx(0)


def test_oblique_nifti(tmp_path: Path) -> None:
    straight = body()
    turn = np.eye(4)
    turn[:2, :2] = [[0.96, -0.28], [0.28, 0.96]]
    write_nifti(Volume(straight.hu, turn @ straight.transform_voxel_to_lps), tmp_path / "ct.nii")
    np.testing.assert_allclose(
        bead_center(read_ct(tmp_path / "ct.nii")), turn[:3, :3] @ bead_center(straight), atol=1e-3
    )


@pytest.mark.parametrize("rescale", [((1.0, -1024.0),), ((0.5, -1000.0),), ((2.0, -1000.0), (1.0, -1024.0))])
@pytest.mark.parametrize("position", POSITIONS)
def test_dicom_round_trip(tmp_path: Path, position: str, rescale: tuple[tuple[float, float], ...]) -> None:
    straight = body()
    write_dicom(reoriented(straight, POSITIONS[position]), tmp_path, position=position, rescale=rescale)
    volume = read_ct(tmp_path)
    np.testing.assert_allclose(bead_center(volume), bead_center(straight), atol=1e-3)
    assert volume.sample(RIGHT_BEAD_MM) == pytest.approx(1500)
    assert volume.sample(-RIGHT_BEAD_MM) == pytest.approx(0)
    rng = np.random.default_rng(0)
    points = rng.uniform(-95, 95, (500, 3)) * [1, 0.7, 1]
    np.testing.assert_allclose(volume.sample(points), straight.sample(points), atol=1.0)
    x, y, _ = place_on_table(volume).apply(RIGHT_BEAD_MM)
    assert (x > 0, y > 0) == (True, True), "superior is +x, the patient's right is +y"


def test_dicom_landmarks_lie_in_the_folder_and_names_do_not_matter(tmp_path: Path) -> None:
    write_dicom(body(), tmp_path)
    write_landmarks(LandmarkFile(ct_checksum(tmp_path), {2: RIGHT_BEAD_MM}, {}, ""), tmp_path / LANDMARK_FILE)
    (tmp_path / "1-0003.dcm").rename(tmp_path / "zzz.dcm")
    assert set(load_patient(str(tmp_path)).landmarks_mm) == {2}


def test_the_largest_series_is_taken(tmp_path: Path) -> None:
    small = body()
    write_dicom(Volume(small.hu[:, :, :12] // 2, small.transform_voxel_to_lps), tmp_path, series=2)
    write_dicom(small, tmp_path, series=1)
    np.testing.assert_array_equal(read_ct(tmp_path).hu, small.hu)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skip": 20}, "missing"),
        ({"every": 2}, r"missing: they lie 10.00 mm apart, are 5.00 mm thick, and their numbers go up by 2"),
        ({"every": 3, "renumber": True, "between_mm": 5.0}, r"15.00 mm apart, but were made every 5.00 mm"),
        ({"tilt": 1.5}, r"tilted gantry \(16.7 deg\)"),
        ({"modality": "MR"}, "modality MR"),
    ],
)
def test_bad_dicom_series(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_dicom(body(), tmp_path, **change)  # type: ignore[arg-type]
    with pytest.raises(PatientError, match=message):
        load_patient(str(tmp_path))


def test_slices_with_gaps_between_them_are_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_dicom(body(), tmp_path / "gaps", every=2, renumber=True)
    np.testing.assert_allclose(read_ct(tmp_path / "gaps").spacing_mm, [4, 3, 10])
    assert "5.00 mm thick but lie 10.00 mm apart" in caplog.text
    caplog.clear()
    write_dicom(body(), tmp_path / "all", between_mm=-5.0)
    assert read_ct(tmp_path / "all").shape == body().shape
    assert not caplog.text


@pytest.mark.parametrize(
    ("element", "value", "message"),
    [
        ((0x0028, 0x1052), None, "not Hounsfield units"),
        ((0x0028, 0x1053), "one", "rescale slope"),
        ((0x0020, 0x0032), None, "does not say where it lies"),
        ((0x0020, 0x0037), None, "does not say where it lies"),
    ],
)
def test_dicom_elements_that_are_missing_or_wrong(
    tmp_path: Path, element: tuple[int, int], value: str | None, message: str
) -> None:
    write_dicom(body(), tmp_path)
    for file in tmp_path.iterdir():
        set_element(file, *element, value)
    with pytest.raises(PatientError, match=message):
        read_ct(tmp_path)


def test_a_slice_that_is_there_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_dicom(body(), tmp_path)
    (tmp_path / "again.dcm").write_bytes((tmp_path / "1-0007.dcm").read_bytes())
    set_element(tmp_path / "again.dcm", 0x0008, 0x0018, "1.2.826.0.1.3680043.2.1125.3.1.99")
    np.testing.assert_array_equal(read_ct(tmp_path).hu, body().hu)
    assert "the copy is left out (again.dcm)" in caplog.text


@pytest.mark.parametrize("value", [0, 500, -2000])
@pytest.mark.parametrize("axes", [AXES[0], AXES[-1]])
def test_padding_around_a_round_field_becomes_air(tmp_path: Path, value: int, axes: np.ndarray) -> None:  # type: ignore[type-arg]
    straight = body()
    hu = straight.hu.astype(int)
    x, y = (np.arange(n)[:, None] - (n - 1) / 2 for n in hu.shape[:2])
    outside = (x * 4) ** 2 + (y.T * 3) ** 2 > 115**2
    hu[(np.abs(hu) < 1) & (np.random.default_rng(0).random(hu.shape) < 0.5)] = 3
    hu[outside] = value
    padded = Volume(np.asarray(hu, np.int16), straight.transform_voxel_to_lps)
    write_nifti(reoriented(padded, axes), tmp_path / "ct.nii")
    volume = read_ct(tmp_path / "ct.nii")
    assert volume.hu.min() == -1000
    assert (volume.hu == value).sum() == (0 if value else (padded.hu[~outside] == 0).sum())
    np.testing.assert_allclose(bead_center(volume), bead_center(straight), atol=1e-3)


def test_tissue_that_fills_the_field_is_no_padding() -> None:
    noise = np.random.default_rng(0).normal(40, 12, (30, 30, 20)).astype(np.int16)
    assert padding_of(noise, 2, MAX_HU) is None


@pytest.mark.parametrize("prone", [False, True])
def test_table_and_blanket_go_and_the_body_stays(prone: bool) -> None:
    straight, laid = body(), on_table(prone)
    wanted = straight.hu[:, ::-1] if prone else straight.hu
    assert (laid.hu != wanted).mean() > 0.03
    free = without_table(laid)
    np.testing.assert_array_equal(free.hu, wanted)
    np.testing.assert_array_equal(free.transform_voxel_to_lps, laid.transform_voxel_to_lps)


def test_table_removal_keeps_a_separate_arm_and_air_inside() -> None:
    volume = on_table(prone=False)
    hu = volume.hu.copy()
    hu[2:8, 20:30, 5:35] = 30
    hu[20:30, 18:30, 12:25] = -850
    free = without_table(Volume(hu, volume.transform_voxel_to_lps)).hu
    assert (free[3:7, 21:29, 6:34] == 30).all()
    assert (free[22:28, 20:28, 14:23] == -850).all()
    assert free[:, 45:47].max() == -1000


def test_nothing_but_a_table() -> None:
    hu = np.full((40, 40, 40), -1000, np.int16)
    hu[:, 30:31] = 100
    with pytest.raises(PatientError, match="table"):
        without_table(Volume(hu, np.diag([3.0, 3, 3, 1])))


@pytest.mark.parametrize("spacing_mm", [2.0, 6.0])
@pytest.mark.parametrize("axes", [AXES[0], AXES[21]])
def test_resampling_keeps_place_and_mass(spacing_mm: float, axes: np.ndarray) -> None:  # type: ignore[type-arg]
    straight = reoriented(body(), axes)
    volume = resampled(straight, spacing_mm)
    np.testing.assert_allclose(volume.spacing_mm, spacing_mm)
    np.testing.assert_allclose(volume.center_mm, straight.center_mm, atol=1e-6)

    def moments(of: Volume) -> tuple[float, np.ndarray]:  # type: ignore[type-arg]
        mass = of.hu.astype(float) + 1000
        total = mass.sum()
        index = np.array([(mass.sum(tuple({0, 1, 2} - {a})) @ np.arange(of.shape[a])) / total for a in range(3)])
        return total * float(np.prod(of.spacing_mm)), of.lps_from_voxel(index)

    (mass, center), (old_mass, old_center) = moments(volume), moments(straight)
    assert mass == pytest.approx(old_mass, rel=0.01)
    np.testing.assert_allclose(center, old_center, atol=0.3)
    assert volume.sample(RIGHT_BEAD_MM) > (1300 if spacing_mm < 4 else 400)


@pytest.mark.parametrize("spacing_mm", [2.0, 3.3, 6.0, 9.0])
def test_resampling_is_that_of_itk(spacing_mm: float) -> None:
    straight = reoriented(body(), AXES[21])
    noise = np.random.default_rng(0).integers(-1000, 2000, straight.shape, dtype=np.int16)
    volume = Volume(noise, straight.transform_voxel_to_lps)
    ours = resampled(volume, spacing_mm)
    growth = spacing_mm / volume.spacing_mm
    sigma_mm = np.where(growth > 1.05, 0.42 * np.sqrt(np.maximum(growth**2 - 1, 0)) * volume.spacing_mm, 0)
    image = sitk.DiscreteGaussian(sitk.Cast(image_of(volume), sitk.sitkFloat32), variance=(sigma_mm**2).tolist())
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, image_of(ours), sitk.Transform(), sitk.sitkLinear, -1000.0)).T
    assert np.abs(ours.hu - theirs).mean() < 5
    assert np.corrcoef(ours.hu.ravel(), theirs.ravel())[0, 1] > 0.9999


def test_options_behind_the_path(tmp_path: Path) -> None:
    write_nifti(on_table(prone=False), tmp_path / "ct.nii.gz")
    volume = load_patient(f"{tmp_path / 'ct.nii.gz'}?remove_table&spacing=4").volume
    np.testing.assert_allclose(volume.spacing_mm, 4.0)
    assert volume.sample(np.array([0.0, 63.0, 0.0])) < -900
    assert load_patient(str(tmp_path / "ct.nii.gz")).volume.sample(np.array([0.0, 63.0, 0.0])) > 0


@pytest.mark.parametrize("text", ["spacing=0.1", "spacing=99", "spacing=-1", "spacing=", "flip"])
def test_options_that_make_no_sense(text: str) -> None:
    with pytest.raises(PatientError, match="spacing"):
        CtOptions.parse(text)
