# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the whole project. ``str(error)`` is one line that a user can act on."""

from __future__ import annotations


class CarmError(Exception):
    """Base of every error that the project raises on purpose."""


class ConfigurationError(CarmError):
    """A configuration file or parameter is missing, malformed or out of range."""


class PatientError(CarmError):
    """A patient (CT or landmarks) cannot be used."""


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


class UnknownNameError(CarmError):
    """A name is not in its vocabulary.

    Attributes:
        name: The name that was given.
        suggestion: The nearest known name, or None when none is near.
    """

    def __init__(self, kind: str, name: str, suggestion: str | None = None) -> None:
        """Describe the name and what may have been meant.

        Args:
            kind: What was named, for example ``"landmark"``.
            name: The name that was given.
            suggestion: The nearest known name.
        """
        self.name = name
        self.suggestion = suggestion
        hint = f"; did you mean {suggestion!r}?" if suggestion else ""
        super().__init__(f"unknown {kind} {name!r}{hint}")


class GoalError(CarmError):
    """A motion goal is malformed or cannot be met."""


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
        super().__init__(f"{joint} = {value:.4f} {unit} is outside its limits [{lower:.4f}, {upper:.4f}] {unit}")


class UnreachableError(GoalError):
    """No joint position gives the view that was asked for."""
