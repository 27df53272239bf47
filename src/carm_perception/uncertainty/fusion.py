# SPDX-License-Identifier: Apache-2.0
"""Fusion of two estimates of a landmark: from the language model and from the deep-learning localizer.

Both read the same image through the same tower: their errors are alike, and the joint opinion is not believed to be
better than the better of the two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import LocalizerError
from carm_core.transforms import Array

RADIUS_90_PER_STD = 2.146
"""Radius of 90 per cent of a round normal distribution, in standard deviations of a component."""

CONTRADICTION = 0.25
"""Two opinions that contradict each other cost at least this part of their distance in standard deviation."""

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0, 5.0, 1e6)
"""Weights of the language model's opinion that are tried, before both are weighted by their calibrated radii."""

DISAGREEMENTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75)
"""Parts of the distance between two opinions that are tried as a further standard deviation."""

SPEAKER, REFEREE = "speaker", "referee"


@dataclass(frozen=True)
class Fusion:
    """What was chosen on the calibration patients.

    Attributes:
        weight_seen: Weight of the language model for landmarks that are seen in the image, relative to the other's
            1; both are further weighted by the inverse square of their radii.
        weight_inferred: The same for landmarks whose place is inferred.
        disagreement: Part of the distance between the two that adds to the standard deviation.
        localization: Who says which two landmarks are closest: ``"speaker"`` (the language model) or ``"referee"``.
        retrieval: Who says which three are.
    """

    weight_seen: float = 1.0
    weight_inferred: float = 1.0
    disagreement: float = 0.1
    localization: str = SPEAKER
    retrieval: str = SPEAKER

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Fusion:
        """Read what ``as_dict`` wrote; an empty dictionary gives the defaults.

        Raises:
            LocalizerError: It is something else.
        """
        try:
            fusion = cls(**content)
            numbers = np.array([fusion.weight_seen, fusion.weight_inferred, fusion.disagreement], dtype=float)
        except (TypeError, ValueError) as error:
            raise LocalizerError(f"the choice of the fusion is damaged: {error}") from error
        if not (numbers >= 0).all() or {fusion.localization, fusion.retrieval} - {SPEAKER, REFEREE}:
            raise LocalizerError(f"the choice of the fusion is damaged: {fusion}")
        return fusion


@dataclass(frozen=True, eq=False)
class Opinion:
    """Places with radii, for any number of landmarks.

    Attributes:
        place_mm: Displacements (..., 2).
        radius_mm: Radii that hold 90 % (...), positive.
    """

    place_mm: Array
    radius_mm: Array


@dataclass(frozen=True, eq=False)
class Joint:
    """The joint opinion.

    Attributes:
        place_mm: Displacements (..., 2).
        std_mm: Standard deviation of either component (...).
        apart_mm: Distance between the two opinions (...).
        contradiction: Where one lies outside the other's circle, which is the smaller one (...).
        speaker_leads: Where the language model's opinion weighs more (...).
    """

    place_mm: Array
    std_mm: Array
    apart_mm: Array
    contradiction: NDArray[np.bool_]
    speaker_leads: NDArray[np.bool_]


def join(speaker: Opinion, referee: Opinion, seen: NDArray[np.bool_], fusion: Fusion) -> Joint:
    """Combine two readings.

    Where they agree, the place lies between the two, nearer to the one that weighs more. Where they contradict each
    other, it is that one's. The standard deviation is that of the one that weighs more, and grows with the distance.

    Args:
        speaker: The language model's.
        referee: The deep-learning localizer's.
        seen: Which landmarks are seen in the image (...).
        fusion: How.
    """
    weight = np.where(seen, fusion.weight_seen, fusion.weight_inferred)
    of_speaker, of_referee = weight / speaker.radius_mm**2, 1 / referee.radius_mm**2
    share = of_speaker / (of_speaker + of_referee)
    leads = share > 0.5
    apart = np.linalg.norm(speaker.place_mm - referee.place_mm, axis=-1)
    contradiction = apart > np.minimum(speaker.radius_mm, referee.radius_mm)
    share = np.where(contradiction, leads, share)[..., None]
    place = share * speaker.place_mm + (1 - share) * referee.place_mm
    better = np.where(leads, speaker.radius_mm, referee.radius_mm) / RADIUS_90_PER_STD
    part = np.where(contradiction, max(CONTRADICTION, fusion.disagreement), fusion.disagreement)
    return Joint(place, np.hypot(better, part * apart), apart, contradiction, leads)
