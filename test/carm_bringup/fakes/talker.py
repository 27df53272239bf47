# SPDX-License-Identifier: Apache-2.0
"""Publishes joint states at 50 Hz and, in each, noise that no compressor makes smaller; until it is killed."""

import os

import rclpy
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String

rclpy.init()
node = Node("talker", namespace="/carm")
joints = node.create_publisher(JointState, "joint_states", 10)
noise = node.create_publisher(String, "noise", 10)


def tick() -> None:
    """Publish once."""
    message = JointState(name=["lift"], position=[0.1])
    message.header.stamp = node.get_clock().now().to_msg()
    joints.publish(message)
    noise.publish(String(data=os.urandom(2000).hex()))


node.create_timer(0.02, tick)
rclpy.spin(node)
