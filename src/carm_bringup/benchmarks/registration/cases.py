# SPDX-License-Identifier: Apache-2.0
"""Cases of ``carm bench register``: two X-ray images of a body, one CT, and how far the registration is off."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from carm_bringup.benchmarks.registration.conditions import CONDITIONS, imaged, preoperative
from carm_bringup.benchmarks.registration.images import Imager
from carm_core.errors import GoalError
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.localization import LandmarkEstimate, Localizer
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array, RigidTransform
from carm_perception.registration.body_belief import Sighting
from carm_perception.registration.evidence import Evidence
from carm_perception.registration.model import CtModel
from carm_perception.registration.registrar import Registrar, Registration
from carm_perception.registration.search import DEPTH, STEP_DEG, STEP_MM, PoseGrid
from carm_sim.patient.patient import Patient

NEAR_MM = 150.0
"""Landmarks this near to the isocenter count for the error in space, mm."""
STARTS_MM = (10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0, 150.0, 200.0)
"""How far off a search begins, for the capture range, mm."""
_APART_DEG = 40.0
_BESIDE_MM = 20.0
_PRIMARY_DEG, _SECONDARY_DEG = 35.0, 15.0
_TRIES = 20
_SOFT = frozenset({11, 12, 13})
"""Carina and domes of the diaphragm: they move with the breath, and are not judged."""
_ARMS = frozenset({6, 7, 8, 9})
_TRUNK = frozenset({4, 5, 10, 11, 12, 13, 14})


@dataclass(frozen=True)
class Job:
    """The cases of one patient under one condition.

    Attributes:
        condition: Name in ``CONDITIONS``.
        patient: Who is imaged.
        other: Whose CT it is under ``wrong-patient``.
        cases: How many.
        seed: Of everything random.
    """

    condition: str
    patient: str
    other: str
    cases: int
    seed: int


@dataclass(frozen=True)
class Case:
    """One case. Errors are NaN where nothing was registered.

    Attributes:
        patient: Who was imaged.
        start_mm: Error in view where the search began; NaN: it began from scratch.
        start: What the search began with, as in ``Registration``.
        accepted: Whether the first image's registration was.
        similarity: Of the first image.
        evidence: Of the first image, as in ``Registration``.
        in_view_mm: Mean error of the landmarks in view at isocenter depth after the first image, mm.
        error_mm: Mean error in space of the landmarks near the isocenter after the first image, mm.
        accepted_two: Whether the second image's registration was.
        similarity_two: Of the second image.
        evidence_two: Of the second image.
        in_view_two_mm: As ``in_view_mm``, in the second image.
        error_two_mm: As ``error_mm``, after both images.
        sigma_two_mm: What the covariance says of ``error_two_mm``: root of its trace, mean of the landmarks.
        first_s: Time of the first registration, s.
        second_s: Time of the second, s.
    """

    patient: str
    start_mm: float
    start: str
    accepted: bool
    similarity: float
    evidence: Evidence
    in_view_mm: float
    error_mm: float
    accepted_two: bool
    similarity_two: float
    evidence_two: Evidence
    in_view_two_mm: float
    error_two_mm: float
    sigma_two_mm: float
    first_s: float
    second_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def run_job(job: Job) -> list[Case]:
    """Run the cases of one patient."""
    from carm_perception.localizers.registry import FUSED, make_localizer

    body, model, imager, rng = _prepared(job)
    trunk = CONDITIONS[job.condition].trunk
    localizer = make_localizer(FUSED)
    judged = [key for key in body.landmarks_mm if key not in (_SOFT | _ARMS if trunk else _SOFT)]
    cases = []
    for first, second in _pairs(body, CArm.from_config(), rng, job.cases, trunk):
        frames = [imager.expose(joints) for joints in (first, second)]
        cases.append(_case(body, np.array([body.landmarks_mm[key] for key in judged]), model, localizer, frames))
    localizer.close()
    return cases


def _prepared(job: Job) -> tuple[Patient, CtModel, Imager, np.random.Generator]:
    """Return the body that is imaged, the CT that is registered, what takes the images, and what else is random."""
    condition = CONDITIONS[job.condition]
    rng = np.random.default_rng([job.seed, len(job.condition)])
    body = imaged(job.patient, condition, rng)
    model = CtModel(preoperative(job.patient, condition, job.other, job.seed))
    return body, model, Imager(body, CArm.from_config(), condition, job.seed), rng


@dataclass(frozen=True)
class Capture:
    """One search from a pose that is off.

    Attributes:
        start_mm: How far off it was across the view, mm.
        in_view_mm: As in ``Case``.
        accepted: As in ``Case``.
    """

    start_mm: float
    in_view_mm: float
    accepted: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def run_capture(job: Job) -> list[Capture]:
    """Search from poses that are more and more off; each image once from each distance."""
    body, model, imager, rng = _prepared(job)
    marks = np.array([point for key, point in body.landmarks_mm.items() if key not in _SOFT])
    truth, registrar, found = body.transform_lps_to_table, Registrar(model), []
    for joints, _ in _pairs(body, CArm.from_config(), rng, job.cases, CONDITIONS[job.condition].trunk):
        frame = imager.expose(joints)
        view = _view(frame)
        for start_mm in STARTS_MM:
            result = registrar.search_from(frame, beside(truth, view, start_mm, rng))
            error = in_view(view, truth, result.transform_lps_to_table, marks)
            found.append(Capture(start_mm, error, result.accepted))
    registrar.close()
    return found


def beside(pose: RigidTransform, view: XrayView, across_mm: float, rng: np.random.Generator) -> RigidTransform:
    """Return a pose that is off: across the view by so much, as far along it and a tenth as many degrees (1 sigma)."""
    angle = rng.uniform(0.0, 2 * math.pi)
    shift = across_mm * np.array([math.cos(angle), math.sin(angle), rng.normal()])
    turns = rng.normal(0.0, across_mm / 10, 3)
    grid = PoseGrid.around(pose, view)
    return grid.pose(np.concatenate([turns / STEP_DEG, shift / (STEP_MM * np.array([1.0, 1.0, DEPTH]))]))


def _pairs(
    body: Patient, arm: CArm, rng: np.random.Generator, count: int, trunk: bool
) -> Iterator[tuple[Array, Array]]:
    """Yield joint positions of two exposures of the same place from different sides."""
    marks = [point for key, point in body.landmarks_table_mm.items() if not trunk or key in _TRUNK]
    for _ in range(count):
        for _ in range(_TRIES):
            place = marks[rng.integers(len(marks))] + rng.normal(0, _BESIDE_MM, 3)
            primary, secondary = rng.uniform(-_PRIMARY_DEG, _PRIMARY_DEG), rng.uniform(-_SECONDARY_DEG, _SECONDARY_DEG)
            other = primary - math.copysign(_APART_DEG, primary)
            try:
                pair = [
                    arm.inverse(place / 1000, math.radians(p), math.radians(secondary))[0] for p in (primary, other)
                ]
            except GoalError:
                continue
            yield pair[0], pair[1]
            break


def seen(localizer: Localizer, frame: XrayFrame) -> tuple[LandmarkEstimate, ...]:
    """Return the landmarks that a localizer sees in a frame, as ``localizer:=registered`` asks for them."""
    assert isinstance(localizer, Sighting)
    return localizer.sighted(frame)


def _case(body: Patient, marks: Array, model: CtModel, localizer: Localizer, frames: list[XrayFrame]) -> Case:
    from carm_perception.registration.initial_pose import Sighted, from_landmarks, lying

    truth = body.transform_lps_to_table
    registrar = Registrar(model)
    views = [_view(frame) for frame in frames]
    estimates = seen(localizer, frames[0])
    nominal = lying(model.center_mm, model.body_box_mm)
    begun = from_landmarks([Sighted(views[0], estimates)], model.landmarks_mm, nominal)
    one = registrar.register(frames[0], estimates)
    two = registrar.register(frames[1], seen(localizer, frames[1]))
    registrar.close()
    near = marks[np.linalg.norm(truth.apply(marks) - views[0].isocenter_mm, axis=1) < NEAR_MM]
    return Case(
        body.name,
        math.nan if begun is None else in_view(views[0], truth, begun, marks),
        one.start,
        one.accepted,
        one.similarity,
        one.evidence,
        in_view(views[0], truth, one.transform_lps_to_table, marks),
        in_space(truth, one.transform_lps_to_table, near),
        two.accepted,
        two.similarity,
        two.evidence,
        in_view(views[1], truth, two.transform_lps_to_table, marks),
        in_space(truth, two.transform_lps_to_table, near),
        _sigma(two, near),
        one.duration_s,
        two.duration_s,
    )


def _view(frame: XrayFrame) -> XrayView:
    assert frame.view is not None
    return frame.view


def in_view(view: XrayView, truth: RigidTransform, found: RigidTransform, marks: Array) -> float:
    """Return the mean error at isocenter depth of landmarks (n, 3), LPS, mm, that are in the image; NaN: none is."""
    there, here = view.displacement_mm(truth.apply(marks)), view.displacement_mm(found.apply(marks))
    half = np.array([view.detector.columns, view.detector.rows]) * view.mm_per_px_at_isocenter / 2
    inside = (np.abs(there) < half).all(1)
    return float(np.linalg.norm(there - here, axis=1)[inside].mean()) if inside.any() else math.nan


def in_space(truth: RigidTransform, found: RigidTransform, marks: Array) -> float:
    """Return the mean error of landmarks (n, 3), LPS, mm; NaN: there is none."""
    if not len(marks):
        return math.nan
    return float(np.linalg.norm(truth.apply(marks) - found.apply(marks), axis=1).mean())


def _sigma(registration: Registration, marks: Array) -> float:
    if not len(marks):
        return math.nan
    return float(np.mean([math.sqrt(np.trace(registration.covariance_mm2(mark))) for mark in marks]))
