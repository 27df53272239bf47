# SPDX-License-Identifier: Apache-2.0
"""Finds what is out of sight by way of its neighbors: the wrist by the elbow, the diaphragm by T12.

Where an arm lies cannot be known from an image of the trunk. Its landmarks can be followed, though, each from the
last, as a radiographer would.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.localization import LandmarkEstimate

NEIGHBORS: dict[int, tuple[int, ...]] = {
    1: (10,),
    2: (10,),
    3: (10,),
    4: (2, 11),
    5: (3, 11),
    6: (2, 10),
    7: (3, 10),
    8: (6, 2, 10),
    9: (7, 3, 10),
    11: (10, 14),
    12: (14, 11),
    13: (14, 11),
    14: (11, 10),
}
"""Landmark id to landmarks that lead to it, the nearest first."""

LIMB_MM = {6: 280.0, 7: 280.0, 8: 235.0, 9: 235.0}
"""Length of the bone between a landmark and its nearest neighbor, mm: adult humerus and forearm."""

_LEADS = 2

Ask = Callable[[int], LandmarkEstimate | None]
"""Asks the localizer about a landmark id in the present image; None when it has no finite answer."""


@dataclass(frozen=True)
class SearchConfig:
    """Habits of a search.

    Attributes:
        max_motions: motions of one search, over the whole task.
        min_confidence: neighbors that the localizer is less sure of do not lead.
        max_displacement_mm: no body is larger: neighbors beyond do not lead, mm.
        arrived_mm: a neighbor within this distance of the image center has been reached, mm.
        overshoot: a guess about what is out of sight falls short, as the middle of what is possible does: by this
            factor further is tried.
        step_mm: longest motion towards something unsure, mm.
        shortest_step_mm: a shorter motion towards something unsure would show nothing new, mm.
        aside_mm: by which a target that is nearly sure is looked at from aside, mm.
        blind_step_mm: motion from where nothing is recognized, on along the limb, mm.
        max_blind_motions: of these, one after another.
        back_mm: a motion shorter than this is not gone back on, mm.
    """

    max_motions: int = 8
    min_confidence: float = 0.3
    max_displacement_mm: float = 1500.0
    arrived_mm: float = 45.0
    overshoot: float = 1.4
    step_mm: float = 200.0
    shortest_step_mm: float = 15.0
    aside_mm: float = 40.0
    blind_step_mm: float = 80.0
    max_blind_motions: int = 2
    back_mm: float = 120.0


@dataclass(frozen=True, eq=False)
class Lead:
    """Where to look next.

    Attributes:
        guide_id: landmark to go towards.
        offset_mm: displacement of the motion (2,), right and up in the display image, at isocenter depth, mm.
        sure: whether the guide was found, or the motion only tries its likely direction.
    """

    guide_id: int
    offset_mm: NDArray[np.float64]
    sure: bool


class Search:
    """The search for one landmark over the images of one task."""

    def __init__(self, target_id: int, config: SearchConfig | None = None) -> None:
        """Start with nothing reached.

        Args:
            target_id: landmark that is looked for.
            config: habits.
        """
        self._config = config or SearchConfig()
        self._chain = NEIGHBORS.get(target_id, ())
        self._target_id = target_id
        self._reached = len(self._chain)
        self._motions = 0
        self._led: Counter[int] = Counter()
        self._heading: NDArray[np.float64] | None = None
        self._blind = 0
        self._aside = False
        self._turned = False
        self._came_mm = 0.0
        self._back = False
        self._to_trunk = False

    def moved(self, step_mm: NDArray[np.float64]) -> None:
        """Remember which way the last motion went (2,), mm."""
        distance = float(np.linalg.norm(step_mm))
        if distance >= self._config.shortest_step_mm:
            self._heading, self._came_mm = step_mm / distance, distance

    def recognized(self) -> None:
        """Note that the localizer knows what it sees."""
        self._blind = 0

    def aside(self) -> NDArray[np.float64] | None:
        """Say by how much to look at the target from aside (2,), mm: back on the way that was taken, or up; once.

        Another image from the same place repeats its errors; from another place they differ.
        """
        if self._aside:
            return None
        self._aside = True
        back = np.array([0.0, 1.0]) if self._heading is None else -self._heading
        return back * self._config.aside_mm

    def turn(self) -> bool:
        """Say whether to look at the target from another angle, where bones overlap differently; once."""
        first, self._turned = not self._turned, True
        return first

    def back(self) -> NDArray[np.float64] | None:
        """Say how to go back (2,), mm, where a long motion ended beside the body: half of the way; once."""
        if self._back or self._heading is None or self._came_mm < self._config.back_mm:
            return None
        self._back = True
        return -0.5 * self._came_mm * self._heading

    def to_trunk(self, offset_mm: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Say how to go to the middle of the trunk (2,), mm, from where nothing is recognized; once.

        Args:
            offset_mm: from the image center to the middle of the trunk (2,), mm.
        """
        if self._to_trunk or np.linalg.norm(offset_mm) < self._config.back_mm / 2:
            return None
        self._to_trunk = self._back = True  # half way back to where nothing was recognized helps nobody
        return offset_mm

    def go_on(self) -> NDArray[np.float64] | None:
        """Say how to move on (2,), mm, from an image in which the localizer recognizes nothing.

        The middle of a forearm away from the body looks like nothing else: its wrist is further on the same way.

        Returns:
            None when the target is on no limb, or when going on has not helped.
        """
        if self._target_id not in LIMB_MM or self._heading is None or self._motions >= self._config.max_motions:
            return None
        if self._blind >= self._config.max_blind_motions:
            return None
        self._blind += 1
        self._motions += 1
        return self._heading * self._config.blind_step_mm

    def lead(self, target: LandmarkEstimate | None, ask: Ask) -> Lead | None:
        """Say where to look next, from an image in which the target is not surely found.

        Args:
            target: what the localizer says about the target, for want of better; None: nothing.
            ask: asks about a neighbor.

        Returns:
            None when there is nothing left to try.
        """
        if not self._chain or self._motions >= self._config.max_motions:
            return None
        lead = self._to_neighbor(ask) or self._beyond(target, ask) or self._onward(ask)
        if lead is not None:
            self._motions += 1
        return lead

    def _to_neighbor(self, ask: Ask) -> Lead | None:
        """Go to the nearest neighbor of the target that is surely seen and was not reached yet."""
        for index, guide in enumerate(self._chain[: self._reached]):
            estimate = ask(guide)
            if estimate is None or estimate.confidence < self._config.min_confidence:
                continue
            offset = np.asarray(estimate.displacement_mm, dtype=np.float64)
            if not math.hypot(*offset) <= self._config.max_displacement_mm:
                continue
            self._reached = index
            if self._led[guide] < _LEADS and np.linalg.norm(offset) > self._config.arrived_mm:
                self._led[guide] += 1
                return Lead(guide, offset, True)
            return None
        return None

    def _beyond(self, target: LandmarkEstimate | None, ask: Ask) -> Lead | None:
        """Go from the last neighbor that was reached into the likely direction of the next one, along an arm."""
        if self._target_id not in LIMB_MM:
            return None
        guide = self._target_id if self._reached == 0 else self._chain[self._reached - 1]
        estimate = target if guide == self._target_id else ask(guide)
        if estimate is None:
            return None
        offset = np.asarray(estimate.displacement_mm, dtype=np.float64)
        distance = float(np.linalg.norm(offset))
        if not self._config.shortest_step_mm <= distance < math.inf:
            return None
        return Lead(guide, offset * min(self._config.overshoot, self._config.step_mm / distance), False)

    def _onward(self, ask: Ask) -> Lead | None:
        """Follow the limb, away from the neighbor that was reached: its middle shows neither of its ends."""
        length = LIMB_MM.get(self._target_id)
        estimate = ask(self._chain[0])
        if length is None or self._reached > 0 or estimate is None:
            return None
        if estimate.confidence < self._config.min_confidence:
            return None
        away = -np.asarray(estimate.displacement_mm, dtype=np.float64)
        distance = float(np.linalg.norm(away))
        if not self._config.arrived_mm < distance < length - self._config.arrived_mm:
            return None
        return Lead(self._target_id, away * (length / distance - 1.0), False)
