# SPDX-License-Identifier: Apache-2.0
"""Constrained decoding: only tokens that a grammar allows (llguidance)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carm_core.errors import ConfigurationError

_JSON_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}


class Constraint:
    """Logits processor of Hugging Face's ``generate`` that leaves only what a grammar allows next."""

    def __init__(self, vocabulary: Any, regex: str, schema: dict[str, Any] | None, length: int) -> None:
        """Compile the grammar.

        Args:
            vocabulary: Of ``load_vocabulary``.
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
    """Return the characters that stand for bytes in byte-level tokenizers (Radford et al. 2019, GPT-2)."""
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
        """Return what a batch of answers has to match, one regular expression each.

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
        ConfigurationError: Llguidance is missing or the tokenizer is not a fast one.
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
