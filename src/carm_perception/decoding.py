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

from carm_core.errors import ConfigurationError

logger = logging.getLogger(__name__)

Messages = list[dict[str, Any]]
"""Chat in the form of Hugging Face templates; images are PIL images."""

_TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
_JSON_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
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
        caches_prefix: The unchanging part of prompts is cached; decided by :meth:`try_prefix`.
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
        """Tokens after the last one of an image; empty when there is no image."""
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


class Constraint:
    """Logits processor of Hugging Face's ``generate`` that leaves only what a grammar allows next."""

    def __init__(self, vocabulary: Any, regex: str, schema: dict[str, Any] | None, length: int) -> None:
        """Compile the grammar.

        Args:
            vocabulary: Of :func:`load_vocabulary`.
            regex: Regular expression of the whole answer; empty when there is a schema.
            schema: JSON schema of the whole answer, or None.
            length: Tokens of the prompt.

        Raises:
            ConfigurationError: The grammar is none.
        """
        import json

        from llguidance import LLMatcher

        if regex:
            text = LLMatcher.grammar_from_regex(regex)
        else:
            text = LLMatcher.grammar_from_json_schema(json.dumps({**(schema or {}), "x-guidance": _JSON_STYLE}))
        self._matcher = LLMatcher(vocabulary, text)
        self._seen = length
        self._check()

    def __call__(self, ids: Any, scores: Any) -> Any:
        """Set the scores of what is not allowed to minus infinity.

        Args:
            ids: Tokens so far (1, length).
            scores: Scores of the next token (1, vocabulary).
        """
        import numpy as np
        import torch

        fresh = ids[0, self._seen :].tolist()
        self._seen = ids.shape[1]
        if fresh and not self._matcher.is_stopped():
            self._matcher.consume_tokens(fresh)
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        self._check()
        allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
        count = min(len(bits), scores.shape[1])
        allowed[:count] = torch.from_numpy(bits[:count].astype(bool))
        return scores.masked_fill(~allowed.to(scores.device), float("-inf"))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConfigurationError(f"the grammar cannot be used: {self._matcher.get_error().splitlines()[0]}")


_KEPT_GRAMMARS = 256
_UNFORCED = '%llguidance {{"no_forcing": true}}\nstart: /{regex}/'
"""Grammar of a regular expression. Where only one text can follow, it may still be split into tokens in any way: else
llguidance wants the tokenizer's own way for the part that is certain, and longer tokens would be ruled out."""


class _ByteTokens:
    """A byte-level tokenizer as llguidance wants it: what each token is in bytes.

    Its own reader takes every added token between angle brackets for one without text; XML tags are text here.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Any) -> None:
        byte_of = {text: value for value, text in tokenizers_bytes().items()}
        added = {index: str(token.content) for index, token in tokenizer.added_tokens_decoder.items()}
        self.special_token_ids = list(tokenizer.all_special_ids)
        self.eos_token_id = int(tokenizer.eos_token_id)
        self._tokenizer = tokenizer
        self.tokens: list[bytes] = []
        for index, piece in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
            text = added.get(index)
            self.tokens.append(text.encode() if text is not None else bytes(byte_of[c] for c in piece))

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            raise TypeError("text is wanted")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


def tokenizers_bytes() -> dict[int, str]:
    """Characters that stand for bytes in byte-level tokenizers (Radford et al. 2019, GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in plain]
    return {value: chr(value) for value in plain} | {value: chr(256 + i) for i, value in enumerate(others)}


class Grammars:
    """Grammars of one byte-level tokenizer, each compiled once, for batches of answers that start from nothing."""

    def __init__(self, tokenizer: Any) -> None:
        """Prepare.

        Args:
            tokenizer: Fast Hugging Face tokenizer.
        """
        from llguidance import LLTokenizer, TokenizerWrapper

        self._vocabulary = LLTokenizer(TokenizerWrapper(_ByteTokens(tokenizer)))
        self._end = int(tokenizer.eos_token_id)
        self._compiled: dict[str, Any] = {}

    def constraint(self, expressions: Sequence[str]) -> BatchConstraint:
        """What a batch of answers has to match, one regular expression each.

        Raises:
            ConfigurationError: One is no grammar.
        """
        from llguidance import LLMatcher

        if len(self._compiled) > _KEPT_GRAMMARS:
            self._compiled.clear()
        for regex in expressions:
            if regex not in self._compiled:
                text = _UNFORCED.format(regex=regex.replace("/", r"\/"))
                matcher = LLMatcher(self._vocabulary, LLMatcher.grammar_from_lark(text))
                if matcher.is_error():
                    raise ConfigurationError(f"the grammar cannot be used: {matcher.get_error().splitlines()[0]}")
                self._compiled[regex] = matcher
        return BatchConstraint([self._compiled[regex].deep_copy() for regex in expressions], self._end)


class BatchConstraint:
    """Logits processor that leaves only what each row's grammar allows next."""

    def __init__(self, matchers: Sequence[Any], end: int) -> None:
        """Take fresh matchers, one for each row, and the token that ends an answer."""
        self._matchers, self._end = matchers, end
        self._seen = 0

    def __call__(self, ids: Any, scores: Any) -> Any:
        """Set the scores of what is not allowed to minus infinity.

        Args:
            ids: Tokens so far (batch, length).
            scores: Scores of the next token (batch, vocabulary).
        """
        import numpy as np
        import torch

        allowed = np.ones(tuple(scores.shape), bool)
        for row, matcher in enumerate(self._matchers):
            fresh = ids[row, self._seen :].tolist()
            if fresh and not matcher.is_stopped():
                matcher.consume_tokens(fresh)
            if not matcher.is_stopped():
                bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
                allowed[row] = bits[: scores.shape[1]]
            else:
                allowed[row] = np.arange(scores.shape[1]) == self._end
        self._seen = ids.shape[1]
        return scores.masked_fill(~torch.from_numpy(allowed), float("-inf"))


def load_vocabulary(tokenizer: Any, end_ids: Sequence[int], model: Any) -> Any:
    """Prepare a tokenizer for grammars.

    Args:
        tokenizer: Fast Hugging Face tokenizer.
        end_ids: Tokens that end an answer.
        model: The model, for the size of its output.

    Raises:
        ConfigurationError: llguidance is missing or the tokenizer is not a fast one.
    """
    try:
        from llguidance.hf import from_tokenizer
    except ImportError as error:
        raise ConfigurationError("constrained decoding needs llguidance: pip install llguidance") from error
    size = max(len(tokenizer), model.get_output_embeddings().weight.shape[0])
    try:
        return from_tokenizer(tokenizer, n_vocab=size, eos_token=list(end_ids))
    except ValueError as error:
        raise ConfigurationError(f"constrained decoding cannot use this tokenizer: {error}") from error


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
