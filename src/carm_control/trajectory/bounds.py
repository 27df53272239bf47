# SPDX-License-Identifier: Apache-2.0
"""Whether a motion stays within the joints' limits of position, velocity, acceleration and jerk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from carm_control.trajectory.goal import ErrorCode, GoalRefusedError
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.spline import Excess, Spline
from carm_core.errors import outside
from carm_core.transforms import Array

POSITION_SLACK = 1e-9
"""Rounding allowed beyond a position limit, m or rad."""

QUANTITIES = ("position", "velocity", "acceleration", "jerk")
_PER = ("", "/s", "/s^2", "/s^3")
_ROUNDING = 1 + 1e-6
"""Rounding allowed beyond the other limits: trajectories computed to a limit reach it."""


def bounds(limits: JointLimits, derivative: int, tolerance: float) -> tuple[Array, Array]:
    """Return the lower and the upper bound (J,) of a derivative.

    Args:
        limits: J joints.
        derivative: 0 position to 3 jerk.
        tolerance: Fraction by which velocity, acceleration and jerk may exceed their limits.
    """
    if derivative == 0:
        return limits.lower - POSITION_SLACK, limits.upper + POSITION_SLACK
    bound = _limit(limits, derivative) * (1 + tolerance) * _ROUNDING
    return -bound, bound


def find_excess(
    spline: Spline, limits: JointLimits, tolerance: float, derivatives: Sequence[int] = (0, 1, 2, 3)
) -> tuple[int, Excess] | None:
    """Find the first quantity of a spline that leaves its limits.

    Args:
        spline: Of J joints.
        limits: Of these joints.
        tolerance: Fraction by which velocity, acceleration and jerk may exceed their limits.
        derivatives: Which to check, in this order.

    Returns:
        The derivative and the place, or None.
    """
    for derivative in derivatives:
        excess = spline.excess(derivative, *bounds(limits, derivative, tolerance))
        if excess is not None:
            return derivative, excess
    return None


def refuse_excess(
    limits: JointLimits,
    found: tuple[int, Excess] | None,
    where: Callable[[Excess], str],
) -> None:
    """Refuse a spline that leaves its limits.

    Args:
        limits: J joints.
        found: As from ``find_excess``.
        where: Names the place in the client's terms.

    Raises:
        GoalRefusedError: There is an excess; the joint, the value and the limits are named.
    """
    if found is not None:
        derivative, excess = found
        reason = excess_text(limits, excess.joint, derivative, excess.value, where(excess))
        raise GoalRefusedError(ErrorCode.INVALID_GOAL, reason)


def outside_values(values: Array, limits: JointLimits, derivative: int, tolerance: float) -> NDArray[np.intp]:
    """Return the rows and columns (K, 2) of values (N, J) outside their bounds; NaN is inside."""
    low, high = bounds(limits, derivative, tolerance)
    return np.argwhere((values < low) | (values > high))


def excess_text(limits: JointLimits, joint: int, derivative: int, value: float, place: str) -> str:
    """Say which value of which joint is outside which limits, and where."""
    unit = limits.units[joint] + _PER[derivative]
    if derivative == 0:
        low, high = limits.lower[joint], limits.upper[joint]
    else:
        high = _limit(limits, derivative)[joint]
        low = -high
    return (
        f"{QUANTITIES[derivative]} of {limits.names[joint]} is {outside(value, low, high)} {unit} {place}, "
        f"outside its limits [{low:z.4f}, {high:.4f}] {unit}"
    )


def _limit(limits: JointLimits, derivative: int) -> Array:
    return (limits.velocity, limits.acceleration, limits.jerk)[derivative - 1]
