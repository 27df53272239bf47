# SPDX-License-Identifier: Apache-2.0
"""The compact model's tokenizer: byte-level BPE in which every integer from -400 to 400 is one token.

A pointing answer then takes eight tokens, and the probabilities of the number tokens are a distribution over
millimeters. Every text survives encoding and decoding unchanged.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from carm_core.landmarks import LANDMARKS
from carm_core.localization import Protocol, Query
from carm_perception.datasets import language
from carm_perception.networks.tokens import (
    ASSISTANT,
    CHAT_TEMPLATE,
    END,
    FRAGMENTS,
    IMAGE,
    NUMBERS,
    PAD,
    SENTENCES,
    SPECIAL,
    USER,
)
from carm_perception.protocols.prompts import full_prompt, short_prompt
from carm_perception.training.compact.targets import token_texts

MERGED_TOKENS = 1000


def corpus() -> list[str]:
    """Return the sentences on which the merges are learned: prompts, names and synonyms."""
    lines = []
    for mark in LANDMARKS:
        lines += [mark.name, *mark.synonyms, *(s.capitalize() for s in mark.synonyms)]
        lines += [short_prompt(Query(Protocol.POINTING, mark.id))] * 4
        lines += [f"move to the {name}, further up, on the other side, left, right" for name in mark.synonyms]
    for protocol in Protocol:
        lines += [full_prompt(Query(protocol, 11), (155, 155))] * 2
    for mark in LANDMARKS:
        lines += [short_prompt(Query(Protocol.NAVIGATION, mark.id))] * 4
    asked = (Protocol.RETRIEVAL, Protocol.LOCALIZATION, Protocol.REEVALUATION, Protocol.COMMAND)
    lines += [short_prompt(Query(protocol)) for protocol in asked] * 8
    rng = np.random.default_rng(0)
    for _ in range(SENTENCES):
        sentence, _ = language.sample(rng)
        wrong, right = (int(i) for i in rng.choice(len(LANDMARKS), 2, replace=False) + 1)
        lines += [sentence.lower(), language.remark(rng, wrong, right).lower()]
    return lines


def command_texts() -> tuple[str, ...]:
    """Return what a command's text consists of, numbers apart."""
    rng = np.random.default_rng(1)
    texts = {language.sample(rng)[1].text() for _ in range(SENTENCES)}
    return tuple(sorted({piece for text in texts for piece in re.split(r"-?\d+", text) if piece}))


def build_tokenizer() -> Any:
    """Train the tokenizer; deterministic.

    Returns:
        A ``PreTrainedTokenizerFast`` with the chat template set.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MERGED_TOKENS,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus(), trainer)
    names = tuple(mark.name for mark in LANDMARKS)
    texts = dict.fromkeys((*NUMBERS, *FRAGMENTS, *names, *token_texts(), *command_texts()))
    core.add_tokens([AddedToken(text, normalized=False) for text in texts])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT, IMAGE],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=256,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
