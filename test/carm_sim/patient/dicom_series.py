# SPDX-License-Identifier: Apache-2.0
"""A small CT series made with pydicom, element by element, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from carm_sim.patient.volume import Volume

SPACING_MM = (5.0, 6.0, 6.0)
BEAD = np.array([26, 9, 9])
SERIES_UID = "1.2.3.1"


def block() -> Volume:
    """A block of water with a dense bead in the patient's left, front, upper part, in air."""
    hu = np.full((40, 34, 12), -1000, np.int16)
    hu[7:33, 6:28] = 40
    hu[BEAD[0] - 1 : BEAD[0] + 2, BEAD[1], BEAD[2]] = 1200
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = -95.5, -101.25, 33.0
    return Volume(hu, affine)


def bead_mm(volume: Volume) -> NDArray[np.float64]:
    """LPS position of the bead."""
    return volume.lps_from_voxel(np.argwhere(volume.hu > 800).astype(float)).mean(0)


def slice_of(volume: Volume, k: int) -> Dataset:
    """The data set of one slice."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.Modality, data.PatientName, data.PatientID = "CT", "Doe^Jane", "J1"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", SERIES_UID, "1.2.9"
    data.SeriesNumber, data.InstanceNumber, data.ImageType = 2, k + 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImagePositionPatient = [f"{value:.4f}" for value in volume.lps_from_voxel(np.array([0.0, 0, k]))]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [SPACING_MM[1], SPACING_MM[0]]
    data.SliceThickness = SPACING_MM[2]
    data.Rows, data.Columns = volume.shape[1], volume.shape[0]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept = "1", "0"
    data.PixelData = volume.hu[:, :, k].T.astype("<i2").tobytes()
    return data


def slices(volume: Volume) -> Iterator[Dataset]:
    """The data sets of all slices."""
    return (slice_of(volume, k) for k in range(volume.shape[2]))


def save(data: Dataset, file: Path) -> None:
    """Write a data set."""
    data.save_as(file, enforce_file_format=True)


def write(folder: Path, change: Callable[[int, Dataset], object] | None = None, prefix: str = "") -> None:
    """Write the series as `000.dcm` and so on, each data set changed before."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, data in enumerate(slices(block())):
        if change is not None:
            change(k, data)
        save(data, folder / f"{prefix}{k:03d}.dcm")


def set_raw(data: Dataset, keyword: str, value: bytes) -> None:
    """Give an element bytes that pydicom would not write."""
    tag = Tag(keyword)
    data[tag] = RawDataElement(tag, data[tag].VR, len(value), value, 0, False, True)


def enhanced(volume: Volume, order: list[int]) -> Dataset:
    """An Enhanced CT: all slices as frames of one file, in any order."""
    data = slice_of(volume, 0)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "RescaleSlope",
    ):
        delattr(data, keyword)
    del data.RescaleIntercept
    data.NumberOfFrames = len(order)

    def item(**elements: object) -> list[Dataset]:
        inner = Dataset()
        for keyword, value in elements.items():
            setattr(inner, keyword, value)
        return [inner]

    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=[SPACING_MM[1], SPACING_MM[0]], SliceThickness=SPACING_MM[2])
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelValueTransformationSequence = item(RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU")
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in order:
        frame = Dataset()
        position = [f"{value:.4f}" for value in volume.lps_from_voxel(np.array([0.0, 0, k]))]
        frame.PlanePositionSequence = item(ImagePositionPatient=position)
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    data.PixelData = b"".join((volume.hu[:, :, k].T + 1024).astype("<i2").tobytes() for k in order)
    return data
