# SPDX-License-Identifier: Apache-2.0
"""Decides what to do where an image leaves open where the target is. The navigator does it: nothing moves here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from carm_agent.navigation.landmark_tracker import Evidence
from carm_agent.navigation.neighbor_search import LIMB_MM
from carm_agent.planning.planner import Planner
from carm_core.imaging.projection import XrayView
from carm_core.localization import LandmarkEstimate

MAX_SEARCH_MOTIONS = 8
"""Motions by way of neighbors and on along a limb, over the whole task."""
MAX_BLIND_MOTIONS = 2
"""Motions on along a limb without an image in which the target is recognized."""
ASIDE_MM = 40.0
"""By which a target that is nearly sure is looked at from aside, mm."""
INWARD_MM = 140.0
"""By which a target that a known CT does not show surely is left towards the trunk, at most, mm."""
BLIND_STEP_MM = 80.0
"""Motion on along a limb, mm."""
BEYOND_MM = 1000.0
"""What seems to be further away is not moved towards, mm."""
SHORT_MM = 15.0
"""A shorter motion shows nothing new, mm."""
LONG_MM = 120.0
"""A motion shorter than this is not gone back on, mm."""


class Step(StrEnum):
    """What a task has done about an image, in the order in which next steps are tried."""

    RECOGNIZE = "recognize"
    """The localizer says where the target is."""
    ASIDE = "aside"
    """Look at a nearly sure target from aside: another image from the same place repeats its errors."""
    TURN = "turn"
    """Look at it from another angle, where bones overlap differently."""
    FOLLOW = "follow"
    """Go by way of a neighbor."""
    GO_ON = "go on"
    """Go on along a limb: the middle of a forearm looks like nothing else, and its wrist is further on."""
    GO_BACK = "go back"
    """Go half the way back from where a long motion ended beside the body."""
    TO_TRUNK = "to trunk"
    """Go to the middle of the trunk."""
    EXPOSE = "expose"
    """Take another exposure."""
    CREEP = "creep"
    """Move cautiously towards where the target seems to be."""
    GIVE_UP = "give up"
    """End the task."""
    ACCEPT = "accept"
    """Take the target for found: what is open could be smaller, but nothing is left to try against it."""
    APPROACH = "approach"
    """Go to the target, or verify it: nothing is open."""


History = tuple[Step, ...]
_ONCE = (Step.ASIDE, Step.TURN, Step.GO_BACK, Step.TO_TRUNK)
_WAYS = (Step.ASIDE, Step.TURN, Step.FOLLOW, Step.GO_ON, Step.GO_BACK, Step.TO_TRUNK)


@dataclass(frozen=True, eq=False)
class Doubt:
    """An image that leaves open where the target is.

    Attributes:
        ways: steps that are possible, with their motion (2,), right and up in the display image, mm.
        acceptable: whether the target counts as found when no way is left.
        max_doubts: doubts in a row that end the task.
    """

    ways: Mapping[Step, NDArray[np.float64]]
    acceptable: bool = False
    max_doubts: int = 3


@dataclass(frozen=True, eq=False)
class Motion:
    """The last motion that was long enough to show something new.

    Attributes:
        heading: its direction (2,), right and up in the display image, of length 1; None before the first.
        distance_mm: its length, mm.
    """

    heading: NDArray[np.float64] | None = None
    distance_mm: float = 0.0

    def then(self, step_mm: NDArray[np.float64]) -> Motion:
        """Return the last motion after a further one (2,), mm."""
        distance_mm = float(np.linalg.norm(step_mm))
        return Motion(step_mm / distance_mm, distance_mm) if distance_mm >= SHORT_MM else self


def next_step(doubt: Doubt, history: History) -> Step:
    """Return what to do next.

    Args:
        doubt: what the last image leaves open.
        history: steps of the task so far; one that turned out to be impossible is among them.
    """
    for step in _WAYS:
        if step in doubt.ways and _is_left(step, history):
            return step
    if doubt.acceptable:
        return Step.ACCEPT
    doubts = 1 + doubts_in_a_row(history)
    if doubts >= doubt.max_doubts:
        return Step.GIVE_UP
    if doubts == 1:
        return Step.EXPOSE
    return Step.CREEP if Step.CREEP in doubt.ways else Step.GIVE_UP


def doubts_in_a_row(history: History) -> int:
    """Return how many doubts were met by nothing better than another exposure or a cautious motion."""
    return sum(step in (Step.EXPOSE, Step.CREEP) for step in _since(Step.APPROACH, history))


def may_search(history: History) -> bool:
    """Return whether the search by way of neighbors may go on."""
    return history.count(Step.FOLLOW) + history.count(Step.GO_ON) < MAX_SEARCH_MOTIONS


def look_aside(offset_mm: NDArray[np.float64], last: Motion) -> NDArray[np.float64]:
    """Return the motion (2,), mm, to aside of a target: back on the way that was taken, or up.

    Args:
        offset_mm: displacement of the target (2,), mm.
        last: motion.
    """
    back = np.array([0.0, 1.0]) if last.heading is None else -last.heading
    return offset_mm + back * ASIDE_MM


def ways_from_nowhere(
    target_id: int, last: Motion, trunk_mm: NDArray[np.float64] | None, max_step_mm: float
) -> dict[Step, NDArray[np.float64]]:
    """Return the steps that lead away from where nothing is recognized, with their motions (2,), mm.

    Args:
        target_id: landmark that is looked for.
        last: motion.
        trunk_mm: displacement of the middle of the trunk (2,), mm; None: unknown.
        max_step_mm: longest motion to there, mm.
    """
    ways = {}
    if last.heading is not None and target_id in LIMB_MM:
        ways[Step.GO_ON] = last.heading * BLIND_STEP_MM
    if last.heading is not None and last.distance_mm >= LONG_MM:
        ways[Step.GO_BACK] = -0.5 * last.distance_mm * last.heading
    away_mm = 0.0 if trunk_mm is None else float(np.linalg.norm(trunk_mm))
    if trunk_mm is not None and away_mm >= LONG_MM / 2:
        ways[Step.TO_TRUNK] = trunk_mm * min(1.0, max_step_mm / away_mm)
    return ways


def ways_towards(
    evidence: Evidence, view: XrayView, estimate: LandmarkEstimate | None
) -> dict[Step, NDArray[np.float64]]:
    """Return the way to where the target seems to be (2,), mm, if it seems to be anywhere.

    Args:
        evidence: of earlier images.
        view: of the present one, frame `table`.
        estimate: the answer about it, if there is one; it is doubtful.
    """
    if evidence.belief is not None:
        return {Step.CREEP: evidence.belief.offset_mm(view)}
    if estimate is not None and math.hypot(*estimate.displacement_mm) < BEYOND_MM:
        return {Step.CREEP: np.asarray(estimate.displacement_mm)}
    return {}


def middle_of_trunk(planner: Planner, view: XrayView) -> NDArray[np.float64] | None:
    """Return where the patient's surface says that the middle of the trunk is (2,), mm; None without a surface."""
    surface = planner.collision.obstacles.surface if planner.collision is not None else None
    if surface is None:
        return None
    middle = np.array([*(1000.0 * surface.trunk_m), view.isocenter_mm[2]])
    return np.asarray(view.displacement_mm(middle))


def _is_left(step: Step, history: History) -> bool:
    if step in _ONCE:  # half way back to where nothing was recognized helps nobody
        return step not in history and not (step is Step.GO_BACK and Step.TO_TRUNK in history)
    blind = _since(Step.RECOGNIZE, history).count(Step.GO_ON)
    return may_search(history) and (step is not Step.GO_ON or blind < MAX_BLIND_MOTIONS)


def _since(event: Step, history: History) -> History:
    """Return the steps after the last of a kind; all where there is none."""
    return history[len(history) - history[::-1].index(event) :] if event in history else history
