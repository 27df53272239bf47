# SPDX-License-Identifier: Apache-2.0
"""Parameters of the motion node, and the controller that they describe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carm_control.simulated_drives import DriveModel
from carm_control.trajectory.controller import TrajectoryController
from carm_control.trajectory.goal_checker import ControllerSettings
from carm_control.trajectory.hardware import Drives
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.tolerances import Tolerances
from carm_core.errors import UnknownNameError
from carm_core.parameters import FRAME_PREFIX, parameter
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array

_LONGEST_STEP = 1.5
"""Longest step of the setpoints, in periods: drives take them one per period, and a longer one is a faster one."""
_LEAST_GAP = 3.0
"""A control loop is not late before it missed two cycles, in periods."""


@dataclass(frozen=True)
class ControllerParameters:
    """Parameters of every node that follows trajectories, whatever moves its joints."""

    carm_config: str = parameter("", "C-arm description file; empty: the one in the package", read_only=True)
    frame_prefix: str = parameter(
        "",
        "prefix of every frame id, such as left_arm/ if two arms share /tf",
        pattern=FRAME_PREFIX,
        read_only=True,
    )
    control_rate_hz: float = parameter(
        100.0, "rate of the control loop", unit="Hz", lower=100.0, upper=1000.0, read_only=True
    )
    joint_states_rate_hz: float = parameter(
        50.0, "rate of joint_states and /tf", unit="Hz", lower=1.0, upper=200.0, read_only=True
    )
    state_rate_hz: float = parameter(10.0, "rate of state", unit="Hz", lower=0.1, upper=100.0, read_only=True)
    action_monitor_rate_hz: float = parameter(
        20.0, "rate of the feedback of a goal", unit="Hz", lower=0.1, upper=100.0, read_only=True
    )
    allow_partial_joints_goal: bool = parameter(
        True, "goals may omit joints, which then hold or decelerate to rest", read_only=True
    )
    reject_invalid_goals: bool = parameter(
        True,
        "true: reject an invalid goal at the request, as joint_trajectory_controller does, and log the reason; "
        "false: abort it at once, so that the client gets error code and reason",
        read_only=True,
    )
    limit_tolerance: float = parameter(
        0.05,
        "fraction by which velocity, acceleration and jerk may exceed their limits",
        lower=0.0,
        upper=1.0,
        read_only=True,
    )
    start_tolerance_m: float = parameter(
        0.02,
        "allowed distance from the present position to a first point at the start time; blended within the limits",
        unit="m",
        lower=0.0,
        read_only=True,
    )
    start_tolerance_rad: float = parameter(
        0.05,
        "allowed distance from the present position to a first point at the start time; blended within the limits",
        unit="rad",
        lower=0.0,
        read_only=True,
    )
    path_tolerance_m: float = parameter(0.02, "default path tolerance; 0: none", unit="m", lower=0.0, read_only=True)
    path_tolerance_rad: float = parameter(
        0.05, "default path tolerance; 0: none", unit="rad", lower=0.0, read_only=True
    )
    goal_tolerance_m: float = parameter(0.0005, "default goal tolerance; 0: none", unit="m", lower=0.0, read_only=True)
    goal_tolerance_rad: float = parameter(
        0.001, "default goal tolerance; 0: none", unit="rad", lower=0.0, read_only=True
    )
    stopped_velocity_m_s: float = parameter(
        0.002, "speed up to which a joint counts as at rest; 0: any", unit="m/s", lower=0.0, read_only=True
    )
    stopped_velocity_rad_s: float = parameter(
        0.005, "speed up to which a joint counts as at rest; 0: any", unit="rad/s", lower=0.0, read_only=True
    )
    longest_gap_s: float = parameter(
        0.05,
        "a control loop that is held up for longer in a motion decelerates and latches a stop",
        unit="s",
        lower=0.02,
        upper=1.0,
        read_only=True,
    )
    supervised: bool = parameter(
        False, "move only while the supervisor renews its permission; true in the launch files", read_only=True
    )
    permit_timeout_s: float = parameter(
        0.5, "a permission is void if it is not renewed for this long", unit="s", lower=0.1, upper=5.0, read_only=True
    )
    heartbeat_timeout_s: float = parameter(
        0.5,
        "a goal whose client renewed it ends if the client is silent for this long; 0: never",
        unit="s",
        lower=0.0,
        upper=60.0,
        read_only=True,
    )
    goal_time_s: float = parameter(
        2.0, "time after the last point to reach the goal; 0: unlimited", unit="s", lower=0.0, read_only=True
    )


@dataclass(frozen=True)
class MotionParameters(ControllerParameters):
    """Parameters of the motion node; ``config/motion.yaml`` has the same keys."""

    drive_time_constant_s: float = parameter(
        0.03, "first-order lag of the drives", unit="s", lower=0.0, upper=1.0, read_only=True
    )
    encoder_noise_m: float = parameter(
        0.00001, "standard deviation of measured positions", unit="m", lower=0.0, read_only=True
    )
    encoder_noise_rad: float = parameter(
        0.00002, "standard deviation of measured positions", unit="rad", lower=0.0, read_only=True
    )
    velocity_noise_m_s: float = parameter(
        0.0001, "standard deviation of measured speeds", unit="m/s", lower=0.0, read_only=True
    )
    velocity_noise_rad_s: float = parameter(
        0.0002, "standard deviation of measured speeds", unit="rad/s", lower=0.0, read_only=True
    )
    seed: int = parameter(0, "seed of the noise", lower=0, upper=2**31 - 1, read_only=True)
    blocked_joint: str = parameter(
        "", "fault injection: the drive of this joint does not move; empty: none; can change at any time"
    )


def check_blocked_joint(carm: CArm, name: str) -> tuple[str, ...]:
    """Return the joints to block for a value of ``blocked_joint``.

    Raises:
        UnknownNameError: There is no such joint.
    """
    if name and name not in carm.joint_names:
        raise UnknownNameError("joint", name)
    return (name,) if name else ()


def build_controller(carm: CArm, parameters: MotionParameters, positions: Array | None = None) -> TrajectoryController:
    """Create the controller and its drives.

    Args:
        carm: The C-arm.
        parameters: Tolerances, drives and noise.
        positions: Start position (6,), m and rad; None: home.

    Raises:
        UnknownNameError: ``blocked_joint`` is not a joint.
    """
    p, limits = parameters, JointLimits.of(carm.joints)
    drive = DriveModel(
        limits,
        carm.home if positions is None else carm.check(positions),
        time_constant_s=p.drive_time_constant_s,
        position_noise=limits.by_unit(p.encoder_noise_m, p.encoder_noise_rad),
        velocity_noise=limits.by_unit(p.velocity_noise_m_s, p.velocity_noise_rad_s),
        seed=p.seed,
    )
    drive.block(check_blocked_joint(carm, p.blocked_joint))
    return follow(carm, p, drive)


def follow(carm: CArm, parameters: ControllerParameters, drive: Drives) -> TrajectoryController:
    """Create a controller for drives.

    Args:
        carm: The C-arm.
        parameters: Tolerances and rules.
        drive: What moves its joints.
    """
    p, limits, period_s = parameters, JointLimits.of(carm.joints), 1.0 / parameters.control_rate_hz
    tolerances = Tolerances(
        path_position=limits.by_unit(p.path_tolerance_m, p.path_tolerance_rad),
        path_velocity=np.zeros(len(limits.names)),
        goal_position=limits.by_unit(p.goal_tolerance_m, p.goal_tolerance_rad),
        goal_velocity=limits.by_unit(p.stopped_velocity_m_s, p.stopped_velocity_rad_s),
        goal_time_s=p.goal_time_s,
    )
    settings = ControllerSettings(
        tolerances=tolerances,
        start_tolerance=limits.by_unit(p.start_tolerance_m, p.start_tolerance_rad),
        allow_partial_joints_goal=p.allow_partial_joints_goal,
        limit_tolerance=p.limit_tolerance,
        max_step_s=_LONGEST_STEP * period_s,
        longest_gap_s=max(p.longest_gap_s, _LEAST_GAP * period_s),
        permit_timeout_s=p.permit_timeout_s if p.supervised else 0.0,
    )
    return TrajectoryController(carm.joints, drive, settings)
