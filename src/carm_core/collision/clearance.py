# SPDX-License-Identifier: Apache-2.0
"""Clearance between the machine and obstacles, and its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from carm_core.errors import ConfigurationError, GoalError
from carm_core.transforms import Array

PEOPLE = ("patient", "staff")
"""Obstacles near which the machine moves slowly."""


class CollisionError(GoalError):
    """A path comes too close to something.

    Attributes:
        clearance: The smallest clearance that was found, with what it is to.
    """

    def __init__(self, clearance: Clearance, limit_m: float, where: str) -> None:
        """Store the clearance and the two parts that come too close.

        Args:
            clearance: The smallest clearance that was found.
            limit_m: The smallest one allowed, m.
            where: Where on the path.
        """
        self.clearance = clearance
        distance_m, limit_m = clearance.true_distance_m, limit_m - clearance.allowance_m
        near = f"would come within {1000 * distance_m:z.0f} mm of" if distance_m > 0 else "would touch"
        needed = f"at least {1000 * limit_m:z.0f} mm are needed" if limit_m > 0 else "it may not go deeper"
        super().__init__(f"{clearance.part} {near} {clearance.obstacle} {where}; {needed}")


class Verdict(StrEnum):
    """How close a path comes."""

    CLEAR = "clear"
    WARNING = "warning"
    COLLISION = "collision"


@dataclass(frozen=True)
class Margins:
    """How close is too close.

    Attributes:
        patient_m: Added around the patient's surface, m.
        collision_m: A smaller clearance is a collision, m.
        warning_m: A smaller one is a warning, m.
        slow_m: Motions that come nearer to people than this are slowed down, m.
        slowest: Share of the velocity that is left when people are as near as a warning.
    """

    patient_m: float = 0.02
    collision_m: float = 0.01
    warning_m: float = 0.05
    slow_m: float = 0.10
    slowest: float = 0.25

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ConfigurationError: A number is negative, or a warning comes later than a collision.
        """
        if not 0 <= self.collision_m <= self.warning_m or self.patient_m < 0 or self.slow_m <= self.collision_m:
            raise ConfigurationError(
                f"margins must not be negative and need collision <= warning and collision < slow; got {self}"
            )

    def verdict(self, distance_m: float) -> Verdict:
        """Return the verdict for a clearance, m."""
        if distance_m < self.collision_m:
            return Verdict.COLLISION
        return Verdict.WARNING if distance_m < self.warning_m else Verdict.CLEAR

    def velocity_share(self, people_m: float) -> float:
        """Return the share of the velocity, 0 to 1, at a distance to people, m."""
        slow_from = min(self.warning_m, self.slow_m)
        if people_m >= self.slow_m or people_m <= slow_from:
            return 1.0 if people_m >= self.slow_m else self.slowest
        return self.slowest + (1.0 - self.slowest) * (people_m - slow_from) / (self.slow_m - slow_from)


@dataclass(frozen=True)
class Clearance:
    """The smallest distance of the machine to anything.

    Attributes:
        distance_m: M; negative inside.
        part: Part of the machine.
        obstacle: Patient, staff, table, floor, or another part of the machine.
        people_m: Smallest distance to patient and staff, m; infinite without any.
        allowance_m: What ``distance_m`` counts more than the true distance, m; not 0 only while an arm leaves something
            that it is too near to (``CollisionModel.leaving``).
        line_m: The two points (2, 3) between which ``distance_m`` is, frame ``table``, m: on the machine, and on the
            obstacle with its margin. Where the two overlap, the line leads as far through them. None: not known.
    """

    distance_m: float
    part: str
    obstacle: str
    people_m: float = math.inf
    allowance_m: float = 0.0
    line_m: Array | None = field(default=None, compare=False, repr=False)

    @property
    def true_distance_m(self) -> float:
        """The distance without the allowance, m."""
        return self.distance_m - self.allowance_m
