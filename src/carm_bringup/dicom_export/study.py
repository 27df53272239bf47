# SPDX-License-Identifier: Apache-2.0
"""What all DICOM files of a session share: study, anonymous patient, equipment, the marks of research."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from carm_bringup import __version__

RESEARCH_NOTE = "Research only, not for clinical use"
ANONYMOUS = "Anonymous"
MANUFACTURER = "C-arm stack (open source)"


def new_uid() -> str:
    """Return a new unique identifier below 2.25 (a UUID, DICOM PS3.5 B.2)."""
    return str(generate_uid(prefix=None))


@dataclass(frozen=True)
class Study:
    """One session.

    Attributes:
        started: Begin of the session, UTC.
        model_name: Name of the C-arm.
        uid: Study instance UID.
        image_series_uid: Series of the images.
        report_series_uid: Series of the dose report.
        clock_uid: Synchronization frame of reference: the clock of this session.
        device_uid: UID of the device that observes; this recorder's.
    """

    started: datetime
    model_name: str
    uid: str = field(default_factory=new_uid)
    image_series_uid: str = field(default_factory=new_uid)
    report_series_uid: str = field(default_factory=new_uid)
    clock_uid: str = field(default_factory=new_uid)
    device_uid: str = field(default_factory=new_uid)

    def dataset(self, class_uid: str, modality: str, series_uid: str, series_number: int, instance: int) -> Dataset:
        """Return a data set with the modules that every file has.

        Args:
            class_uid: SOP class.
            modality: ``"XA"`` or ``"SR"``.
            series_uid: Series instance UID.
            series_number: Number of the series in the study.
            instance: Number of the file in the series.
        """
        out = Dataset()
        out.SpecificCharacterSet = "ISO_IR 192"
        out.SOPClassUID, out.SOPInstanceUID = class_uid, new_uid()
        out.PatientName, out.PatientID = f"{ANONYMOUS}^Research", ANONYMOUS
        out.PatientBirthDate, out.PatientSex = "", ""
        out.PatientIdentityRemoved, out.DeidentificationMethod = "YES", "No patient data were ever entered"
        out.StudyInstanceUID, out.StudyID, out.AccessionNumber, out.ReferringPhysicianName = self.uid, "1", "", ""
        out.StudyDate, out.StudyTime = date(self.started), time(self.started)
        out.TimezoneOffsetFromUTC = "+0000"
        out.StudyDescription = RESEARCH_NOTE
        out.Modality, out.SeriesInstanceUID, out.SeriesNumber = modality, series_uid, series_number
        out.SeriesDescription = RESEARCH_NOTE
        out.Manufacturer, out.ManufacturerModelName = MANUFACTURER, self.model_name[:64]
        out.DeviceSerialNumber, out.SoftwareVersions = "none", __version__
        out.SynchronizationTrigger, out.AcquisitionTimeSynchronized = "NO TRIGGER", "N"
        out.SynchronizationFrameOfReferenceUID = self.clock_uid
        out.InstanceNumber = instance
        out.file_meta = FileMetaDataset()
        out.file_meta.MediaStorageSOPClassUID = UID(class_uid)
        out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID
        out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return out


def date(moment: datetime) -> str:
    """Return a DICOM date."""
    return f"{moment:%Y%m%d}"


def time(moment: datetime) -> str:
    """Return a DICOM time with microseconds."""
    return f"{moment:%H%M%S.%f}"


def decimal(value: float) -> str:
    """Return a decimal string (DS) of at most 16 characters."""
    return f"{value + 0.0:.10g}"
