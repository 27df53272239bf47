# SPDX-License-Identifier: Apache-2.0
"""The smallest clearance on a whole path, and whether it is enough.

Between two checked positions no point of the machine moves further than a bound that follows from the joints' travel;
a stretch of path is safe when the clearances at its ends exceed that bound, and is halved otherwise (Schwarzer, Saha,
Latombe, "Adaptive Dynamic Collision Checking for Single and Multiple Articulated Robots in Complex Environments",
IEEE Transactions on Robotics 21(3), 2005). So nothing slips between two samples, however thin.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from numpy.typing import ArrayLike

from carm_core.collision.clearance import Clearance, CollisionError
from carm_core.transforms import Array

_SHORTEST_MOTION_M = 2e-4
_FINEST_M = 5e-4
"""A share of no clearance at all would never be reached, m."""


@dataclass(frozen=True, eq=False)
class PathCheck:
    """What a path comes close to.

    Attributes:
        closest: Smallest clearance found on the path.
        people_m: Smallest distance to people found on the path, m.
        at: Progress along the path there, 0 to 1.
        bound_m: No point of the path has a smaller clearance than this, m.
        evaluations: Positions checked.
    """

    closest: Clearance
    people_m: float
    at: float
    bound_m: float
    evaluations: int


class Distances(Protocol):
    """What tells how close the machine comes: ``carm_core.collision.model.CollisionModel``."""

    def clearance(self, positions: ArrayLike, *, named: bool = True) -> Clearance:
        """Return the smallest distance at joint positions (6,), m or rad."""
        ...

    def motion_bound_m(self, travel: ArrayLike) -> float:
        """Return how far any point of the machine moves at most, m, when the joints cover ``travel`` (6,), m or rad."""
        ...


class PathSearch:
    """Best-first refinement of the stretches of a path, the one that may come closest first."""

    def __init__(
        self,
        model: Distances,
        position: Callable[[float], Array],
        travel: Callable[[float, float], Array],
        limit_m: float,
    ) -> None:
        """Start with no segment.

        Args:
            model: Tells distances.
            position: Joint positions (6,) at a progress from 0 to 1.
            travel: Bound of each joint's travel (6,) between two progresses.
            limit_m: Smallest clearance allowed, m.
        """
        self._model, self._position, self._travel, self._limit_m = model, position, travel, limit_m
        self._known: dict[float, Clearance] = {}
        self._heap: list[tuple[float, float, float, float]] = []

    @property
    def evaluations(self) -> int:
        """Positions looked at so far."""
        return len(self._known)

    @property
    def closest(self) -> tuple[Clearance, float]:
        """The smallest clearance found so far, and its progress."""
        at = min(self._known, key=lambda progress: self._known[progress].distance_m)
        return self._known[at], at

    @property
    def people_m(self) -> float:
        """The smallest distance to people found so far, m."""
        return min(clearance.people_m for clearance in self._known.values())

    def at(self, progress: float) -> Clearance:
        """Return the clearance at a progress.

        Raises:
            CollisionError: It is smaller than allowed.
        """
        if progress not in self._known:
            clearance = self._model.clearance(self._position(progress), named=False)
            self._known[progress] = clearance
            if clearance.distance_m < self._limit_m:
                self._refuse(progress)
        return self._known[progress]

    def _refuse(self, progress: float) -> NoReturn:
        clearance = self._model.clearance(self._position(progress))
        raise CollisionError(clearance, self._limit_m, _where(progress))

    def add(self, low: float, high: float) -> None:
        """Put a segment on the heap, ordered by its smallest possible clearance."""
        ends = self.at(low).distance_m, self.at(high).distance_m
        motion = self._model.motion_bound_m(self._travel(low, high))
        bound = min(*ends, (sum(ends) - motion) / 2)
        heapq.heappush(self._heap, (bound, low, high, motion))

    def refine(self, resolution: float, most_evaluations: int) -> float:
        """Halve segments until the smallest clearance is known; return its lower bound, m.

        Args:
            resolution: Accuracy of the smallest clearance, as a share of it, but no finer than half a millimeter.
            most_evaluations: Positions after which a path that cannot be told from a collision is given up.

        Raises:
            CollisionError: The path comes closer than allowed, or so close that it cannot be told apart.
        """
        if not self._heap:
            return self.at(0.0).distance_m
        while True:
            bound, low, high, motion = self._heap[0]
            closest, at = self.closest
            accuracy_m = max(resolution * abs(closest.distance_m), _FINEST_M)
            if bound >= self._limit_m and bound >= closest.distance_m - accuracy_m:
                return bound
            if motion < _SHORTEST_MOTION_M or self.evaluations >= most_evaluations:
                self._refuse(at)
            heapq.heappop(self._heap)
            middle = (low + high) / 2
            self.add(low, middle)
            self.add(middle, high)


def _where(progress: float) -> str:
    if progress <= 0.0:
        return "at the start"
    return "at the goal" if progress >= 1.0 else f"{100 * progress:.0f} % along the path"
