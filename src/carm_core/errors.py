# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the whole project. ``str(error)`` is one line that a user can act on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Self


class CarmError(Exception):
    """Base of every error that the project raises on purpose."""


class ConfigurationError(CarmError):
    """A configuration file or parameter is missing, malformed or out of range."""


class PatientError(CarmError):
    """A patient (CT or landmarks) cannot be used."""


class ImageError(CarmError):
    """An image or a message with one cannot be read."""


class ImageSizeError(ImageError):
    """An image is larger than its reader takes."""

    def __init__(self, columns: int, rows: int, longest_px: int) -> None:
        """Describe the size.

        Args:
            columns: Width, px.
            rows: Height, px.
            longest_px: Longest side that is taken, px.
        """
        super().__init__(f"the image has {columns} x {rows} px; {longest_px} is the longest side")


class LocalizerError(CarmError):
    """A localizer cannot be loaded or cannot answer."""


class AnswerError(LocalizerError):
    """A model's answer breaks its protocol.

    Attributes:
        answer: The answer, word for word.
        reason: What is wrong with it.
    """

    def __init__(self, reason: str, answer: str) -> None:
        """Keep the answer beside the reason.

        Args:
            reason: What is wrong with the answer.
            answer: The answer, word for word.
        """
        self.answer, self.reason = answer, reason
        shown = answer if len(answer) <= 120 else f"{answer[:117]}..."
        super().__init__(f"{reason}: {shown!r}")


def quoted(text: str, limit: int = 60) -> str:
    """Return what a user wrote, in quotes and without control characters; its middle is left out where it is long."""
    shown = text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 4 :]}"
    return repr(shown)


def plain_line(text: str, limit: int = 2000) -> str:
    """Return what others wrote as one line for a terminal or a log.

    Args:
        text: May hold line breaks, and escape sequences that a terminal would obey.
        limit: Most characters; the rest is left out.
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return plain if len(plain) <= limit else f"{plain[:limit]} ..."


class UnknownNameError(CarmError):
    """A name is not in its vocabulary.

    Attributes:
        name: The name that was given.
        suggestion: The nearest known name, or None when none is near.
        known: The names that would have been possible, the nearest first.
    """

    def __init__(self, kind: str, name: str, suggestion: str | None = None, known: Sequence[str] = ()) -> None:
        """Describe the name and what may have been meant.

        Args:
            kind: What was named, for example ``"landmark"``.
            name: The name that was given.
            suggestion: The nearest known name.
            known: The names that would have been possible, the nearest first.
        """
        self.name = name
        self.suggestion = suggestion
        self.known = tuple(known)
        hint = f"; did you mean {suggestion!r}?" if suggestion else ""
        if known:
            more = len(known) - _MOST_NAMES
            listed = ", ".join(known[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
            hint += f" One of: {listed}" if suggestion else f"; one of: {listed}"
        super().__init__(f"unknown {kind} {quoted(name)}{hint}")

    @classmethod
    def among(
        cls, kind: str, name: str, known: Iterable[str] | Mapping[str, Iterable[str]], cutoff: float = 0.5
    ) -> Self:
        """Return the error of a name that is none of the known ones.

        Args:
            kind: What was named.
            name: The name that was given.
            known: The names that are possible; or each with the further names that it goes by. Those that are near
                come first, the others follow in their order.
            cutoff: How near the nearest must be to be suggested, 0 to 1 (``difflib.SequenceMatcher.ratio``).
        """
        others = known if isinstance(known, Mapping) else dict.fromkeys(known, ())
        near = {shown: max(_likeness(name, own) for own in (shown, *more)) for shown, more in others.items()}
        ranked = sorted(near, key=lambda shown: -near[shown] if near[shown] >= cutoff else 0.0)
        suggestion = ranked[0] if ranked and near[ranked[0]] >= cutoff else None
        return cls(kind, name, suggestion, ranked)


_MOST_NAMES = 30
_LONGEST_COMPARED = 200


def _likeness(first: str, second: str) -> float:
    """Return how alike two names are, 0 to 1, whatever the case."""
    return SequenceMatcher(None, second.lower(), first[:_LONGEST_COMPARED].lower()).ratio()


class GoalError(CarmError):
    """A motion goal is malformed or cannot be met."""


_DIGITS = range(4, 13)


def outside(value: float, lower: float, upper: float) -> str:
    """Format a value outside an interval with 4 decimals, or as many more as show that it is; never as minus zero."""
    if not abs(value) < 1e6:
        return f"{value:.3g}"
    texts = (f"{value:z.{digits}f}" for digits in _DIGITS)
    return next((text for text in texts if not lower <= float(text) <= upper), repr(float(value)))


class JointLimitError(GoalError):
    """A joint position lies outside its limits.

    Attributes:
        joint: Name of the joint.
        value: The position asked for, m or rad.
        lower: Lower limit, m or rad.
        upper: Upper limit, m or rad.
        unit: ``"m"`` or ``"rad"``.
    """

    def __init__(self, joint: str, value: float, lower: float, upper: float, unit: str) -> None:
        """Keep the offending values.

        Args:
            joint: Name of the joint.
            value: The position asked for, m or rad.
            lower: Lower limit, m or rad.
            upper: Upper limit, m or rad.
            unit: ``"m"`` or ``"rad"``.
        """
        self.joint, self.value, self.lower, self.upper, self.unit = joint, value, lower, upper, unit
        super().__init__(
            f"{joint} = {outside(value, lower, upper)} {unit} is outside its limits [{lower:z.4f}, {upper:z.4f}] {unit}"
        )


class UnreachableError(GoalError):
    """No joint position gives the view that was asked for."""
