# SPDX-License-Identifier: Apache-2.0
"""Filters a localizer's answers: adds calibrated radii, and lets the localizer abstain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from carm_core.localization import LandmarkEstimate
from carm_perception.networks.preprocessing import FIELD_MM
from carm_perception.uncertainty.abstention import doubt
from carm_perception.uncertainty.calibration_file import Calibration, load_calibration, tabulated_risk
from carm_perception.uncertainty.out_of_distribution import LIMIT

if TYPE_CHECKING:
    from carm_perception.networks.landmark_reader import Reading
    from carm_perception.networks.loaded_model import LoadedModel


def in_field(estimate: LandmarkEstimate) -> bool:
    """Return whether a landmark is said to lie in the image."""
    return max(abs(value) for value in estimate.displacement_mm) <= FIELD_MM / 2


@runtime_checkable
class Cautious(Protocol):
    """A localizer whose caution can change while it works."""

    def set_caution(self, maximum_std_mm: float, maximum_risk: float) -> None:
        """Change when to abstain; see the constructor of the localizer.

        Raises:
            ConfigurationError: The risk is out of range.
        """


class Guard:
    """What the calibration of a model folder says about the answers of one localizer.

    Attributes:
        calibration: The calibration; None when there is none for these weights.
    """

    def __init__(
        self, loaded: LoadedModel, name: str, maximum_risk: float, calibration: Calibration | None = None
    ) -> None:
        """Find the calibration.

        Args:
            loaded: The model.
            name: Name of the localizer.
            maximum_risk: Largest rate of wrong answers among those given, see
                ``carm_perception.uncertainty.abstention.WRONG_MM``; 0: never abstain.
            calibration: Calibration of the model; None: read it from the folder.

        Raises:
            ConfigurationError: The risk is out of range.
        """
        self.set_risk(maximum_risk)
        self.calibration = calibration or load_calibration(loaded.folder, loaded.version)
        self._radii = self.calibration.localizers.get(name) if self.calibration is not None else None

    def set_risk(self, maximum_risk: float) -> None:
        """Change the largest rate of wrong answers.

        Raises:
            ConfigurationError: The risk is out of range.
        """
        self._risk = tabulated_risk(maximum_risk) if maximum_risk != 0 else 0.0

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Never abstain within the block."""
        risk, self._risk = self._risk, 0.0
        try:
            yield
        finally:
            self._risk = risk

    @property
    def may_abstain(self) -> bool:
        """Whether the filter can make the localizer abstain."""
        return self._risk > 0 and self.calibration is not None

    def strange(self, reading: Reading) -> str:
        """Return why an image is rejected: it is unlike the calibration images; empty if it is accepted."""
        if self.calibration is None or not self._risk:
            return ""
        score = self.calibration.familiarity.score(reading.std_mm, reading.presence)
        if score <= LIMIT:
            return ""
        return f"this is no X-ray image of the landmarks (strangeness {score:.1f}, limit {LIMIT:.0f})"

    def calibrated(self, estimate: LandmarkEstimate, seen: bool) -> LandmarkEstimate:
        """Return an estimate with conformal radii, where there are any."""
        return self._radii.with_radii(estimate, seen) if self._radii is not None else estimate

    def unsure(self, estimate: LandmarkEstimate, seen: bool) -> str:
        """Return why a calibrated estimate is withheld; empty if it may be returned."""
        if self._radii is None or not self._risk:
            return ""
        limit, radius = self._radii.limit(estimate, seen, self._risk), estimate.radius_90_mm
        risk = f"a risk of {100 * self._risk:g} %"
        if limit == -math.inf:
            return f"no answer of this kind keeps {risk}"
        place = np.array(estimate.displacement_mm, dtype=np.float64)
        if limit == math.inf or float(doubt(np.array(radius), place, np.array(seen))) <= limit:
            return ""
        where = "is in the image" if seen else f"is {np.linalg.norm(place):.0f} mm away"
        return f"a landmark that {where} with a 90 % radius of {radius:.0f} mm exceeds {risk} of a wrong answer"
