# SPDX-License-Identifier: Apache-2.0
"""What the localizers on a compact model folder share: loading, caution and warm-up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import LANDMARKS
from carm_core.localization import LandmarkEstimate, Localizer, Protocol, Query
from carm_perception.networks.loaded_model import LoadedModel
from carm_perception.networks.preprocessing import FIELD_MM, MODEL_PX
from carm_perception.uncertainty.abstention import DEFAULT_RISK
from carm_perception.uncertainty.answer_filter import Guard


class CalibratedLocalizer(Localizer):
    """Reads a compact model folder, and abstains by the calibration of its weights."""

    def __init__(
        self,
        folder: Path | LoadedModel | None = None,
        maximum_std_mm: float = 0.0,
        threads: int = 1,
        maximum_risk: float = DEFAULT_RISK,
    ) -> None:
        """Load the model.

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
        self._guard = Guard(self._loaded, self.name, maximum_risk)
        self.model_version = self._loaded.version
        self._prepare()

    def _prepare(self) -> None:
        """Make what the localizer needs beside the loaded model."""

    def set_caution(self, maximum_std_mm: float, maximum_risk: float) -> None:
        """See ``~carm_perception.uncertainty.answer_filter.Cautious``."""
        self._guard.set_risk(maximum_risk)
        self._maximum_std_mm = maximum_std_mm

    def warm_up(self) -> None:
        """Answer one question about a gray image, which is judged by no risk, so that the whole model is used."""
        gray = XrayFrame(np.full((MODEL_PX, MODEL_PX), 128, np.uint8), FIELD_MM / MODEL_PX, 0.0)
        with self._guard.suspended():
            self.localize(gray, Query(Protocol.POINTING, LANDMARKS[0].id))

    def _unsure(self, estimate: LandmarkEstimate, seen: bool) -> str:
        """Return why an estimate is to be kept back, ``seen``: of a landmark in the image; empty: it may be given."""
        if 0 < self._maximum_std_mm < estimate.std_mm:
            return f"standard deviation {estimate.std_mm:.0f} mm exceeds {self._maximum_std_mm:.0f} mm"
        return self._guard.unsure(estimate, seen)
