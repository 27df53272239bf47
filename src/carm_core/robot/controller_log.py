# SPDX-License-Identifier: Apache-2.0
"""Why a controller rejected a goal: an action's answer has no place for the reason, so controllers log it.

ros2_controllers' joint_trajectory_controller and the motion node of this project do so as errors, before they answer.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

NO_MOTION_NOW = "no motion is allowed now"
"""How the reason of this project's controller begins where the supervisor's permission is missing."""
_KEPT = 32


class ControllerLog:
    """Errors on ``/rosout``, and which of them a node wrote that serves an action."""

    def __init__(self, node: Any, action: str) -> None:
        """Begin to listen.

        Args:
            node: An ``rclpy`` node.
            action: Name of the action, absolute or relative to the node's namespace.
        """
        from rcl_interfaces.msg import Log

        self._node, self._status = node, f"{action}/_action/status"
        self._least = int.from_bytes(Log.ERROR, "little") if isinstance(Log.ERROR, bytes) else int(Log.ERROR)
        self._errors: deque[tuple[float, str, str]] = deque(maxlen=_KEPT)
        node.create_subscription(Log, "/rosout", self._keep, 100)

    def since(self, then_s: float) -> str:
        """Return what the action's server last logged as an error.

        Args:
            then_s: Monotonic time, s; what was heard before it does not count.

        Returns:
            The text in one line; empty: nothing so far.
        """
        servers = {
            f"{info.node_namespace}/{info.node_name}".strip("/").replace("/", ".")
            for info in self._node.get_publishers_info_by_topic(self._status)
        }
        heard = [text for arrived_s, name, text in list(self._errors) if arrived_s >= then_s and name in servers]
        return " ".join(heard[-1].split()) if heard else ""

    def _keep(self, message: Any) -> None:
        if message.level >= self._least:
            self._errors.append((time.monotonic(), message.name, message.msg))
