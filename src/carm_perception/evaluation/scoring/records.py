# SPDX-License-Identifier: Apache-2.0
"""What a localizer answered to one question, beside the truth: all that figures are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from carm_core.localization import NAN, LandmarkEstimate, Localization, Protocol

LEVELS = (90, 95, 97)
"""Levels of coverage, per cent."""


class Status(StrEnum):
    """What came of a question. Only an answer can be right."""

    ANSWERED = "answered"
    ABSTAINED = "abstained"
    MALFORMED = "malformed"
    FAILED = "failed"


def status_of(reply: Localization) -> Status:
    """Return what came of a question."""
    if reply.error is not None:
        return Status.MALFORMED if reply.error == "malformed" else Status.FAILED
    return Status.ABSTAINED if reply.abstained else Status.ANSWERED


def round_normal_radius(std_mm: float, share: float) -> float:
    """Return the radius about its mean that holds a share of a round normal distribution, mm (Rayleigh's distribution).

    Args:
        std_mm: Standard deviation of either component, mm.
        share: 0 to 1, exclusive.
    """
    return std_mm * math.sqrt(-2 * math.log1p(-share))


@dataclass(frozen=True)
class ListRecord:
    """An answer that orders landmarks.

    Attributes:
        case: Index of the case in the suite.
        protocol: The question.
        status: What came of it.
        truth_ids: The true three closest landmarks, closest first; empty for an image without landmarks.
        answer_ids: The answer, word for word; empty when there is none.
        latency_s: As the caller saw it.
        kind: Kind of a falsification image, or empty.
        unknown_ids: Landmarks whose true place is not known: they lie outside the CT.
    """

    case: int
    protocol: Protocol
    status: Status
    truth_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    latency_s: float = NAN
    kind: str = ""
    unknown_ids: frozenset[int] = frozenset()

    @property
    def known(self) -> ListRecord:
        """The same with landmarks of unknown place struck from the answer."""
        return replace(self, answer_ids=tuple(i for i in self.answer_ids if i not in self.unknown_ids))


@dataclass(frozen=True)
class PointRecord:
    """An answer that points to a landmark.

    Attributes:
        case: Index of the case in the suite.
        target: Landmark asked for.
        status: What came of it.
        error_mm: Distance of the answer from the truth at isocenter depth, mm; NaN without an answer.
        centered: Whether the view is centered near the target.
        std_mm: Stated standard deviation of either component, mm; NaN: none.
        radii_mm: Calibrated radius by level in per cent; empty: none.
        latency_s: As the caller saw it.
        kind: Kind of a falsification image, or empty.
    """

    case: int
    target: int
    status: Status
    error_mm: float = NAN
    centered: bool = False
    std_mm: float = NAN
    radii_mm: dict[int, float] = field(default_factory=dict)
    latency_s: float = NAN
    kind: str = ""

    def radius_mm(self, level: int) -> float:
        """Radius that is to hold the landmark in ``level`` per cent of cases, mm; NaN when nothing is stated.

        The calibrated one, else that of a round normal distribution of the stated standard deviation.
        """
        return self.radii_mm.get(level, round_normal_radius(self.std_mm, level / 100))


def calibrated_radii(estimate: LandmarkEstimate) -> dict[int, float]:
    """Return the calibrated radii that an estimate carries, by level in per cent."""
    found = {level: float(getattr(estimate, f"radius_{level}_mm", NAN)) for level in LEVELS}
    return {level: radius for level, radius in found.items() if math.isfinite(radius)}


Record = ListRecord | PointRecord
