# SPDX-License-Identifier: Apache-2.0
"""The dose of a session as X-Ray Radiation Dose SR (DICOM PS3.16, TID 10001 and what it includes)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import XRayAngiographicImageStorage, XRayRadiationDoseSRStorage

from carm_bringup.dicom_export.content import (
    Concept,
    code_item,
    container,
    fill_container,
    image_item,
    item,
    number_item,
    text_item,
    time_item,
    uid_item,
)
from carm_bringup.dicom_export.exposure import XrayExposure
from carm_bringup.dicom_export.study import RESEARCH_NOTE, Study, date, time

SERIES_NUMBER = 99
REPORT: Concept = ("113701", "DCM", "X-Ray Radiation Dose Report")
_PLANE = code_item(("113764", "DCM", "Acquisition Plane"), ("113622", "DCM", "Single Plane"), "HAS CONCEPT MOD")
_REFERENCE_POINT = code_item(
    ("113780", "DCM", "Reference Point Definition"), ("113860", "DCM", "15cm from Isocenter toward Source")
)
_DOSE, _PRODUCT, _TIME = "Gy", "Gy.m2", "s"


@dataclass(frozen=True)
class IrradiationEvent:
    """One exposure, or one run.

    Attributes:
        uid: Irradiation event UID.
        image_uid: SOP instance of its image; empty when none was kept.
        frames: In order of time.
    """

    uid: str
    image_uid: str
    frames: tuple[XrayExposure, ...]

    @property
    def fluoroscopy(self) -> bool:
        """Whether it is a pulsed run."""
        return self.frames[0].fluoroscopy

    @property
    def product_gym2(self) -> float:
        """Dose-area product, Gy m²."""
        return sum(frame.dose_area_product_gym2 for frame in self.frames)

    @property
    def kerma_gy(self) -> float:
        """Air kerma at the reference point, Gy."""
        return sum(frame.air_kerma_gy for frame in self.frames)

    @property
    def irradiation_s(self) -> float:
        """Sum of the pulses, s."""
        return sum(frame.pulse_s for frame in self.frames)

    @property
    def duration_s(self) -> float:
        """From the start of the first pulse to the end of the last, s."""
        first, last = self.frames[0], self.frames[-1]
        return (last.time - first.time).total_seconds() + (first.pulse_s + last.pulse_s) / 2

    @property
    def started(self) -> datetime:
        """Start of the first pulse."""
        return self.frames[0].time - timedelta(seconds=self.frames[0].pulse_s / 2)


def dose_report(study: Study, events: Sequence[IrradiationEvent], written: datetime) -> Dataset:
    """Create the report of a session.

    Args:
        study: The session.
        events: All of them, in order of time.
        written: Now, UTC.
    """
    out = study.dataset(XRayRadiationDoseSRStorage, "SR", study.report_series_uid, SERIES_NUMBER, 1)
    out.SeriesDate, out.SeriesTime = date(study.started), time(study.started)
    out.ContentDate, out.ContentTime = date(written), time(written)
    out.CompletionFlag, out.VerificationFlag = "COMPLETE", "UNVERIFIED"
    out.ReferencedPerformedProcedureStepSequence = DicomSequence([])
    out.PerformedProcedureCodeSequence = DicomSequence([])
    if any(event.image_uid for event in events):
        out.CurrentRequestedProcedureEvidenceSequence = DicomSequence([_evidence(study, events)])
    head = item("", "CONTAINER", REPORT)
    out.ValueType, out.ConceptNameCodeSequence = head.ValueType, head.ConceptNameCodeSequence
    procedure = code_item(("121058", "DCM", "Procedure reported"), ("113704", "DCM", "Projection X-Ray"))
    procedure.RelationshipType = "HAS CONCEPT MOD"
    intent = code_item(("363703001", "SCT", "Has Intent"), ("261004008", "SCT", "Diagnostic Intent"), "HAS CONCEPT MOD")
    procedure.ContentSequence = DicomSequence([intent])
    scope = code_item(("113705", "DCM", "Scope of Accumulation"), ("113014", "DCM", "Study"), "HAS OBS CONTEXT")
    scope.ContentSequence = DicomSequence(
        [uid_item(("110180", "DCM", "Study Instance UID"), study.uid, "HAS PROPERTIES")]
    )
    items = [
        procedure,
        code_item(("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device"), "HAS OBS CONTEXT"),
        uid_item(("121012", "DCM", "Device Observer UID"), study.device_uid, "HAS OBS CONTEXT"),
        text_item(("121013", "DCM", "Device Observer Name"), study.model_name, "HAS OBS CONTEXT"),
        code_item(
            ("113876", "DCM", "Device Role in Procedure"), ("113859", "DCM", "Irradiating Device"), "HAS OBS CONTEXT"
        ),
        scope,
        _accumulated(events),
        *[_event(event) for event in events],
        text_item(("121106", "DCM", "Comment"), RESEARCH_NOTE),
        code_item(("113854", "DCM", "Source of Dose Information"), ("113856", "DCM", "Automated Data Collection")),
    ]
    fill_container(out, items, "10001")
    return out


def _evidence(study: Study, events: Sequence[IrradiationEvent]) -> Dataset:
    references = []
    for event in (event for event in events if event.image_uid):
        reference = Dataset()
        reference.ReferencedSOPClassUID = XRayAngiographicImageStorage
        reference.ReferencedSOPInstanceUID = event.image_uid
        references.append(reference)
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = study.image_series_uid, DicomSequence(references)
    out = Dataset()
    out.StudyInstanceUID, out.ReferencedSeriesSequence = study.uid, DicomSequence([series])
    return out


def _accumulated(events: Sequence[IrradiationEvent]) -> Dataset:
    """TID 10002 with 10004 and 10007: sums over the session."""
    runs = [event for event in events if event.fluoroscopy]
    shots = [event for event in events if not event.fluoroscopy]

    def total(of: Sequence[IrradiationEvent], name: str) -> float:
        return sum(float(getattr(event, name)) for event in of)

    items = [
        _PLANE,
        number_item(("113726", "DCM", "Fluoro Dose Area Product Total"), total(runs, "product_gym2"), _PRODUCT),
        number_item(("113728", "DCM", "Fluoro Dose (RP) Total"), total(runs, "kerma_gy"), _DOSE),
        number_item(("113730", "DCM", "Total Fluoro Time"), total(runs, "duration_s"), _TIME),
        number_item(("113727", "DCM", "Acquisition Dose Area Product Total"), total(shots, "product_gym2"), _PRODUCT),
        number_item(("113729", "DCM", "Acquisition Dose (RP) Total"), total(shots, "kerma_gy"), _DOSE),
        number_item(("113855", "DCM", "Total Acquisition Time"), total(shots, "irradiation_s"), _TIME),
        number_item(("113722", "DCM", "Dose Area Product Total"), total(events, "product_gym2"), _PRODUCT),
        number_item(("113725", "DCM", "Dose (RP) Total"), total(events, "kerma_gy"), _DOSE),
        number_item(("113731", "DCM", "Total Number of Radiographic Frames"), float(len(shots)), "1"),
        _REFERENCE_POINT,
    ]
    return container(("113702", "DCM", "Accumulated X-Ray Dose Data"), items, "10002")


def _event(event: IrradiationEvent) -> Dataset:
    """TID 10003: one irradiation event."""
    kind: Concept = ("113611", "DCM", "Stationary Acquisition")
    if event.fluoroscopy:
        kind = ("44491008", "SCT", "Fluoroscopy")
    image = image_item(("113795", "DCM", "Acquired Image"), XRayAngiographicImageStorage, event.image_uid)
    items = [
        _PLANE,
        uid_item(("113769", "DCM", "Irradiation Event UID"), event.uid),
        time_item(("111526", "DCM", "DateTime Started"), event.started),
        code_item(("113721", "DCM", "Irradiation Event Type"), kind),
        *([image] if event.image_uid else []),
        _REFERENCE_POINT,
        number_item(("122130", "DCM", "Dose Area Product"), event.product_gym2, _PRODUCT),
        number_item(("113738", "DCM", "Dose (RP)"), event.kerma_gy, _DOSE),
        *_technique(event),
        *_mechanics(event),
    ]
    return container(("113706", "DCM", "Irradiation Event X-Ray Data"), items, "10003")


def _technique(event: IrradiationEvent) -> list[Dataset]:
    frames = event.frames
    count = len(frames)
    out = []
    if event.fluoroscopy:
        out.append(code_item(("113732", "DCM", "Fluoro Mode"), ("113631", "DCM", "Pulsed")))
        if count > 1:
            seconds = (frames[-1].time - frames[0].time).total_seconds()
            out.append(number_item(("113791", "DCM", "Pulse Rate"), (count - 1) / seconds, "{pulse}/s"))
    charge_uas = 1000 * sum(frame.current_ma * frame.pulse_s for frame in frames)
    return [
        *out,
        number_item(("113768", "DCM", "Number of Pulses"), float(count), "1"),
        number_item(("113733", "DCM", "KVP"), sum(frame.voltage_kv for frame in frames) / count, "kV"),
        number_item(("113734", "DCM", "X-Ray Tube Current"), sum(frame.current_ma for frame in frames) / count, "mA"),
        number_item(("113793", "DCM", "Pulse Width"), 1000 * event.irradiation_s / count, "ms"),
        number_item(("113824", "DCM", "Exposure Time"), 1000 * event.irradiation_s, "ms"),
        number_item(("113736", "DCM", "Exposure"), charge_uas, "uA.s"),
        number_item(("113742", "DCM", "Irradiation Duration"), event.duration_s, _TIME),
    ]


def _mechanics(event: IrradiationEvent) -> list[Dataset]:
    first, last = event.frames[0], event.frames[-1]
    items = [
        number_item(("112011", "DCM", "Positioner Primary Angle"), math.degrees(first.primary_rad), "deg"),
        number_item(("112012", "DCM", "Positioner Secondary Angle"), math.degrees(first.secondary_rad), "deg"),
    ]
    if len(event.frames) > 1:
        items += [
            number_item(("113739", "DCM", "Positioner Primary End Angle"), math.degrees(last.primary_rad), "deg"),
            number_item(("113740", "DCM", "Positioner Secondary End Angle"), math.degrees(last.secondary_rad), "deg"),
        ]
    return [
        *items,
        number_item(("113748", "DCM", "Distance Source to Isocenter"), first.view.source_isocenter_mm, "mm"),
        number_item(("113750", "DCM", "Distance Source to Detector"), first.view.source_detector_mm, "mm"),
    ]
