# SPDX-License-Identifier: Apache-2.0
"""Scene node: patient's surface, X-ray image on the detector plane and landmarks as markers, for RViz and Foxglove."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from carm_interfaces.msg import LandmarkArray
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, Vector3
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from shape_msgs.msg import Mesh
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from carm_bringup.nodes.scene import SceneParameters, averaged, detector_points, isocenter_points
from carm_core.errors import ConfigurationError, ImageError
from carm_core.parameters import updated_parameters
from carm_core.robot.kinematics import CArm
from carm_ros.entry import leave
from carm_ros.image_messages import display_pixels
from carm_ros.messages import diagnostics
from carm_ros.node import OrderlyNode, run_node
from carm_ros.parameters import declare_parameters
from carm_ros.patient_surface import surface_from_cdr

NAMESPACE = "carm"
"""Namespace when none is given."""

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_SKIN = ColorRGBA(r=0.85, g=0.68, b=0.58, a=0.45)
_MARK = ColorRGBA(r=0.95, g=0.75, b=0.1, a=1.0)
_RADIUS = ColorRGBA(r=0.95, g=0.75, b=0.1, a=0.25)
_MARK_M = 0.012
_TEXT_M = 0.02


class SceneNode(OrderlyNode):
    """Publishes ``scene/patient``, ``scene/xray`` and ``scene/landmarks``; each is latched."""

    def __init__(self, **node_arguments: Any) -> None:
        """Declare parameters and subscribe.

        Args:
            **node_arguments: Passed to ``OrderlyNode``.

        Raises:
            CarmError: A parameter is not allowed.
        """
        super().__init__("scene_node", **{"namespace": NAMESPACE, **node_arguments})
        self._settings = declare_parameters(self, SceneParameters)
        self._carm = CArm.from_config(self._settings.carm_config or None)
        self._info: CameraInfo | None = None
        self._shown_s = -np.inf
        self._counted = (time.monotonic(), 0)
        self._counts = {"images": 0, "images shown": 0, "landmark messages": 0}
        self._patient = self.create_publisher(Marker, "scene/patient", _LATCHED)
        self._xray = self.create_publisher(Marker, "scene/xray", _LATCHED)
        self._landmarks = self.create_publisher(MarkerArray, "scene/landmarks", _LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_subscription(Mesh, "patient_surface", self._on_surface, _LATCHED, raw=True)
        self.create_subscription(CameraInfo, "xray/camera_info", self._on_info, 2)
        self.create_subscription(Image, "xray/image", self._on_image, 2)
        self.create_subscription(LandmarkArray, "landmarks", self._on_landmarks, 10)
        self.create_timer(1.0, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.add_on_set_parameters_callback(self._on_parameters)

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        self._settings, reason = updated_parameters(self._settings, parameters)
        return SetParametersResult(successful=not reason, reason=reason)

    def _on_surface(self, data: bytes) -> None:
        try:
            surface = surface_from_cdr(data)
        except ConfigurationError as error:
            self.get_logger().warning(f"patient_surface is not shown: {error}", throttle_duration_sec=5.0)
            return
        marker = self._marker("table", "patient", Marker.TRIANGLE_LIST, color=_SKIN, scale=(1.0, 1.0, 1.0))
        vertices = [Point(x=x, y=y, z=z) for x, y, z in surface.vertices_m.tolist()]
        marker.points = [vertices[index] for index in surface.triangles.ravel().tolist()]
        self._patient.publish(marker)

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_image(self, message: Image) -> None:
        self._counts["images"] += 1
        info, now_s = self._info, time.monotonic()
        late = now_s - self._shown_s < 1.0 / self._settings.rate_hz
        if late or info is None or info.width != message.width or not info.k[0] > 0:
            return
        try:
            pixels = display_pixels(message)
        except ImageError as error:
            self.get_logger().warning(f"xray/image: {error}", throttle_duration_sec=5.0)
            return
        self._shown_s = now_s
        self._counts["images shown"] += 1
        image = averaged(pixels, self._settings.image_px)
        rows, columns = image.shape
        side_m = self._carm.source_detector_m / info.k[0] * message.width / columns
        grid = np.indices((columns, rows)).reshape(2, -1).T
        marker = self._marker(
            "detector", "xray", Marker.CUBE_LIST, scale=(side_m, side_m, 0.001), stamp=message.header.stamp
        )
        points = detector_points(grid, columns, rows, side_m).tolist()
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in points]
        grays = [ColorRGBA(r=g / 255, g=g / 255, b=g / 255, a=1.0) for g in range(256)]
        marker.colors = [grays[value] for value in image.T.ravel().tolist()]
        self._xray.publish(marker)

    def _on_landmarks(self, message: LandmarkArray) -> None:
        self._counts["landmark messages"] += 1
        markers = [Marker(action=Marker.DELETEALL)]
        points = isocenter_points([tuple(found.displacement) for found in message.landmarks])
        for found, (x, y, z) in zip(message.landmarks, points.tolist(), strict=True):
            shared = {"stamp": message.header.stamp, "number": int(found.id), "at": (x, y, z)}
            ball = (_MARK_M, _MARK_M, _MARK_M)
            markers.append(self._marker("isocenter", "landmark", Marker.SPHERE, color=_MARK, scale=ball, **shared))
            size = 2 * float(found.radius_90)
            if np.isfinite(size) and size > 0:
                flat = (size, size, 0.002)
                markers.append(
                    self._marker("isocenter", "radius_90", Marker.CYLINDER, color=_RADIUS, scale=flat, **shared)
                )
            shared["at"] = (x, y, z + 1.5 * _TEXT_M)
            height = (0.0, 0.0, _TEXT_M)
            text = self._marker("isocenter", "name", Marker.TEXT_VIEW_FACING, color=_MARK, scale=height, **shared)
            text.text = found.name
            markers.append(text)
        self._landmarks.publish(MarkerArray(markers=markers))

    def _marker(self, frame: str, *words: Any, **settings: Any) -> Marker:
        return _make_marker(f"{self._settings.frame_prefix}{frame}", *words, **settings)

    def _publish_diagnostics(self) -> None:
        now_s, (then_s, images) = time.monotonic(), self._counted
        self._counted = (now_s, self._counts["images"])
        rate_hz = (self._counts["images"] - images) / max(now_s - then_s, 1e-3)
        values = {"images (Hz)": f"{rate_hz:.1f}", **self._counts}
        name = f"{self.get_fully_qualified_name()}: scene"
        now = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics(now, name, DiagnosticStatus.OK, "ok", values))


def _make_marker(
    frame: str,
    kind: str,
    shape: int,
    *,
    scale: tuple[float, float, float],
    color: ColorRGBA | None = None,
    stamp: Any = None,
    number: int = 0,
    at: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Marker:
    marker = Marker(ns=kind, id=number, type=shape, action=Marker.ADD)
    marker.header.frame_id = frame
    if stamp is not None:
        marker.header.stamp = stamp
    marker.pose.position = Point(x=at[0], y=at[1], z=at[2])
    marker.pose.orientation.w = 1.0
    marker.scale = Vector3(x=scale[0], y=scale[1], z=scale[2])
    marker.color = color or ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    return marker


def main(arguments: list[str] | None = None) -> int:
    """Run the scene node; see ``carm_ros.node.run_node``.

    Args:
        arguments: ROS arguments; None: those of the process.
    """
    return run_node("scene_node", SceneNode, arguments)


if __name__ == "__main__":
    leave(main())
