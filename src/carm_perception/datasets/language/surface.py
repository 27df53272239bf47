# SPDX-License-Identifier: Apache-2.0
"""How a sentence is spoken and typed: politeness, casing, punctuation, slips of the fingers."""

from __future__ import annotations

import re

import numpy as np

from carm_perception.datasets.language.words import AFTER, BEFORE, Split

TYPO_RATE = 0.06
"""Share of sentences with one mistyped word."""
_TYPED = re.compile(r"[a-z]{5,}", re.IGNORECASE)
_NEVER_MISTYPED = frozenset(("right", "image", "screen", "thirty", "forty", "sixty", "other", "cranial", "caudal"))
_ENDS = ("", "", "", "", "", ".", ".", ".", "!", "...", " .")


def polite(rng: np.random.Generator, text: str, split: Split) -> str:
    """Put words around a request."""
    if rng.random() < 0.35:
        before = BEFORE.word(rng, split)
        text = f"{before}, {text}" if rng.random() < 0.3 else f"{before} {text}"
    if rng.random() < 0.2:
        after = AFTER.word(rng, split)
        text = f"{text}, {after}" if rng.random() < 0.3 else f"{text} {after}"
    return text


def mistyped(rng: np.random.Generator, text: str) -> str:
    """Misspell one longer word: two letters swapped, one left out, or one doubled."""
    words = [match for match in _TYPED.finditer(text) if match.group().lower() not in _NEVER_MISTYPED]
    if not words:
        return text
    match = words[int(rng.integers(len(words)))]
    word, place = match.group(), int(rng.integers(1, len(match.group()) - 1))
    kind = int(rng.integers(3))
    if kind == 0:
        changed = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    elif kind == 1:
        changed = word[:place] + word[place + 1 :]
    else:
        changed = word[:place] + word[place] + word[place:]
    return text[: match.start()] + changed + text[match.end() :]


def spoken(rng: np.random.Generator, text: str) -> str:
    """Choose casing and punctuation."""
    kind = rng.random()
    if kind < 0.45:
        text = text.lower()
    elif kind < 0.85:
        text = text[:1].upper() + text[1:]
    elif kind < 0.9:
        text = text.upper()
    return text + _ENDS[int(rng.integers(len(_ENDS)))]
