# SPDX-License-Identifier: Apache-2.0
"""Images out of files: gray values, polarity, orientation, scale."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from carm_core.errors import ImageError
from carm_perception.images.reader import image_files, read_images
from carm_perception.networks.preprocessing import FIELD_MM


def picture() -> NDArray[np.uint8]:
    """A bright bone from the upper left, a dark lower right corner."""
    gray = np.full((40, 60), 100, np.uint8)
    gray[:20, :15] = 255
    gray[30:, 50:] = 0
    return gray


def dicom(path: Path, pixels: NDArray[Any], **elements: Any) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", generate_uid()
    dataset.Modality, dataset.PhotometricInterpretation = "DX", "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "deep.png", "deep.tiff"])
def test_pictures_of_8_and_16_bits(tmp_path: Path, name: str) -> None:
    gray = picture()
    values = gray.astype(np.uint16) * 30 + 500 if name.startswith("deep") else gray
    Image.fromarray(values).save(tmp_path / name)
    (image,) = read_images(tmp_path / name)
    assert image.frame.image == pytest.approx(gray, abs=1)
    assert not image.scale_known
    assert image.note
    assert image.frame.mm_per_px_at_isocenter * 60 == pytest.approx(FIELD_MM)
    (image,) = read_images(tmp_path / name, mm_per_px=0.5, invert=True)
    assert image.scale_known
    assert image.frame.mm_per_px_at_isocenter == 0.5
    assert image.frame.image == pytest.approx(255 - gray, abs=1)


@pytest.mark.parametrize(
    ("values", "elements"),
    [
        (lambda gray: gray * 10 + 7, {}),
        (lambda gray: gray * 10 + 7, {"WindowCenter": 1282.5, "WindowWidth": 2551}),
        (lambda gray: 2557 - gray * 10, {"PhotometricInterpretation": "MONOCHROME1"}),
        (lambda gray: 2557 - gray * 10, {"PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": 1}),
        (lambda gray: gray * 10 + 7, {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": -1}),
        (lambda gray: gray * 10 + 7, {"WindowCenter": 1e9, "WindowWidth": 1}),
    ],
    ids=["plain", "window", "monochrome1", "intensity", "attenuation", "absurd window"],
)
def test_bones_are_bright(tmp_path: Path, values: Any, elements: dict[str, Any]) -> None:
    file = dicom(tmp_path / "a.dcm", values(picture().astype(int)), **elements)
    (image,) = read_images(file)
    assert image.frame.image == pytest.approx(picture(), abs=2)


def test_signal_of_the_beam_is_shown_as_the_logarithm(tmp_path: Path) -> None:
    """Equal thicknesses are equal steps of gray, whatever the window in the file."""
    thickness = np.repeat(np.linspace(0.0, 2.0, 5), 20)[None, :] * np.ones((40, 1))
    file = dicom(tmp_path / "a", np.round(4000 * np.exp(-thickness)), PixelIntensityRelationship="LIN")
    (image,) = read_images(file)
    steps = np.diff(image.frame.image[20, 10::20].astype(int))
    assert (steps > 0).all()
    assert np.ptp(steps) <= 3


@pytest.mark.parametrize(
    ("turned", "orientation"),
    [
        (lambda gray: gray, ["L", "F"]),
        (lambda gray: gray[:, ::-1], ["R", "F"]),
        (lambda gray: gray[::-1], ["LA", "HP"]),
        (lambda gray: gray.T, ["F", "L"]),
        (lambda gray: gray[::-1, ::-1].T, ["H", "R"]),
        (lambda gray: gray, ["", "?"]),
    ],
)
def test_images_are_turned_upright(tmp_path: Path, turned: Any, orientation: list[str]) -> None:
    file = dicom(tmp_path / "a.dcm", turned(picture()).astype(int), PatientOrientation=orientation)
    (image,) = read_images(file)
    assert image.frame.image == pytest.approx(picture(), abs=1)


@pytest.mark.parametrize(
    ("elements", "mm_per_px", "known"),
    [
        (
            {"ImagerPixelSpacing": [0.4, 0.4], "DistanceSourceToDetector": 1000, "DistanceSourceToPatient": 500},
            0.2,
            True,
        ),
        ({"ImagerPixelSpacing": [0.4, 0.4], "EstimatedRadiographicMagnificationFactor": 1.6}, 0.25, True),
        ({"PixelSpacing": [0.3, 0.3], "PixelSpacingCalibrationType": "FIDUCIAL"}, 0.3, True),
        ({"ImagerPixelSpacing": [0.4, 0.4]}, 0.4, False),
        ({"PixelSpacing": [0.3, 0.3]}, 0.3, False),
        (
            {"ImagerPixelSpacing": [0.4, 0.4], "DistanceSourceToDetector": 500, "DistanceSourceToPatient": 900},
            0.4,
            False,
        ),
        ({"ImagerPixelSpacing": [0, 0]}, FIELD_MM / 60, False),
        ({}, FIELD_MM / 60, False),
    ],
)
def test_scale_is_what_the_file_says_or_unknown(
    tmp_path: Path, elements: dict[str, Any], mm_per_px: float, known: bool
) -> None:
    (image,) = read_images(dicom(tmp_path / "a.dcm", picture(), **elements))
    assert image.frame.mm_per_px_at_isocenter == pytest.approx(mm_per_px)
    assert image.scale_known == known
    assert bool(image.note) != known


def test_frames_and_angles(tmp_path: Path) -> None:
    file = dicom(
        tmp_path / "run.dcm",
        np.stack([picture(), picture()[::-1]]),
        PositionerPrimaryAngle=30,
        PositionerSecondaryAngle=-10,
        PositionerPrimaryAngleIncrement=[0, 5],
    )
    one, two = read_images(file)
    assert [one.name, two.name] == [f"{file}#0", f"{file}#1"]
    assert math.degrees(one.frame.primary_rad) == pytest.approx(30)
    assert math.degrees(two.frame.primary_rad) == pytest.approx(35)
    assert math.degrees(two.frame.secondary_rad) == pytest.approx(-10)
    assert two.frame.image == pytest.approx(picture()[::-1], abs=1)


def test_what_is_no_image_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.dcm").write_text("no image")
    Image.fromarray(picture()[:10]).save(tmp_path / "thin.png")
    dicom(tmp_path / "huge.dcm", picture(), Rows=60000)
    whole = dicom(tmp_path / "cut.dcm", picture()).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-500])
    for file in sorted(tmp_path.iterdir()):
        with pytest.raises(ImageError) as caught:
            list(read_images(file))
        assert str(caught.value).startswith(str(file))
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="no such file"):
        image_files(tmp_path / "nothing")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ImageError, match="no image in it"):
        image_files(tmp_path / "sub")


def test_a_folder_holds_pictures_and_dicom_files_without_an_ending(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.fromarray(picture()).save(tmp_path / "b.JPG", format="JPEG")
    dicom(tmp_path / "deep/IM0001", picture())
    (tmp_path / "README").write_text("no image")
    (tmp_path / "labels.csv").write_text("file_name,label\n")
    assert [file.name for file in image_files(tmp_path)] == ["b.JPG", "IM0001"]
