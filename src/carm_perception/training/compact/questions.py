# SPDX-License-Identifier: Apache-2.0
"""Several questions about one image in one sequence: the image is read once, questions do not see each other.

Every question takes the same positions that it would take alone, so training packed and asking singly agree. What the
clinician says is read without the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carm_core.landmarks import LANDMARKS
from carm_core.localization import Protocol, Query
from carm_perception.datasets import language
from carm_perception.evaluation.metrics import closest
from carm_perception.networks.tokens import ASSISTANT, END, IMAGE, USER
from carm_perception.networks.vision_language_model import IMAGE_TOKENS
from carm_perception.protocols.parsing import LocalizationAnswer
from carm_perception.protocols.prompts import short_prompt
from carm_perception.training.compact import targets
from carm_perception.training.compact.targets import Piece

COMMANDS = 4
"""Sentences of a clinician in one sequence."""

EXTRA_KINDS = (Protocol.NAVIGATION, Protocol.REEVALUATION)
EXTRA_CHANCES = (0.4, 0.6)
"""How often a batch holds each kind of the longer questions."""

REMARK_CHANCE = 0.5
"""How often the clinician says what is wrong with an earlier answer that is wrong."""


@dataclass(frozen=True)
class Packed:
    """One batch of packed sequences.

    Attributes:
        input_ids: (batch, length); image positions hold the image token.
        position_ids: (1, length).
        mask: Additive attention mask (1, 1, length, length).
        positions: Where tokens are predicted (batch, p): the logits after ``positions[b, i]`` predict label i.
        labels: Token ids (batch, p).
        weights: Weight of each label (batch, p); 0 where a row has fewer labels than another.
        numbers_mm: True values (batch, p), NaN where the label is no length.
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
    sees_image: bool = True


