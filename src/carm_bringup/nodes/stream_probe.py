# SPDX-License-Identifier: Apache-2.0
"""A subscriber that notes when each X-ray image was exposed and when it, or what was found in it, arrived."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rclpy
from carm_interfaces.msg import LandmarkArray
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from carm_bringup.security.access import OPERATOR
from carm_ros.messages import seconds
from carm_ros.middleware import prepare_middleware
from carm_ros.security import enclave_arguments


@dataclass(frozen=True)
class Arrival:
    """A message about an image that arrived.

    Attributes:
        stamp_s: Middle of its exposure, system time, s.
        received_s: When the callback had it, system time, s.
        rows: Rows of the image; 0: the message is no image.
    """

    stamp_s: float
    received_s: float
    rows: int


def listen(
    topic: str, landmarks: bool, duration_s: float, patience_s: float, on_image: Callable[[int], None]
) -> list[Arrival]:
    """Subscribe and note every message.

    Args:
        topic: Absolute name.
        landmarks: Whether it carries landmarks, with the stamp of their image, not images.
        duration_s: How long to listen from the first image on, s.
        patience_s: How long to wait for the first image, s.
        on_image: Called with the number of images so far.

    Returns:
        Arrivals in order; empty when no image came in time.
    """
    prepare_middleware()
    arguments = enclave_arguments(topic.rpartition("/xray/")[0] or "/carm", OPERATOR)
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("stream_probe")
    arrivals: list[Arrival] = []

    def receive(message: Any) -> None:
        arrivals.append(Arrival(seconds(message.header.stamp), time.time(), getattr(message, "height", 0)))
        on_image(len(arrivals))

    node.create_subscription(LandmarkArray if landmarks else Image, topic, receive, QoSProfile(depth=2))
    try:
        deadline = time.monotonic() + patience_s
        while not arrivals and time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=0.1)
        end = time.monotonic() + duration_s
        while arrivals and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.1)
    finally:
        node.destroy_node()
        rclpy.shutdown()
    return arrivals
