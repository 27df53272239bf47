# SPDX-License-Identifier: Apache-2.0
"""Lengths, angles and directions in a clinician's words. Conventions as in docs/dialogue.md."""

from __future__ import annotations

import re
from dataclasses import dataclass

MM_PER_INCH = 25.4
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = (*_ONES, *_TENS, "hundred", "half")
"""Words for numbers."""
_VALUES = {word: float(value) for value, word in enumerate(_ONES)} | {
    word: 10.0 * value for value, word in enumerate(_TENS, 2)
}
_WORD = "|".join((*sorted(_ONES, key=len, reverse=True), *_TENS))
NUMBER = (
    rf"(?:-?\d+(?:\.\d+)?|half an?|(?:(?:a|an|{_WORD}) )?hundred"
    rf"|(?:(?:{'|'.join(_TENS)}) )?(?:{_WORD})(?: and a half)?|an?)"
)
_UNITS_MM = {
    "mm": 1.0,
    "millimeter": 1.0,
    "millimetre": 1.0,
    "cm": 10.0,
    "centimeter": 10.0,
    "centimetre": 10.0,
    "centi": 10.0,
    "inch": MM_PER_INCH,
    "inche": MM_PER_INCH,
    "in": MM_PER_INCH,
    "m": 1000.0,
    "meter": 1000.0,
    "metre": 1000.0,
    "km": 1e6,
    "foot": 12 * MM_PER_INCH,
}
UNITS = r"mm|cm|km|m|millimet(?:er|re)s?|centimet(?:er|re)s?|centis?|met(?:er|re)s?|inch(?:es)?|foot"
"""Units of length."""
_LENGTH = re.compile(rf"\b({NUMBER}) ({UNITS}|in)\b")
ANGLE = re.compile(rf"(?:\b({NUMBER}) |(?<= )(-?\d+(?:\.\d+)?))(degrees?|deg|°)(?!\w)")

_PATIENT = r"(?:the )?(?:patients? )?"
_IN_IMAGE = r"(?:of|in|on) the (?:image|screen|picture|monitor|display)(?! cent(?:er|re))"
_BY_IMAGE = r"(?:image|screen|picture|monitor|display)"


def _side(side: str) -> str:
    before = rf"(?:(?:over )?(?:to|towards?|on) {_PATIENT})?"
    return rf"{before}(?:patient )?{side}(?:wards?)?(?: side| edge)?(?: of the patient)?"


def _image_side(side: str) -> str:
    before = r"(?:(?:over )?(?:to|towards?|on) )?(?:the )?"
    return rf"{before}(?:{_BY_IMAGE} {side}|{side}(?: side| edge)? {_IN_IMAGE})"


def _towards(end: str) -> str:
    return rf"(?:towards?|closer to|nearer to|in the direction of) {_PATIENT}{end}"


_DIRECTIONS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (way, re.compile(rf"\b(?:{pattern})\b"))
    for way, pattern in (
        ("right", _image_side("left")),
        ("left", _image_side("right")),
        ("left", _side("left")),
        ("right", _side("right")),
        ("up", rf"(?:up )?{_towards('head')}|in the cranial direction|cranially|headwards?|cephalad"),
        ("down", rf"(?:down )?{_towards('feet')}|in the caudal direction|caudally|footwards?|feetwards?"),
        ("up", r"up(?:wards?)?|superiorly|higher(?: up)?"),
        ("down", r"down(?:wards?)?|inferiorly|lower(?: down)?"),
    )
)
WORDS = (
    *(
        "millimeters",
        "millimetres",
        "centimeters",
        "centimetres",
        "centimeter",
        "centimetre",
        "millimeter",
        "millimetre",
    ),
    *(
        "centis",
        "meter",
        "metre",
        "meters",
        "inches",
        "degrees",
        "degree",
        "towards",
        "toward",
        "closer",
        "patients",
        "direction",
    ),
    *(
        "cranially",
        "caudally",
        "headwards",
        "footwards",
        "cephalad",
        "superiorly",
        "inferiorly",
        "upwards",
        "downwards",
    ),
    *("upward", "downward", "leftwards", "rightwards", "higher", "lower", "screen", "monitor", "image", "picture"),
    *("smidge", "fraction", "slightly", "little", "somewhat", "feet", "much", "deal", "great", "touch", "down"),
)
"""Words for units, directions and vague amounts."""
_VAGUE = (
    ("touch", re.compile(r"\b(?:a (?:touch|tiny bit|hair|smidge|tad|fraction)|ever so slightly)\b")),
    ("lot", re.compile(r"\b(?:a lot|very much|quite far|a (?:good|great) deal|a long way|much|far)\b")),
    ("bit", re.compile(r"\b(?:(?:just )?(?:a (?:little |small )?bit|slightly|a little)|somewhat)\b")),
)