class QuestionPacker:
    """Draws questions about images and packs them."""

    def __init__(self, tokenizer: Any, pointing: int = 3) -> None:
        """Prepare.

        Args:
            tokenizer: The compact model's tokenizer.
            pointing: Pointing questions per image.
        """
        self._tokenizer = tokenizer
        self._pointing = pointing
        self._end = int(tokenizer.convert_tokens_to_ids(END))
        self._assistant = [int(tokenizer.convert_tokens_to_ids(ASSISTANT))]
        image = int(tokenizer.convert_tokens_to_ids(IMAGE))
        self.prefix = [int(tokenizer.convert_tokens_to_ids(USER))] + [image] * IMAGE_TOKENS
        self._cache: dict[str, list[int]] = {}

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _cached(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self._encode(text)
        return self._cache[text]

    def _segment(self, query: Query, answer: Sequence[Piece]) -> _Segment:
        ids = [self._cached(piece.text) for piece in answer]
        assert all(len(one) == 1 for one in ids), targets.text(answer)
        return _Segment(
            self._encode(short_prompt(query)) + self._assistant,
            [one[0] for one in ids] + [self._end],
            [piece.number_mm for piece in answer] + [float("nan")],
            [piece.weight for piece in answer] + [targets.FORMAT_WEIGHT],
        )

    def _point(self, target: int, truth_mm: NDArray[np.floating]) -> _Segment:
        return self._segment(Query(Protocol.POINTING, target), targets.pointing(target, truth_mm))

    def _navigation(self, truth_mm: NDArray[np.floating], rng: np.random.Generator) -> _Segment:
        target = self._draw(truth_mm, 1, rng)[0]
        return self._segment(Query(Protocol.NAVIGATION, target), targets.navigation(target, truth_mm))

    def _reevaluation(self, truth_mm: NDArray[np.floating], rng: np.random.Generator) -> _Segment:
        earlier = targets.earlier_answer(truth_mm, rng)
        right = closest(truth_mm, 1)[0]
        spoken = earlier[0] != right and rng.random() < REMARK_CHANCE
        remark = language.remark(rng, earlier[0], right) if spoken else ""
        query = Query(Protocol.REEVALUATION, hint=remark, correction=LocalizationAnswer(earlier).text())
        return self._segment(query, targets.reevaluation(earlier, truth_mm))

    def _command(self, rng: np.random.Generator) -> _Segment:
        sentence, command = language.sample(rng)
        answer = [*self._encode(command.text()), self._end]
        prompt = self._encode(short_prompt(Query(Protocol.COMMAND, hint=sentence))) + self._assistant
        return _Segment(prompt, answer, [float("nan")] * len(answer), [1.0] * len(answer), sees_image=False)

    def pack(self, truth_mm: NDArray[np.floating], rng: np.random.Generator) -> Packed:
        """Draw questions for a batch of images; targets near the center are asked for more often.

        Args:
            truth_mm: Displacements (batch, 14, 2), NaN when unknown.
            rng: Source of randomness.
        """
        order: Callable[[NDArray[np.floating]], list[Piece]]
        kind = Protocol.RETRIEVAL if rng.random() < 0.5 else Protocol.LOCALIZATION
        order = targets.retrieval if kind is Protocol.RETRIEVAL else targets.localization
        extra = EXTRA_KINDS[int(rng.choice(len(EXTRA_KINDS), p=EXTRA_CHANCES))]
        longer = self._navigation if extra is Protocol.NAVIGATION else self._reevaluation
        rows = []
        for truth in truth_mm:
            points = [self._point(target, truth[target - 1]) for target in self._draw(truth, self._pointing, rng)]
            rows.append([*points, self._segment(Query(kind), order(truth)), longer(truth, rng)])
        return self._packed(rows, self.prefix)

    def pack_commands(self, rows: int, rng: np.random.Generator) -> Packed:
        """Draw sentences of a clinician, ``COMMANDS`` in each of ``rows`` sequences without an image."""
        return self._packed([[self._command(rng) for _ in range(COMMANDS)] for _ in range(rows)], self.prefix[:1])

    def pack_all(self, truth_mm: NDArray[np.floating]) -> Packed:
        """Ask only for every landmark, in the order of the ids.

        Args:
            truth_mm: Displacements (batch, 14, 2); 0 takes the place of NaN.
        """
        marks = np.nan_to_num(truth_mm)
        return self._packed(
            [[self._point(mark.id, row[i]) for i, mark in enumerate(LANDMARKS)] for row in marks], self.prefix
        )

    def _packed(self, rows: list[list[_Segment]], prefix: list[int]) -> Packed:
        ids = [list(prefix) for _ in rows]
        positions: list[list[int]] = [[] for _ in rows]
        labels: list[list[int]] = [[] for _ in rows]
        weights: list[list[float]] = [[] for _ in rows]
        numbers: list[list[float]] = [[] for _ in rows]
        start, spans = len(prefix), []
        for segments in zip(*rows, strict=True):
            length = max(len(s.prompt) + len(s.answer) - 1 for s in segments)
            predicted = max(len(s.answer) for s in segments)
            for row, segment in enumerate(segments):
                first = start + len(segment.prompt) - 1
                missing = predicted - len(segment.answer)
                text = segment.prompt + segment.answer[:-1]
                ids[row] += text + [self._end] * (length - len(text))
                positions[row] += [*range(first, first + len(segment.answer)), *[first] * missing]
                labels[row] += segment.answer + [self._end] * missing
                weights[row] += segment.weights + [0.0] * missing
                numbers[row] += segment.numbers_mm + [float("nan")] * missing
            spans.append((start, start + length, segments[0].sees_image))
            start += length
        return Packed(
            torch.tensor(ids),
            *_layout(len(prefix), spans),
            torch.tensor(positions),
            torch.tensor(labels),
            torch.tensor(weights),
            torch.tensor(numbers),
        )

    def _draw(self, truth_mm: NDArray[np.floating], count: int, rng: np.random.Generator) -> list[int]:
        distance = np.linalg.norm(truth_mm, axis=-1)
        known = np.flatnonzero(~np.isnan(distance))
        chance = 1 / (60 + distance[known]) ** 1.5
        picked = rng.choice(known, count, replace=len(known) < count, p=chance / chance.sum())
        return [LANDMARKS[index].id for index in picked]


def _layout(prefix: int, spans: list[tuple[int, int, bool]]) -> tuple[Tensor, Tensor]:
    """Position ids (1, length) and additive mask (1, 1, length, length) of a prefix and independent segments.

    A segment that does not see the image sees the first token alone and follows right after it.
    """
    length = spans[-1][1]
    owner = torch.zeros(length, dtype=torch.long)
    blind = torch.zeros(length, dtype=torch.bool)
    position = torch.arange(length)
    for number, (start, stop, sees_image) in enumerate(spans, 1):
        owner[start:stop] = number
        blind[start:stop] = not sees_image
        begin = prefix if sees_image else 1
        position[start:stop] = torch.arange(begin, begin + stop - start)
    index = torch.arange(length)
    allowed = (owner[None, :] == 0) | (owner[None, :] == owner[:, None])
    allowed &= index[None, :] <= index[:, None]
    allowed &= ~(blind[:, None] & (owner[None, :] == 0) & (index[None, :] > 0))
    mask = torch.zeros(length, length).masked_fill(~allowed, torch.finfo(torch.float32).min)
    return position[None], mask[None, None]
