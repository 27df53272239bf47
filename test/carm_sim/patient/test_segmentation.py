# SPDX-License-Identifier: Apache-2.0
"""Landmarks from TotalSegmentator's labels: those of the real chest CT, and what is refused."""

from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from carm_core.errors import PatientError
from carm_core.landmarks import find_landmark
from carm_sim.patient.segmentation import TABLE_FILE, Derived, Segmentation, derive, read_segmentation
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import chest_ct_path, load_patient

NEEDED = ("vertebrae_T12", "spinal_cord", "trachea")


def mask_path() -> Path:
    return chest_ct_path().with_name("mask.nii.gz")


@lru_cache(maxsize=1)
def chest() -> tuple[Volume, dict[int, NDArray]]:
    patient = load_patient("chest_ct")
    return patient.volume, patient.landmarks_mm


@lru_cache(maxsize=1)
def segmentation() -> Segmentation:
    return read_segmentation(mask_path())


@lru_cache(maxsize=1)
def derived() -> Derived:
    return derive(segmentation(), chest()[0])


def test_the_chest_cts_labels_give_its_landmarks() -> None:
    found, truth = derived().positions_mm, chest()[1]
    assert set(truth) <= set(found)
    for number, position in truth.items():
        np.testing.assert_allclose(found[number], position, atol=0.3)
    assert "in front of the spinal canal" in derived().methods[14]


def test_each_structure_has_a_centroid_by_which_it_can_be_asked_for() -> None:
    centroids, volume = derived().centroids_mm, chest()[0]
    assert set(centroids) == set(segmentation().structures)
    assert all(volume.contains(place) for place in centroids.values())
    t9, heart = centroids["vertebrae_T9"], centroids["heart"]
    assert np.linalg.norm(t9 - derived().positions_mm[find_landmark("T9").id]) < 30.0
    assert heart[1] < t9[1]  # in front of the spine


def test_the_spine_is_in_order_and_what_is_cut_off_is_left_out() -> None:
    found = derived()
    spine = [find_landmark(f"T{n}").id for n in range(1, 13)] + [find_landmark("L1").id]
    heights = np.array([found.positions_mm[number][2] for number in spine])
    gaps = -np.diff(heights)
    assert (gaps > 12.0).all()
    assert (gaps < 35.0).all()
    assert "cut off" in found.left_out[find_landmark("L2").id]
    assert find_landmark("Left femoral head").id not in found.left_out  # the labels hold nothing of it


def test_the_order_of_the_axes_does_not_matter(tmp_path: Path) -> None:
    image = nibabel.load(mask_path())
    labels = np.asarray(image.dataobj)
    kept = np.where(np.isin(labels, [segmentation().ids[name] for name in NEEDED]), labels, 0).astype(np.uint8)
    turned = np.ascontiguousarray(np.moveaxis(kept, 2, 0)[::-1, :, ::-1])
    affine = image.affine @ np.array(
        [[0, 1, 0, 0], [0, 0, -1, kept.shape[1] - 1], [-1, 0, 0, kept.shape[2] - 1], [0, 0, 0, 1]]
    )
    nibabel.save(nibabel.Nifti1Image(turned, affine), tmp_path / "labels.nii.gz")
    (tmp_path / TABLE_FILE).write_text(mask_path().with_name(TABLE_FILE).read_text(encoding="utf-8"), encoding="utf-8")
    again = derive(read_segmentation(tmp_path / "labels.nii.gz"), chest()[0]).positions_mm
    assert set(again) == {11, 14}
    for number, position in again.items():
        np.testing.assert_allclose(position, derived().positions_mm[number], atol=0.05)


def part(name: str) -> nibabel.Nifti1Image:
    image = nibabel.load(mask_path())
    return nibabel.Nifti1Image((np.asarray(image.dataobj) == segmentation().ids[name]).astype(np.uint8), image.affine)


def test_a_folder_of_masks_and_names_in_the_header(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for name in NEEDED[:2]:
        nibabel.save(part(name), folder / f"{name}.nii.gz")
    found = derive(read_segmentation(folder), chest()[0]).positions_mm
    assert set(found) == {14}
    np.testing.assert_allclose(found[14], derived().positions_mm[14], atol=1e-6)

    both = nibabel.Nifti1Image(
        3 * np.asarray(part(NEEDED[0]).dataobj) + 7 * np.asarray(part(NEEDED[1]).dataobj), part(NEEDED[0]).affine
    )
    table = "".join(
        f'<Label Key="{number}" Red="0"><![CDATA[{name}]]></Label>' for number, name in ((3, NEEDED[0]), (7, NEEDED[1]))
    )
    both.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, f"<LabelTable>{table}</LabelTable>".encode()))
    nibabel.save(both, tmp_path / "labels.nii.gz")
    found = derive(read_segmentation(tmp_path / "labels.nii.gz"), chest()[0]).positions_mm
    np.testing.assert_allclose(found[14], derived().positions_mm[14], atol=1e-6)


def test_labels_of_another_ct_are_refused() -> None:
    ours, volume = segmentation(), chest()[0]
    moved = np.roll(ours.labels, 40, axis=0)
    with pytest.raises(PatientError, match="do not fit this CT"):
        derive(Segmentation(moved, ours.transform_voxel_to_lps, ours.ids), volume)
    far = ours.transform_voxel_to_lps.copy()
    far[2, 3] += 500.0
    with pytest.raises(PatientError, match="outside the CT"):
        derive(Segmentation(ours.labels, far, ours.ids), volume)


def test_what_is_no_label_map_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PatientError, match="no mask of TotalSegmentator"):
        read_segmentation(tmp_path)
    with pytest.raises(PatientError, match="not a label map"):
        read_segmentation(chest_ct_path())
    nothing = nibabel.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.diag([3.0, 3.0, 3.0, 1.0]))
    nibabel.save(nothing, tmp_path / "labels.nii.gz")
    with pytest.raises(PatientError, match="show none of the landmarks; they hold nothing"):
        derive(read_segmentation(tmp_path / "labels.nii.gz"), chest()[0])
    (tmp_path / "labels.dat").write_bytes((tmp_path / "labels.nii.gz").read_bytes())
    with pytest.raises(PatientError, match="names of its labels cannot be read"):
        read_segmentation(tmp_path / "labels.dat")
    (tmp_path / TABLE_FILE).write_text("id,name\nx,y\n", encoding="utf-8")
    with pytest.raises(PatientError, match="no table of"):
        read_segmentation(tmp_path / "labels.nii.gz")
