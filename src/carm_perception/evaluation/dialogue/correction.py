# SPDX-License-Identifier: Apache-2.0
"""What becomes of wrong and of right answers when a localizer is asked again.

(a) alone: the re-evaluation protocol with nothing but its own first answer; (b) told: also with one sentence from a
simulated clinician. Wrong and right first answers are taken in equal number. None of this enters any other figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from carm_core.localization import Localization, Localizer, Protocol, Query
from carm_perception.evaluation.dialogue.simulated_clinician import Kind, remark
from carm_perception.evaluation.metrics import closest
from carm_perception.evaluation.scoring.figures import latencies, rate, with_interval
from carm_perception.evaluation.scoring.judge import order_of, timed
from carm_perception.evaluation.scoring.records import Status, status_of
from carm_perception.evaluation.suites.cases import Case

ALONE, TOLD = "alone", "told"


@dataclass(frozen=True, eq=False)
class FirstAnswer:
    """A case and the first answer to it.

    Attributes:
        case: Image and truth.
        answer: The first answer, word for word.
        answer_id: Its first landmark.
        truth_id: The landmark that is truly closest.
    """

    case: Case
    answer: str
    answer_id: int
    truth_id: int

    @property
    def right(self) -> bool:
        """Whether the first landmark of the answer is the true one."""
        return self.answer_id == self.truth_id


@dataclass(frozen=True)
class _Second:
    """What came of asking again."""

    was_right: bool
    status: Status
    is_right: bool
    seconds: float
    kind: Kind | None = None

    @property
    def broken(self) -> bool:
        """A right answer was replaced by a wrong one; without a second answer the first one stands."""
        return self.was_right and self.status is Status.ANSWERED and not self.is_right


class _Sample:
    """At most so many answers, each with the same chance (reservoir sampling, Vitter 1985, algorithm R)."""

    def __init__(self, limit: int, rng: np.random.Generator) -> None:
        self.kept: list[FirstAnswer] = []
        self.seen = 0
        self._limit, self._rng = limit, rng

    def add(self, item: FirstAnswer) -> None:
        self.seen += 1
        if len(self.kept) < self._limit:
            self.kept.append(item)
            return
        place = int(self._rng.integers(self.seen))
        if place < self._limit:
            self.kept[place] = item


def correct(
    localizer: Localizer,
    cases: Iterable[Case],
    seed: int,
    limit: int = 200,
    progress: Callable[[int], None] = lambda done: None,
    second: Localizer | None = None,
) -> dict[str, Any]:
    """Ask about every centered view, then again about as many right answers as wrong ones.

    Args:
        localizer: Who answers first.
        cases: Cases of a suite.
        seed: Seed of the choice of right answers and of the clinician's words.
        limit: Most wrong and most right answers that are asked about again.
        progress: Told the number of cases done.
        second: Who looks again; None: the same.

    Returns:
        Figures: ``fixed_alone``, ``broken_alone``, ``fixed_told``, ``broken_told`` with their intervals, ``fixed_told``
        by kind of remark, how many first answers were wrong, and how often there was no second answer.
    """
    again = second or localizer
    localizer.warm_up()
    again.warm_up()
    wrong, right = (_Sample(limit, np.random.default_rng([seed, stream])) for stream in (71, 72))
    asked = answered = 0
    for index, case in enumerate(cases):
        if case.centered_on:
            asked += 1
            reply, _ = timed(localizer, case, Query(Protocol.LOCALIZATION))
            first = _first(case, reply)
            if first is not None:
                answered += 1
                (right if first.right else wrong).add(first)
        progress(index + 1)
    count = min(len(wrong.kept), len(right.kept))
    chosen = wrong.kept[:count] + right.kept[:count]
    words = np.random.default_rng([seed, 73])
    figures: dict[str, Any] = {"asked": asked, "answered": answered, "wrong": wrong.seen, "n": 2 * count}
    for way in (ALONE, TOLD):
        figures |= _figures(way, [_again(again, first, way, words) for first in chosen])
    return figures


def _first(case: Case, reply: Localization) -> FirstAnswer | None:
    order = order_of(reply)
    return FirstAnswer(case, reply.answer, order[0], closest(case.displacement_mm, 1)[0]) if order else None


def _again(localizer: Localizer, first: FirstAnswer, way: str, words: np.random.Generator) -> _Second:
    said = remark(first.case.displacement_mm, first.answer_id, words) if way == TOLD else None
    query = Query(Protocol.REEVALUATION, hint=said.text if said else "", correction=first.answer)
    reply, seconds = timed(localizer, first.case, query)
    order = order_of(reply)
    is_right = bool(order) and order[0] == first.truth_id
    return _Second(first.right, status_of(reply), is_right, seconds, said.kind if said else None)


def _figures(way: str, seconds: list[_Second]) -> dict[str, Any]:
    before_wrong = [s for s in seconds if not s.was_right]
    figures = with_interval(f"fixed_{way}", [s.is_right for s in before_wrong])
    figures |= with_interval(f"broken_{way}", [s.broken for s in seconds if s.was_right])
    figures[f"no_answer_{way}"] = rate(s.status is not Status.ANSWERED for s in seconds)
    for kind in (Kind.SIDE, Kind.DIRECTION, Kind.NAME):
        if any(s.kind is kind for s in before_wrong):
            figures[f"fixed_{way}_{kind}"] = rate(s.is_right for s in before_wrong if s.kind is kind)
    timings = latencies([s.seconds for s in seconds])
    return figures | {f"{name.removesuffix('_ms')}_{way}_ms": value for name, value in timings.items()}
