# SPDX-License-Identifier: Apache-2.0
"""Finding the depth of a landmark: by two views, or from a localizer that knows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_agent import phrases
from carm_agent.navigation.budget import Ending
from carm_agent.navigation.landmark_filter import Belief
from carm_agent.navigation.localizer_queries import placed
from carm_agent.navigation.task import NavigationCode, NavigatorConfig
from carm_agent.planning.planner import Plan, Planner
from carm_core.errors import GoalError
from carm_core.imaging.projection import XrayView
from carm_core.imaging.triangulation import Sighting, Triangulation, triangulate
from carm_core.landmarks import Landmark
from carm_core.localization import LandmarkEstimate, Localization

DEPTH_90_PER_STD = 1.645
"""Half the interval that holds 90 % of a Gaussian along a line, in units of its standard deviation."""
BETWEEN_DEG = 40.0
"""Angle between the two views, deg. The depth's error falls with its sine; localizers know views up to about 25°."""


@dataclass(frozen=True, eq=False)
class DepthPlace:
    """Where the target is in space.

    Attributes:
        plan: the motion of the isocenter to there.
        reasoning: the line that goes with it.
        told: a sentence on how well the depth is known.
        belief: where the target is.
    """

    plan: Plan
    reasoning: str
    told: str
    belief: Belief


class Biplane:
    """Plans the two views of one target, and the motion to the place in space that both show."""

    def __init__(
        self, planner: Planner, config: NavigatorConfig, landmark: Landmark, start: NDArray[np.float64]
    ) -> None:
        """Choose the views.

        Args:
            planner: plans the motions.
            config: limits of angle and depth.
            landmark: the target.
            start: joint positions (J,), m or rad; their angles are returned to.
        """
        self._planner, self._config, self._name = planner, config, phrases.called(landmark)
        self._angles, self._isocenter_m = planner.carm.angles(start), planner.carm.isocenter(start)
        self._along = planner.carm.view(start).forward
        self.primaries_deg = biplane_primaries_deg(float(np.degrees(self._angles[0])), config.biplane_primary_deg)

    def view_name(self, primary_deg: float) -> str:
        """Name the view at a primary angle, deg."""
        return phrases.angles(primary_deg, float(np.degrees(self._angles[1])))

    def view(self, now: NDArray[np.float64], primary_deg: float) -> tuple[Plan, str]:
        """Return the motion from joint positions (J,) to a primary angle, deg, and the line that goes with it.

        Raises:
            Ending: it is out of reach.
        """
        view_name = self.view_name(primary_deg)
        try:
            plan = self._planner.to_view(now, None, (math.radians(primary_deg), self._angles[1]))
        except GoalError as error:
            reason = f"the depth of {self._name} needs {view_name}: {phrases.refusal(error)}"
            raise Ending(NavigationCode.UNREACHABLE, reason) from error
        return plan, f"Turning about the isocenter to {view_name}, to see the depth of {self._name}."

    def place(self, now: NDArray[np.float64], sightings: Sequence[Sighting]) -> DepthPlace:
        """Return where the sightings show the target, and the motion from joint positions (J,) to there.

        Raises:
            Ending: the depth is not known well enough, or is out of reach.
        """
        try:
            place, depth_mm = fixed(sightings, self._config.max_depth_mm)
            plan = self._planner.to_view(now, place.point_mm / 1000.0, self._angles)
        except GoalError as error:
            reason = f"the depth of {self._name} is not found: {phrases.refusal(error)}"
            raise Ending(NavigationCode.LOST_CONFIDENCE, reason) from error
        away_mm = float(np.linalg.norm(place.point_mm - 1000.0 * self._isocenter_m))
        shown = f"Two views {place.angle_deg:.0f}° apart show {self._name} {away_mm:.0f} mm from the isocenter"
        told = f" Two views fix its depth to ±{depth_mm:.0f} mm."
        return DepthPlace(
            plan, f"{shown}; putting the isocenter there.", told, Belief(place.point_mm, place.covariance_mm2)
        )

    def known(self, now: NDArray[np.float64], belief: Belief) -> DepthPlace:
        """Return the motion from joint positions (J,) to where a localizer says in space that the target is.

        Raises:
            Ending: it is out of reach.
        """
        try:
            plan = self._planner.to_view(now, belief.mean_mm / 1000.0, self._angles)
        except GoalError as error:
            line = f"{self._name} cannot be put in the isocenter: {phrases.refusal(error)}"
            raise Ending(NavigationCode.UNREACHABLE, line) from error
        line = f"The CT tells the depth of {self._name}; putting the isocenter there."
        return DepthPlace(plan, line, self.told(belief), belief)

    def told(self, belief: Belief) -> str:
        """Return a sentence on how well a localizer knows the depth."""
        std_mm = math.sqrt(float(self._along @ belief.covariance_mm2 @ self._along))
        return f" The CT tells its depth to ±{DEPTH_90_PER_STD * std_mm:.0f} mm."


