# SPDX-License-Identifier: Apache-2.0
"""Plans a shift of the isocenter in the image plane, or the reachable part of it if part is enough.

A joint at its limit, or something in the way, blocks one direction of the image only: the rest of the shift slides
along it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_agent import phrases
from carm_agent.navigation.task import NavigatorConfig
from carm_agent.planning.planner import Plan, Planner
from carm_agent.ports import Arm
from carm_core.errors import CarmError, GoalError
from carm_core.imaging.projection import XrayView
from carm_core.robot.kinematics import CArm

_BISECTIONS = 12
_SHORTEST_MOTION_MM = 0.5


@dataclass(frozen=True, eq=False)
class Shift:
    """A planned shift.

    Attributes:
        plan: The motion.
        lacking_mm: By which it falls short, mm.
        refused: Why; None if nothing is lacking.
    """

    plan: Plan
    lacking_mm: float = 0.0
    refused: GoalError | None = None

    @property
    def told(self) -> str:
        """Sentence that tells the clinician what is missing; empty if nothing is."""
        if self.refused is None:
            return ""
        why = phrases.refusal(self.refused)
        return f" The last {self.lacking_mm:.0f} mm are out of reach ({why}); going as far as possible."


def plan_shift(
    planner: Planner, start: NDArray[np.float64], view: XrayView, step_mm: NDArray[np.float64], slack_mm: float
) -> Shift:
    """Plan a shift, with the angles kept.

    Args:
        planner: Plans the motion.
        start: Present joint positions (6,), m and rad.
        view: The view that the shift refers to, frame ``table``.
        step_mm: Right and up in the display image (2,), at isocenter depth, mm.
        slack_mm: By which it may fall short, mm.

    Raises:
        GoalError: Less than that is within reach; why.
    """
    axes = np.array(view.display_axes)
    isocenter = planner.carm.isocenter(start)

    def plan(shift_mm: NDArray[np.float64], *, detours: bool = False) -> Plan:
        return planner.to_view(start, isocenter + shift_mm @ axes / 1000.0, detours=detours)

    try:
        return Shift(plan(step_mm, detours=True))
    except GoalError as error:
        refused = error
    reached = _furthest(plan, np.zeros(2), step_mm)
    slides = [_furthest(plan, reached, along * (step_mm - reached)) for along in np.eye(2)]
    reached = min(slides, key=lambda shift: float(np.linalg.norm(step_mm - shift)))
    lacking = float(np.linalg.norm(step_mm - reached))
    if lacking > slack_mm or np.linalg.norm(reached) < _SHORTEST_MOTION_MM:
        raise refused
    return Shift(plan(reached), lacking, refused)


def share_of_the_way(view: XrayView, distance_mm: float, radius_mm: float, config: NavigatorConfig) -> float:
    """Return the share of the way to a target to cover: all, unless it might then be out of view, or it is far.

    Args:
        view: The view that it was seen in.
        distance_mm: Its distance from the image center, mm.
        radius_mm: 90 % radius of that, mm.
        config: Longest motion, and smallest share.
    """
    detector = view.detector
    half_view = 0.5 * min(detector.rows, detector.columns) * view.mm_per_px_at_isocenter
    excess = max(0.0, radius_mm - half_view)
    share = max(config.min_step_fraction, distance_mm / (distance_mm + excess))
    return min(share, config.max_step_mm / distance_mm)


def traveled_m(carm: CArm, arm: Arm, plan: Plan) -> float:
    """Return how far the isocenter came on a motion that was broken off, m; 0 when nobody knows."""
    try:
        return float(np.linalg.norm(carm.isocenter(arm.joint_positions()) - carm.isocenter(plan.start)))
    except CarmError:
        return 0.0


def _furthest(
    plan: Callable[[NDArray[np.float64]], Plan], start_mm: NDArray[np.float64], step_mm: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the end of the largest part of a step from ``start_mm`` that can be planned, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        try:
            plan(start_mm + middle * step_mm)
            low = middle
        except GoalError:
            high = middle
    return np.asarray(start_mm + low * step_mm, dtype=np.float64)
