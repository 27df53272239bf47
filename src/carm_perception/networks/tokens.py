# SPDX-License-Identifier: Apache-2.0
"""Special and number tokens of the compact model, and its chat template."""

from __future__ import annotations

from typing import Any

from carm_perception.protocols.parsing import LIMIT_MM

PAD, USER, ASSISTANT, END, IMAGE = "<pad>", "<|user|>", "<|assistant|>", "<|end|>", "<image>"

SPECIAL = (PAD, USER, ASSISTANT, END, IMAGE)

FRAGMENTS = ('{"target": ', ', "dx_mm": ', ', "dy_mm": ', "}", "[", "]", ",", ", ", ": ")

SENTENCES = 4000
"""Sentences of clinicians, with their readings, among those that the merges are learned on."""

NUMBERS = tuple(str(value) for value in range(-LIMIT_MM, LIMIT_MM + 1))

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|>{% else %}<|user|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Images come before the text of their message."""


def number_token_ids(tokenizer: Any) -> list[int]:
    """Return the ids of the tokens of -400 to 400, in this order."""
    ids: list[int] = tokenizer.convert_tokens_to_ids(list(NUMBERS))
    return ids
