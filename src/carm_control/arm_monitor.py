# SPDX-License-Identifier: Apache-2.0
"""What an arm is doing, judged from its joint states and its controller's goals alone.

For motors whose controller knows nothing of this project: ``carm_control.nodes.state_node`` asks it what to say on
``state``, and when goals have to be canceled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_control import OperatingState, Permit, PermitWatch
from carm_core.parameters import FRAME_PREFIX, parameter
from carm_core.robot.kinematics import CArm


@dataclass(frozen=True)
class StateParameters:
    """Parameters of the state node; ``config/state.yaml`` has the same keys."""

    carm_config: str = parameter("", "C-arm description file; empty: the one in the package", read_only=True)
    frame_prefix: str = parameter(
        "",
        "prefix of every frame id, such as left_arm/ if two arms share /tf",
        pattern=FRAME_PREFIX,
        read_only=True,
    )
    controller: str = parameter(
        "joint_trajectory_controller", "name of the trajectory controller that stop cancels", read_only=True
    )
    state_rate_hz: float = parameter(
        10.0, "rate of `state` and of the supervision", unit="Hz", lower=2.0, upper=100.0, read_only=True
    )
    joint_states_timeout_s: float = parameter(
        0.5,
        "stop everything if no joint states arrive for this long",
        unit="s",
        lower=0.05,
        upper=10.0,
        guard="lower_is_tighter",
    )
    stopped_velocity_m_s: float = parameter(
        0.002, "a linear joint below this velocity is at rest", unit="m/s", lower=1e-5, upper=0.1
    )
    stopped_velocity_rad_s: float = parameter(
        0.005, "a rotary joint below this velocity is at rest", unit="rad/s", lower=1e-5, upper=0.5
    )
    supervised: bool = parameter(
        False, "cancel goals unless the supervisor renews its permission; true in the launch files", read_only=True
    )
    permit_timeout_s: float = parameter(
        0.5, "a permission is void if it is not renewed for this long", unit="s", lower=0.1, upper=5.0, read_only=True
    )
    publish_description: bool = parameter(
        True, "publish robot_description and /tf; false if robot_state_publisher does", read_only=True
    )


class ArmMonitor:
    """Keeps the latch of a stop and says what the arm is doing. Times are monotonic, s."""

    def __init__(self, carm: CArm, settings: StateParameters) -> None:
        """Start without joint states.

        Args:
            carm: The arm.
            settings: Time-out and velocities at rest.
        """
        self._carm = carm
        self.settings = settings
        self.permits = PermitWatch(settings.permit_timeout_s)
        self.positions: NDArray[np.float64] | None = None
        self._velocities = np.zeros(len(carm.joints))
        self._seen_s = -math.inf
        self._latched = ""
        self._goals = False

    def observe(self, positions: NDArray[np.float64], velocities: NDArray[np.float64], now_s: float) -> None:
        """Process a joint state.

        Args:
            positions: (6,), m and rad.
            velocities: (6,), m/s and rad/s.
            now_s: When it came.
        """
        self.positions, self._velocities, self._seen_s = positions, velocities, now_s

    def goals(self, active: bool) -> None:
        """Store whether the controller has active goals."""
        self._goals = active

    def stop(self, reason: str) -> None:
        """Latch a stop; keep the first reason."""
        self._latched = self._latched or reason

    def reset(self, now_s: float) -> tuple[bool, str]:
        """Release the stop if the arm is at rest; return success and a message."""
        if not self._latched:
            return True, "no stop was latched"
        if self.positions is None or not self._fresh(now_s):
            return False, "no joint states arrive: it is unknown whether the arm is at rest"
        if self._goals or self._moves:
            return False, "the arm is still moving"
        self._latched = ""
        return True, "ready"

    def permit(self, now_s: float) -> Permit:
        """Return how fast the arm may move now, and why not faster."""
        return self.permits.judge(now_s) if self.settings.supervised else Permit(1.0)

    def must_cancel(self, now_s: float) -> bool:
        """Return whether the controller has goals that a stop, missing joint states, or the supervisor forbid."""
        return self._goals and (bool(self._latched) or not self._fresh(now_s) or self.permit(now_s).speed <= 0)

    @property
    def _moves(self) -> bool:
        rest = (self.settings.stopped_velocity_m_s, self.settings.stopped_velocity_rad_s)
        limits = [rest[joint.unit == "rad"] for joint in self._carm.joints]
        return bool((np.abs(self._velocities) > limits).any())

    def _fresh(self, now_s: float) -> bool:
        return now_s - self._seen_s <= self.settings.joint_states_timeout_s

    def judge(self, now_s: float) -> tuple[OperatingState, str]:
        """Return what the arm is doing and why, and latch a stop when joint states end while it may be moving.

        An arm that was at rest without a goal when they ended has nothing to stop: the fault lasts until they arrive.
        """
        if self.positions is None:
            return OperatingState.STARTING, "no joint states received yet"
        if not self._fresh(now_s):
            if self._goals or self._moves:
                self.stop("joint states no longer arrive")
            return OperatingState.FAULT, f"no joint states for {now_s - self._seen_s:.1f} s"
        if self._latched:
            moving = self._goals or self._moves
            return (OperatingState.STOPPING if moving else OperatingState.STOPPED), self._latched
        permit = self.permit(now_s)
        if not (self._goals or self._moves):
            return OperatingState.IDLE, ""
        return (OperatingState.MOVING if permit.speed > 0 else OperatingState.STOPPING), permit.reason
