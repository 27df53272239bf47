# SPDX-License-Identifier: Apache-2.0
"""The deep-learning localizer: a network of its own beside the language model, one pass for all landmarks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from carm_core.errors import LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import LANDMARKS
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Protocol, Query
from carm_perception.networks.landmark_reader import Reading
from carm_perception.networks.loaded_model import LoadedModel
from carm_perception.networks.preprocessing import MODEL_PX
from carm_perception.protocols.estimates import nearest_first
from carm_perception.protocols.parsing import (
    LIMIT_MM,
    LOCALIZED,
    RETRIEVED,
    LocalizationAnswer,
    PointingAnswer,
    RetrievalAnswer,
)
from carm_perception.uncertainty.abstention import DEFAULT_RISK
from carm_perception.uncertainty.answer_filter import Guard


class RegressionLocalizer(Localizer):
    """Displacement and standard deviation of all landmarks in one pass of a few milliseconds."""

    name = "regression"

    def __init__(
        self,
        folder: Path | LoadedModel | None = None,
        maximum_std_mm: float = 0.0,
        threads: int = 1,
        maximum_risk: float = DEFAULT_RISK,
    ) -> None:
        """Load the network.

        Args:
            folder: Model folder, or its loaded content; None: the one that ships.
            maximum_std_mm: Abstain when the standard deviation of the target exceeds this; 0: never.
            threads: CPU threads of torch; 0: leave as they are.
            maximum_risk: Abstain so that no more than this part of the answers given is wrong, and on images that
                show none of the landmarks; 0: never. Needs a calibration of the weights.

        Raises:
            LocalizerError: The folder is incomplete or its content is no such model.
            ConfigurationError: The risk is out of range.
        """
        self._loaded = folder if isinstance(folder, LoadedModel) else LoadedModel(folder, threads)
        self._maximum_std_mm = maximum_std_mm
        self.model_version = self._loaded.version
        self._loaded.require_reader()
        self._guard = Guard(self._loaded, self.name, maximum_risk)

    def set_caution(self, maximum_std_mm: float, maximum_risk: float) -> None:
        """See :class:`~carm_perception.uncertainty.answer_filter.Cautious`."""
        self._guard.set_risk(maximum_risk)
        self._maximum_std_mm = maximum_std_mm

    def warm_up(self) -> None:
        """Read one gray image."""
        gray = np.full((MODEL_PX, MODEL_PX), 128, np.uint8)
        self.localize(XrayFrame(gray, 1.21, 0.0), Query(Protocol.LOCALIZATION))

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question about a frame; the answer's text is written from the displacements."""
        start = time.perf_counter()

        def reply(**content: Any) -> Localization:
            content.setdefault("answer", "")
            return Localization(self.name, self.model_version, query, latency_s=time.perf_counter() - start, **content)

        if query.protocol not in (Protocol.POINTING, Protocol.RETRIEVAL, Protocol.LOCALIZATION):
            return reply(error="internal", message=f"the regression localizer does not answer {query.protocol}")
        try:
            reading = self.read(frame)
        except LocalizerError as error:
            return reply(error="internal", message=str(error))
        strange = self._guard.strange(reading)
        if strange:
            return reply(abstained=True, message=strange)
        estimates = self.estimates(reading)
        if query.target_id:
            estimates = tuple(e for e in estimates if e.id == query.target_id)
        answer = written(query.protocol, estimates)
        if query.target_id and estimates:
            unsure = self._unsure(estimates[0], reading)
            if unsure:
                return reply(answer=answer, abstained=True, message=unsure)
        return reply(answer=answer, estimates=estimates)

    def read(self, frame: XrayFrame) -> Reading:
        """What the network says about a frame.

        Raises:
            LocalizerError: The image cannot be read.
        """
        return self._loaded.read(frame)

    def estimates(self, reading: Reading) -> tuple[LandmarkEstimate, ...]:
        """All landmarks with their radii, closest to the image center first."""
        places = {m.id: (float(x), float(y)) for m, (x, y) in zip(LANDMARKS, reading.displacement_mm, strict=True)}
        found = nearest_first(places, {m.id: float(std) for m, std in zip(LANDMARKS, reading.std_mm, strict=True)})
        return tuple(self._guard.calibrated(estimate, reading.sees(estimate.id)) for estimate in found)

    def _unsure(self, estimate: LandmarkEstimate, reading: Reading) -> str:
        if 0 < self._maximum_std_mm < estimate.std_mm:
            return f"standard deviation {estimate.std_mm:.0f} mm exceeds {self._maximum_std_mm:.0f} mm"
        return self._guard.unsure(estimate, reading.sees(estimate.id))


def written(protocol: Protocol, estimates: tuple[LandmarkEstimate, ...]) -> str:
    """The answer of a protocol, from estimates in order: a list, or a line for each place."""
    ids = tuple(e.id for e in estimates)
    if protocol is Protocol.RETRIEVAL:
        return RetrievalAnswer(ids[:RETRIEVED]).text()
    if protocol is Protocol.LOCALIZATION:
        return LocalizationAnswer(ids[:LOCALIZED]).text()
    return "\n".join(_point(e.id, e.displacement_mm).text() for e in estimates)


def _point(landmark_id: int, displacement_mm: tuple[float, float]) -> PointingAnswer:
    dx, dy = (round(max(-LIMIT_MM, min(LIMIT_MM, value))) for value in displacement_mm)
    return PointingAnswer(landmark_id, dx, dy)
