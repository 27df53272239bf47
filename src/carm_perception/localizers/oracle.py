# SPDX-License-Identifier: Apache-2.0
"""A localizer that knows the truth, for tests of everything around localizers. Never for figures."""

from __future__ import annotations

import math
import time

import numpy as np

from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import ALL_LANDMARKS
from carm_core.localization import NEEDS_CT, Localization, Localizer, Protocol, Query
from carm_perception.protocols.estimates import nearest_first
from carm_perception.protocols.parsing import (
    LIMIT_MM,
    LOCALIZED,
    RETRIEVED,
    LocalizationAnswer,
    PointingAnswer,
    RetrievalAnswer,
)


class OracleLocalizer(Localizer):
    """Projects a patient's true landmarks; needs frames that carry their view."""

    name = "oracle"
    model_version = ""

    def __init__(self, patient: str, noise_mm: float = 0.0, seed: int = 0) -> None:
        """Load the patient.

        Args:
            patient: As for ``carm_sim.patient_loader.load_patient``.
            noise_mm: Standard deviation added to each component.
            seed: Seed of the noise.

        Raises:
            PatientError: The patient cannot be loaded.
        """
        from carm_sim.patient_loader import load_patient

        self._landmarks = load_patient(patient).all_landmarks_table_mm
        self._noise_mm = noise_mm
        self._rng = np.random.default_rng(seed)

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question about a frame."""
        start = time.perf_counter()
        if query.point_mm is not None:
            return self._reply(query, start, abstained=True, message=NEEDS_CT)
        if query.protocol is Protocol.COMMAND:
            return self._reply(query, start, abstained=True, message="the oracle reads no sentences")
        if frame.view is None:
            return self._reply(query, start, error="internal", message="the oracle needs the view of a frame")
        ids = [mark.id for mark in ALL_LANDMARKS if mark.id in self._landmarks and query.covers(mark.id)]
        if query.target_id and query.target_id not in ids:
            message = f"the patient's landmark {query.target_id} is unknown or outside the CT"
            return self._reply(query, start, abstained=True, message=message)
        true = frame.view.displacement_mm(np.array([self._landmarks[i] for i in ids]))
        seen = true + self._rng.normal(0, self._noise_mm, true.shape) if self._noise_mm else true
        places = {i: (float(p[0]), float(p[1])) for i, p in zip(ids, seen, strict=True) if math.isfinite(p[0])}
        estimates = nearest_first(places, dict.fromkeys(ids, max(self._noise_mm, 0.1)))
        if query.target_id:
            estimates = tuple(e for e in estimates if e.id == query.target_id)
        text = self._text(query, tuple(e.id for e in estimates), places)
        return self._reply(query, start, answer=text, estimates=estimates)

    def _text(self, query: Query, ids: tuple[int, ...], places: dict[int, tuple[float, float]]) -> str:
        if query.protocol is Protocol.RETRIEVAL:
            return RetrievalAnswer(ids[:RETRIEVED]).text()
        if query.protocol is Protocol.POINTING:
            points = [[round(max(-LIMIT_MM, min(LIMIT_MM, v))) for v in places[i]] for i in ids]
            return "\n".join(PointingAnswer(i, p[0], p[1]).text() for i, p in zip(ids, points, strict=True))
        return LocalizationAnswer(ids[:LOCALIZED]).text()
