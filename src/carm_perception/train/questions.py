# SPDX-License-Identifier: Apache-2.0
"""Several questions about one image in one sequence: the image is read once, questions do not see each other.

Every question takes the same positions that it would take alone, so training packed and asking singly agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carm_core.landmarks import LANDMARKS
from carm_core.localization import Protocol, Query
from carm_perception.metrics import closest
from carm_perception.prompts import short_prompt
from carm_perception.protocols import (
    LIMIT_MM,
    LOCALIZED,
    RETRIEVED,
    LocalizationAnswer,
    PointingAnswer,
    RetrievalAnswer,
)
from carm_perception.train.architecture import IMAGE_TOKENS
from carm_perception.train.tokenizer import ASSISTANT, END, IMAGE, USER, number_token_ids

FORMAT_WEIGHT = 0.1
"""Weight of tokens that follow from the form of the answer."""


@dataclass(frozen=True)
class Packed:
    """One batch of packed sequences.

    Attributes:
        input_ids: (batch, length); image positions hold the image token.
        position_ids: (1, length).
        mask: Additive attention mask (1, 1, length, length).
        positions: Where a token is predicted (p,): the logits after position ``positions[i]`` predict the label.
        labels: Token ids (batch, p).
        weights: Weight of each label (batch, p).
        numbers_mm: True values (batch, p), NaN where the label is no number of the pointing protocol.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor
    weights: Tensor
    numbers_mm: Tensor


@dataclass(frozen=True)
class _Segment:
    prompt: list[int]
    answer: list[int]
    numbers_mm: list[float]
    weights: list[float]


class QuestionPacker:
    """Draws questions about images and packs them."""

    def __init__(self, tokenizer: Any, pointing: int = 4) -> None:
        """Prepare.

        Args:
            tokenizer: The compact model's tokenizer.
            pointing: Pointing questions per image.
        """
        self._tokenizer = tokenizer
        self._pointing = pointing
        self._end = [int(tokenizer.convert_tokens_to_ids(END))]
        self._assistant = [int(tokenizer.convert_tokens_to_ids(ASSISTANT))]
        image = int(tokenizer.convert_tokens_to_ids(IMAGE))
        self.prefix = [int(tokenizer.convert_tokens_to_ids(USER))] + [image] * IMAGE_TOKENS
        self._numbers = number_token_ids(tokenizer)
        self._cache: dict[str, list[int]] = {}

    def _encode(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._cache[text]

    def _segment(self, query: Query, answer: str, heavy: set[int]) -> _Segment:
        ids = self._tokenizer.encode(answer, add_special_tokens=False) + self._end
        weights = [1.0 if i in heavy else FORMAT_WEIGHT for i in range(len(ids))]
        prompt = self._encode(short_prompt(query)) + self._assistant
        return _Segment(prompt, ids, [float("nan")] * len(ids), weights)

    def _point(self, target: int, truth_mm: NDArray[np.floating]) -> _Segment:
        dx, dy = (float(np.clip(value, -LIMIT_MM, LIMIT_MM)) for value in truth_mm)
        text = PointingAnswer(target, round(dx), round(dy)).text()
        segment = self._segment(Query(Protocol.POINTING, target), text, {3, 5})
        segment.numbers_mm[3], segment.numbers_mm[5] = dx, dy
        return segment

    def _order(self, truth_mm: NDArray[np.floating], retrieval: bool) -> _Segment:
        if retrieval:
            answer = RetrievalAnswer(closest(truth_mm, RETRIEVED)).text()
            return self._segment(Query(Protocol.RETRIEVAL), answer, {1, 5, 9})
        answer = LocalizationAnswer(closest(truth_mm, LOCALIZED)).text()
        return self._segment(Query(Protocol.LOCALIZATION), answer, {1, 3})

    def pack(self, truth_mm: NDArray[np.floating], rng: np.random.Generator) -> Packed:
        """Draw questions for a batch of images; targets near the center are asked for more often.

        Args:
            truth_mm: Displacements (batch, 14, 2), NaN when unknown.
            rng: Source of randomness.
        """
        retrieval = bool(rng.random() < 0.5)
        return self._packed([self._row(truth, retrieval, rng) for truth in truth_mm])

    def pack_all(self, truth_mm: NDArray[np.floating]) -> Packed:
        """Ask for every landmark, in the order of the ids, and for nothing else.

        Args:
            truth_mm: Displacements (batch, 14, 2); 0 takes the place of NaN.
        """
        marks = np.nan_to_num(truth_mm)
        return self._packed([[self._point(mark.id, row[i]) for i, mark in enumerate(LANDMARKS)] for row in marks])

    def _packed(self, rows: list[list[_Segment]]) -> Packed:
        ids = [list(self.prefix) for _ in rows]
        labels: list[list[int]] = [[] for _ in rows]
        weights: list[list[float]] = [[] for _ in rows]
        numbers: list[list[float]] = [[] for _ in rows]
        start, spans, positions = len(self.prefix), [], []
        for segments in zip(*rows, strict=True):
            length = len(segments[0].prompt) + len(segments[0].answer) - 1
            first = start + len(segments[0].prompt) - 1
            positions += list(range(first, first + len(segments[0].answer)))
            for row, segment in enumerate(segments):
                ids[row] += segment.prompt + segment.answer[:-1]
                labels[row] += segment.answer
                weights[row] += segment.weights
                numbers[row] += segment.numbers_mm
            spans.append((start, start + length))
            start += length
        return Packed(
            torch.tensor(ids),
            *_layout(len(self.prefix), spans),
            torch.tensor(positions),
            torch.tensor(labels),
            torch.tensor(weights),
            torch.tensor(numbers),
        )

    def _row(self, truth_mm: NDArray[np.floating], retrieval: bool, rng: np.random.Generator) -> list[_Segment]:
        distance = np.linalg.norm(truth_mm, axis=-1)
        known = np.flatnonzero(~np.isnan(distance))
        chance = 1 / (60 + distance[known]) ** 1.5
        picked = rng.choice(known, self._pointing, replace=len(known) < self._pointing, p=chance / chance.sum())
        segments = [self._point(LANDMARKS[index].id, truth_mm[index]) for index in picked]
        return [*segments, self._order(truth_mm, retrieval)]


def _layout(prefix: int, spans: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Position ids (1, length) and additive mask (1, 1, length, length) of a prefix and independent segments."""
    length = spans[-1][1]
    owner = torch.zeros(length, dtype=torch.long)
    position = torch.arange(length)
    for number, (start, stop) in enumerate(spans, 1):
        owner[start:stop] = number
        position[start:stop] = torch.arange(prefix, prefix + stop - start)
    index = torch.arange(length)
    allowed = (owner[None, :] == 0) | (owner[None, :] == owner[:, None])
    allowed &= index[None, :] <= index[:, None]
    mask = torch.zeros(length, length).masked_fill(~allowed, torch.finfo(torch.float32).min)
    return position[None], mask[None, None]
