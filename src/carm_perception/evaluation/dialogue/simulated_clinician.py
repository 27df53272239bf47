# SPDX-License-Identifier: Apache-2.0
"""A simulated clinician who sees the image, and says one sentence about a localizer's answer.

What is said comes from the truth, as from a person who recognizes what is shown. It is used where a correction is
evaluated and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from carm_core.landmarks import ROWS, landmark
from carm_core.transforms import Array
from carm_perception.evaluation.metrics import closest

NEAR_MM = 25.0
"""Two landmarks closer to each other than this in the image are told apart by name, not by direction."""


class Kind(StrEnum):
    """What a remark does."""

    SIDE = "side"
    DIRECTION = "direction"
    NAME = "name"
    DOUBT = "doubt"
    CONFIRM = "confirm"


TEMPLATES: dict[Kind, tuple[str, ...]] = {
    Kind.SIDE: (
        "no, that is the other side",
        "you have mixed up left and right",
        "wrong side",
        "this is the patient's {side}",
    ),
    Kind.DIRECTION: ("no, further {where}", "we are further {where}", "that is not it, it is more to the {where}"),
    Kind.NAME: (
        "this is the {truth}, not the {answer}",
        "no, I see the {truth} here",
        "that is not the {answer} but the {truth}",
    ),
    Kind.DOUBT: ("are you sure?", "please look again", "check that once more"),
    Kind.CONFIRM: ("yes, this is the {truth}", "right, that is the {truth}", "I see the {truth} too"),
}
"""Sentences by what they do."""

_VERTICAL = {True: ("up", "towards the head"), False: ("down", "towards the feet")}
_HORIZONTAL = {True: ("to the patient's left",), False: ("to the patient's right",)}


@dataclass(frozen=True)
class Remark:
    """One sentence.

    Attributes:
        kind: What it does.
        text: The words.
    """

    kind: Kind
    text: str


def remark(displacement_mm: Array, answer_id: int, rng: np.random.Generator) -> Remark:
    """Return a remark about the first landmark of an answer.

    After a right answer the clinician doubts or agrees. After a swap of sides, the side is named. Else either both
    landmarks are named, or the direction in which the image lies from the landmark that was answered.

    Args:
        displacement_mm: True displacements (48, 2), right and up; NaN where unknown.
        answer_id: The first landmark of the answer.
        rng: Choice of words.
    """
    truth_id = closest(displacement_mm, 1)[0]
    truth, answer = landmark(truth_id), landmark(answer_id)
    words = {"truth": _spoken(truth.name), "answer": _spoken(answer.name), "side": truth.name.split()[0].lower()}
    if truth_id == answer_id:
        kind = Kind.DOUBT if rng.random() < 0.5 else Kind.CONFIRM
    elif truth.mirror_id == answer_id:
        kind = Kind.SIDE
    else:
        offset = displacement_mm[ROWS[truth_id]] - displacement_mm[ROWS[answer_id]]
        apart = float(np.linalg.norm(offset))
        kind = Kind.DIRECTION if apart >= NEAR_MM and rng.random() < 0.5 else Kind.NAME
        words["where"] = _direction(offset, rng) if kind is Kind.DIRECTION else ""
    return Remark(kind, str(rng.choice(TEMPLATES[kind])).format(**words))


def _spoken(name: str) -> str:
    return name if name[-1].isdigit() else name[0].lower() + name[1:]


def _direction(offset_mm: Array, rng: np.random.Generator) -> str:
    right, up = offset_mm
    choices = _VERTICAL[bool(up > 0)] if abs(up) >= abs(right) else _HORIZONTAL[bool(right > 0)]
    return str(rng.choice(choices))
