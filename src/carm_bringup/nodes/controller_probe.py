# SPDX-License-Identifier: Apache-2.0
"""Client of a FollowJointTrajectory server that keeps everything it hears, with times."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTolerance
from numpy.typing import NDArray
from rclpy.action import ActionClient
from rclpy.qos import QoSPresetProfiles
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from carm_bringup.nodes.client import SERVER_TIMEOUT_S, ClientError, Session
from carm_core.errors import ConfigurationError
from carm_core.robot.controller_log import ControllerLog
from carm_ros.messages import duration_message, seconds

SUCCEEDED, CANCELED, ABORTED = (
    int(GoalStatus.STATUS_SUCCEEDED),
    int(GoalStatus.STATUS_CANCELED),
    int(GoalStatus.STATUS_ABORTED),
)
CODES = {
    getattr(FollowJointTrajectory.Result, name): name
    for name in dir(FollowJointTrajectory.Result)
    if name.isupper() and isinstance(getattr(FollowJointTrajectory.Result, name), int)
}
"""Result codes of the action and their names."""
STATUSES = {SUCCEEDED: "succeeded", CANCELED: "canceled", ABORTED: "aborted"}
_MOTION_NODE = "motion_node"
_ACTION = "follow_joint_trajectory"
_REASON_S = 0.5
"""How long the reason of a rejected goal may follow the answer on /rosout, s."""


@dataclass(frozen=True)
class Heard:
    """One joint state.

    Attributes:
        arrived_s: Monotonic time of arrival, s.
        age_s: Age of its stamp at arrival, s.
        stamp_s: Its stamp, s.
        positions: Joint to position, m or rad.
    """

    arrived_s: float
    age_s: float
    stamp_s: float
    positions: Mapping[str, float]


@dataclass
class Attempt:
    """A goal and what became of it.

    Attributes:
        sent_s: Monotonic time at which it was sent, s.
        accepted: The server took it.
        status: Status of the action at its end; None before.
        code: Result code; None before the end.
        message: Error string of the result; of a rejected goal, what the controller logged.
        errors: Desired minus actual of each feedback, one dictionary of m or rad by joint.
    """

    sent_s: float
    accepted: bool = False
    status: int | None = None
    code: int | None = None
    message: str = ""
    errors: list[dict[str, float]] = field(default_factory=list)
    handle: Any = None
    ending: Any = None

    @property
    def end(self) -> str:
        """How it ended, in words."""
        if not self.accepted:
            return "rejected"
        if self.status is None or self.code is None:
            return "no result"
        return f"{STATUSES.get(self.status, str(self.status))}, {CODES.get(self.code, f'code {self.code}')}"


class ControllerProbe:
    """Sends goals to a controller and listens to its joints.

    Attributes:
        heard: Joint states in the order of their arrival.
    """

    def __init__(self, session: Session, controller: str, joint_states: str) -> None:
        """Wait for the controller.

        Args:
            session: Where to ask.
            controller: Its name, absolute or in the namespace of the session.
            joint_states: Topic.

        Raises:
            ConfigurationError: There is no such controller.
        """
        self._session, self._controller = session, controller
        self.heard: list[Heard] = []
        self._newest: Attempt | None = None
        session.node.create_subscription(JointState, joint_states, self._keep, QoSPresetProfiles.SENSOR_DATA.value)
        self._log = ControllerLog(session.node, f"{controller}/{_ACTION}")
        self._client = ActionClient(session.node, FollowJointTrajectory, f"{controller}/{_ACTION}")
        if not session.spin_until(self._client.server_is_ready, SERVER_TIMEOUT_S):
            servers = sorted(
                name.removesuffix(f"/{_ACTION}/_action/status")
                for name, _ in session.node.get_topic_names_and_types()
                if name.endswith(f"/{_ACTION}/_action/status") and session.node.count_publishers(name)
            )
            hint = f"; there are {', '.join(servers)}" if servers else ""
            raise ConfigurationError(
                f"no action server {controller}/{_ACTION} within {SERVER_TIMEOUT_S:g} s (namespace "
                f"{session.node.get_namespace()}){hint}"
            )

    @property
    def simulated(self) -> bool:
        """The controller is that of this project's simulated motion node."""
        names = {name for name, _ in self._session.node.get_node_names_and_namespaces()}
        return _MOTION_NODE in names and "drive_node" not in names

    def listen(self, time_s: float) -> list[Heard]:
        """Return the joint states of the next so many seconds."""
        before = len(self.heard)
        self._session.spin_until(lambda: False, time_s)
        return self.heard[before:]

    def position(self, joints: Sequence[str]) -> NDArray[np.float64]:
        """Return the newest positions of some joints (J,), m or rad.

        Raises:
            ClientError: None came in time, or one of the joints is missing.
        """
        before = len(self.heard)
        if not self._session.spin_until(lambda: len(self.heard) > before, SERVER_TIMEOUT_S):
            raise ClientError("joint states no longer arrive")
        missing = [name for name in joints if name not in self.heard[-1].positions]
        if missing:
            raise ClientError(f"joint states do not name {', '.join(missing)}")
        return np.array([self.heard[-1].positions[name] for name in joints])

    def trajectory(self, joints: Sequence[str], points: Sequence[tuple[float, Sequence[float]]]) -> JointTrajectory:
        """Build a trajectory: (time from its start, s; positions, m or rad) per point, at rest at each."""
        zero = [0.0] * len(joints)
        return JointTrajectory(
            joint_names=list(joints),
            points=[
                JointTrajectoryPoint(
                    positions=[float(p) for p in positions],
                    velocities=zero,
                    accelerations=zero,
                    time_from_start=duration_message(time_s),
                )
                for time_s, positions in points
            ],
        )

    def send(
        self,
        trajectory: JointTrajectory,
        *,
        path: Mapping[str, float] | None = None,
        goal: Mapping[str, float] | None = None,
        timeout_s: float = SERVER_TIMEOUT_S,
    ) -> Attempt:
        """Send a goal and wait for the answer to the request.

        Args:
            trajectory: The trajectory.
            path: Path tolerances by joint, m or rad.
            goal: Goal tolerances by joint, m or rad.
            timeout_s: Longest wait, s.

        Raises:
            ClientError: The server does not answer.
        """
        message = FollowJointTrajectory.Goal(
            trajectory=trajectory,
            path_tolerance=[JointTolerance(name=n, position=float(v)) for n, v in (path or {}).items()],
            goal_tolerance=[JointTolerance(name=n, position=float(v)) for n, v in (goal or {}).items()],
        )
        attempt = Attempt(time.monotonic())
        sending = self._client.send_goal_async(message, lambda m: _note(attempt, m.feedback))
        attempt.handle = self._session.result(sending, timeout_s, f"{self._controller}/{_ACTION}")
        attempt.accepted = bool(attempt.handle.accepted)
        if not attempt.accepted:
            self._session.spin_until(lambda: bool(self._log.since(attempt.sent_s)), _REASON_S)
            attempt.message = self._log.since(attempt.sent_s)
        else:
            attempt.ending = attempt.handle.get_result_async()
            self._newest = attempt
        return attempt

    def finish(self, attempt: Attempt, timeout_s: float) -> bool:
        """Wait for the end of a goal; return False on a timeout."""
        if not attempt.accepted:
            return True
        if not self._session.spin_until(attempt.ending.done, timeout_s):
            return False
        answer = attempt.ending.result()
        attempt.status, attempt.code = int(answer.status), int(answer.result.error_code)
        attempt.message = str(answer.result.error_string)
        return True

    def cancel(self, attempt: Attempt) -> bool:
        """Request the end of a goal; return whether the server accepts.

        Raises:
            ClientError: It does not answer.
        """
        asking = attempt.handle.cancel_goal_async()
        return bool(self._session.result(asking, SERVER_TIMEOUT_S, "cancel").goals_canceling)

    def abandon(self) -> None:
        """Cancel the newest goal if it has not ended, and wait for its end."""
        attempt = self._newest
        if attempt is not None and not attempt.ending.done():
            self.cancel(attempt)
            self.finish(attempt, SERVER_TIMEOUT_S)

    def moved(self, joints: Sequence[str], start: NDArray[np.float64], distance: float, timeout_s: float) -> bool:
        """Wait until a joint is further from a start (J,) than a distance, m or rad; return False on a timeout."""
        return self._session.spin_until(lambda: bool(np.max(np.abs(self._last(joints) - start)) > distance), timeout_s)

    def _last(self, joints: Sequence[str]) -> NDArray[np.float64]:
        newest = self.heard[-1].positions
        return np.array([newest[name] for name in joints])

    def _keep(self, message: Any) -> None:
        stamp_s = seconds(message.header.stamp)
        now_s = 1e-9 * self._session.node.get_clock().now().nanoseconds
        positions = dict(zip(message.name, message.position, strict=False))
        self.heard.append(Heard(time.monotonic(), now_s - stamp_s, stamp_s, positions))


def _note(attempt: Attempt, feedback: Any) -> None:
    desired, actual = feedback.desired.positions, feedback.actual.positions
    attempt.errors.append(
        {n: d - a for n, d, a in zip(feedback.joint_names, desired, actual, strict=False)},
    )
