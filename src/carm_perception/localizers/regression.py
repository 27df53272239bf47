# SPDX-License-Identifier: Apache-2.0
"""The deep-learning localizer: a network of its own beside the language model, one pass for all landmarks."""

from __future__ import annotations

import time
from dataclasses import replace

from carm_core.errors import LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import ALL_LANDMARKS
from carm_core.localization import NEEDS_CT, LandmarkEstimate, Localization, Protocol, Query
from carm_perception.localizers.calibrated import CalibratedLocalizer
from carm_perception.networks.landmark_reader import Reading
from carm_perception.protocols.estimates import nearest_first
from carm_perception.protocols.parsing import (
    LIMIT_MM,
    LOCALIZED,
    RETRIEVED,
    LocalizationAnswer,
    PointingAnswer,
    RetrievalAnswer,
)
from carm_perception.uncertainty.shape_prior import shape_model


class RegressionLocalizer(CalibratedLocalizer):
    """Displacement and standard deviation of all landmarks in one pass of a few milliseconds."""

    name = "regression"

    def _prepare(self) -> None:
        self._loaded.require_reader()

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question about a frame; the answer's text is written from the displacements."""
        start = time.perf_counter()
        if query.point_mm is not None:
            return self._reply(query, start, abstained=True, message=NEEDS_CT)
        if query.protocol not in (Protocol.POINTING, Protocol.RETRIEVAL, Protocol.LOCALIZATION):
            message = f"the regression localizer does not answer {query.protocol}"
            return self._reply(query, start, error="internal", message=message)
        try:
            reading = self.read(frame)
        except LocalizerError as error:
            return self._reply(query, start, error="internal", message=str(error))
        strange = self._guard.strange(self._loaded.read(frame))
        if strange:
            return self._reply(query, start, abstained=True, message=strange)
        estimates = tuple(e for e in self.estimates(reading) if query.covers(e.id))
        if query.target_id:
            estimates = tuple(e for e in estimates if e.id == query.target_id)
        answer = written(query.protocol, estimates)
        if query.target_id and estimates:
            unsure = self._unsure(estimates[0], reading.sees(estimates[0].id))
            if unsure:
                return self._reply(query, start, answer=answer, abstained=True, message=unsure)
        return self._reply(query, start, answer=answer, estimates=estimates)

    def sighted(self, frame: XrayFrame) -> tuple[LandmarkEstimate, ...]:
        """See ``carm_perception.registration.body_belief.Sighting``."""
        return self.estimates(self.read(frame))

    def read(self, frame: XrayFrame) -> Reading:
        """Return what the network says about a frame; where its angles are known, as far as bodies can look like it.

        Raises:
            LocalizerError: The image cannot be read.
        """
        reading = self._loaded.read(frame)
        axes = frame.axes
        if axes is None:
            return reading
        places_mm, stds_mm = shape_model().refined(reading.displacement_mm, reading.std_mm, axes)
        return replace(reading, displacement_mm=places_mm, std_mm=stds_mm)

    def estimates(self, reading: Reading) -> tuple[LandmarkEstimate, ...]:
        """Return all landmarks with their radii, closest to the image center first."""
        places = {m.id: (float(x), float(y)) for m, (x, y) in zip(ALL_LANDMARKS, reading.displacement_mm, strict=True)}
        found = nearest_first(places, {m.id: float(std) for m, std in zip(ALL_LANDMARKS, reading.std_mm, strict=True)})
        return tuple(self._guard.calibrated(estimate, reading.sees(estimate.id)) for estimate in found)


def written(protocol: Protocol, estimates: tuple[LandmarkEstimate, ...]) -> str:
    """Return the answer of a protocol, from estimates in order: a list, or a line for each place."""
    ids = tuple(e.id for e in estimates)
    if protocol is Protocol.RETRIEVAL:
        return RetrievalAnswer(ids[:RETRIEVED]).text()
    if protocol is Protocol.LOCALIZATION:
        return LocalizationAnswer(ids[:LOCALIZED]).text()
    return "\n".join(_point(e.id, e.displacement_mm).text() for e in estimates)


def _point(landmark_id: int, displacement_mm: tuple[float, float]) -> PointingAnswer:
    dx, dy = (round(max(-LIMIT_MM, min(LIMIT_MM, value))) for value in displacement_mm)
    return PointingAnswer(landmark_id, dx, dy)
