# SPDX-License-Identifier: Apache-2.0
"""Nonsense in messages: not finite, huge, of the wrong size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from carm_bringup.benchmarks.faults.parts import JointStates, SentGoal
from carm_control import Permit, TrajectoryGoal
from carm_core.localization import Localization

_NUMBERS = (float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 1e9, 5e-324)


def garble(message: Any, random: np.random.Generator) -> Any:
    """Return a message with something wrong in it.

    Args:
        message: Of any kind.
        random: Source of randomness.
    """
    number = float(random.choice(_NUMBERS))
    if isinstance(message, JointStates):
        return _joint_states(message, number, random)
    if isinstance(message, Permit):
        return Permit(number, "x" * 500)
    if isinstance(message, SentGoal):
        return replace(message, goal=_goal(message.goal, number, random))
    if isinstance(message, TrajectoryGoal):
        return _goal(message, number, random)
    if isinstance(message, Localization) and message.estimates:
        wrong = replace(message.estimates[0], displacement_mm=(number, number), std_mm=number)
        return replace(message, estimates=(wrong,))
    if isinstance(message, bytes):
        return message[::-1]
    if isinstance(message, tuple) and len(message) == 2 and isinstance(message[0], bytes):
        return message[0][::-1], message[1]
    return message


def _changed(values: tuple[float, ...], number: float, random: np.random.Generator) -> tuple[float, ...]:
    place = int(random.integers(len(values)))
    return (*values[:place], number, *values[place + 1 :])


def _joint_states(message: JointStates, number: float, random: np.random.Generator) -> JointStates:
    kind = int(random.integers(5))
    if kind == 0:
        return replace(message, positions=_changed(message.positions, number, random))
    if kind == 1:
        return replace(message, velocities=_changed(message.velocities, number, random))
    if kind == 2:
        return replace(message, positions=message.positions[:-1])
    if kind == 3:
        return replace(message, names=(), positions=(), velocities=())
    return replace(message, stamp_s=number)


def _goal(goal: TrajectoryGoal, number: float, random: np.random.Generator) -> TrajectoryGoal:
    kind, point = int(random.integers(7)), goal.points[-1]
    if kind == 0:
        return replace(goal, points=())
    if kind == 1:
        point = replace(point, positions=_changed(point.positions, number, random))
    elif kind == 2:
        point = replace(point, time_s=number)
    elif kind == 3:
        point = replace(point, positions=point.positions[:-1])
    elif kind == 4:
        point = replace(point, velocities=(number,) * len(goal.joint_names))
    elif kind == 5:
        return replace(goal, stamp_s=number)
    else:
        return replace(goal, joint_names=(*goal.joint_names[:-1], "no_such_joint"))
    return replace(goal, points=(*goal.points[:-1], point))
