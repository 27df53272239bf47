# SPDX-License-Identifier: Apache-2.0
"""Protocol 7: which body parts a radiograph shows. Its two questions, what may be answered, and strict reading."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

from carm_core.body_parts import BODY_PARTS
from carm_core.errors import AnswerError
from carm_perception.protocols.grammar import Grammar, choice, literal, words
from carm_perception.protocols.parsing import BodyPartAnswer, parse_body_parts


class PartForm(StrEnum):
    """Form of the answer."""

    LABEL = "label"
    PAIR = "pair"


_TABLE = "\n".join(f"{number}: {name}" for number, name in enumerate(BODY_PARTS))
_INTRODUCTION = f"You see an X-ray image of a part of the human body. These are the body parts:\n{_TABLE}\n\n"
_TASKS = {
    PartForm.LABEL: (
        "Which body part does the image show? Two parts if it shows both of them. Answer with nothing but the ids,"
        " in this form: <label_id>9,21</label_id>"
    ),
    PartForm.PAIR: (
        "Which body part does the image show, and which is the second most likely? Answer with nothing but a list of"
        " two ids, the most likely first, in this form: [9,21]"
    ),
}


def part_prompt(form: PartForm) -> str:
    """Return the question for a large model, self-contained."""
    return _INTRODUCTION + _TASKS[form]


@lru_cache(maxsize=2)
def part_grammar(form: PartForm) -> Grammar:
    """Return what may be answered: one or two different parts, or exactly two."""
    ids = [str(number) for number in range(len(BODY_PARTS))]
    pairs = choice(literal(one + ",") + words(*(other for other in ids if other != one)) for one in ids)
    if form is PartForm.PAIR:
        return literal("[") + pairs + literal("]")
    return literal("<label_id>") + (words(*ids) | pairs) + literal("</label_id>")


def parse_parts(text: str, form: PartForm) -> BodyPartAnswer:
    """Parse an answer in the form that was asked for.

    Raises:
        AnswerError: It is no answer of protocol 7, or one of the other form.
    """
    answer = parse_body_parts(text)
    if answer.pair != (form is PartForm.PAIR):
        raise AnswerError(f"the form of the answer is not {form}", text)
    return answer
