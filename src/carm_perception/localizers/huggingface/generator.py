# SPDX-License-Identifier: Apache-2.0
"""Decoding with a Hugging Face image-text-to-text model: under a grammar, in bounded length, from a cached prefix.

The part of a prompt that does not change (image and introduction) is read once for all questions about one image,
where a trial at the start shows that the model gives the same result that way.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from carm_perception.localizers.constrained_decoding import Constraint, load_vocabulary

logger = logging.getLogger(__name__)

Messages = list[dict[str, Any]]
"""Chat in the form of Hugging Face templates; images are PIL images."""

_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
_MASKS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Decoding:
    """How to decode one answer.

    Attributes:
        max_new_tokens: Longest answer, tokens.
        regex: The answer matches this as a whole; empty: anything.
        schema: The answer is JSON of this schema; None: anything.
        temperature: 0: the most probable token each time.
        stop: Texts before which the answer ends.
        top_p: Share of the probability that is drawn from.
        seed: Seed of the drawing; None: any.
    """

    max_new_tokens: int
    regex: str = ""
    schema: dict[str, Any] | None = None
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    """What a model wrote.

    Attributes:
        text: The text.
        prompt_tokens: Length of the prompt.
        tokens: Length of the text.
        finished: False when the length ended it.
    """

    text: str
    prompt_tokens: int
    tokens: int
    finished: bool


@dataclass(frozen=True)
class _Prefix:
    images: bytes
    ids: tuple[int, ...]
    cache: Any


class Generator:
    """Decodes answers of one model. Belongs to one thread at a time.

    Attributes:
        caches_prefix: The unchanging part of prompts is cached; decided by ``try_prefix``.
    """

    def __init__(self, processor: Any, model: Any) -> None:
        """Keep both.

        Args:
            processor: Has a chat template.
            model: Image-text-to-text model, its weights loaded.
        """
        self._processor, self._model = processor, model
        self._vocabulary: Any = None
        self._constant: tuple[int, ...] = ()
        self._prefix: _Prefix | None = None
        self.caches_prefix = False

    def complete(self, messages: Messages, decoding: Decoding) -> Completion:
        """Continue a chat by one answer.

        Raises:
            ConfigurationError: The grammar needs a package that is missing, or is none.
            RuntimeError: The model failed; so for ValueError and IndexError.
        """
        import torch

        inputs = self._inputs(messages)
        length = inputs["input_ids"].shape[1]
        arguments: dict[str, Any] = {"max_new_tokens": decoding.max_new_tokens, "do_sample": decoding.temperature > 0}
        if decoding.temperature > 0:
            arguments |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
            if decoding.seed is not None:
                torch.manual_seed(decoding.seed)
        if decoding.regex or decoding.schema is not None:
            arguments["logits_processor"] = [self._constraint(decoding, length)]
        if decoding.stop:
            arguments |= {"stop_strings": list(decoding.stop), "tokenizer": self._processor.tokenizer}
        with torch.inference_mode():
            out = self._model.generate(**self._from_prefix(inputs, messages), **arguments)
        fresh = out[0, length:].tolist()
        text = self._processor.batch_decode([fresh], skip_special_tokens=True, clean_up_tokenization_spaces=False)[0]
        cut = min((place for place in map(text.find, decoding.stop) if place >= 0), default=None)
        finished = cut is not None or bool(fresh and fresh[-1] in self._end_ids)
        return Completion(text[:cut], length, len(fresh), finished)

    def try_prefix(self, one: Messages, other: Messages) -> None:
        """Find out what two prompts about one image share, and whether it can be cached.

        Args:
            one: A chat.
            other: A chat that differs from it in its last words only.
        """
        import torch

        tails = [self._tail(self._inputs(messages)) for messages in (one, other)]
        self._constant = _common(*tails)
        inputs = self._inputs(one)
        arguments = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        try:
            with torch.inference_mode():
                plain = self._model.generate(**inputs, **arguments).logits[0].float()
                self.caches_prefix = True
                for _ in range(2):
                    cached = self._model.generate(**self._from_prefix(inputs, one), **arguments).logits[0].float()
                    apart = float((plain - cached).abs().max() / plain.abs().max())
                    if not apart <= _TOLERANCE.get(str(self._model.dtype).removeprefix("torch."), 0.1):
                        raise ValueError(f"the results are {apart:.2g} apart")
        except Exception as error:  # each class of models fails in its own way
            self.caches_prefix = False
            logger.info("prompts are read anew for each question: %s", (str(error).splitlines() or [""])[0])
        self._prefix = None

    def _inputs(self, messages: Messages) -> Any:
        return self._processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self._model.device, dtype=self._model.dtype)

    @property
    def _end_ids(self) -> list[int]:
        end = self._model.generation_config.eos_token_id
        if end is None:
            end = self._processor.tokenizer.eos_token_id
        return [end] if isinstance(end, int) else list(end or ())

    def _constraint(self, decoding: Decoding, length: int) -> Any:
        if self._vocabulary is None:
            self._vocabulary = load_vocabulary(self._processor.tokenizer, self._end_ids, self._model)
        return Constraint(self._vocabulary, decoding.regex, decoding.schema, length)

    def _tail(self, inputs: Any) -> tuple[int, ...]:
        """Return the tokens after the last one of an image; empty when there is no image."""
        return tuple(inputs["input_ids"][0, self._after_image(inputs) :].tolist())

    def _after_image(self, inputs: Any) -> int:
        config = self._model.config
        token = getattr(config, "image_token_id", None)
        token = getattr(config, "image_token_index", None) if token is None else token
        places = (inputs["input_ids"][0] == (-1 if token is None else token)).nonzero()
        return int(places[-1]) + 1 if len(places) else inputs["input_ids"].shape[1]

    def _from_prefix(self, inputs: Any, messages: Messages) -> dict[str, Any]:
        """Arguments of ``generate`` that go on from the cached prefix, which is made when it is not there."""
        tail = self._tail(inputs) if self.caches_prefix else ()
        if not tail:
            return dict(inputs)
        length = self._after_image(inputs) + min(len(_common(self._constant, tail)), len(tail) - 1)
        key = (_digest(messages), tuple(inputs["input_ids"][0, :length].tolist()))
        if self._prefix is None or (self._prefix.images, self._prefix.ids) != key:
            from transformers import DynamicCache

            self._prefix = None
            start = {name: value[:, :length] if name in _MASKS else value for name, value in inputs.items()}
            empty = DynamicCache(config=self._model.config)
            cache = self._model(**start, past_key_values=empty, use_cache=True, logits_to_keep=1).past_key_values
            self._prefix = _Prefix(*key, cache)
        rest = {name: value for name, value in inputs.items() if "pixel" not in name}
        return {**rest, "past_key_values": copy.deepcopy(self._prefix.cache)}


def _common(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    count = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return tuple(one[:count])


def _digest(messages: Messages) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        for part in message["content"]:
            if part["type"] == "image":
                digest.update(repr(part["image"].size).encode() + part["image"].tobytes())
    return digest.digest()
