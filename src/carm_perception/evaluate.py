# SPDX-License-Identifier: Apache-2.0
"""``carm eval localize``: localizers on rendered X-rays of patients that no model was trained on.

Images come from the simulated X-ray system as the graph shows them. Half of the views are centered near a landmark
(hit rates, errors and mirror swaps are taken on these), half are drawn over the trunk (retrieval precision). An
abstention or a malformed answer counts as a miss. No answer is asked for twice with knowledge of the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError, GoalError
from carm_core.frame import XrayFrame
from carm_core.kinematics import CArm
from carm_core.landmarks import LANDMARKS, landmark
from carm_core.localization import Localization, Localizer, Protocol, Query
from carm_core.transforms import Array
from carm_perception.data.views import TRUNK_IDS, ViewDistribution
from carm_perception.metrics import closest, hit, mirror_swap, precision
from carm_sim.patient import Patient, load_patient
from carm_sim.xray import XraySystem

_TRIES = 400
CENTERED_OFFSET_MM = 20.0
"""Standard deviation of each component of the distance between a centered view and its landmark."""
RADIUS_90_PER_STD, RADIUS_95_PER_STD = 2.146, 2.448
"""Radii of 90 and 95 per cent of a round normal distribution, in standard deviations of a component."""


@dataclass(frozen=True)
class Suite:
    """A fixed set of patients.

    Attributes:
        name: Name in reports.
        patients: Names for ``load_patient``.
        views: Views over all patients.
        description: One line.
        inside_fraction: A view counts when at least this part of its rays meets the CT.
    """

    name: str
    patients: tuple[str, ...]
    views: int
    description: str
    inside_fraction: float = 0.0


def suite(name: str, patients: int = 20, views: int = 400) -> Suite:
    """Make a suite.

    Args:
        name: ``phantom``, ``validation`` or ``chest_ct``.
        patients: Number of phantoms.
        views: Views over all patients.

    Raises:
        ConfigurationError: There is no such suite.
    """
    if name == "phantom":
        names = tuple(f"phantom:{900_000 + index}" for index in range(patients))
        return Suite(name, names, views, "phantoms of the style of the training, never seen")
    if name == "validation":
        names = tuple(f"phantom-validation:{600_000 + index}" for index in range(patients))
        return Suite(name, names, views, "phantoms of another style, never seen")
    if name == "chest_ct":
        return Suite(name, ("chest_ct",), views, "the real chest CT; nothing was trained or chosen on it", 0.8)
    raise ConfigurationError(f"unknown suite {name!r}; there are {', '.join(SUITE_NAMES)}")


SUITE_NAMES = ("phantom", "validation", "chest_ct")


@dataclass(frozen=True)
class Case:
    """One X-ray and the truth.

    Attributes:
        patient: Name of the patient.
        frame: The image.
        displacement_mm: True displacements (14, 2); NaN for landmarks that the patient lacks.
        centered_on: Landmark near which the view is centered; 0: drawn over the trunk.
    """

    patient: str
    frame: XrayFrame
    displacement_mm: Array
    centered_on: int


def cases(chosen: Suite, seed: int) -> Iterator[Case]:
    """Render the cases of a suite, patient by patient; each depends on the seed and the patient only."""
    carm = CArm.from_config()
    count = len(chosen.patients)
    for number, name in enumerate(chosen.patients):
        patient = load_patient(name)
        if not patient.landmarks_known:
            raise ConfigurationError(f"patient {name} has no known landmarks")
        system = XraySystem(patient, carm, seed=seed)
        rng = np.random.default_rng([seed, number, 31])
        share = chosen.views // count + (number < chosen.views % count)
        for index in range(share):
            yield _case(patient, system, carm, rng, index % 2 == 0, chosen.inside_fraction)


def _case(
    patient: Patient, system: XraySystem, carm: CArm, rng: np.random.Generator, centered: bool, inside: float
) -> Case:
    spread = ViewDistribution()
    points = patient.landmarks_table_mm
    for _ in range(_TRIES):
        target = int(rng.choice(list(points))) if centered else 0
        positions = _positions(points, target, spread, carm, rng)
        if positions is None:
            continue
        exposure = system.expose(positions)
        if exposure.hit_fraction < inside:
            continue
        view = exposure.view
        truth = np.full((len(LANDMARKS), 2), np.nan)
        for row, mark in enumerate(LANDMARKS):
            if mark.id in points:
                truth[row] = view.displacement_mm(points[mark.id])
        return Case(patient.name, exposure.frame(), truth, target)
    raise ConfigurationError(f"patient {patient.name}: no view within reach of the arm shows the CT")


def _positions(
    points: dict[int, Array], target: int, spread: ViewDistribution, carm: CArm, rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """Joint positions of a random view, or None when it is out of reach. Table frame: head, right, up."""
    if target:
        scale = np.array([CENTERED_OFFSET_MM, CENTERED_OFFSET_MM, spread.depth_mm])
        center = points[target] + rng.normal(0, scale)
    else:
        trunk = np.mean([points[i] for i in TRUNK_IDS if i in points] or list(points.values()), axis=0)
        center = trunk + rng.normal(0, [spread.along_mm, spread.across_mm, spread.depth_mm])
    primary = np.clip(rng.normal(0, spread.primary_deg), -spread.limit_primary_deg, spread.limit_primary_deg)
    secondary = np.clip(rng.normal(0, spread.secondary_deg), -spread.limit_secondary_deg, spread.limit_secondary_deg)
    try:
        return carm.inverse(center / 1000.0, float(np.radians(primary)), float(np.radians(secondary)))[0]
    except GoalError:
        return None


@dataclass
class _Tally:
    """Figures of one localizer on one suite, as they come in."""

    hits: list[tuple[int, bool, bool, bool]]
    precisions: list[tuple[float, float]]
    errors: list[tuple[int, float, float, bool]]
    latencies: list[float]
    asked: int = 0
    malformed: int = 0
    abstained: int = 0


def _ask(localizer: Localizer, case: Case, protocol: Protocol, tally: _Tally, target: int = 0) -> Localization:
    reply = localizer.localize(case.frame, Query(protocol, target or None))
    tally.asked += 1
    tally.malformed += reply.error == "malformed"
    tally.abstained += reply.abstained
    tally.latencies.append(reply.latency_s)
    return reply


def _judge(localizer: Localizer, case: Case, tally: _Tally) -> None:
    truth = case.displacement_mm
    known = {mark.id for mark, row in zip(LANDMARKS, truth, strict=True) if np.isfinite(row).all()}
    first, three = closest(truth, 1)[0], closest(truth, 3)
    if case.centered_on:
        reply = _ask(localizer, case, Protocol.LOCALIZATION, tally)
        order = tuple(e.id for e in reply.estimates if e.id in known) if reply.ok else ()
        tally.hits.append((first, hit(first, order, 1), hit(first, order, 2), mirror_swap(first, order)))
        for row, mark in enumerate(LANDMARKS):
            half = case.frame.mm_per_px_at_isocenter * case.frame.image.shape[0] / 2
            if mark.id in known and (np.abs(truth[row]) <= half).all():
                _point(localizer, case, mark.id, truth[row], tally)
    else:
        reply = _ask(localizer, case, Protocol.RETRIEVAL, tally)
        order = tuple(e.id for e in reply.estimates if e.id in known) if reply.ok else ()
        tally.precisions.append((precision(three, order, 1), precision(three, order, 3)))


def _point(localizer: Localizer, case: Case, target: int, truth: Array, tally: _Tally) -> None:
    reply = _ask(localizer, case, Protocol.POINTING, tally, target)
    estimate = reply.estimate(target) if reply.ok else None
    if estimate is not None and np.isfinite(estimate.displacement_mm).all():
        error = float(np.linalg.norm(np.subtract(estimate.displacement_mm, truth)))
        tally.errors.append((target, error, estimate.std_mm, target == case.centered_on))


def evaluate(
    localizer: Localizer, chosen: Suite, seed: int, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Evaluate a localizer on a suite.

    Args:
        localizer: Who answers.
        chosen: The suite.
        seed: Seed of views and noise.
        progress: Told the number of cases done.

    Returns:
        Figures by their names in reports; rates are fractions, lengths mm, times ms.
    """
    start = time.perf_counter()
    localizer.warm_up()
    warm_ms = 1e3 * (time.perf_counter() - start)
    tally = _Tally([], [], [], [])
    count = 0
    for count, case in enumerate(cases(chosen, seed), 1):
        _judge(localizer, case, tally)
        progress(count)
    return {"n": count, **_summary(tally), "warm_up_ms": round(warm_ms, 1)}


