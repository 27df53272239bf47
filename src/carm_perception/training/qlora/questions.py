# SPDX-License-Identifier: Apache-2.0
"""Questions of all protocols about one image, with the right answers as text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.localization import Protocol, Query
from carm_perception.datasets import language
from carm_perception.datasets.rendering.acquisition import UPRIGHT
from carm_perception.evaluation.metrics import closest
from carm_perception.protocols.parsing import LIMIT_MM, LOCALIZED, RETRIEVED, LocalizationAnswer
from carm_perception.training.compact import targets

CHANCES = {
    Protocol.POINTING: 0.3,
    Protocol.LOCALIZATION: 0.2,
    Protocol.RETRIEVAL: 0.2,
    Protocol.NAVIGATION: 0.12,
    Protocol.REEVALUATION: 0.12,
    Protocol.COMMAND: 0.06,
}
"""How often each protocol is asked."""

REMARK_CHANCE = 0.5
"""How often the clinician says what is wrong with an earlier answer that is wrong."""

_NEAR_MM = 150.0
_ANYHOW_SHOWN = (Protocol.LOCALIZATION, Protocol.RETRIEVAL, Protocol.COMMAND)
"""Protocols whose answers do not depend on how the image is turned."""


@dataclass(frozen=True)
class Question:
    """A question and its answer.

    Attributes:
        query: The question.
        answer: The answer, word for word.
    """

    query: Query
    answer: str

    @property
    def has_image(self) -> bool:
        """Whether it is about the image; a command is about a sentence."""
        return self.query.protocol is not Protocol.COMMAND


def draw_question(
    rng: np.random.Generator, displacement_mm: NDArray[np.floating], orientation: str = UPRIGHT
) -> Question:
    """Draw a question that the image can answer.

    Images that are mirrored or upside down are asked for landmarks only: which these are follows from the anatomy.

    Args:
        rng: Source of randomness.
        displacement_mm: Displacements of all landmarks (14, 2), mm; NaN when unknown.
        orientation: How the image is shown, one of ``carm_perception.datasets.rendering.acquisition.ORIENTATIONS``.
    """
    known = np.isfinite(displacement_mm).all(-1)
    possible = [Protocol.COMMAND]
    if known.sum() >= RETRIEVED:
        possible += [p for p in CHANCES if p not in (Protocol.COMMAND, Protocol.POINTING, Protocol.NAVIGATION)]
    near = known & (np.abs(np.nan_to_num(displacement_mm, nan=np.inf)).max(-1) <= LIMIT_MM)
    if near.any():
        possible += [Protocol.POINTING, Protocol.NAVIGATION]
    if orientation != UPRIGHT:
        possible = [p for p in possible if p in _ANYHOW_SHOWN]
    weights = np.array([CHANCES[p] for p in possible])
    protocol = possible[int(rng.choice(len(possible), p=weights / weights.sum()))]
    return _question(rng, protocol, displacement_mm, near)


def _question(
    rng: np.random.Generator, protocol: Protocol, truth_mm: NDArray[np.floating], near: NDArray[np.bool_]
) -> Question:
    if protocol is Protocol.COMMAND:
        sentence, command = language.sample(rng)
        return Question(Query(protocol, hint=sentence), command.text())
    if protocol is Protocol.LOCALIZATION:
        return Question(Query(protocol), targets.text(targets.localization(truth_mm)))
    if protocol is Protocol.RETRIEVAL:
        return Question(Query(protocol), targets.text(targets.retrieval(truth_mm)))
    if protocol is Protocol.REEVALUATION:
        return _reevaluation(rng, truth_mm)
    candidates = np.flatnonzero(near)
    weights = np.exp(-np.linalg.norm(truth_mm[candidates], axis=-1) / _NEAR_MM)
    target = int(rng.choice(candidates, p=weights / weights.sum())) + 1
    if protocol is Protocol.POINTING:
        return Question(Query(protocol, target), targets.text(targets.pointing(target, truth_mm[target - 1])))
    return Question(Query(protocol, target), targets.text(targets.navigation(target, truth_mm)))


def _reevaluation(rng: np.random.Generator, truth_mm: NDArray[np.floating]) -> Question:
    earlier = targets.earlier_answer(truth_mm, rng)
    right = closest(truth_mm, LOCALIZED)[0]
    spoken = earlier[0] != right and rng.random() < REMARK_CHANCE
    hint = language.remark(rng, earlier[0], right) if spoken else ""
    query = Query(Protocol.REEVALUATION, hint=hint, correction=LocalizationAnswer(earlier).text())
    return Question(query, targets.text(targets.reevaluation(earlier, truth_mm)))
