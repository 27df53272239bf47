# SPDX-License-Identifier: Apache-2.0
"""What a client asks of the trajectory controller, and what it is told.

The types mirror ``control_msgs/action/FollowJointTrajectory`` field by field, without ROS. They hold whatever
came in, malformed or not; ``carm_control.trajectory.goal_validation`` judges it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from carm_core.errors import GoalError


class ErrorCode(IntEnum):
    """Result codes of ``control_msgs/action/FollowJointTrajectory``."""

    SUCCESSFUL = 0
    INVALID_GOAL = -1
    INVALID_JOINTS = -2
    OLD_HEADER_TIMESTAMP = -3
    PATH_TOLERANCE_VIOLATED = -4
    GOAL_TOLERANCE_VIOLATED = -5


class GoalRefusedError(GoalError):
    """A goal is refused before anything moves.

    Attributes:
        code: Why, as the result code that the client receives.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        """Keep the code beside the reason.

        Args:
            code: Result code.
            reason: One line that names the joint, the value and what is allowed.
        """
        self.code = code
        super().__init__(reason)


@dataclass(frozen=True)
class TrajectoryPoint:
    """One point of a trajectory, as ``trajectory_msgs/JointTrajectoryPoint``.

    Attributes:
        time_s: Time from the start of the trajectory, s.
        positions: One per joint, m or rad.
        velocities: One per joint, m/s or rad/s; empty when not given.
        accelerations: One per joint, m/s² or rad/s²; empty when not given.
        effort: Not supported; must be empty.
    """

    time_s: float
    positions: tuple[float, ...]
    velocities: tuple[float, ...] = ()
    accelerations: tuple[float, ...] = ()
    effort: tuple[float, ...] = ()


@dataclass(frozen=True)
class JointTolerance:
    """Tolerance of one joint, as ``control_msgs/JointTolerance``: 0 keeps the default, -1 removes it.

    Attributes:
        name: Joint.
        position: M or rad.
        velocity: m/s or rad/s.
        acceleration: m/s² or rad/s²; accepted and, as the drives do not measure it, never violated.
    """

    name: str
    position: float = 0.0
    velocity: float = 0.0
    acceleration: float = 0.0


@dataclass(frozen=True)
class TrajectoryGoal:
    """A trajectory to follow, and how closely.

    Attributes:
        joint_names: Joints that the points speak of, in any order.
        points: At least one.
        stamp_s: When the trajectory starts, s of the controller's clock; 0: now.
        path_tolerance: Tolerances on the way, for the joints that deviate from the defaults.
        goal_tolerance: Tolerances at the end, for the joints that deviate from the defaults.
        goal_time_tolerance_s: Time after the last point in which the goal must be reached, s; 0: default, -1:
            no end.
    """

    joint_names: tuple[str, ...]
    points: tuple[TrajectoryPoint, ...]
    stamp_s: float = 0.0
    path_tolerance: tuple[JointTolerance, ...] = ()
    goal_tolerance: tuple[JointTolerance, ...] = ()
    goal_time_tolerance_s: float = 0.0


class GoalStatus(Enum):
    """How a goal ended."""

    SUCCEEDED = "succeeded"
    ABORTED = "aborted"
    CANCELED = "canceled"


@dataclass(frozen=True)
class Acceptance:
    """Answer to a goal: accepted, or refused with a reason.

    Attributes:
        code: ``SUCCESSFUL`` when accepted.
        message: Empty when accepted, else why not, in one line.
        goal_id: Number of the accepted goal; None when refused.
    """

    code: ErrorCode
    message: str = ""
    goal_id: int | None = None


@dataclass(frozen=True)
class GoalOutcome:
    """End of an accepted goal.

    Attributes:
        goal_id: The number given at acceptance.
        status: How it ended.
        code: Result code.
        message: What happened, in one line.
    """

    goal_id: int
    status: GoalStatus
    code: ErrorCode
    message: str
