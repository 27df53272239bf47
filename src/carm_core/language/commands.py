# SPDX-License-Identifier: Apache-2.0
"""What a clinician may want, as typed commands, and the one way in which each is written as JSON (protocol 6)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from carm_core.errors import AnswerError, CarmError, GoalError
from carm_core.landmarks import landmark

COMMAND_LIMIT = 400
"""Largest magnitude of any number in a command: mm or degrees."""
ANGLE_LIMIT_DEG = 180
"""Largest magnitude of an angle in a command, degrees."""
VAGUE_MM = {"touch": 5, "bit": 10, "": 20, "lot": 50}
"""A length that is only hinted at ("a touch", "a bit", "a lot"), mm; the empty word: none is given."""
VAGUE_DEG = {"touch": 2, "bit": 5, "": 10, "lot": 20}
"""The same for an angle, degrees."""


class Intent(StrEnum):
    """Kinds of commands; values as in the JSON text."""

    NAVIGATE = "navigate"
    NUDGE = "nudge"
    ROTATE = "rotate"
    EXPOSE = "expose"
    CORRECT = "correct"
    CONFIRM = "confirm"
    STOP = "stop"
    UNKNOWN = "unknown"


class Hint(StrEnum):
    """What a correction that names no landmark says; directions and sides are the patient's."""

    OTHER_SIDE = "other_side"
    LEFT_SIDE = "left_side"
    RIGHT_SIDE = "right_side"
    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    LOOK_AGAIN = "look_again"


