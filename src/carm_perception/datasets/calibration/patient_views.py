# SPDX-License-Identifier: Apache-2.0
"""X-rays of the calibration patients: phantoms of a range of their own, seen by no training and no test.

Images do not depend on any model. They are kept in the user's cache, a file for each patient, so that a model trained
anew is calibrated without rendering again, and a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError, GoalError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import ALL_LANDMARKS
from carm_core.paths import cache_dir
from carm_core.robot.kinematics import CArm
from carm_perception.datasets.views import TRUNK_IDS, ViewDistribution, centered_weights
from carm_perception.networks.preprocessing import FIELD_MM, MODEL_PX, model_gray

FIRST_SEED = 700_000
"""Seed of the first calibration phantom; the test sets begin at 900 000, the validation set at 600 000."""

CENTERED_OFFSET_MM = 20.0
"""Standard deviation of each component of the distance between a centered view and its landmark."""

_TRIES = 400


@dataclass(frozen=True, eq=False)
class PatientViews:
    """The views of one patient.

    Attributes:
        patient: Name for ``load_patient``.
        images: What a model reads, uint8 (views, 128, 128).
        displacement_mm: True displacements (views, 48, 2) at isocenter depth; NaN for landmarks that the patient lacks.
    """

    patient: str
    images: NDArray[np.uint8]
    displacement_mm: NDArray[np.float64]

    def frame(self, index: int) -> XrayFrame:
        """Return one view as a localizer gets it."""
        return XrayFrame(self.images[index], FIELD_MM / MODEL_PX, float(index))


STYLES = "phantom", "phantom-living"
"""Styles of the training's bodies."""


def patient_names(nominal: int, shifted: int) -> tuple[str, ...]:
    """Return the names of calibration patients; every other one is a whole body.

    Args:
        nominal: Phantoms of the styles of the training.
        shifted: Phantoms of the style ``validation``, which is generated in another way.
    """
    kinds = [STYLES[index % len(STYLES)] for index in range(nominal)] + ["phantom-validation"] * shifted
    numbers = [*range(nominal), *range(shifted)]
    return tuple(
        f"{kind}:{FIRST_SEED + number}" + ("?whole_body" if number // 2 % 2 else "")
        for kind, number in zip(kinds, numbers, strict=True)
    )


def render(patient: str, views: int) -> PatientViews:
    """Render the views of one patient; they depend on its name only.

    Half of the views are centered near a landmark, half are drawn over the trunk, as in the evaluation.

    Args:
        patient: Name of a phantom.
        views: Number of views.

    Raises:
        ConfigurationError: No view is within reach of the arm.
    """
    from carm_sim.patient.patient import make_patient
    from carm_sim.patient_loader import PHANTOM_STYLES
    from carm_sim.phantom import generate_phantom
    from carm_sim.xray import XrayConfig, XraySystem

    kind, _, rest = patient.partition(":")
    digits, _, whole = rest.partition("?")
    body = generate_phantom(int(digits), style=PHANTOM_STYLES[kind], whole_body=bool(whole))
    person = make_patient(patient, body.volume, body.landmarks_mm, "calibration")
    person = replace(person, extra_landmarks_mm=body.extra_landmarks_mm)
    carm, rng = CArm.from_config(), np.random.default_rng([int(digits), list(PHANTOM_STYLES).index(kind), 7])
    system = XraySystem(person, carm, XrayConfig(threads=1), seed=int(digits))
    points = person.all_landmarks_table_mm
    imaged = list(person.imaged_landmarks_mm)
    images = np.zeros((views, MODEL_PX, MODEL_PX), np.uint8)
    truth = np.full((views, len(ALL_LANDMARKS), 2), np.nan)
    for index in range(views):
        exposure = system.expose(_positions(points, imaged if index % 2 == 0 else [], carm, rng))
        images[index] = model_gray(exposure.frame())
        for row, mark in enumerate(ALL_LANDMARKS):
            if mark.id in points:
                truth[index, row] = exposure.view.displacement_mm(points[mark.id])
    return PatientViews(patient, images, truth)


def _positions(
    points: dict[int, NDArray[np.float64]], near_one_of: list[int], carm: CArm, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the joint positions of a random view within reach, of the trunk or near a landmark. Table frame."""
    spread = ViewDistribution()
    trunk = np.mean([points[i] for i in TRUNK_IDS if i in points] or list(points.values()), axis=0)
    for _ in range(_TRIES):
        if near_one_of:
            one = int(rng.choice(near_one_of, p=centered_weights(near_one_of)))
            center, near = points[one], CENTERED_OFFSET_MM
            scale = [near, near, spread.depth_mm]
        else:
            center, scale = trunk, [spread.along_mm, spread.across_mm, spread.depth_mm]
        place = (center + rng.normal(0, scale)) / 1000.0
        primary = np.clip(rng.normal(0, spread.primary_deg), -spread.limit_primary_deg, spread.limit_primary_deg)
        limit = spread.limit_secondary_deg
        secondary = np.clip(rng.normal(0, spread.secondary_deg), -limit, limit)
        try:
            return carm.inverse(place, float(np.radians(primary)), float(np.radians(secondary)))[0]
        except GoalError:
            continue
    raise ConfigurationError("no view of a calibration patient is within reach of the arm")


def views_folder(views: int) -> Path:
    """Return the folder of the images in the user's cache, by what they depend on besides the patient."""
    from carm_sim.phantom.generator import GENERATOR_VERSION

    return cache_dir() / "calibration" / f"v{GENERATOR_VERSION}-{len(ALL_LANDMARKS)}-{MODEL_PX}px-{views}"


def load_views(path: Path) -> PatientViews | None:
    """Read one patient's file; None when it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return PatientViews(str(content["patient"]), content["images"], content["displacement_mm"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _make(path: Path, patient: str, views: int) -> None:
    made = render(patient, views)
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, patient=made.patient, images=made.images, displacement_mm=made.displacement_mm)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def prepare_views(
    patients: tuple[str, ...], views: int, workers: int, progress: Callable[[], object] = lambda: None
) -> list[Path]:
    """Render what the cache lacks.

    Args:
        patients: Names.
        views: Views of each.
        workers: Processes.
        progress: Called once for each patient.

    Returns:
        A file for each patient, for ``load_views``.

    Raises:
        ConfigurationError: The cache cannot be written.
    """
    folder = views_folder(views)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror or error}") from error
    paths = {folder / f"{re.sub(r'[:?]', '-', name)}.npz": name for name in patients}
    missing = {path: name for path, name in paths.items() if load_views(path) is None}
    for _ in range(len(paths) - len(missing)):
        progress()
    if workers <= 1:
        for path, name in missing.items():
            _make(path, name, views)
            progress()
    elif missing:
        with ProcessPoolExecutor(workers) as pool:
            for future in as_completed([pool.submit(_make, path, name, views) for path, name in missing.items()]):
                future.result()
                progress()
    return list(paths)
