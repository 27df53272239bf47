# SPDX-License-Identifier: Apache-2.0
"""Finds landmarks out of view from their neighbors: the wrist from the elbow, the diaphragm from T12.

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
    10: (11, 1),
    11: (10, 14),
    12: (14, 11),
    13: (14, 11),
    14: (11, 10),
    **dict.fromkeys(range(101, 106), (10,)),  # C3 to C7
    **dict.fromkeys(range(106, 111), (10, 11, 14)),  # T2 to T6
    **dict.fromkeys(range(111, 116), (14, 11, 10)),  # T7 to T11
    **dict.fromkeys(range(116, 119), (14, 133, 11)),  # L1 to L3
    **dict.fromkeys((119, 120), (133, 118, 14)),  # L4, L5
    121: (133, 120, 14),
    122: (133, 120, 14),
    123: (121, 133, 14),
    124: (122, 133, 14),
    125: (123, 121, 133),
    126: (124, 122, 133),
    127: (2, 10),
    128: (3, 10),
    129: (121, 133, 14),
    130: (122, 133, 14),
    131: (120, 118, 14),
    132: (120, 118, 14),
    133: (120, 118, 14),
    134: (133, 120, 14),
}
"""Landmark id to landmarks that lead to it, the nearest first."""

ALONG_THE_BODY = ((1,), (10,), (11,), (14,), (118,), (133,), (121, 122), (123, 124), (125, 126))
"""Landmarks from the head to the ankles: each leads to those beside it, so that every part leads to every other."""

LIMB_MM = {6: 280.0, 7: 280.0, 8: 235.0, 9: 235.0, 123: 420.0, 124: 420.0, 125: 380.0, 126: 380.0}
"""Length of the bone between a landmark and its nearest neighbor, mm: adult humerus, forearm, thigh and lower leg."""

_LEADS = 2


def guides(target_id: int) -> tuple[int, ...]:
    """Return every landmark that leads to a target, the nearest first: its neighbors, then the body beyond them."""
    near = NEIGHBORS.get(target_id, ())
    if not near:
        return ()
    start = next(place for place, row in enumerate(ALONG_THE_BODY) if near[-1] in row)
    rows = sorted(enumerate(ALONG_THE_BODY), key=lambda placed: abs(placed[0] - start))
    return (*near, *(guide for _, row in rows for guide in row if guide not in (*near, target_id)))


Ask = Callable[[int], LandmarkEstimate | None]
"""Asks the localizer about a landmark id in the present image; None when it has no finite answer."""


@dataclass(frozen=True)
class SearchConfig:
    """Habits of a search.

    Attributes:
        min_confidence: neighbors that the localizer is less sure of do not lead.
        max_displacement_mm: no body is larger: neighbors beyond do not lead, mm.
        arrived_mm: a neighbor within this distance of the image center has been reached, mm.
        overshoot: a guess about what is out of sight falls short, as the middle of what is possible does: by this
            factor further is tried.
        step_mm: longest motion towards something unsure, mm.
        shortest_step_mm: a shorter motion towards something unsure would show nothing new, mm.
    """

    min_confidence: float = 0.3
    max_displacement_mm: float = 1500.0
    arrived_mm: float = 45.0
    overshoot: float = 1.4
    step_mm: float = 200.0
    shortest_step_mm: float = 15.0


@dataclass(frozen=True, eq=False)
class Lead:
    """Where to look next.

    Attributes:
        guide_id: Landmark to go towards.
        offset_mm: Displacement of the motion (2,), right and up in the display image, at isocenter depth, mm.
        sure: Whether the guide was found, or the motion only tries its likely direction.
    """

    guide_id: int
    offset_mm: NDArray[np.float64]
    sure: bool


class Search:
    """The search for one landmark over the images of one task."""

    def __init__(self, target_id: int, config: SearchConfig | None = None) -> None:
        """Start with nothing reached.

        Args:
            target_id: Landmark that is looked for.
            config: habits.
        """
        self._config = config or SearchConfig()
        self._chain = guides(target_id)
        self._near = len(NEIGHBORS.get(target_id, ()))
        self._target_id = target_id
        self._reached = len(self._chain)
        self._led: Counter[int] = Counter()

    def lead(self, target: LandmarkEstimate | None, ask: Ask) -> Lead | None:
        """Return where to look next after an image in which the target is not found reliably.

        Args:
            target: The localizer's uncertain estimate of the target, if there is no better one; None: none.
            ask: Asks about a neighbor.

        Returns:
            None when there is nothing left to try.
        """
        if not self._chain:
            return None
        return self._to_neighbor(ask) or self._beyond(target, ask) or self._onward(ask)

    def _to_neighbor(self, ask: Ask) -> Lead | None:
        """Go to the nearest neighbor of the target that is seen reliably and was not reached yet."""
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
        """Go from the last neighbor that was reached into the likely direction of the next one, along a limb."""
        if self._target_id not in LIMB_MM and not self._near <= self._reached < len(self._chain):
            return None
        guide = self._next()
        estimate = target if guide == self._target_id else ask(guide)
        if estimate is None:
            return None
        offset = np.asarray(estimate.displacement_mm, dtype=np.float64)
        distance = float(np.linalg.norm(offset))
        if not self._config.shortest_step_mm <= distance < math.inf:
            return None
        return Lead(guide, offset * min(self._config.overshoot, self._config.step_mm / distance), False)

    def _next(self) -> int:
        """Return what to look for from the neighbor that was reached: not the same bone of the other leg."""
        if self._reached == 0:
            return self._target_id
        if self._reached == len(self._chain):
            return self._chain[self._near - 1]
        beside = next((row for row in ALONG_THE_BODY if self._chain[self._reached] in row), ())
        ahead = [guide for guide in self._chain[: self._reached] if guide not in beside]
        return ahead[-1] if ahead else self._target_id

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
