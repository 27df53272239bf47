# SPDX-License-Identifier: Apache-2.0
"""Patients whose CT is known: their names in results, and the CT that is registered.

The voxels that are imaged are never the ones that are registered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from carm_core.landmarks import ALL_LANDMARKS
from carm_perception.evaluation.suites.suites import CHEST_CT, FOURTEEN, SUITE_NAMES, Suite, suite
from carm_perception.registration.model import averaged_by
from carm_sim.patient.patient import Patient, make_patient
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import with_landmarks

CT_NOISE_HU = 20.0


def by_name(paths: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return the CTs by the names of their results: the CT's own, or the path where another has that name.

    Args:
        paths: As for ``carm_sim.patient_loader.load_patient``, with known landmarks.
        taken: Names of other results.

    Raises:
        PatientError: A CT cannot be loaded.
        ConfigurationError: It has no landmarks.
    """
    named = [(with_landmarks(path).name, path) for path in dict.fromkeys(paths)]
    names = [name for name, _ in named]
    return {path if names.count(name) > 1 or name in taken else name: path for name, path in named}


def asked_of(patient: Patient) -> tuple[int, ...]:
    """Return the ids of the landmarks that a CT is asked for: the fourteen, and the others that it has."""
    return tuple(mark.id for mark in ALL_LANDMARKS if mark.id in FOURTEEN or mark.id in patient.imaged_landmarks_mm)


def ct_suites(paths: Sequence[str], views: int = 0, fourteen: bool = False) -> list[Suite]:
    """Return the views of suite ``chest-ct`` on other CTs; each suite has the name of its CT.

    Args:
        paths: As of ``by_name``.
        views: Of each; 0: as many as of ``chest-ct``.
        fourteen: Ask for the fourteen only, also where a CT has other landmarks.

    Raises:
        CarmError: As of ``by_name``.
    """
    like, found = suite(CHEST_CT, views=views), []
    for name, path in by_name(paths, SUITE_NAMES).items():
        patient = with_landmarks(path)
        ids = FOURTEEN if fourteen else asked_of(patient)
        found.append(
            replace(
                like,
                name=name,
                patients=(path,),
                description=f"the CT {path}: the field lies at least 80 % inside it",
                ct=path,
                content=_content(path, patient, ids),
                ids=ids,
                everywhere=len(ids) > len(FOURTEEN),
            )
        )
    return found


def _content(path: str, patient: Patient, ids: Sequence[int]) -> str:
    """Return the hash of what the images of a CT and their truth depend on."""
    marks = {key: place.tolist() for key, place in sorted(patient.all_landmarks_table_mm.items()) if key in ids}
    digest = hashlib.sha256(f"{path} {marks} {patient.volume.transform_voxel_to_lps.tolist()}".encode())
    digest.update(np.ascontiguousarray(patient.volume.hu).data)
    return digest.hexdigest()[:12]


def another_scan(patient: Patient, seed: int, volume: Volume | None = None) -> Patient:
    """Return a CT with half the resolution in plane and noise of its own.

    Args:
        patient: Whose CT it is.
        seed: Of the noise.
        volume: Of another resolution; None: ``halved``.
    """
    volume = volume or halved(patient.volume)
    noise = np.random.default_rng([seed, 20]).normal(0, CT_NOISE_HU, volume.hu.shape)
    hu = np.clip(volume.hu + noise, -1024, 3071).astype(np.int16)
    inside = {key: point for key, point in patient.landmarks_mm.items() if volume.contains(point)}
    scan = make_patient(f"CT of {patient.name}", Volume(hu, volume.transform_voxel_to_lps), inside, "bench")
    return replace(
        scan, extra_landmarks_mm=patient.extra_landmarks_mm, points_mm=patient.points_mm, bones=patient.bones
    )


def halved(volume: Volume) -> Volume:
    """Average two by two voxels in plane; of thin slices, two as well."""
    return averaged_by(volume, (2, 2, 2 if volume.spacing_mm[2] < 2.0 else 1))
