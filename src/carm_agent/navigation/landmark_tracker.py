# SPDX-License-Identifier: Apache-2.0
"""Combines and checks the answers of a localizer over the images of one task."""

import math

import numpy as np

from carm_agent.navigation.landmark_filter import RADIUS_90_PER_STD, Belief
from carm_agent.navigation.task import NavigatorConfig
from carm_core.imaging.projection import XrayView
from carm_core.localization import LandmarkEstimate

_VAGUE = 2.0
"""An answer that is this much less sure than what is believed would agree with nearly anything."""


class Evidence:
    """What the images of one task say about one landmark.

    An answer that contradicts the earlier ones is not taken in; only when the next one agrees with it do the two
    replace what was believed.

    Attributes:
        belief: Where the landmark is believed to be; None before the first trusted answer.
        agreeing: Trusted answers in a row that agree with each other.
    """

    def __init__(self, config: NavigatorConfig, belief: Belief | None = None) -> None:
        """Start knowing nothing, or with what is known from elsewhere.

        Args:
            config: What to trust.
            belief: Where the landmark is believed to be.
        """
        self._config = config
        self._contender: Belief | None = None
        self._isocenter_mm = np.zeros(3) if belief is None else belief.mean_mm
        self.belief = belief
        self.agreeing = 0

    def std_mm(self, estimate: LandmarkEstimate) -> float:
        """Return the standard deviation of either component of an estimate that is to be believed, mm."""
        stated = estimate.radius_90_mm / RADIUS_90_PER_STD
        if not stated > 0:
            stated = estimate.std_mm if estimate.std_mm > 0 else self._config.default_std_mm
        distance = math.hypot(*estimate.displacement_mm)
        return math.hypot(max(stated, self._config.min_std_mm), self._config.relative_std * distance)

    def is_placed(self, view: XrayView) -> bool:
        """Return whether the images say well where the landmark is: then another image is due, not another place."""
        return self.belief is not None and self.belief.radius_90_mm(view) <= self._config.max_radius_mm

    def field_mm(self, view: XrayView) -> float:
        """Return the side of the field, mm, that shows where the landmark is believed to be; 0: the whole detector.

        Args:
            view: The view that will be exposed, frame ``table``.
        """
        margin = self._config.collimation_margin_mm
        if self.belief is None or margin <= 0:
            return 0.0
        reach = float(np.abs(self.belief.offset_mm(view)).max()) + self.belief.radius_90_mm(view) + margin
        whole = min(view.detector.rows, view.detector.columns) * view.mm_per_px_at_isocenter
        side = max(2 * reach, self._config.least_field_mm)
        return side if side < whole else 0.0

    def weigh(self, view: XrayView, estimate: LandmarkEstimate) -> str:
        """Accept an estimate, or give the reason for rejecting it.

        Args:
            view: The view of the image, frame ``table``.
            estimate: finite.

        Returns:
            Empty if the estimate is trusted, else why it is doubtful.
        """
        config, measured, std_mm = self._config, estimate.displacement_mm, self.std_mm(estimate)
        distance = math.hypot(*measured)
        if distance > config.max_displacement_mm:
            return f"{distance:.0f} mm from the image center is beyond any body"
        if estimate.confidence < config.min_confidence:
            return f"the localizer is only {100 * estimate.confidence:.0f} % sure"
        fresh = Belief.from_measurement(view, measured, std_mm, config.depth_std_mm)
        if self.belief is None:
            self.belief, self.agreeing, self._isocenter_mm = fresh, 1, view.isocenter_mm
            return ""
        moved_mm = float(np.linalg.norm(view.isocenter_mm - self._isocenter_mm))
        self._isocenter_mm = view.isocenter_mm
        self.belief = self.belief.diffused(math.hypot(config.drift_std_mm, config.drift_per_motion * moved_mm))
        if self.belief.surprise(view, measured, std_mm) <= config.max_surprise:
            self.agreeing += self._tells(view, std_mm)
            self.belief, self._contender = self.belief.updated(view, measured, std_mm), None
            return ""
        contender = self._contender
        if contender is not None and contender.surprise(view, measured, std_mm) <= config.max_surprise:
            self.belief, self._contender = contender.updated(view, measured, std_mm), None
            self.agreeing = 1
            return ""
        self._contender = fresh
        jump = float(np.linalg.norm(np.asarray(measured) - self.belief.offset_mm(view)))
        return f"the answer is {jump:.0f} mm away from what earlier images say"

    def _tells(self, view: XrayView, std_mm: float) -> bool:
        """Return whether an answer that agrees confirms anything: where exact ones are due, a vague one does not."""
        if not self._config.exact_mm or self.belief is None:
            return True
        return std_mm <= _VAGUE * self.belief.radius_90_mm(view) / RADIUS_90_PER_STD
