# SPDX-License-Identifier: Apache-2.0
"""The seam between classifiers of body parts and everybody who asks them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import AnswerError, CarmError, LocalizerError
from carm_core.localization import NAN
from carm_perception.protocols.body_parts import PartForm, parse_parts


@dataclass(frozen=True)
class Classification:
    """A classifier's reply: an answer or an error; never a guess.

    Attributes:
        classifier: Who answered.
        form: What was asked.
        answer: The answer, word for word.
        part_ids: Ids of ``carm_core.body_parts``, the most likely first; empty on an error.
        confidence: Probability that the first is right, 0 to 1; NaN: unknown.
        latency_s: Time of the answer, s.
        error: Kind of failure (``"malformed"``, ``"internal"``), or None.
        message: Why it failed.
    """

    classifier: str
    form: PartForm
    answer: str
    part_ids: tuple[int, ...] = ()
    confidence: float = NAN
    latency_s: float = NAN
    error: str | None = None
    message: str = ""


class Classifier(ABC):
    """Says which body parts radiographs show. One thread at a time owns an instance.

    Attributes:
        name: Name in messages and reports.
    """

    name: str

    def classify(self, image: NDArray[np.uint8], form: PartForm = PartForm.LABEL) -> Classification:
        """Answer the question about an image.

        Args:
            image: Display image uint8 (rows, columns), at least 16 px; its proportions are free.
            form: Form of the answer.

        Returns:
            The reply; a failure of the model is in it, not raised.
        """
        start = time.perf_counter()

        def reply(answer: str, **content: object) -> Classification:
            seconds = time.perf_counter() - start
            return Classification(self.name, form, answer, latency_s=seconds, **content)  # type: ignore[arg-type]

        try:
            check_image(image)
            answer, confidence = self._answer(image, form)
            return reply(answer, part_ids=parse_parts(answer, form).part_ids, confidence=confidence)
        except AnswerError as error:
            return reply(error.answer, error="malformed", message=str(error))
        except (CarmError, RuntimeError, ValueError, IndexError) as error:
            return reply("", error="internal", message=(str(error).splitlines() or [type(error).__name__])[0])

    @abstractmethod
    def _answer(self, image: NDArray[np.uint8], form: PartForm) -> tuple[str, float]:
        """Return the answer, word for word, and the confidence in it."""

    def close(self) -> None:  # noqa: B027
        """Release memory and connections."""


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuse what is no image.

    Raises:
        LocalizerError: The image is no uint8 array (rows, columns) of at least 16 px.
    """
    if image.ndim != 2 or image.dtype != np.uint8 or min(image.shape) < 16:
        raise LocalizerError(
            f"a display image is uint8 (rows, columns), at least 16 px; got {image.dtype} {image.shape}"
        )
