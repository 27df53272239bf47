# SPDX-License-Identifier: Apache-2.0
"""Errors of recordings."""

from __future__ import annotations

from pathlib import Path

from carm_core.errors import CarmError, ConfigurationError

_LONGEST_REASON = 160


class BagError(ConfigurationError):
    """A bag cannot be read, or holds nothing to work with."""


class BagWriteError(CarmError):
    """A bag cannot be written on, for example since the disk is full; what was written stays readable.

    Attributes:
        folder: The bag.
        reason: What the operating system says.
    """

    def __init__(self, folder: Path, reason: str, messages: int) -> None:
        """Keep the folder and the reason.

        Args:
            folder: The bag.
            reason: What the operating system says.
            messages: Messages that were written before.
        """
        self.folder, self.reason = folder, reason
        super().__init__(
            f"recording ended: cannot write to {folder}: {reason}; the {messages} messages before stay readable"
        )


class SchemaError(CarmError):
    """The definition of a message type is nowhere to be found."""


def one_line(error: Exception) -> str:
    """Return what an error of another library says, in one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 3]}..."
