# SPDX-License-Identifier: Apache-2.0
"""Views of the lower abdomen and the legs: a body, but none of the landmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError, GoalError
from carm_core.imaging.frame import XrayFrame
from carm_core.robot.kinematics import CArm
from carm_perception.datasets.calibration.patient_views import FIRST_SEED, views_folder
from carm_perception.networks.preprocessing import model_gray

if TYPE_CHECKING:
    from carm_sim.patient.patient import Patient

AWAY_MM = 160.0
"""Least distance of every landmark from the center of such an image: twice half the field."""

EXTRA_IDS = (119, 120, *range(121, 127), *range(129, 135))
"""L4, L5, femoral heads, knees, ankles, trochanters, iliac crests, sacral promontory, pubic symphysis."""

PATIENTS, VIEWS = 8, 15
"""Whole bodies of the calibration, and views of each."""

FIRST_WHOLE_BODY = FIRST_SEED + 50_000
_SPREAD_MM = 45.0
_TRIES = 400


def leg_frames(patient: Patient, count: int, carm: CArm, rng: np.random.Generator) -> list[XrayFrame]:
    """Return the views from L4 to the ankles of a whole body, no landmark within ``AWAY_MM`` of the image center.

    Args:
        patient: A whole body.
        count: Number of views.
        carm: The arm.
        rng: Source of randomness.

    Raises:
        ConfigurationError: No such view is within reach of the arm.
    """
    from carm_sim.xray import XrayConfig, XraySystem

    system = XraySystem(patient, carm, XrayConfig(threads=1), seed=int(rng.integers(2**31)))
    to_table, extra = patient.transform_lps_to_table, patient.extra_landmarks_mm
    places = [np.asarray(to_table.apply(extra[i])) for i in EXTRA_IDS if i in extra]
    marks = np.array(list(patient.landmarks_table_mm.values()))
    frames: list[XrayFrame] = []
    for _ in range(_TRIES * count):
        if len(frames) == count:
            return frames
        center = places[rng.integers(len(places))] + rng.normal(0, _SPREAD_MM, 3)
        try:
            positions = carm.inverse(center / 1000.0, *(float(a) for a in np.radians(rng.normal(0, 8, 2))))[0]
        except GoalError:
            continue
        if np.linalg.norm(carm.view(positions).displacement_mm(marks), axis=1).min() >= AWAY_MM:
            frames.append(system.expose(positions).frame())
    raise ConfigurationError(f"patient {patient.name}: no view of abdomen and legs is within reach of the arm")


def leg_images() -> NDArray[np.uint8]:
    """Return the images uint8 (n, 128, 128) of the calibration's whole bodies, kept in the user's cache.

    Raises:
        ConfigurationError: The cache cannot be written.
    """
    from carm_sim.patient_loader import load_patient

    folder = views_folder(VIEWS)
    images = []
    for seed in range(FIRST_WHOLE_BODY, FIRST_WHOLE_BODY + PATIENTS):
        path = folder / f"legs-{seed}.npy"
        found = _load(path)
        if found is None:
            patient = load_patient(f"phantom:{seed}?whole_body")
            rng = np.random.default_rng([seed, 43])
            found = np.stack([model_gray(frame) for frame in leg_frames(patient, VIEWS, CArm.from_config(), rng)])
            _save(path, found)
        images.append(found)
    return np.concatenate(images)


def _load(path: Path) -> NDArray[np.uint8] | None:
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.uint8)
    except (OSError, ValueError, EOFError):
        return None


def _save(path: Path, images: NDArray[np.uint8]) -> None:
    temporary = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            np.save(stream, images)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"cannot write to {path.parent}: {error.strerror or error}") from error
