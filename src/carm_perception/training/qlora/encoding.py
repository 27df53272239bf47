# SPDX-License-Identifier: Apache-2.0
"""From questions and answers to a model's tensors, by the model's own processor and chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from carm_core.errors import ConfigurationError
from carm_perception.protocols.prompts import full_prompt
from carm_perception.training.qlora.examples import Picture
from carm_perception.training.qlora.questions import Question

IGNORED = -100
"""Label of a token that the loss leaves out."""
_MARK = "carm-answer"


def messages(picture: Picture, question: Question) -> list[dict[str, Any]]:
    """Return the conversation up to the answer, as the localizer puts it."""
    from PIL import Image

    content: list[dict[str, Any]] = [{"type": "text", "text": full_prompt(question.query, picture.field_mm)}]
    if question.has_image:
        content.insert(0, {"type": "image", "image": Image.fromarray(picture.image).convert("RGB")})
    return [{"role": "user", "content": content}]


def end_of_turn(processor: Any, ends: Sequence[int]) -> int:
    """Return the token that ends an answer: what the chat template puts there, if generation stops at it.

    Args:
        processor: The model's processor.
        ends: Tokens at which generation stops; empty: unknown.

    Raises:
        ConfigurationError: The tokenizer has no end token.
    """
    tokenizer = processor.tokenizer
    turns = [{"role": role, "content": [{"type": "text", "text": _MARK}]} for role in ("user", "assistant")]
    try:
        after = str(processor.apply_chat_template(turns, tokenize=False)).rpartition(_MARK)[2].strip()
    except Exception:  # a template may take no assistant's turn: jinja's and its own errors
        after = ""
    ids = tokenizer.encode(after, add_special_tokens=False) if after else []
    if ids and (ids[0] in ends or (not ends and ids[0] in tokenizer.all_special_ids)):
        return int(ids[0])
    if tokenizer.eos_token_id is None and not ends:
        raise ConfigurationError("the model's tokenizer has no token that ends an answer")
    return int(tokenizer.eos_token_id if tokenizer.eos_token_id in ends or not ends else ends[0])


class Encoder:
    """Encodes examples for one model."""

    def __init__(self, processor: Any, ends: Sequence[int] = ()) -> None:
        """Prepare.

        Args:
            processor: The model's processor.
            ends: Tokens at which its generation stops.
        """
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._end = end_of_turn(processor, ends)

    def encode(self, picture: Picture, question: Question) -> dict[str, Tensor]:
        """Return the tensors of one example, a batch of one; labels cover the answer and its end, nothing else.

        The answer's tokens follow the prompt's as they do in generation: the two are never tokenized together.
        """
        inputs = self._processor.apply_chat_template(
            messages(picture, question),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        prompt = inputs["input_ids"]
        answer = self._tokenizer.encode(question.answer, add_special_tokens=False)
        ids = torch.tensor([[*answer, self._end]], dtype=prompt.dtype)
        out: dict[str, Tensor] = {}
        for name, value in inputs.items():
            if name != "input_ids" and value.shape == prompt.shape:
                fill = torch.ones_like(ids) if name == "attention_mask" else torch.zeros_like(ids)
                value = torch.cat([value, fill.to(value.dtype)], dim=1)
            out[name] = value
        out["input_ids"] = torch.cat([prompt, ids], dim=1)
        out["labels"] = torch.cat([torch.full_like(prompt, IGNORED), ids], dim=1)
        return out

    def collate(self, examples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return one batch of several examples, padded on the right.

        Raises:
            ConfigurationError: The model's images differ in size, so that they go one at a time only.
        """
        padding = self._tokenizer.pad_token_id
        fills = {"input_ids": 0 if padding is None else padding, "labels": IGNORED}
        longest = max(example["input_ids"].shape[1] for example in examples)
        parts: dict[str, list[Tensor]] = {}
        for example in examples:
            length = example["input_ids"].shape[1]
            for name, value in example.items():
                if value.shape == (1, length):
                    value = torch.nn.functional.pad(value, (0, longest - length), value=fills.get(name, 0))
                parts.setdefault(name, []).append(value)
        try:
            return {name: torch.cat(values) for name, values in parts.items()}
        except RuntimeError as error:
            raise ConfigurationError("this model's images differ in size: it needs --micro-batch 1") from error