def _check(name: str, value: int, limit: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > limit:
        raise GoalError(f"{name} is {value!r}; it must be an integer from {-limit} to {limit}")


@dataclass(frozen=True)
class Navigate:
    """Bring a landmark to the image center.

    Attributes:
        target: Landmark id.
        in_depth: Find it in depth as well, by two views. Not part of the written form.

    Raises:
        UnknownNameError: No landmark has this id.
    """

    target: int
    in_depth: bool = False

    def __post_init__(self) -> None:
        """Check the id."""
        landmark(self.target)

    @property
    def intent(self) -> Intent:
        """Kind of the command."""
        return Intent.NAVIGATE

    def text(self) -> str:
        """Write the command in its standard form."""
        return f'{{"intent": "navigate", "target": {self.target}}}'


@dataclass(frozen=True)
class Nudge:
    """Move the image center over the patient.

    Attributes:
        dx_mm: Towards the patient's left, mm.
        dy_mm: Towards the head, mm.

    Raises:
        GoalError: A value is out of range.
    """

    dx_mm: int
    dy_mm: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check("dx_mm", self.dx_mm, COMMAND_LIMIT)
        _check("dy_mm", self.dy_mm, COMMAND_LIMIT)

    @property
    def intent(self) -> Intent:
        """Kind of the command."""
        return Intent.NUDGE

    def text(self) -> str:
        """Write the command in its standard form."""
        return f'{{"intent": "nudge", "dx_mm": {self.dx_mm}, "dy_mm": {self.dy_mm}}}'


@dataclass(frozen=True)
class Rotate:
    """Change the view angles; the isocenter stays.

    Attributes:
        primary_deg: Positioner primary angle, LAO positive, degrees.
        secondary_deg: Positioner secondary angle, cranial positive, degrees.
        relative: Add to the present angles; else take these.

    Raises:
        GoalError: An angle is out of range.
    """

    primary_deg: int
    secondary_deg: int
    relative: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check("primary_deg", self.primary_deg, ANGLE_LIMIT_DEG)
        _check("secondary_deg", self.secondary_deg, ANGLE_LIMIT_DEG)

    @property
    def intent(self) -> Intent:
        """Kind of the command."""
        return Intent.ROTATE

    def text(self) -> str:
        """Write the command in its standard form; ``relative`` as 0 or 1."""
        return (
            f'{{"intent": "rotate", "primary_deg": {self.primary_deg}, "secondary_deg": {self.secondary_deg},'
            f' "relative": {int(self.relative)}}}'
        )


@dataclass(frozen=True)
class Correct:
    """What the agent took for right is wrong.

    Attributes:
        what: The landmark that is meant (id), or what is wrong in other words.

    Raises:
        UnknownNameError: No landmark has this id.
    """

    what: int | Hint

    def __post_init__(self) -> None:
        """Check the id."""
        if not isinstance(self.what, Hint):
            landmark(self.what)

    @property
    def intent(self) -> Intent:
        """Kind of the command."""
        return Intent.CORRECT

    def text(self) -> str:
        """Write the command in its standard form."""
        what = f'"{self.what}"' if isinstance(self.what, Hint) else str(self.what)
        return f'{{"intent": "correct", "what": {what}}}'


@dataclass(frozen=True)
class _Bare:
    """A command without arguments."""

    @property
    def intent(self) -> Intent:
        """Kind of the command."""
        return Intent(type(self).__name__.lower())

    def text(self) -> str:
        """Write the command in its standard form."""
        return f'{{"intent": "{self.intent}"}}'


@dataclass(frozen=True)
class Expose(_Bare):
    """Take one X-ray image."""


@dataclass(frozen=True)
class Confirm(_Bare):
    """Yes."""


@dataclass(frozen=True)
class Stop(_Bare):
    """Bring everything to rest."""


@dataclass(frozen=True)
class Unknown(_Bare):
    """None of the other commands, or not clear which."""


Command = Navigate | Nudge | Rotate | Expose | Correct | Confirm | Stop | Unknown

_NUMBER = r"(-?(?:0|[1-9]\d{0,5}))"
_COMMANDS: tuple[tuple[Intent, str, Callable[..., Command]], ...] = (
    (Intent.NAVIGATE, rf', ?"target": ?{_NUMBER}', Navigate),
    (Intent.NUDGE, rf', ?"dx_mm": ?{_NUMBER}, ?"dy_mm": ?{_NUMBER}', Nudge),
    (
        Intent.ROTATE,
        rf', ?"primary_deg": ?{_NUMBER}, ?"secondary_deg": ?{_NUMBER}, ?"relative": ?([01])',
        lambda primary, secondary, relative: Rotate(primary, secondary, bool(relative)),
    ),
    (Intent.CORRECT, rf', ?"what": ?{_NUMBER}', Correct),
    (Intent.CORRECT, rf', ?"what": ?"({"|".join(Hint)})"', lambda word: Correct(Hint(word))),
    (Intent.EXPOSE, "", Expose),
    (Intent.CONFIRM, "", Confirm),
    (Intent.STOP, "", Stop),
    (Intent.UNKNOWN, "", Unknown),
)
_FORMS = tuple((re.compile(rf'\{{"intent": ?"{intent}"{rest}\}}', re.ASCII), make) for intent, rest, make in _COMMANDS)


def command_from_text(text: str) -> Command:
    """Read a command as ``Nudge.text`` and its like write it; a space after a comma or colon may be missing.

    Raises:
        AnswerError: The text is not exactly such a command, a landmark is unknown, or a number leaves its range.
    """
    for form, make in _FORMS:
        match = form.fullmatch(text)
        if match is None or "-0" in match.groups():
            continue
        try:
            return make(*(int(part) if part.lstrip("-").isdecimal() else part for part in match.groups()))
        except CarmError as error:
            raise AnswerError(str(error), text) from None
    raise AnswerError("expected one of the forms of the command protocol", text)


def same_way(first: Command, second: Command) -> bool:
    """Whether two readings want the same by other amounts, or in depth or not: rules copy these better than a model."""
    if isinstance(first, Navigate) and isinstance(second, Navigate):
        return first.target == second.target
    if isinstance(first, Nudge) and isinstance(second, Nudge):
        return _signs(first.dx_mm, first.dy_mm) == _signs(second.dx_mm, second.dy_mm)
    if isinstance(first, Rotate) and isinstance(second, Rotate) and first.relative == second.relative:
        return _signs(first.primary_deg, first.secondary_deg) == _signs(second.primary_deg, second.secondary_deg)
    return False


def _signs(x: float, y: float) -> tuple[int, int]:
    return (x > 0) - (x < 0), (y > 0) - (y < 0)
