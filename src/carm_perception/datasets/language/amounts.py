# SPDX-License-Identifier: Apache-2.0
"""Lengths and angles in the words that people use. Conventions of vague amounts are those of docs/dialogue.md."""

from __future__ import annotations

import numpy as np

from carm_perception.datasets.language.words import BIT, LOT, TOUCH, Split

MM_PER_INCH = 25.4
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_CENTIMETERS = ("cm", "cm", "cm", "centimeters", "centimeter", "centimetres", "centis")
_MILLIMETERS = ("mm", "mm", "mm", "millimeters", "millimeter", "millimetres")
_INCHES = ("inches", "inches", "inch", "in")
_DEGREES = ("degrees", "degrees", "degrees", "deg", "degree", "°")


def number_words(value: int) -> str:
    """Return a number from 0 to 99 in words."""
    if value < len(_SMALL):
        return _SMALL[value]
    return _TENS[value // 10] + (f" {_SMALL[value % 10]}" if value % 10 else "")


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _written(rng: np.random.Generator, value: float) -> str:
    if value == int(value):
        return number_words(int(value)) if value <= 99 and rng.random() < 0.25 else str(int(value))
    whole = int(value)
    if value - whole == 0.5 and rng.random() < 0.3:
        return "half a" if not whole else f"{number_words(whole)} and a half"
    return f"{value:g}"


def _with_unit(rng: np.random.Generator, number: str, units: tuple[str, ...]) -> str:
    unit = _choose(rng, units)
    if number == "half a":
        return f"half an {unit}" if unit[0] == "i" else f"half a {unit}"
    together = number[-1].isdigit() and (unit == "°" or (unit in ("cm", "mm") and rng.random() < 0.25))
    return f"{number}{unit}" if together else f"{number} {unit}"


def length(rng: np.random.Generator) -> tuple[str, int]:
    """Draw a length: its words and its value in mm, 1 to 200."""
    kind = rng.random()
    if kind < 0.5:
        value = int(rng.integers(1, 41)) / 2 if rng.random() < 0.4 else int(rng.integers(1, 13))
        return _with_unit(rng, _written(rng, value), _CENTIMETERS), round(10 * value)
    if kind < 0.85:
        millimeters = int(rng.integers(1, 21)) * (5 if rng.random() < 0.6 else 1)
        if rng.random() < 0.2:
            millimeters = int(rng.integers(1, 201))
        return _with_unit(rng, _written(rng, millimeters), _MILLIMETERS), millimeters
    if rng.random() < 0.25:
        return _choose(rng, ("an inch", "one inch", "1 inch", "about an inch")), round(MM_PER_INCH)
    inches = int(rng.integers(1, 13)) / 2
    return _with_unit(rng, _written(rng, inches), _INCHES), round(MM_PER_INCH * inches)


def angle(rng: np.random.Generator) -> tuple[str, int]:
    """Draw an angle: its words and its value in degrees, 1 to 45."""
    value = int(rng.integers(1, 10)) * 5 if rng.random() < 0.6 else int(rng.integers(1, 46))
    return _with_unit(rng, _written(rng, value), _DEGREES), value


def vague(rng: np.random.Generator, split: Split) -> tuple[str, str]:
    """Draw words for an amount without a number, and the key of its value in the tables above."""
    kind = ("touch", "bit", "bit", "lot")[int(rng.integers(4))]
    return {"touch": TOUCH, "bit": BIT, "lot": LOT}[kind].word(rng, split), kind
