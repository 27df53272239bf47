# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carm_core.landmarks import LANDMARKS
from carm_core.localization import Protocol, Query
from carm_perception.networks.tokens import number_token_ids
from carm_perception.networks.vision_language_model import smooth_embeddings
from carm_perception.protocols.parsing import LIMIT_MM, PointingAnswer
from carm_perception.protocols.prompts import short_prompt
from carm_perception.training.compact.tokenizer import build_tokenizer

_TOKENIZER: Any = build_tokenizer()


def encode(text: str) -> list[int]:
    ids: list[int] = _TOKENIZER.encode(text, add_special_tokens=False)
    return ids


@given(st.integers(-LIMIT_MM, LIMIT_MM), st.integers(-LIMIT_MM, LIMIT_MM), st.sampled_from(LANDMARKS))
def test_pointing_answer_takes_eight_tokens_and_comes_back(dx: int, dy: int, mark: Any) -> None:
    text = PointingAnswer(mark.id, dx, dy).text()
    ids = encode(text)
    assert len(ids) + 1 == 8  # and the token that ends the answer
    numbers = number_token_ids(_TOKENIZER)
    assert [numbers.index(i) - LIMIT_MM for i in ids if i in numbers] == [mark.id, dx, dy]
    assert _TOKENIZER.decode(ids) == text


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    special = {"<pad>", "<|user|>", "<|assistant|>", "<|end|>", "<image>"}
    if not any(token in text for token in special):
        assert _TOKENIZER.decode(encode(text)) == text


def test_prompts_have_one_length_per_protocol() -> None:
    lengths = {len(encode(short_prompt(Query(Protocol.POINTING, mark.id)))) for mark in LANDMARKS}
    assert len(lengths) == 1


def test_tokenizer_is_deterministic() -> None:
    again: Any = build_tokenizer()
    assert again.get_vocab() == _TOKENIZER.get_vocab()


def test_near_numbers_have_similar_embeddings() -> None:
    table = torch.nn.functional.normalize(smooth_embeddings(192), dim=1)
    alike = table @ table[LIMIT_MM]
    assert alike.argmax() == LIMIT_MM
    assert alike[LIMIT_MM + 1] > 0.98
    assert alike[LIMIT_MM + 1] > alike[LIMIT_MM + 5] > alike[LIMIT_MM + 40]


@pytest.mark.parametrize("generation", [True, False])
def test_chat_template_puts_the_image_first(generation: bool) -> None:
    content = [{"type": "text", "text": "Two closest ids?"}, {"type": "image"}]
    text = _TOKENIZER.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=generation, tokenize=False
    )
    assert text == "<|user|><image>Two closest ids?" + ("<|assistant|>" if generation else "")
