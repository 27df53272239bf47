# SPDX-License-Identifier: Apache-2.0
"""What was recorded beside what the replay gives: differences in words."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

TOLERANCE_MM = 0.05
"""Lengths that differ by less are the same: what another processor's rounding may do, far below a pixel."""
TOLERANCE = 1e-3
"""Relative tolerance of other numbers."""


@dataclass
class Report:
    """The outcome of one replay.

    Attributes:
        name: ``"perception"`` or ``"agent"``.
        replayed: Frames or tasks that were replayed.
        compared: Answers or tasks that had something recorded to compare with.
        differences: One text for each that differs; several lines each.
        largest_mm: Largest difference of a length that was compared, mm.
        notes: What was left out, and why.
        facts: More figures for the JSON file.
    """

    name: str
    replayed: int = 0
    compared: int = 0
    differences: list[str] = field(default_factory=list)
    largest_mm: float = 0.0
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def identical(self) -> bool:
        """Whether everything that was compared is the same."""
        return not self.differences

    def result(self) -> dict[str, Any]:
        """Return the report for a JSON file."""
        return {
            "replayed": self.replayed,
            "compared": self.compared,
            "identical": self.identical,
            "largest_difference_mm": self.largest_mm,
            "differences": self.differences,
            "notes": self.notes,
            **self.facts,
        }

    def same_length(self, first_mm: float, second_mm: float) -> bool:
        """Return whether two lengths are the same, and remember the largest difference; NaN equals NaN."""
        if math.isnan(first_mm) or math.isnan(second_mm):
            return math.isnan(first_mm) and math.isnan(second_mm)
        self.largest_mm = max(self.largest_mm, abs(first_mm - second_mm))
        return abs(first_mm - second_mm) <= TOLERANCE_MM


def same_number(first: float, second: float) -> bool:
    """Return whether two numbers are the same but for rounding; NaN equals NaN."""
    if math.isnan(first) or math.isnan(second):
        return math.isnan(first) and math.isnan(second)
    return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=1e-6)


def difference(recorded: Sequence[str], replayed: Sequence[str]) -> list[str]:
    """Return the lines of a unified difference: ``-`` as recorded, ``+`` as replayed."""
    lines = difflib.unified_diff(recorded, replayed, "recorded", "replayed", lineterm="", n=2)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]
