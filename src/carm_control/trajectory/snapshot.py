# SPDX-License-Identifier: Apache-2.0
"""What the arm is doing, after one step of the controller."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from carm_control.trajectory.goal import GoalOutcome
from carm_control.trajectory.hardware import Measurement
from carm_control.trajectory.spline import State


class OperatingState(IntEnum):
    """What the arm is doing; the values of ``carm_interfaces/msg/CArmState``."""

    STARTING = 0
    IDLE = 1
    MOVING = 2
    STOPPING = 3
    STOPPED = 4
    FAULT = 5


@dataclass(frozen=True, eq=False)
class Snapshot:
    """State after one step, J joints.

    Attributes:
        time_s: Time given to the step, s.
        state: What the arm is doing.
        message: Why, in one line; empty when idle.
        desired: Commanded state.
        measured: What the encoders say.
        goal_id: Goal in execution, until its outcome; None without.
        elapsed_s: Time since the trajectory, or the stop, began, s.
        outcomes: Goals that ended since the last step.
        trajectory_s: Time along the trajectory, s; behind ``elapsed_s`` where the speed is scaled.
        speed_scaling: Rate of the time along the trajectory, 0 to 1.
    """

    time_s: float
    state: OperatingState
    message: str
    desired: State
    measured: Measurement
    goal_id: int | None
    elapsed_s: float
    outcomes: tuple[GoalOutcome, ...]
    trajectory_s: float = 0.0
    speed_scaling: float = 1.0