def _rate(values: list[Any]) -> float:
    return round(float(np.mean(values)), 4) if values else float("nan")


def _summary(tally: _Tally) -> dict[str, Any]:
    errors = np.array([e[1] for e in tally.errors])
    centered = np.array([e[1] for e in tally.errors if e[3]])
    latency = 1e3 * np.array(tally.latencies)
    return {
        "hit_1": _rate([h[1] for h in tally.hits]),
        "hit_2": _rate([h[2] for h in tally.hits]),
        "p_at_1": _rate([p[0] for p in tally.precisions]),
        "p_at_3": _rate([p[1] for p in tally.precisions]),
        "mirror_swap": _rate([h[3] for h in tally.hits]),
        **_distances("error", errors),
        **_distances("error_centered", centered),
        "coverage_90": _coverage(tally, RADIUS_90_PER_STD),
        "coverage_95": _coverage(tally, RADIUS_95_PER_STD),
        "malformed": round(tally.malformed / max(tally.asked, 1), 4),
        "abstained": round(tally.abstained / max(tally.asked, 1), 4),
        "latency_p50_ms": round(float(np.percentile(latency, 50)), 1),
        "latency_p99_ms": round(float(np.percentile(latency, 99)), 1),
        "per_landmark": {landmark(i).name: _one(tally, i) for i in sorted({h[0] for h in tally.hits})},
    }


def _coverage(tally: _Tally, radius_per_std: float) -> float:
    """Fraction of landmarks within the radius that the stated standard deviation gives."""
    return _rate([e[1] <= e[2] * radius_per_std for e in tally.errors if np.isfinite(e[2])])


def _distances(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return {f"{name}_mean_mm": float("nan"), f"{name}_p95_mm": float("nan")}
    return {
        f"{name}_mean_mm": round(float(values.mean()), 2),
        f"{name}_median_mm": round(float(np.median(values)), 2),
        f"{name}_p95_mm": round(float(np.percentile(values, 95)), 2),
    }


def _one(tally: _Tally, identifier: int) -> dict[str, Any]:
    hits = [h for h in tally.hits if h[0] == identifier]
    errors = [e[1] for e in tally.errors if e[0] == identifier]
    return {
        "n": len(hits),
        "hit_1": _rate([h[1] for h in hits]),
        "hit_2": _rate([h[2] for h in hits]),
        "mirror_swap": _rate([h[3] for h in hits]),
        "error_mean_mm": round(float(np.mean(errors)), 2) if errors else float("nan"),
    }
