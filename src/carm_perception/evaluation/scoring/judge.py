# SPDX-License-Identifier: Apache-2.0
"""Ask a localizer about every case of a suite, once each, and keep what it answered beside the truth.

No question is asked a second time, and nothing that the localizer is told comes from the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carm_core.landmarks import ROWS, landmark
from carm_core.localization import Localization, Localizer, Protocol, Query
from carm_perception.evaluation.metrics import closest
from carm_perception.evaluation.scoring.figures import summarize
from carm_perception.evaluation.scoring.records import (
    ListRecord,
    PointRecord,
    Record,
    Status,
    calibrated_radii,
    status_of,
)
from carm_perception.evaluation.suites.cases import Case
from carm_perception.evaluation.suites.suites import Suite

TRUE_CLOSEST = 3
KEPT = 6
"""Worst answers that are kept of each kind of question."""


@dataclass(frozen=True, eq=False)
class Worst:
    """An answer far off.

    Attributes:
        case: Image and truth.
        protocol: The question.
        target: Landmark asked for; 0: none.
        answer_ids: Landmarks of the answer.
        answer_mm: Displacement of the answer, or None.
        badness_mm: Distance of the answer from the truth, or of the landmark that it named from the image center;
            infinite when nobody knows where that landmark is.
    """

    case: Case
    protocol: Protocol
    target: int
    answer_ids: tuple[int, ...]
    answer_mm: tuple[float, float] | None
    badness_mm: float


@dataclass
class Evaluation:
    """One localizer on one suite.

    Attributes:
        localizer: Name of the localizer.
        suite: The suite.
        seed: Seed of views and noise.
        records: Every question.
        worst: The worst answers, worst first.
        warm_up_s: Duration of the warm-up, s.
        cases: Number of images.
    """

    localizer: str
    suite: Suite
    seed: int
    records: list[Record] = field(default_factory=list)
    worst: list[Worst] = field(default_factory=list)
    warm_up_s: float = float("nan")
    cases: int = 0

    @property
    def name(self) -> str:
        """Key in reports."""
        return f"{self.localizer}/{self.suite.name}"

    def figures(self) -> dict[str, Any]:
        """Return the figures by their names in reports; rates are fractions, lengths mm, times ms."""
        marks = tuple(landmark(key) for key in self.suite.ids)
        return {**summarize(self.records, self.cases, marks), "warm_up_ms": round(1e3 * self.warm_up_s, 1)}


def evaluate(
    localizer: Localizer,
    chosen: Suite,
    seed: int,
    cases: Iterable[Case],
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Evaluate a localizer on the cases of a suite.

    Args:
        localizer: Who answers.
        chosen: The suite.
        seed: Its seed.
        cases: Its cases.
        progress: Told the number of cases done.
    """
    start = time.perf_counter()
    localizer.warm_up()
    result = Evaluation(localizer.name, chosen, seed, warm_up_s=time.perf_counter() - start)
    rng = np.random.default_rng([seed, 11])
    for index, case in enumerate(cases):
        localizer.forget()
        if case.kind:
            _ask_list(localizer, case, index, Protocol.LOCALIZATION, result)
            _ask_list(localizer, case, index, Protocol.RETRIEVAL, result)
            _point(localizer, case, index, int(rng.choice(case.ids)), result)
        elif case.centered_on:
            _ask_list(localizer, case, index, Protocol.LOCALIZATION, result)
            for target in case.in_view:
                _point(localizer, case, index, target, result)
        else:
            _ask_list(localizer, case, index, Protocol.RETRIEVAL, result)
        result.cases = index + 1
        progress(index + 1)
    result.worst.sort(key=lambda w: -w.badness_mm)
    return result


def timed(localizer: Localizer, case: Case, query: Query) -> tuple[Localization, float]:
    """Ask once; return the answer and the time as seen by the caller, s."""
    start = time.perf_counter()
    reply = localizer.localize(case.frame, query)
    return reply, time.perf_counter() - start


def order_of(reply: Localization) -> tuple[int, ...]:
    """Return the landmarks of an answer, closest first, word for word; empty when there is none."""
    return tuple(estimate.id for estimate in reply.estimates) if reply.ok else ()


def _ask_list(localizer: Localizer, case: Case, index: int, protocol: Protocol, result: Evaluation) -> None:
    reply, seconds = timed(localizer, case, Query(protocol, among=case.ids))
    truth = closest(case.displacement_mm, min(TRUE_CLOSEST, len(case.ids) - len(case.unknown)))
    answer = order_of(reply)
    unknown = case.unknown if truth else frozenset()
    result.records.append(ListRecord(index, protocol, status_of(reply), truth, answer, seconds, case.kind, unknown))
    if protocol is not Protocol.LOCALIZATION or not answer or (truth and truth[0] in answer[:2]):
        return
    distance = float(np.linalg.norm(case.displacement_mm[ROWS[answer[0]]])) if truth else _spread(index)
    _keep(result, Worst(case, protocol, 0, answer, None, distance if np.isfinite(distance) else np.inf))


def _spread(index: int) -> float:
    """Place of an image without landmarks among the worst: the golden ratio's multiples pick evenly from all kinds."""
    return index * 0.6180339887 % 1


def _point(localizer: Localizer, case: Case, index: int, target: int, result: Evaluation) -> None:
    reply, seconds = timed(localizer, case, Query(Protocol.POINTING, target))
    status, centered = status_of(reply), target == case.centered_on
    estimate = reply.estimate(target) if reply.ok else None
    if estimate is None or not np.isfinite(estimate.displacement_mm).all():
        status = Status.FAILED if status is Status.ANSWERED else status
        result.records.append(PointRecord(index, target, status, centered=centered, latency_s=seconds, kind=case.kind))
        return
    truth = case.displacement_mm[ROWS[target]]
    error = float(np.linalg.norm(np.subtract(estimate.displacement_mm, truth)))
    radii = calibrated_radii(estimate)
    result.records.append(
        PointRecord(index, target, status, error, centered, estimate.std_mm, radii, seconds, case.kind)
    )
    if np.isfinite(error):
        _keep(result, Worst(case, Protocol.POINTING, target, (target,), estimate.displacement_mm, error))


def _keep(result: Evaluation, worst: Worst) -> None:
    """Keep the worst answers of each kind of question, one of each image."""
    same = [w for w in result.worst if w.protocol is worst.protocol]
    rivals = [w for w in same if w.case is worst.case]
    if rivals:
        if worst.badness_mm > rivals[0].badness_mm:
            result.worst[result.worst.index(rivals[0])] = worst
        return
    result.worst.append(worst)
    if len(same) >= KEPT:
        result.worst.remove(min([*same, worst], key=lambda w: w.badness_mm))
