# SPDX-License-Identifier: Apache-2.0
"""The deep-learning localizer: the compact model's tower with its two heads, without a language model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from carm_core.errors import LocalizerError
from carm_core.frame import XrayFrame
from carm_core.landmarks import LANDMARKS
from carm_core.localization import Localization, Localizer, Protocol, Query
from carm_perception.answers import nearest_first
from carm_perception.compact import LoadedModel
from carm_perception.heads import Heads
from carm_perception.image import MODEL_PX
from carm_perception.protocols import (
    LIMIT_MM,
    LOCALIZED,
    RETRIEVED,
    LocalizationAnswer,
    PointingAnswer,
    RetrievalAnswer,
)


class RegressionLocalizer(Localizer):
    """Displacement and standard deviation of all landmarks in one pass of a few milliseconds."""

    name = "regression"

    def __init__(self, folder: Path | LoadedModel | None = None, maximum_std_mm: float = 0.0, threads: int = 1) -> None:
        """Load tower and heads.

        Args:
            folder: Model folder, or its loaded content; None: the one that ships.
            maximum_std_mm: Abstain when the standard deviation of the target exceeds this; 0: never.
            threads: CPU threads of torch; 0: leave as they are.

        Raises:
            LocalizerError: The folder is incomplete or its content is no such model.
        """
        self._loaded = folder if isinstance(folder, LoadedModel) else LoadedModel(folder, threads)
        self._maximum_std_mm = maximum_std_mm
        self.model_version = self._loaded.version
        self._heads = Heads.load(self._loaded.folder, self._loaded.model.config.text_config.hidden_size)

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
            places, spreads = self._displacements(frame)
        except LocalizerError as error:
            return reply(error="internal", message=str(error))
        estimates = nearest_first(places, spreads)
        if query.target_id:
            estimates = tuple(e for e in estimates if e.id == query.target_id)
        ids = tuple(e.id for e in estimates)
        if query.protocol is Protocol.RETRIEVAL:
            answer = RetrievalAnswer(ids[:RETRIEVED]).text()
        elif query.protocol is Protocol.LOCALIZATION:
            answer = LocalizationAnswer(ids[:LOCALIZED]).text()
        else:
            answer = "\n".join(_point(e.id, e.displacement_mm).text() for e in estimates)
        if query.target_id and self._maximum_std_mm > 0 and estimates[0].std_mm > self._maximum_std_mm:
            message = f"standard deviation {estimates[0].std_mm:.0f} mm exceeds {self._maximum_std_mm:.0f} mm"
            return reply(answer=answer, abstained=True, message=message)
        return reply(answer=answer, estimates=estimates)

    def _displacements(self, frame: XrayFrame) -> tuple[dict[int, tuple[float, float]], dict[int, float]]:
        import torch

        from carm_perception.train.architecture import image_tokens

        with torch.inference_mode():
            reading = self._heads.read(image_tokens(self._loaded.model, self._loaded.pixels(frame)))
        places = {m.id: (float(x), float(y)) for m, (x, y) in zip(LANDMARKS, reading.displacement_mm, strict=True)}
        return places, {mark.id: float(std) for mark, std in zip(LANDMARKS, reading.std_mm, strict=True)}


def _point(landmark_id: int, displacement_mm: tuple[float, float]) -> PointingAnswer:
    dx, dy = (round(max(-LIMIT_MM, min(LIMIT_MM, value))) for value in displacement_mm)
    return PointingAnswer(landmark_id, dx, dy)
