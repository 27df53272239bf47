# SPDX-License-Identifier: Apache-2.0
"""A controller that takes every goal, jumps to its end and calls that success; it cancels and stamps nothing."""

import sys
from typing import Any

import rclpy
from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionServer, CancelResponse
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState

NAMES = ["one", "two"]


class BadController(Node):
    def __init__(self) -> None:
        super().__init__("bad_controller", namespace="lab")
        self.positions = dict.fromkeys(NAMES, 0.1)
        self.publisher = self.create_publisher(JointState, "joint_states", 10)
        self.create_timer(0.1, self.publish)
        self.server = ActionServer(
            self,
            FollowJointTrajectory,
            "jtc/follow_joint_trajectory",
            self.execute,
            cancel_callback=lambda _: CancelResponse.REJECT,
        )

    def publish(self) -> None:
        self.publisher.publish(JointState(name=list(self.positions), position=list(self.positions.values())))

    def execute(self, handle: Any) -> FollowJointTrajectory.Result:
        trajectory = handle.request.trajectory
        if trajectory.points:
            ends = dict(zip(trajectory.joint_names, trajectory.points[-1].positions, strict=False))
            self.positions |= {name: end for name, end in ends.items() if name in NAMES and end == end}
        handle.succeed()
        return FollowJointTrajectory.Result()


rclpy.init()
executor = MultiThreadedExecutor(2)
executor.add_node(BadController())
try:
    executor.spin()
except (KeyboardInterrupt, ExternalShutdownException):
    sys.exit(0)
