# SPDX-License-Identifier: Apache-2.0
"""A process that stands in for X-ray system and localizer: empty images, and answers from one known point.

    python room.py REPLY DELAY_S X Y Z

REPLY is right, silent, malformed, mistaken (about sentences: it takes each for the skull) or late (about images: it
answers for an earlier one); DELAY_S is how long an answer takes; X Y Z is every landmark's place in frame `table`, mm,
and that of every point of the CT, which reaches 1 m far.
"""

import contextlib
import sys
import threading

import numpy as np
import rclpy
from carm_interfaces.action import Localize
from carm_interfaces.msg import Exposure, Landmark
from carm_interfaces.srv import Expose, FindPoint
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState

from carm_core.robot.kinematics import CArm

SIZE = 64


class Room(Node):
    def __init__(self, reply: str, delay_s: float, point_mm: list[float]) -> None:
        super().__init__("room", namespace="/carm")
        self.reply, self.delay_s, self.point_mm = reply, delay_s, np.array(point_mm)
        self.carm = CArm.from_config()
        self.positions: np.ndarray | None = None
        self.shown: dict[tuple[int, int], np.ndarray] = {}
        self.count = 0
        self.create_subscription(JointState, "joint_states", self.keep, 10)
        self.image = self.create_publisher(Image, "xray/image", 2)
        self.info = self.create_publisher(CameraInfo, "xray/camera_info", 2)
        self.dose = self.create_publisher(Exposure, "xray/exposure", 10)
        self.create_service(FindPoint, "ct/find_point", self.find)
        self.server = ActionServer(
            self,
            Localize,
            "localize",
            self.localize,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=ReentrantCallbackGroup(),
        )

    def keep(self, message: JointState) -> None:
        if self.positions is None:
            self.create_service(Expose, "xray/expose", self.expose)
        order = [message.name.index(name) for name in self.carm.joint_names]
        self.positions = np.array([message.position[i] for i in order])

    def expose(self, request: Expose.Request, response: Expose.Response) -> Expose.Response:
        assert self.positions is not None
        view = self.carm.view(self.positions)
        self.count += 1
        stamp = self.get_clock().now().to_msg()
        self.shown[stamp.sec, stamp.nanosec] = view.displacement_mm(self.point_mm)
        image = Image(height=SIZE, width=SIZE, step=SIZE, encoding="mono8", data=bytes(SIZE * SIZE))
        info = CameraInfo(height=SIZE, width=SIZE)
        focal = view.focal_px * SIZE / view.detector.columns
        info.k = [focal, 0.0, SIZE / 2, 0.0, focal, SIZE / 2, 0.0, 0.0, 1.0]
        dose = Exposure(sequence=self.count, dose_area_product_gym2=2e-6)
        for message, publisher in ((image, self.image), (info, self.info), (dose, self.dose)):
            message.header.stamp = stamp
            message.header.frame_id = "xray_optical"
            publisher.publish(message)
        response.success, response.stamp, response.sequence = True, stamp, self.count
        return response

    def find(self, request: FindPoint.Request, response: FindPoint.Response) -> FindPoint.Response:
        response.success = abs(request.point.x) < 1.0
        response.error_msg = "" if response.success else "the point is outside the CT"
        return response

    def localize(self, handle: object) -> Localize.Result:
        request = handle.request  # type: ignore[attr-defined]
        waited = threading.Event()
        for _ in range(round(self.delay_s / 0.02)):
            waited.wait(0.02)
            if not rclpy.ok():
                break
            if handle.is_cancel_requested:  # type: ignore[attr-defined]
                handle.canceled()  # type: ignore[attr-defined]
                return Localize.Result(error_code=Localize.Result.ERROR_CANCELED)
        result = Localize.Result()
        displacement = self.shown.get((request.stamp.sec, request.stamp.nanosec))
        if request.protocol == "command" and self.reply == "mistaken":
            result.landmarks.answer = '{"intent": "navigate", "target": 1}'
        elif displacement is None:
            result.error_code, result.error_msg = Localize.Result.ERROR_NO_FRAME, "no such frame"
        elif self.reply == "silent":
            result.error_code, result.error_msg = Localize.Result.ERROR_ABSTAINED, "nothing familiar"
        elif self.reply == "malformed":
            result.error_code, result.error_msg = Localize.Result.ERROR_MALFORMED_ANSWER, "does not parse"
        else:
            mark = Landmark(id=request.target_id, standard_deviation=0.004, radius_90=0.009, confidence=0.9)
            mark.displacement = (displacement / 1000.0).astype(np.float32)
            result.landmarks.landmarks = [mark]
        result.landmarks.header.stamp = request.stamp
        if self.reply == "late":
            result.landmarks.header.stamp.sec -= 1
        if result.error_code:
            handle.abort()  # type: ignore[attr-defined]
        else:
            handle.succeed()  # type: ignore[attr-defined]
        return result


if __name__ == "__main__":
    rclpy.init()
    executor = MultiThreadedExecutor(4)
    executor.add_node(Room(sys.argv[1], float(sys.argv[2]), [float(word) for word in sys.argv[3:6]]))
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        executor.spin()
