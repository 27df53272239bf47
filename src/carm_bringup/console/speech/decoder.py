# SPDX-License-Identifier: Apache-2.0
"""Recognizes a sentence of the grammar in recorded speech, by PocketSphinx and the English model inside its wheel."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from carm_agent.dialogue.stop_words import is_stop
from carm_bringup.console.speech.vocabulary import PRONUNCIATIONS, grammar, grammar_words, makes_sense, written

RATE_HZ = 16000
"""Samples per second; 16 bits, one channel."""
INSTALL = "pip install pocketsphinx"
_UNLIKE = 0.7
"""Share of phones that differ between what was heard freely and the sentence, from which on it was not said."""
_DITHER = 15.0
"""Digital silence upsets the recognizer's mean over the recording: some noise, in steps of 16 bits."""
_NOT_PHONES = re.compile(r"SIL|\+\w+\+")
_BEAM = 1e-20
_SHORTEST_BYTES = RATE_HZ // 5
"""Of a recording: 0.1 s."""


def why_not() -> str:
    """Return one line that says how to get the recognizer; empty when it is installed."""
    return "" if find_spec("pocketsphinx") else f"no speech recognizer is installed: {INSTALL}"


@dataclass(frozen=True)
class Heard:
    """What was said.

    Attributes:
        text: As it would be typed; empty when it was none of the sentences.
        guess: The sentence that is nearest, said or not.
        unlike: Share of phones that differ from the sentence.
    """

    text: str
    guess: str
    unlike: float

    @property
    def is_stop(self) -> bool:
        """Whether it sounds like a stop."""
        return is_stop(self.text)


class SpeechDecoder:
    """Recognizes; one thread at a time."""

    def __init__(self) -> None:
        """Load the model; 0.2 s.

        Raises:
            ImportError: PocketSphinx is not installed.
        """
        from pocketsphinx import Decoder, get_model_path

        folder = Path(get_model_path()) / "en-us"
        self._sounds = _pronunciations(folder / "cmudict-en-us.dict")
        quiet = {"hmm": str(folder / "en-us"), "loglevel": "FATAL"}
        with tempfile.TemporaryDirectory() as scratch:
            words, rules = Path(scratch) / "carm.dict", Path(scratch) / "carm.gram"
            words.write_text("".join(_dictionary_lines(self._sounds)))
            rules.write_text(grammar(self._sounds))
            self._sentences = Decoder(lm=None, dict=str(words), jsgf=str(rules), **quiet)
        phones = str(folder / "en-us-phone.lm.bin")
        self._phones = Decoder(lm=None, allphone=phones, beam=_BEAM, pbeam=_BEAM, lw=2.0, **quiet)
        self._random = np.random.default_rng(0)

    def hear(self, samples: bytes) -> Heard:
        """Return what was said.

        Args:
            samples: int16, little-endian, one channel, ``RATE_HZ``.
        """
        if len(samples) < _SHORTEST_BYTES:
            return Heard("", "", 1.0)
        signal = np.frombuffer(samples[: len(samples) // 2 * 2], "<i2").astype(np.float64)
        signal += self._random.normal(0.0, _DITHER, len(signal))
        data = signal.clip(-32768, 32767).astype("<i2").tobytes()
        guess = _decoded(self._sentences, data)
        if not guess:
            return Heard("", "", 1.0)
        freely = [phone for phone in _decoded(self._phones, data).split() if not _NOT_PHONES.fullmatch(phone)]
        wanted = [phone for word in guess.split() for phone in self._sounds[word][0].split()]
        unlike = _distance(wanted, freely) / max(len(wanted), len(freely))
        text = written(guess)
        return Heard(text if is_stop(text) or (unlike < _UNLIKE and makes_sense(text)) else "", text, unlike)


def _decoded(decoder: Any, data: bytes) -> str:
    decoder.start_utt()
    decoder.process_raw(data, full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return str(found.hypstr) if found else ""


def _pronunciations(dictionary: Path) -> dict[str, list[str]]:
    """Return how the words of the grammar sound, where that is known."""
    words = grammar_words()
    sounds: dict[str, list[str]] = {word: list(known) for word, known in PRONUNCIATIONS.items()}
    with dictionary.open(encoding="utf-8") as lines:
        for line in lines:
            word, _, phones = line.strip().partition(" ")
            plain = word.partition("(")[0]
            if plain in words and plain not in PRONUNCIATIONS:
                sounds.setdefault(plain, []).append(phones)
    return sounds


def _dictionary_lines(sounds: dict[str, list[str]]) -> list[str]:
    return [
        f"{word}{f'({number})' if number > 1 else ''} {phones}\n"
        for word, variants in sorted(sounds.items())
        for number, phones in enumerate(variants, 1)
    ]


def _distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many phones have to be put in, left out or changed (Levenshtein)."""
    row = list(range(len(other) + 1))
    for number, a in enumerate(one, 1):
        before, row[0] = row[0], number
        for place, b in enumerate(other, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (a != b))
    return row[-1]