def in_space(view: XrayView, estimate: LandmarkEstimate, std_mm: float, known_depth_mm: float) -> Belief | None:
    """Return where an estimate is in space; None when its depth is not known well.

    Args:
        view: The view that it was seen in, frame ``table``.
        estimate: finite.
        std_mm: Standard deviation of either component that is to be believed, at isocenter depth, mm.
        known_depth_mm: Largest standard deviation of the depth, mm.
    """
    if not (0 < estimate.depth_std_mm <= known_depth_mm and math.isfinite(estimate.depth_mm)):
        return None
    scale = 1.0 + estimate.depth_mm / view.source_isocenter_mm
    way = view.source_isocenter_mm * view.forward + np.asarray(estimate.displacement_mm) @ np.array(view.display_axes)
    ray = way / np.linalg.norm(way)
    across, along = (scale * std_mm) ** 2, estimate.depth_std_mm**2
    spread = across * (np.eye(3) - np.outer(ray, ray)) + along * np.outer(ray, ray)
    return Belief(np.asarray(view.source_mm + scale * way), spread)


def biplane_primaries_deg(primary_deg: float, limit_deg: float) -> tuple[float, float]:
    """Return the primary angles of two views ``BETWEEN_DEG`` apart, about the present one as far as a limit allows.

    Args:
        primary_deg: The present one.
        limit_deg: Largest size of either; at least half of the angle between them.

    Returns:
        The nearer one first.
    """
    half = BETWEEN_DEG / 2
    middle = float(np.clip(primary_deg, half - limit_deg, limit_deg - half))
    first, second = middle - half, middle + half
    return (first, second) if abs(first - primary_deg) <= abs(second - primary_deg) else (second, first)


def trusted(localization: Localization, landmark_id: int, min_confidence: float) -> tuple[LandmarkEstimate | None, str]:
    """Return what an answer says about a landmark, or None and why that is not to be trusted."""
    found = placed(localization, landmark_id) if localization.ok else None
    if found is None:
        return None, localization.message or "the localizer says nothing about it"
    if found.confidence < min_confidence:
        return None, f"the localizer is only {100 * found.confidence:.0f} % sure"
    return found, ""


def fixed(sightings: Sequence[Sighting], max_depth_mm: float) -> tuple[Triangulation, float]:
    """Return the place that sightings have in common, and how far its depth may be off in 90 of 100 cases, mm.

    Raises:
        GoalError: The rays do not meet, or the depth may be off by more than ``max_depth_mm``.
    """
    place = triangulate(sightings)
    depth_mm = DEPTH_90_PER_STD * place.std_mm
    if depth_mm > max_depth_mm:
        raise GoalError(f"two views tell it to ±{depth_mm:.0f} mm only, and ±{max_depth_mm:.0f} mm are needed")
    return place, depth_mm