@dataclass(frozen=True)
class Found:
    """A part of a text that has been understood.

    Attributes:
        value: What it means: a direction, mm, degrees, or a key of ``carm_core.language.commands.VAGUE_MM``.
        start: Its first character.
    """

    value: str | float
    start: int


class Text:
    """A text from which parts are taken as they are understood.

    Attributes:
        rest: What has not been understood yet; understood parts are blanked.
    """

    def __init__(self, words: list[str]) -> None:
        """Begin with all words.

        Args:
            words: As from ``carm_core.language.mentions.split_words``.
        """
        joined = " ".join(words)
        joined = re.sub(r"(?<=\d)(?=(?!st\b|nd\b|rd\b|th\b)[a-z°%])", " ", joined)
        self.rest = f" {' '.join(joined.split())} "

    def has(self, pattern: str) -> bool:
        """Return whether the rest holds whole words that match a pattern."""
        return re.search(rf"(?<!\w)(?:{pattern})(?!\w)", self.rest) is not None

    def take(self, pattern: str) -> bool:
        """Blank all whole words that match a pattern; return whether there were any."""
        changed, count = re.subn(rf"(?<!\w)(?:{pattern})(?!\w)", _blank, self.rest)
        self.rest = changed
        return count > 0

    def lengths(self) -> list[Found]:
        """Take the lengths, mm, in their order."""
        return self._taken(_LENGTH, lambda match: number(match.group(1)) * _UNITS_MM[_singular(match.group(2))])

    def angles(self) -> list[Found]:
        """Take the angles with their unit, degrees, in their order."""
        return self._taken(ANGLE, lambda match: number(match.group(1) or match.group(2)))

    def directions(self) -> list[Found]:
        """Take the directions, in the patient's frame, in their order."""
        found = [part for way, pattern in _DIRECTIONS for part in self._taken(pattern, lambda _, way=way: way)]
        return sorted(found, key=lambda part: part.start)

    def vague(self) -> list[Found]:
        """Take amounts without a number, as keys of ``carm_core.language.commands.VAGUE_MM``."""
        return [part for key, pattern in _VAGUE for part in self._taken(pattern, lambda _, key=key: key)]

    def _taken(self, pattern: re.Pattern[str], meaning: object) -> list[Found]:
        found = [Found(meaning(match), match.start()) for match in pattern.finditer(self.rest)]  # type: ignore[operator]
        self.rest = pattern.sub(_blank, self.rest)
        return found


def _blank(match: re.Match[str]) -> str:
    return "|" + "·" * (len(match.group()) - 1)


def _singular(unit: str) -> str:
    return unit[:-1] if len(unit) > 2 and unit.endswith("s") else unit


def number(text: str) -> float:
    """Return the value of a number as matched by ``NUMBER``."""
    try:
        return float(text)
    except ValueError:
        pass
    if text.startswith("half"):
        return 0.5
    half = 0.5 if text.endswith(" and a half") else 0.0
    words = text.removesuffix(" and a half").split()
    if words[-1] == "hundred":
        return 100.0 * (_VALUES.get(words[0], 1.0) if len(words) > 1 else 1.0)
    return sum(_VALUES.get(word, 1.0) for word in words) + half
