# SPDX-License-Identifier: Apache-2.0
"""An agent and a localizer that knows a CT with one named point, and whose second preview fails."""

from __future__ import annotations

import rclpy
from carm_interfaces.action import MoveCArm, Navigate
from carm_interfaces.srv import FindPoint, PreviewXray
from geometry_msgs.msg import Point
from rclpy.action import ActionServer
from rclpy.node import Node

from carm_ros.middleware import prepare_middleware


class CtGraph(Node):
    """Says what it was asked for."""

    def __init__(self) -> None:
        super().__init__("agent_node", namespace="/carm")
        self.previews = 0
        self.navigator = ActionServer(self, Navigate, "navigate", self.navigate)
        self.mover = ActionServer(self, MoveCArm, "move", self.move)
        self.create_service(FindPoint, "ct/find_point", self.find)
        self.create_service(PreviewXray, "xray/preview", self.preview)

    def navigate(self, handle: object) -> Navigate.Result:
        goal = handle.request  # type: ignore[attr-defined]
        handle.succeed()  # type: ignore[attr-defined]
        place = f"{goal.point.x:g}, {goal.point.y:g}, {goal.point.z:g}"
        return Navigate.Result(summary=f"{goal.target_id} {goal.target_name!r} {goal.at_point} ({place})")

    def move(self, handle: object) -> MoveCArm.Result:
        handle.succeed()  # type: ignore[attr-defined]
        result = MoveCArm.Result(final_positions=[0.5], preview_png=b"path")
        result.trajectory.joint_names = ["lift"]
        return result

    def find(self, request: FindPoint.Request, response: FindPoint.Response) -> FindPoint.Response:
        response.success = request.name == "rib left 4"
        response.name, response.point = "rib_left_4", Point(x=-0.012, y=0.03, z=-0.41)
        if not response.success:
            response.error_code, response.error_msg = FindPoint.Request.ERROR_UNKNOWN_NAME, "did you mean 'rib_left_4'?"
        return response

    def preview(self, request: PreviewXray.Request, response: PreviewXray.Response) -> PreviewXray.Response:
        self.previews += 1
        response.success = self.previews == 1
        response.png = f"{request.joint_names[0]} {request.positions[0]}".encode()
        response.error_msg = "" if response.success else "the CT is not registered: there was no image yet"
        return response


if __name__ == "__main__":
    prepare_middleware()
    rclpy.init()
    rclpy.spin(CtGraph())
