# SPDX-License-Identifier: Apache-2.0
"""An agent that is not ready at first: it refuses two tasks, and says so in its diagnostics for two seconds."""

from __future__ import annotations

import rclpy
from carm_interfaces.action import Navigate
from carm_interfaces.msg import Utterance
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.action import ActionServer
from rclpy.node import Node
from std_msgs.msg import String

from carm_ros.middleware import prepare_middleware

MISSING = "not ready, nothing moves: not heard from yet: localize"
REFUSALS = 2


class SlowAgent(Node):
    """Answers as the agent node does while the graph starts, and after."""

    def __init__(self) -> None:
        super().__init__("agent_node", namespace="/carm")
        self.refusals = self.told = 0
        self.dialogue = self.create_publisher(Utterance, "agent/dialogue", 10)
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.server = ActionServer(self, Navigate, "navigate", self.navigate)
        self.create_subscription(String, "clinician", self.hear, 10)
        self.create_timer(0.2, self.tell)

    @property
    def ready(self) -> bool:
        return self.told > 10

    def navigate(self, handle: object) -> Navigate.Result:
        if self.refusals < REFUSALS:
            self.refusals += 1
            handle.abort()  # type: ignore[attr-defined]
            return Navigate.Result(error_code=Navigate.Result.ERROR_NOT_READY, error_msg=MISSING)
        handle.succeed()  # type: ignore[attr-defined]
        return Navigate.Result(summary="centered")

    def hear(self, message: String) -> None:
        kind = Utterance.KIND_WARNING if "wrong" in message.data else Utterance.KIND_ANSWER
        self.dialogue.publish(Utterance(kind=kind, text=f"ready: {self.ready}", in_reply_to=message.data))

    def tell(self) -> None:
        if self.diagnostics.get_subscription_count():
            self.told += 1
        status = DiagnosticStatus(name="carm_agent", hardware_id="/carm", message="missing: localize")
        status.values = [KeyValue(key="ready", value="yes" if self.ready else "no")]
        self.diagnostics.publish(DiagnosticArray(status=[status]))


if __name__ == "__main__":
    prepare_middleware()
    rclpy.init()
    rclpy.spin(SlowAgent())
