# SPDX-License-Identifier: Apache-2.0
"""Publishes joint states at 50 Hz with noise that no compressor makes smaller, and exposures at 5 Hz; until killed."""

import os
from array import array

import rclpy
from carm_interfaces.msg import Exposure
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String

from carm_core.robot.kinematics import CArm

SIDE = 256
rclpy.init()
node = Node("talker", namespace="/carm")
joints = node.create_publisher(JointState, "joint_states", 10)
noise = node.create_publisher(String, "noise", 10)
images = node.create_publisher(Image, "xray/image_raw", 2)
cameras = node.create_publisher(CameraInfo, "xray/camera_info", 2)
exposures = node.create_publisher(Exposure, "xray/exposure", 10)
carm = CArm.from_config()


def tick() -> None:
    """Publish once."""
    message = JointState(name=list(carm.joint_names), position=carm.home.tolist())
    message.header.stamp = node.get_clock().now().to_msg()
    joints.publish(message)
    noise.publish(String(data=os.urandom(2000).hex()))


def expose() -> None:
    """Publish an exposure."""
    image = Image(height=SIDE, width=SIDE, step=2 * SIDE, encoding="mono16")
    image.header.stamp = node.get_clock().now().to_msg()
    image.data = array("B", bytes(2 * SIDE * SIDE))
    info = CameraInfo(header=image.header, width=SIDE, height=SIDE)
    info.k = carm.view(carm.home, 6).intrinsics.ravel().tolist()
    cameras.publish(info)
    exposures.publish(Exposure(header=image.header, tube_voltage_kv=70.0, dose_area_product_gym2=1e-7))
    images.publish(image)


node.create_timer(0.02, tick)
node.create_timer(0.2, expose)
rclpy.spin(node)
