# SPDX-License-Identifier: Apache-2.0
"""Landmarks in running text: which are named, and on which side."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from carm_core.landmarks import ALL_LANDMARKS, Landmark

SIDES = {"left": "left", "right": "right", "l": "left", "r": "right"}
"""Words for a side of the patient."""
IMAGE = frozenset(("image", "screen", "picture", "monitor", "display"))
"""Words for the image: its sides are the opposite of the patient's."""

_ARTICLES = frozenset(("the", "patient", "patients", "his", "her", "their"))
_AWAY = frozenset(("towards", "toward", "closer", "direction", "nearer"))
_NEXT_TO_VERB = frozenset(("to", "over", "for", "towards"))
_JOINED = re.compile(r"\b(t|th|c|l) (\d{1,2})\b")


@dataclass(frozen=True)
class Mention:
    """A landmark named in a text.

    Attributes:
        landmarks: The landmark; both of a pair when the side is not said.
        start: Position of the first word that belongs to it.
        stop: Position after the last such word.
    """

    landmarks: tuple[Landmark, ...]
    start: int
    stop: int


def split_words(text: str) -> list[str]:
    """Lower-case words of a text; punctuation is gone, ``T-1`` and ``T 1`` are ``t1``, decimals stay whole."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "").replace("'", "")
    plain = re.sub(r"(?<=\d)[.,](?=\d)", "\0", plain)
    plain = re.sub(r"[^\w\0%°]+|_", " ", plain).replace("\0", ".")
    return _JOINED.sub(r"\1\2", " ".join(plain.split())).split()


@lru_cache(maxsize=1)
def _names() -> dict[tuple[str, ...], tuple[Landmark, ...]]:
    """Return the names without their side to the landmarks that bear them, longest names first."""
    table: dict[tuple[str, ...], dict[int, Landmark]] = {}
    for mark in ALL_LANDMARKS:
        for name in (mark.name, *mark.synonyms):
            words = tuple(word for word in split_words(name) if not (mark.mirror_id and word in SIDES))
            table.setdefault(words, {})[mark.id] = mark
    longest_first = sorted(table.items(), key=lambda item: -len(item[0]))
    return {name: tuple(marks.values()) for name, marks in longest_first}


def _match(words: list[str], start: int, name: tuple[str, ...]) -> int | None:
    """Return the position after a name that starts here, as in "head of the left humerus"; None when it does not."""
    place = start
    for number, wanted in enumerate(name):
        while number and name[number - 1] == "the" and place < len(words) and _inside(words[place]):
            place += 1
        if place >= len(words) or words[place] != wanted:
            return None
        place += 1
    return place


def _inside(word: str) -> bool:
    return word in SIDES or word in _ARTICLES


def _is_direction(words: list[str], start: int, stop: int) -> bool:
    """Return whether "head" is a direction ("towards the head") or a verb ("head to ...")."""
    if words[start:stop] != ["head"]:
        return False
    if stop < len(words) and words[stop] in _NEXT_TO_VERB and (not start or words[start - 1] not in _ARTICLES):
        return True
    before = start - 1
    while before >= 0 and (words[before] in _ARTICLES or words[before] in ("to", "of")):
        before -= 1
    return before >= 0 and words[before] in _AWAY


def _side(words: list[str], start: int, stop: int) -> tuple[str, int, int]:
    """Return the side of a name at a span, and the span with the words that say the side."""
    for place in range(start, stop):
        if words[place] in SIDES:
            return SIDES[words[place]], start, stop
    if start and words[start - 1] in SIDES:
        return SIDES[words[start - 1]], start - 1, stop
    place = stop
    while place < len(words) and (words[place] in ("on", "at", "in") or words[place] in _ARTICLES):
        place += 1
    if place >= len(words) or words[place] not in SIDES:
        return "", start, stop
    side, place = SIDES[words[place]], place + 1
    if words[place : place + 1] == ["side"]:
        place += 1
    rest = place
    while rest < len(words) and words[rest] in ("of", "in", "on", "the"):
        rest += 1
    if rest < len(words) and words[rest] in IMAGE and words[rest + 1 : rest + 2] not in (["center"], ["centre"]):
        return {"left": "right", "right": "left"}[side], start, rest + 1
    return side, start, place


def mentions(words: list[str]) -> tuple[Mention, ...]:
    """Find the landmarks that are named, in their order.

    Args:
        words: As from ``split_words``.
    """
    found: list[Mention] = []
    place = 0
    while place < len(words):
        hit = next(((stop, marks) for name, marks in _names().items() if (stop := _match(words, place, name))), None)
        if hit is None or _is_direction(words, place, hit[0]):
            place += 1
            continue
        stop, marks = hit
        side, start, stop = _side(words, place, stop) if len(marks) > 1 else ("", place, stop)
        sided = tuple(mark for mark in marks if mark.name.lower().startswith(side)) if side else marks
        found.append(Mention(sided, start, stop))
        place = stop
    return tuple(found)
