# SPDX-License-Identifier: Apache-2.0
"""Content items of structured reports (DICOM PS3.3 C.17.3)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from carm_bringup.dicom_export.study import decimal

Concept = tuple[str, str, str]
"""Code value, coding scheme, meaning."""


def code(concept: Concept) -> DicomSequence:
    """Return a code sequence of one concept."""
    out = Dataset()
    out.CodeValue, out.CodingSchemeDesignator, out.CodeMeaning = concept
    return DicomSequence([out])


def item(relationship: str, value_type: str, name: Concept) -> Dataset:
    """Return a content item without its value."""
    out = Dataset()
    if relationship:
        out.RelationshipType = relationship
    out.ValueType = value_type
    out.ConceptNameCodeSequence = code(name)
    return out


def code_item(name: Concept, value: Concept, relationship: str = "CONTAINS") -> Dataset:
    """Return an item whose value is a concept."""
    out = item(relationship, "CODE", name)
    out.ConceptCodeSequence = code(value)
    return out


def number_item(name: Concept, value: float, unit: str) -> Dataset:
    """Return a measurement; the unit is a UCUM code."""
    measured = Dataset()
    measured.MeasurementUnitsCodeSequence = code((unit, "UCUM", unit))
    measured.NumericValue = decimal(value)
    out = item("CONTAINS", "NUM", name)
    out.MeasuredValueSequence = DicomSequence([measured])
    return out


def text_item(name: Concept, value: str, relationship: str = "CONTAINS") -> Dataset:
    """Return a text."""
    out = item(relationship, "TEXT", name)
    out.TextValue = value
    return out


def uid_item(name: Concept, value: str, relationship: str = "CONTAINS") -> Dataset:
    """Return an item whose value is a unique identifier."""
    out = item(relationship, "UIDREF", name)
    out.UID = value
    return out


def time_item(name: Concept, value: datetime) -> Dataset:
    """Return a date with time, UTC."""
    out = item("CONTAINS", "DATETIME", name)
    out.DateTime = f"{value:%Y%m%d%H%M%S.%f}+0000"
    return out


def image_item(name: Concept, class_uid: str, instance_uid: str) -> Dataset:
    """Return a reference to an image."""
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = class_uid, instance_uid
    out = item("CONTAINS", "IMAGE", name)
    out.ReferencedSOPSequence = DicomSequence([reference])
    return out


def container(name: Concept, items: Sequence[Dataset], template: str = "") -> Dataset:
    """Return a container of items; ``template`` is the number of its template in PS3.16."""
    out = item("CONTAINS", "CONTAINER", name)
    fill_container(out, items, template)
    return out


def fill_container(out: Dataset, items: Sequence[Dataset], template: str) -> None:
    """Give a container its items."""
    out.ContinuityOfContent = "SEPARATE"
    if template:
        identification = Dataset()
        identification.MappingResource, identification.TemplateIdentifier = "DCMR", template
        out.ContentTemplateSequence = DicomSequence([identification])
    out.ContentSequence = DicomSequence(items)
