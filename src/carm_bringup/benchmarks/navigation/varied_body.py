# SPDX-License-Identifier: Apache-2.0
"""The bodies that are imaged where the patient's CT is known: never as they were in the CT."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from carm_bringup.benchmarks.registration.conditions import CONDITIONS, breathed, breathed_landmarks, lain
from carm_core.errors import PatientError
from carm_perception.evaluation.suites.shifts import equipped
from carm_sim.patient.patient import Patient
from carm_sim.patient_loader import load_patient

EPISODES = 20
"""Episodes of each body."""


def varied_body(name: str, number: int, seed: int) -> Patient:
    """Return a patient at another phase of breathing, with devices, and lying otherwise; its landmarks move along.

    Where the landmarks do not tell where diaphragm and spine are, the patient does not breathe.

    Args:
        name: For ``carm_sim.patient_loader.load_patient``.
        number: Of the body; each has other devices and lies elsewhere.
        seed: Of devices and place.

    Raises:
        PatientError: The patient cannot be loaded.
    """
    rng = np.random.default_rng([seed, number, 37])
    low, high = CONDITIONS["hardware"].hardware
    body = equipped(breathing(name), int(rng.integers(low, high + 1)), rng)
    return replace(body, transform_lps_to_table=lain(body.transform_lps_to_table, body, rng))


@lru_cache(maxsize=1)
def breathing(name: str) -> Patient:
    """Return a patient at another phase of breathing, lying as in the CT; the one asked for last is kept."""
    patient = load_patient(name)
    try:
        return replace(patient, volume=breathed(patient), landmarks_mm=breathed_landmarks(patient))
    except PatientError:
        return patient
