# SPDX-License-Identifier: Apache-2.0
"""Who gave a goal says that it still wants it; a goal whose giver falls silent ends.

A client renews a goal by its id on the topic ``goal_heartbeat``. A server asks for renewals only where it has heard
one: clients that know nothing of this topic keep their goals.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict

from carm_interfaces.msg import GoalHeartbeat
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from unique_identifier_msgs.msg import UUID

TOPIC = "goal_heartbeat"
RATE_HZ = 10.0
TIMEOUT_S = 0.5
"""A renewed goal of the motion controller ends when its client is silent for this long, s."""
TASK_TIMEOUT_S = 1.0
"""The same for a task of the agent or the localizer: what moves then is the agent's own goal, which it renews."""
_REMEMBERED = 64
"""Goals of which a renewal is kept although nobody has asked about them yet."""
_ASKED_S = 5.0
"""A goal that a server asks about at least so often is never forgotten, however many others are renewed, s."""


class HeartbeatSender:
    """Renews the open goals of a client."""

    def __init__(self, node: Node, client: str) -> None:
        """Create the publisher and its timer, on the monotonic clock.

        Args:
            node: The client. While its executor does not spin, its goals are not renewed.
            client: Who renews, for people, for example ``"agent_node"``.
        """
        self._client = client
        self._goals: set[bytes] = set()
        self._publisher = node.create_publisher(GoalHeartbeat, TOPIC, QoSProfile(depth=10))
        node.create_timer(1.0 / RATE_HZ, self._send, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def begin(self) -> UUID:
        """Return the id for a new goal, which is renewed from now on; pass it to ``send_goal_async``."""
        key = uuid.uuid4().bytes
        self._goals.add(key)
        self._publish(key)
        return UUID(uuid=list(key))

    def end(self, goal_id: UUID) -> None:
        """Renew a goal no longer: it has ended, or was refused."""
        self._goals.discard(bytes(goal_id.uuid))

    def _send(self) -> None:
        for key in tuple(self._goals):
            self._publish(key)

    def _publish(self, key: bytes) -> None:
        self._publisher.publish(GoalHeartbeat(goal_id=list(key), client=self._client))


class HeartbeatMonitor:
    """Says which goals are no longer renewed."""

    def __init__(self, node: Node, timeout_s: float = TIMEOUT_S, group: CallbackGroup | None = None) -> None:
        """Listen.

        Args:
            node: The server of the goals.
            timeout_s: Silence that ends a renewed goal, s; 0: never.
            group: Callback group of the subscription.
        """
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._heard: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._running: dict[bytes, tuple[float, tuple[float, str] | None]] = {}
        """Of each goal that a server asks about: when it did so last, and the last renewal."""
        node.create_subscription(GoalHeartbeat, TOPIC, self._on_heartbeat, QoSProfile(depth=50), callback_group=group)

    def _on_heartbeat(self, message: GoalHeartbeat) -> None:
        self.heard(bytes(message.goal_id), message.client, time.monotonic())

    def heard(self, goal_id: bytes, client: str, now_s: float) -> None:
        """Keep a renewal.

        Args:
            goal_id: UUID of the goal.
            client: Who renewed it.
            now_s: Monotonic time, s.
        """
        renewal = (now_s, client[:80])
        with self._lock:
            if goal_id in self._running:
                self._running[goal_id] = (self._running[goal_id][0], renewal)
                return
            self._heard[goal_id] = renewal
            self._heard.move_to_end(goal_id)
            while len(self._heard) > _REMEMBERED:
                self._heard.popitem(last=False)

    def missing(self, goal_id: bytes, now_s: float) -> str:
        """Return who no longer renews a goal and since when, in one line; empty: renewed, or never was.

        Args:
            goal_id: UUID of the goal.
            now_s: Monotonic time, s.
        """
        with self._lock:
            _, renewal = self._running.get(goal_id, (now_s, None))
            renewal = renewal or self._heard.pop(goal_id, None)
            self._running[goal_id] = (now_s, renewal)
            for key in [key for key, (asked_s, _) in self._running.items() if now_s - asked_s > _ASKED_S]:
                del self._running[key]
        heard_s, client = renewal or (now_s, "")
        silent_s = now_s - heard_s
        if not self.timeout_s or silent_s <= self.timeout_s:
            return ""
        return f"{client or 'the client'} has not renewed its goal for {silent_s:.1f} s"
