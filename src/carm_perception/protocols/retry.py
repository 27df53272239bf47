# SPDX-License-Identifier: Apache-2.0
"""How a model whose decoding is not constrained is asked: strict parsing, one re-ask, then a typed failure."""

from __future__ import annotations

from collections.abc import Callable

from carm_core.errors import AnswerError
from carm_core.localization import Query
from carm_perception.protocols.parsing import Answer, parse

REPEAT = (
    "\nYour earlier answer did not follow the form. Give the answer in exactly the form that was asked for, and"
    " nothing else."
)


def ask_strictly(ask: Callable[[str], str], prompt: str, query: Query) -> tuple[str, Answer]:
    """Ask, and ask once more if the answer breaks its protocol.

    Args:
        ask: Gives the model's answer to a prompt.
        prompt: The question in words.
        query: The question.

    Returns:
        The answer, word for word and parsed.

    Raises:
        AnswerError: Both answers break the protocol; carries the second one.
    """
    try:
        answer = ask(prompt)
        return answer, parse(answer, query)
    except AnswerError:
        answer = ask(prompt + REPEAT)
        return answer, parse(answer, query)
