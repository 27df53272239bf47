# SPDX-License-Identifier: Apache-2.0
"""The language model with the deep-learning localizer beside it as referee, on one vision tower.

Where both agree, the answer is the better one's, pulled towards the other. Where they contradict each other, the surer
one is followed with less confidence, and the reply says so.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

from carm_core.frame import XrayFrame
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Protocol, Query
from carm_perception.answers import confidence
from carm_perception.compact import CompactLocalizer, LoadedModel
from carm_perception.regression import RegressionLocalizer

AGREEMENT_STDS = 2.5
"""Two answers contradict each other when they are further apart than this many of their joint standard deviations."""


class FusedLocalizer(Localizer):
    """Asks both; answers pointing from both, the other protocols from the language model."""

    name = "fused"

    def __init__(self, folder: Path | None = None, maximum_std_mm: float = 0.0, threads: int = 1) -> None:
        """Load the model once for both.

        Args:
            folder: Model folder; None: the one that ships.
            maximum_std_mm: Abstain when the standard deviation of the target exceeds this; 0: never.
            threads: CPU threads of torch; 0: leave as they are.

        Raises:
            LocalizerError: The folder is incomplete or its content is no such model.
        """
        loaded = LoadedModel(folder, threads)
        self._speaker, self._referee = CompactLocalizer(loaded), RegressionLocalizer(loaded)
        self._maximum_std_mm = maximum_std_mm
        self.model_version = self._speaker.model_version

    def warm_up(self) -> None:
        """Let both read a gray image."""
        self._speaker.warm_up()
        self._referee.warm_up()

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question about a frame."""
        start = time.perf_counter()
        spoken = self._speaker.localize(frame, query)
        if query.protocol is Protocol.POINTING:
            spoken = self._judged(spoken, self._referee.localize(frame, query))
        return replace(spoken, localizer=self.name, latency_s=time.perf_counter() - start)

    def _judged(self, spoken: Localization, seen: Localization) -> Localization:
        if not seen.ok or not seen.estimates:
            return spoken
        if not spoken.ok:
            message = f"the language model gave no answer ({spoken.message}); the deep-learning localizer answers"
            return replace(seen, query=spoken.query, answer=spoken.answer or seen.answer, message=message)
        notes, estimates = [], []
        for one in spoken.estimates:
            other = seen.estimate(one.id)
            estimate, apart_mm = fuse(one, other) if other is not None else (one, 0.0)
            estimates.append(estimate)
            if apart_mm:
                notes.append(f"language model and deep-learning localizer are {apart_mm:.0f} mm apart")
        if spoken.query.target_id and 0 < self._maximum_std_mm < estimates[0].std_mm:
            message = f"standard deviation {estimates[0].std_mm:.0f} mm exceeds {self._maximum_std_mm:.0f} mm"
            return replace(spoken, estimates=(), abstained=True, message=message)
        estimates.sort(key=lambda e: math.hypot(*e.displacement_mm))
        return replace(spoken, estimates=tuple(estimates), message=notes[0] if spoken.query.target_id and notes else "")


def fuse(one: LandmarkEstimate, other: LandmarkEstimate) -> tuple[LandmarkEstimate, float]:
    """Join two estimates of one landmark, each with a finite displacement and standard deviation.

    Both read the same image through the same tower, so the joint estimate is not believed to be better than the better
    of the two.

    Returns:
        The joint estimate, and by how much the two contradict each other, mm; 0 when they agree.
    """
    dx, dy = (b - a for a, b in zip(one.displacement_mm, other.displacement_mm, strict=True))
    apart = math.hypot(dx, dy)
    better = one if one.std_mm <= other.std_mm else other
    if apart > AGREEMENT_STDS * math.hypot(one.std_mm, other.std_mm):
        std = math.hypot(better.std_mm, apart / 4)
        return replace(better, std_mm=std, confidence=confidence(std)), apart
    share = one.std_mm**2 / (one.std_mm**2 + other.std_mm**2)
    place = (one.displacement_mm[0] + share * dx, one.displacement_mm[1] + share * dy)
    return replace(better, displacement_mm=place, confidence=confidence(better.std_mm)), 0.0
