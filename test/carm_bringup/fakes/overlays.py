# SPDX-License-Identifier: Apache-2.0
"""Stands in for localizer, supervisor and agent: what is drawn over the X-ray and in the room.

Landmarks of each image, contours of every other one, a task, and a clearance of 150 mm.
"""

from __future__ import annotations

import json

import rclpy
from carm_interfaces.msg import Landmark, LandmarkArray
from geometry_msgs.msg import Point
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import String
from visualization_msgs.msg import ImageMarker, Marker

from carm_ros.middleware import prepare_middleware

CARINA = 11


class Overlays(Node):
    """Publishes for each image."""

    def __init__(self) -> None:
        super().__init__("overlays", namespace="/carm")
        self.images = 0
        self.landmarks = self.create_publisher(LandmarkArray, "landmarks", 10)
        self.contours = self.create_publisher(ImageMarker, "landmarks/contours", 10)
        self.tasks = self.create_publisher(String, "agent/task", 10)
        self.line = self.create_publisher(Marker, "clearance/line", 1)
        self.create_subscription(CameraInfo, "xray/camera_info", self.on_image, 5)
        self.create_timer(0.1, self.tell_clearance)

    def on_image(self, message: CameraInfo) -> None:
        self.images += 1
        drawn = self.images % 2  # tells the test whether this image has contours
        mark = Landmark(id=CARINA, name="Carina", in_view=True, pixel=[100.0 + drawn, 200.0], radius_90=0.02)
        self.landmarks.publish(LandmarkArray(header=message.header, localizer="fake", landmarks=[mark]))
        self.tasks.publish(String(data=json.dumps({"target_id": CARINA})))
        if drawn:
            lines = ImageMarker(header=message.header, type=ImageMarker.LINE_LIST)
            lines.points = [Point(x=x, y=50.0) for x in (10.0, 20.0, 20.0, 30.0, 60.0, 70.0)]
            self.contours.publish(lines)

    def tell_clearance(self) -> None:
        marker = Marker(type=Marker.LINE_LIST, points=[Point(z=0.45), Point(z=0.3)])
        marker.header.frame_id = "table"
        marker.color.r = marker.color.a = 1.0  # too near
        self.line.publish(marker)


if __name__ == "__main__":
    prepare_middleware()
    rclpy.init()
    rclpy.spin(Overlays())
