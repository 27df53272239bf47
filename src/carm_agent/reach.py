# SPDX-License-Identifier: Apache-2.0
"""Plans a shift of the isocenter in the image plane; if it is out of reach but not needed in full, what there is."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_agent.planner import Plan, Planner
from carm_core.errors import GoalError
from carm_core.geometry import XrayView

_BISECTIONS = 12
_SHORTEST_MOTION_MM = 0.5


@dataclass(frozen=True, eq=False)
class Shift:
    """A planned shift.

    Attributes:
        plan: the motion.
        lacking_mm: by which it falls short, mm.
        refused: why; None if nothing is lacking.
    """

    plan: Plan
    lacking_mm: float = 0.0
    refused: GoalError | None = None


def plan_shift(
    planner: Planner, start: NDArray[np.float64], view: XrayView, step_mm: NDArray[np.float64], slack_mm: float
) -> Shift:
    """Plan a shift, with the angles kept.

    Args:
        planner: plans the motion.
        start: present joint positions (6,), m and rad.
        view: the view that the shift refers to, frame `table`.
        step_mm: right and up in the display image (2,), at isocenter depth, mm.
        slack_mm: by which it may fall short, mm.

    Raises:
        GoalError: less than that is within reach; why.
    """
    shift_m = step_mm @ np.array(view.display_axes) / 1000.0
    isocenter = planner.carm.isocenter(start)

    def plan(share: float) -> Plan:
        return planner.to_view(start, isocenter + share * shift_m)

    try:
        return Shift(plan(1.0))
    except GoalError as error:
        refused = error
    share = _largest_share(plan)
    length = float(np.linalg.norm(step_mm))
    lacking = (1.0 - share) * length
    if lacking > slack_mm or share * length < _SHORTEST_MOTION_MM:
        raise refused
    return Shift(plan(share), lacking, refused)


def _largest_share(plan: Callable[[float], Plan]) -> float:
    """Return the largest share of a step that can be planned, by bisection; 0 if none can."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        try:
            plan(middle)
            low = middle
        except GoalError:
            high = middle
    return low
