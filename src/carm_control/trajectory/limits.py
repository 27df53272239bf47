# SPDX-License-Identifier: Apache-2.0
"""Joint limits as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carm_core.robot.kinematics import Joint
from carm_core.transforms import Array

_NEAR_LIMIT = {"m": 1e-3, "rad": np.deg2rad(0.1)}


@dataclass(frozen=True, eq=False)
class JointLimits:
    """Limits of all joints of the controller, J of them.

    Attributes:
        names: Joint names.
        units: ``"m"`` or ``"rad"`` per joint.
        lower: (J,), m or rad.
        upper: (J,), m or rad.
        velocity: (J,), m/s or rad/s.
        acceleration: (J,), m/s² or rad/s².
        jerk: (J,), m/s³ or rad/s³.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    lower: Array
    upper: Array
    velocity: Array
    acceleration: Array
    jerk: Array

    @classmethod
    def of(cls, joints: Sequence[Joint]) -> JointLimits:
        """Collect the limits of joints."""
        return cls(
            tuple(j.name for j in joints),
            tuple(j.unit for j in joints),
            *(
                np.array([getattr(j, name) for j in joints], dtype=np.float64)
                for name in ("lower", "upper", "velocity", "acceleration", "jerk")
            ),
        )

    def select(self, indices: Sequence[int]) -> JointLimits:
        """Return the limits of some joints, in the order of the indices."""
        rows = list(indices)
        return JointLimits(
            tuple(self.names[i] for i in rows),
            tuple(self.units[i] for i in rows),
            *(getattr(self, name)[rows] for name in ("lower", "upper", "velocity", "acceleration", "jerk")),
        )

    def by_unit(self, meters: float, radians: float) -> Array:
        """Return a value per joint (J,): one for prismatic joints, one for revolute joints."""
        return np.array([meters if unit == "m" else radians for unit in self.units])

    def reached(self, positions: Array) -> tuple[str, ...]:
        """Return the names of the joints within 1 mm or 0.1 deg of a limit.

        Args:
            positions: (J,), m or rad.
        """
        near = self.by_unit(_NEAR_LIMIT["m"], float(_NEAR_LIMIT["rad"]))
        hit = (positions <= self.lower + near) | (positions >= self.upper - near)
        return tuple(name for name, is_hit in zip(self.names, hit, strict=True) if is_hit)
