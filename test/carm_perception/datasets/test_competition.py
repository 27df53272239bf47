# SPDX-License-Identifier: Apache-2.0
"""The folder of the body part competition, as it is downloaded."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from carm_core.errors import ConfigurationError
from carm_perception.datasets.body_parts.competition import is_competition, read_competition, read_gray

UID = "1.2.826.0.1.3680043.8.498."


def dicom(path: Path, photometric: str) -> None:
    """Write a radiograph of 12 bits whose bone, in the middle, is bright when displayed."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = path.stem.split("-")[0]
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, path.stem.split("-")[0]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 40, 30, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PhotometricInterpretation = photometric
    values = np.full((40, 30), 500, np.uint16)
    values[10:30, 10:20] = 3500
    dataset.PixelData = (values if photometric == "MONOCHROME2" else 4095 - values).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nested DICOM files of both kinds, pictures, and two tables with all that can be wrong."""
    dicom(tmp_path / "train" / "study" / "series" / f"{UID}1.dcm", "MONOCHROME2")
    dicom(tmp_path / "train" / "other" / f"{UID}2-c.dcm", "MONOCHROME1")
    gray = np.zeros((40, 50), np.uint8)
    gray[:, 20:30] = 200
    for name in ("3.png", "4.jpg", "5.png"):
        Image.fromarray(gray).save(tmp_path / "train" / f"{UID}{name}")
    (tmp_path / "test").mkdir()
    Image.fromarray(gray).save(tmp_path / "test" / f"{UID}6.png")
    for place in ("train", "test"):
        Image.fromarray(gray).save(tmp_path / place / f"{UID}7.png")
    (tmp_path / "test" / f"{UID}9.png").write_bytes(b"no picture")
    rows = [
        (f"{UID}1", "9 21 "),
        (f"{UID}2", "3 "),
        (f"{UID}3", '"<label_id>9,21</label_id>"'),
        (f"{UID}4", "22"),
        (f"{UID}5", "4"),
        (f"{UID}5", "5"),
        (f"{UID}1", "21 9"),
        (f"{UID}7", "1"),
        (f"{UID}8", "1"),
        (f"{UID}3.0", ""),
        (f"{UID}2.0", "hand"),
        (f"{UID}9.0", "3 3"),
    ]
    (tmp_path / "train.csv").write_text("SOPInstanceUID,Target\n" + "".join(f"{a},{b}\n" for a, b in rows))
    (tmp_path / "test.csv").write_text(f"SOPInstanceUID,Target\n{UID}6,0\n{UID}9,7\n")
    return tmp_path


def test_images_are_found_by_their_uid_whatever_their_form_and_folder(folder: Path) -> None:
    assert is_competition(folder)
    content = read_competition(folder, "train")
    assert {image.name: image.part_ids for image in content.images} == {
        f"{UID}1": (9, 21),
        f"{UID}2": (3,),
        f"{UID}3": (9, 21),
    }
    for image, gray in read_gray(content.images):
        assert isinstance(gray, np.ndarray)
        rows, columns = gray.shape
        bone, air = gray[rows // 2, columns // 2], gray[rows // 2, 1]
        assert int(bone) > int(air) + 100, image.name  # also in the file of kind MONOCHROME1


def test_what_does_not_fit_is_told_in_a_line_each_and_not_guessed(folder: Path) -> None:
    problems = read_competition(folder).problems
    for line in (
        f"train.csv, line 5: {UID}4: body part 22 is not in 0 to 21",
        f"train.csv, line 7: {UID}5: named again with another label; left out",
        f"train.csv, line 8: {UID}1: named again",
        f"train.csv, line 9: {UID}7: 2 images of this name",
        f"train.csv, line 10: {UID}8: no image of this name",
        f"train.csv, line 11: {UID}3.0: no label",
        f"train.csv, line 12: {UID}2.0: 'hand' is no list of ids",
        f"train.csv, line 13: {UID}9.0: a body part is named twice",
    ):
        assert line in problems
    assert any(problem.endswith("1 images have no label") for problem in problems)  # of the one with id 22
    assert len(problems) == 9


def test_the_split_is_the_tables_the_modes_or_the_folders(folder: Path) -> None:
    assert [image.name for image in read_competition(folder, "test").images] == [f"{UID}6", f"{UID}9"]
    (folder / "train.csv").unlink()
    (folder / "test.csv").unlink()
    (folder / "labels.csv").write_text(f"SOPInstanceUID,Target,mode\n{UID}1,1,test\n{UID}2,2,train\n{UID}6,0,\n")
    assert [image.name for image in read_competition(folder, "test").images] == [f"{UID}1", f"{UID}6"]
    assert [image.name for image in read_competition(folder, "train").images] == [f"{UID}2"]


def test_an_unreadable_image_is_told(folder: Path) -> None:
    found = {image.name: gray for image, gray in read_gray(read_competition(folder, "test").images)}
    assert isinstance(found[f"{UID}9"], str)
    assert f"{UID}9.png" in found[f"{UID}9"]


def test_folders_without_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such folder"):
        read_competition(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="columns SOPInstanceUID and Target"):
        read_competition(tmp_path)
    assert not is_competition(tmp_path)
    (tmp_path / "train.csv").write_text("SOPInstanceUID,Target\n1,2\n")
    with pytest.raises(ConfigurationError, match="no image in it"):
        read_competition(tmp_path)
