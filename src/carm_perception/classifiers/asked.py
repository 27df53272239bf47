# SPDX-License-Identifier: Apache-2.0
"""Large models as classifiers of body parts: asked in words, decoded under the grammar, read strictly."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import AnswerError
from carm_core.localization import NAN
from carm_perception.classifiers.classifier import Classifier
from carm_perception.protocols.body_parts import PartForm, parse_parts, part_grammar, part_prompt
from carm_perception.protocols.grammar import Grammar
from carm_perception.protocols.retry import REPEAT


class Writer(Protocol):
    """A model that writes: ``HuggingFaceLocalizer`` and ``OpenAiLocalizer`` are such."""

    name: str

    def write(self, image: NDArray[np.uint8], prompt: str, allowed: Grammar) -> str:
        """Return the model's answer to a prompt about an image (rows, columns), under a grammar if it has one."""

    def close(self) -> None:
        """Release memory and connections."""


class AskedClassifier(Classifier):
    """Puts the question to a large model; an answer that breaks the form is asked for once more."""

    def __init__(self, writer: Writer) -> None:
        """Take the model."""
        self.name, self._writer = writer.name, writer

    def _answer(self, image: NDArray[np.uint8], form: PartForm) -> tuple[str, float]:
        prompt, allowed = part_prompt(form), part_grammar(form)
        answer = self._writer.write(image, prompt, allowed)
        try:
            parse_parts(answer, form)
        except AnswerError:
            answer = self._writer.write(image, prompt + REPEAT, allowed)
        return answer, NAN

    def close(self) -> None:
        """Close the model."""
        self._writer.close()
