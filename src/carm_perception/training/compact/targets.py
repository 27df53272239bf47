# SPDX-License-Identifier: Apache-2.0
"""What the compact model is taught to answer, piece by piece, with the weight that each piece has in the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.landmarks import LANDMARKS, landmark
from carm_perception.evaluation.metrics import closest
from carm_perception.networks.preprocessing import FIELD_MM
from carm_perception.protocols.parsing import LIMIT_MM, LOCALIZED, RETRIEVED, extent

Displacements = NDArray[np.floating]
"""Of all landmarks (14, 2) at isocenter depth, right and up, mm; NaN when unknown."""

FORMAT_WEIGHT = 0.1
"""Weight of what follows from the form of the answer."""
CONTEXT_WEIGHT = 0.4
"""Weight of the landmarks that a navigation answer says are in view."""
CONTEXT_COUNT = 3
"""Landmarks that a navigation answer names at most."""


@dataclass(frozen=True)
class Piece:
    """Part of an answer that takes one token.

    Attributes:
        text: The token's text.
        weight: Its weight in the loss.
        number_mm: The true value where the text is a length, else NaN.
    """

    text: str
    weight: float = FORMAT_WEIGHT
    number_mm: float = math.nan


def _length(value_mm: float) -> Piece:
    clipped = float(np.clip(value_mm, -LIMIT_MM, LIMIT_MM))
    return Piece(str(round(clipped)), 1.0, clipped)


def _joined(texts: Iterable[str], separator: str, weight: float) -> list[Piece]:
    pieces: list[Piece] = []
    for text in texts:
        pieces += [Piece(separator)] if pieces else []
        pieces.append(Piece(text, weight))
    return pieces


def text(pieces: Iterable[Piece]) -> str:
    """Return the answer as it is written."""
    return "".join(piece.text for piece in pieces)


def pointing(target: int, truth_mm: Displacements) -> list[Piece]:
    """Return the answer of the pointing protocol.

    Args:
        target: Landmark id.
        truth_mm: Its displacement (2,), mm.
    """
    right, up = (_length(float(value)) for value in truth_mm)
    head = [Piece('{"target": '), Piece(str(target))]
    return [*head, Piece(', "dx_mm": '), right, Piece(', "dy_mm": '), up, Piece("}")]


def localization(truth_mm: Displacements) -> list[Piece]:
    """Return the answer of the localization protocol."""
    ids = map(str, closest(truth_mm, LOCALIZED))
    return [Piece("["), *_joined(ids, ",", 1.0), Piece("]")]


def retrieval(truth_mm: Displacements) -> list[Piece]:
    """Return the answer of the retrieval protocol."""
    pieces = [Piece("[")]
    for number, identifier in enumerate(closest(truth_mm, RETRIEVED)):
        pieces += [Piece(", ")] if number else []
        pieces += [Piece(str(identifier), 1.0), Piece(": "), Piece(landmark(identifier).name)]
    return [*pieces, Piece("]")]


def navigation(target: int, truth_mm: Displacements) -> list[Piece]:
    """Return the answer of the navigation protocol; the reasons say how far, in millimeters."""
    half_mm = FIELD_MM / 2
    seen = [i for i in closest(truth_mm, CONTEXT_COUNT) if bool((np.abs(truth_mm[i - 1]) <= half_mm).all())]
    right, up = (float(value) for value in truth_mm[target - 1])
    return [
        Piece("<output><step1><context>"),
        *_joined([landmark(i).name for i in seen] or ["no landmark"], ", ", CONTEXT_WEIGHT),
        Piece("</context></step1><step2><x>"),
        *_direction(right, ("RIGHT", "LEFT"), "x", (" mm to the patient's right", " mm to the patient's left")),
        Piece("</reason_x><y>"),
        *_direction(up, ("DOWN", "UP"), "y", (" mm towards the feet", " mm towards the head")),
        Piece("</reason_y></step2></output>"),
    ]


def _direction(value_mm: float, words: tuple[str, str], axis: str, units: tuple[str, str]) -> list[Piece]:
    size, positive = extent(value_mm), value_mm > 0
    word, unit = ("CENTER", " mm off the center") if size == "NONE" else (words[positive], units[positive])
    return [
        Piece(word, 1.0),
        Piece(f"</{axis}><extent_{axis}>"),
        Piece(size, 1.0),
        Piece(f"</extent_{axis}><reason_{axis}>"),
        _length(abs(value_mm)),
        Piece(unit),
    ]


def reevaluation(earlier: tuple[int, ...], truth_mm: Displacements) -> list[Piece]:
    """Answer of the re-evaluation protocol: where the landmarks of the earlier answer and the closest ones lie.

    Args:
        earlier: Ids of the earlier answer.
        truth_mm: Displacements.
    """
    chosen = closest(truth_mm, LOCALIZED)
    named = [i for i in dict.fromkeys((*earlier, *chosen)) if np.isfinite(truth_mm[i - 1]).all()]
    pieces = [Piece("<response><visual_reasoning>")]
    for number, identifier in enumerate(named):
        right, up = (_length(float(value)) for value in truth_mm[identifier - 1])
        pieces += [Piece(" mm; ")] if number else []
        pieces += [Piece(landmark(identifier).name, 1.0), Piece(" at "), right, Piece(" by "), up]
    pieces += [Piece(" mm"), Piece("</visual_reasoning><landmarks>")]
    ids = _joined(map(str, chosen), ",", 1.0)
    return [*pieces, Piece("["), *ids, Piece("]"), Piece("</landmarks></response>")]


def earlier_answer(truth_mm: Displacements, rng: np.random.Generator) -> tuple[int, int]:
    """Draw an answer that a model may have given before: right in half of the cases, else wrong in a likely way.

    A wrong first landmark is the second or third closest, the counterpart on the other side, or any.

    Args:
        truth_mm: Displacements, at least three of them known.
        rng: Source of randomness.
    """
    order = closest(truth_mm, int(np.isfinite(truth_mm).all(-1).sum()))
    first = order[0]
    if rng.random() < 0.5:
        mirror = LANDMARKS[first - 1].mirror_id
        choices = [order[1], order[min(2, len(order) - 1)], mirror or order[1], int(rng.choice(order[1:]))]
        first = int(rng.choice(choices, p=[0.55, 0.1, 0.2, 0.15]))
    others = [i for i in order if i != first]
    return first, others[0] if rng.random() < 0.75 else int(rng.choice(others))


def token_texts() -> tuple[str, ...]:
    """Return every text that a piece of an answer can have, numbers and names of landmarks apart."""
    zero = np.full((len(LANDMARKS), 2), math.nan)
    zero[:3] = [[-20.0, -20.0], [20.0, 20.0], [500.0, 500.0]]
    nothing = np.where(np.isnan(zero), zero, 900.0)
    near = zero.copy()
    near[0] = 0.0
    far = [200.0 * sign * np.ones((len(LANDMARKS), 2)) for sign in (-1, 1)]
    middle = 60.0 * np.ones((len(LANDMARKS), 2))
    examples = [navigation(1, row) for row in (zero, nothing, near, *far, middle)] + [navigation(2, zero)]
    examples += [reevaluation((1, 2), zero), pointing(1, zero[0]), localization(zero), retrieval(zero)]
    names = {mark.name for mark in LANDMARKS}
    texts = dict.fromkeys(p.text for pieces in examples for p in pieces)
    return tuple(t for t in texts if t not in names and not t.lstrip("-").isdigit())
