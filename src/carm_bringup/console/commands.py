# SPDX-License-Identifier: Apache-2.0
"""What a page may send: small JSON objects of a closed list of types."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from carm_core.data_files import parse_json
from carm_core.errors import CarmError, quoted

MOST_BYTES = 4096
"""Of a message."""
_LONGEST_SENTENCE = 500
_LONGEST_NAME = 100
_LONGEST_POSITION_NAME = 60
_LARGEST_PX = 8192
_FIELD_MM = (10.0, 1000.0)
STOP = "stop"
OPEN = (STOP, "ack", "take")
"""Types that everybody may send; the others are for who controls."""
SWITCH = ("beam", "hold", "release")
"""Types by which a page holds the switch of fluoroscopy: begin, renew, end."""
HELD = ("moving", "let_go")
"""Types by which a page holds the button of a motion: renew, end."""
_WORDS = {
    "say": _LONGEST_SENTENCE,
    **dict.fromkeys(("navigate", "view", "run"), _LONGEST_NAME),
    **dict.fromkeys(("save", "forget"), _LONGEST_POSITION_NAME),
}
_PLAIN = (*OPEN, *SWITCH, *HELD, "give", "keep", "expose", "cancel", "reset")


class MessageError(CarmError):
    """A page sent something else than its own scripts do."""


@dataclass(frozen=True)
class Command:
    """A checked message.

    Attributes:
        kind: ``stop``, ``ack``, ``take``, ``give``, ``keep``, ``expose``, ``cancel``, ``reset``, ``say`` (a sentence),
            ``navigate`` (a landmark), ``view`` (plan a view by name), ``point`` (plan to center a pixel), ``run`` (a
            plan), ``save`` and ``forget`` (a position), ``field`` (collimate), or one of ``SWITCH`` and ``HELD``.
        text: Sentence, name or id of the plan.
        image: ``point``: id of the image.
        pixel: ``point``: column and row in it, px.
        field_mm: ``field``: width and height at isocenter depth, mm; 0, 0: the whole detector.
    """

    kind: str
    text: str = ""
    image: str = ""
    pixel: tuple[float, float] = (math.nan, math.nan)
    field_mm: tuple[float, float] = (0.0, 0.0)

    @property
    def line(self) -> str:
        """What was asked for, for the log."""
        if self.kind == "point":
            return f"plan to center ({self.pixel[0]:.0f}, {self.pixel[1]:.0f}) px"
        if self.kind == "field":
            width, height = self.field_mm
            return f"collimate to {width:.0f} x {height:.0f} mm" if width else "open the whole field"
        if self.kind == "run":
            return "run the plan"
        return f"{self.kind} {self.text!r}" if self.text else self.kind


def read_command(message: str) -> Command:
    """Return what a message asks for.

    Raises:
        MessageError: It is malformed.
        DataFileError: It is no JSON.
    """
    content = parse_json(message)
    kind = content.get("type") if isinstance(content, dict) else None
    if kind in _PLAIN:
        return Command(str(kind))
    if kind == "point":
        return Command("point", image=_text(content, "image", 40), pixel=_pixel(content.get("pixel")))
    if kind == "field":
        return Command("field", field_mm=_field(content.get("size")))
    if isinstance(kind, str) and kind in _WORDS:
        return Command(kind, _text(content, "text", _WORDS[kind]))
    raise MessageError(f"unknown message type {quoted(str(kind)[:40])}")


def _text(content: dict[str, Any], key: str, longest: int) -> str:
    text = content.get(key)
    plain = " ".join(text.split()) if isinstance(text, str) else ""
    if not 0 < len(plain) <= longest or not plain.isprintable():
        raise MessageError(f"{key} must be 1 to {longest} printable characters")
    return plain


def _pixel(value: Any) -> tuple[float, float]:
    right = isinstance(value, list) and len(value) == 2
    if not right or any(type(v) not in (int, float) or not 0 <= v <= _LARGEST_PX for v in value):
        raise MessageError(f"pixel must be two numbers from 0 to {_LARGEST_PX}")
    return float(value[0]), float(value[1])


def _field(value: Any) -> tuple[float, float]:
    low, high = _FIELD_MM
    right = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value)
    if right and value[0] == value[1] == 0:
        return 0.0, 0.0
    if not right or not all(low <= v <= high for v in value):
        raise MessageError(f"size must be two numbers from {low:g} to {high:g} mm, or 0 and 0")
    return float(value[0]), float(value[1])
