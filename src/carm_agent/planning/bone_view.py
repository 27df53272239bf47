# SPDX-License-Identifier: Apache-2.0
"""Plans a move to a view that is defined in a bone's axes; says what is nearest where it cannot be had."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from carm_agent.planning.anatomical_views import RequestedView
from carm_agent.planning.planner import Plan, Planner
from carm_agent.planning.standard_views import described
from carm_core.anatomy.axes import BoneAxes, angle_deg
from carm_core.collision.clearance import CollisionError
from carm_core.errors import GoalError
from carm_core.transforms import Array

_ALONG_MM = (0.0, 60.0, -60.0, 120.0, -120.0)
"""Where a bone at the isocenter is out of reach, it may lie this far before or behind it: it stays in the center."""
_RING_DEG, _MOST_OFF_DEG, _PER_RING = 2.0, 60.0, 12


class ViewRefusedError(GoalError):
    """A view is out of reach or blocked.

    Attributes:
        nearest_deg: Primary and secondary angle of the nearest view that can be had, deg; None: none was found.
        off_deg: By how much that one is off, deg; infinite where none was found.
    """

    def __init__(self, name: str, reason: str, nearest_deg: tuple[float, float] | None, off_deg: float) -> None:
        """Say why, and what can be had instead."""
        self.nearest_deg, self.off_deg = nearest_deg, off_deg
        offer = "nothing within 60° can be reached either"
        if nearest_deg is not None:
            offer = f"the nearest that can be reached is {described(*nearest_deg)}, {off_deg:.0f}° off"
        super().__init__(f"{name} cannot be reached: {reason}; {offer}")


@dataclass(frozen=True, eq=False)
class BoneViewPlan:
    """A plan to a view of a bone.

    Attributes:
        plan: The motion.
        direction: Unit vector (3,) from source to detector that defines the view, frame ``table``.
        primary_deg: Of it, LAO positive, deg.
        secondary_deg: Of it, cranial positive, deg.
    """

    plan: Plan
    direction: Array
    primary_deg: float
    secondary_deg: float


def angles_rad(direction: Array) -> tuple[float, float]:
    """Return the DICOM primary and secondary angle, rad, of a unit vector (3,) from source to detector, ``table``."""
    head, right, up = direction
    return math.atan2(-right, up), math.asin(max(-1.0, min(1.0, head)))


def plan_bone_view(planner: Planner, start: ArrayLike, wanted: RequestedView, axes: BoneAxes) -> BoneViewPlan:
    """Plan to a view of a bone; of two ways that show the same, the first within reach, the shorter turn first.

    Args:
        planner: With its obstacles.
        start: Present joint positions, (6,), m and rad.
        wanted: The view.
        axes: Of its bone, frame ``table``, mm.

    Raises:
        ViewRefusedError: It is out of reach or blocked; names the nearest view that is not.
    """
    present = planner.carm.transform_carm_to_table(start).rotation[:, 2]
    ways = wanted.directions(axes, present)
    reasons: list[GoalError] = []
    for direct in (True, False):
        for way in ways:
            try:
                return _plan(planner, start, axes.origin_mm, way, detours=not direct)
            except GoalError as error:
                reasons.append(error)
    nearest, off = _nearest(planner, start, axes.origin_mm, ways)
    reason = next((error for error in reasons if isinstance(error, CollisionError)), reasons[0])
    raise ViewRefusedError(wanted.name, str(reason), nearest, off)


def _plan(planner: Planner, start: ArrayLike, place_mm: Array, direction: Array, *, detours: bool) -> BoneViewPlan:
    refusal: GoalError | None = None
    angles = angles_rad(direction)
    for along in _ALONG_MM:
        try:
            plan = planner.to_view(start, (place_mm + along * direction) / 1000, angles, detours=detours)
        except GoalError as error:
            refusal = refusal or error
            continue
        return BoneViewPlan(plan, direction, math.degrees(angles[0]), math.degrees(angles[1]))
    assert refusal is not None
    raise refusal


def _nearest(
    planner: Planner, start: ArrayLike, place_mm: Array, ways: list[Array]
) -> tuple[tuple[float, float] | None, float]:
    """Return angles, deg, of the nearest view that can be reached on a straight way, and how far off it is, deg."""
    for off in np.arange(_RING_DEG, _MOST_OFF_DEG + 1e-9, _RING_DEG):
        for way in ways:
            one = np.cross(way, np.eye(3)[np.abs(way).argmin()])
            one /= np.linalg.norm(one)
            other = np.cross(way, one)
            for turn in np.arange(_PER_RING) * 2 * np.pi / _PER_RING:
                aside = np.cos(turn) * one + np.sin(turn) * other
                direction = np.cos(np.radians(off)) * way + np.sin(np.radians(off)) * aside
                try:
                    found = _plan(planner, start, place_mm, direction, detours=False)
                except GoalError:
                    continue
                return (found.primary_deg, found.secondary_deg), min(angle_deg(direction, w) for w in ways)
    return None, math.inf
