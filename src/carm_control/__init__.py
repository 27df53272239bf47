# SPDX-License-Identifier: Apache-2.0
"""Motion of the C-arm: a trajectory controller and its drives, free of ROS."""

from carm_control.parameters import ControllerParameters, MotionParameters, build_controller, follow
from carm_control.simulated_drives import DriveModel
from carm_control.trajectory.controller import TrajectoryController
from carm_control.trajectory.deceleration import StopProfile
from carm_control.trajectory.goal import (
    Acceptance,
    ErrorCode,
    GoalOutcome,
    GoalRefusedError,
    GoalStatus,
    JointTolerance,
    TrajectoryGoal,
    TrajectoryPoint,
)
from carm_control.trajectory.goal_checker import CheckedTrajectory, ControllerSettings, GoalChecker
from carm_control.trajectory.goal_validation import MAX_POINTS
from carm_control.trajectory.hardware import Drives, Measurement
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.permit import Permit, PermitWatch
from carm_control.trajectory.snapshot import OperatingState, Snapshot
from carm_control.trajectory.spline import Spline, State, Waypoints
from carm_control.trajectory.tolerances import Tolerances

__all__ = [
    "MAX_POINTS",
    "Acceptance",
    "CheckedTrajectory",
    "ControllerParameters",
    "ControllerSettings",
    "DriveModel",
    "Drives",
    "ErrorCode",
    "GoalChecker",
    "GoalOutcome",
    "GoalRefusedError",
    "GoalStatus",
    "JointLimits",
    "JointTolerance",
    "Measurement",
    "MotionParameters",
    "OperatingState",
    "Permit",
    "PermitWatch",
    "Snapshot",
    "Spline",
    "State",
    "StopProfile",
    "Tolerances",
    "TrajectoryController",
    "TrajectoryGoal",
    "TrajectoryPoint",
    "Waypoints",
    "build_controller",
    "follow",
]
