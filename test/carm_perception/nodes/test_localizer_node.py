# SPDX-License-Identifier: Apache-2.0
"""The localizer node as a process of its own, driven over DDS as a client would."""

from __future__ import annotations

import signal
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from carm_core.landmarks import ALL_LANDMARKS

pytest.importorskip("rclpy", reason="needs ROS 2")
import rclpy
from carm_interfaces.action import Localize
from carm_interfaces.msg import LandmarkArray
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image

from ...met import met

pytestmark = pytest.mark.integration
NODE = (sys.executable, "-m", "carm_perception.entry_points")
PATIENCE_S = 60.0
SIDE = 512
FOCAL_PX = 1020.0 / (3 * 0.194)


class Client:
    """Stands in for the X-ray node and the agent."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("client", namespace="carm", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.image = self.node.create_publisher(Image, "xray/image", 2)
        self.info = self.node.create_publisher(CameraInfo, "xray/camera_info", 2)
        self.landmarks: list[LandmarkArray] = []
        self.overlays: list[Image] = []
        self.health: list[DiagnosticArray] = []
        self.node.create_subscription(LandmarkArray, "landmarks", self.landmarks.append, 10)
        self.node.create_subscription(Image, "landmarks/image", self.overlays.append, 2)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.health.append, 10)
        self.action = ActionClient(self.node, Localize, "localize")

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"no {what} in {PATIENCE_S} s"
            self.executor.spin_once(timeout_sec=0.05)

    def ready(self) -> None:
        self.until(self.action.server_is_ready, "action server")
        self.until(lambda: self.image.get_subscription_count() and self.info.get_subscription_count(), "subscriber")
        self.until(lambda: any(a.status[0].message == "ready" for a in self.health), "readiness")
        met(self.node, "localizer_node", self.until)

    def show(self, seed: int = 0, encoding: str = "mono8") -> Any:
        """Publish an image with its camera model; return its stamp."""
        stamp = self.node.get_clock().now().to_msg()
        small = np.random.default_rng(seed).integers(0, 256, (16, 16)).astype(np.uint8)
        pixels = np.kron(small, np.ones((SIDE // 16, SIDE // 16), np.uint8))
        if encoding == "rgb8":
            pixels = np.repeat(pixels, 3, axis=1)
        image = Image(height=SIDE, width=SIDE, encoding=encoding, step=pixels.shape[1])
        image.header.stamp = stamp
        image.data = array("B", pixels.tobytes())
        info = CameraInfo(height=SIDE, width=SIDE)
        info.header.stamp = stamp
        info.k = [FOCAL_PX, 0.0, (SIDE - 1) / 2, 0.0, FOCAL_PX, (SIDE - 1) / 2, 0.0, 0.0, 1.0]
        self.info.publish(info)
        self.image.publish(image)
        return stamp

    def ask(self, cancel: bool = False, **fields: Any) -> Any:
        future = self.action.send_goal_async(Localize.Goal(**fields))
        self.until(future.done, "goal response")
        handle = future.result()
        assert handle.accepted
        if cancel:
            handle.cancel_goal_async()
        result = handle.get_result_async()
        self.until(result.done, "result")
        return result.result().result


@pytest.fixture
def client(ros_domain: int) -> Iterator[Client]:
    made = Client(ros_domain)
    yield made
    made.close()


def test_frames_questions_refusals_and_a_clean_end(client: Client, spawn: Any) -> None:
    process = spawn([*NODE, "--ros-args", "-p", "threads:=1", "-p", "maximum_risk:=0.0"])  # noise is abstained on
    client.ready()

    stamp = client.show()
    client.until(lambda: client.landmarks, "landmarks")
    message = client.landmarks[0]
    assert message.header.stamp == stamp
    assert message.localizer == "fused"
    assert len(message.model_version) == 12
    assert sorted(mark.id for mark in message.landmarks) == [mark.id for mark in ALL_LANDMARKS]
    assert 0 < message.latency_s < message.age_s
    first = message.landmarks[0]
    spacing_m = 0.530 / FOCAL_PX
    middle = (SIDE - 1) / 2
    assert first.pixel[0] == pytest.approx(middle + first.displacement[0] / spacing_m, abs=0.1)
    assert first.pixel[1] == pytest.approx(middle - first.displacement[1] / spacing_m, abs=0.1)
    client.until(lambda: client.overlays, "overlay")
    assert client.overlays[0].encoding == "rgb8"
    assert len(client.overlays[0].data) == SIDE * SIDE * 3

    answer = client.ask(target_id=11)
    assert answer.error_code == Localize.Result.ERROR_NONE, answer.error_msg
    assert [mark.id for mark in answer.landmarks.landmarks] == [11]
    assert answer.landmarks.header.stamp == stamp
    assert answer.landmarks.answer.startswith('{"target": 11, "dx_mm": ')

    client.landmarks.clear()
    client.show(1)
    client.until(lambda: client.landmarks, "landmarks of the last target")
    assert client.landmarks[0].target_id == 11

    listed = client.ask(protocol="retrieval")
    assert listed.error_code == Localize.Result.ERROR_NONE
    assert len(listed.landmarks.landmarks) == 3
    assert client.ask(target_id=99).error_code == Localize.Result.ERROR_INVALID_GOAL
    refused = client.ask(protocol="retreival")
    assert refused.error_code == Localize.Result.ERROR_INVALID_GOAL
    assert "did you mean 'retrieval'" in refused.error_msg
    old = type(stamp)(sec=5)
    assert client.ask(target_id=11, stamp=old).error_code == Localize.Result.ERROR_NO_FRAME
    assert client.ask(cancel=True, target_id=11, stamp=old).error_code == Localize.Result.ERROR_CANCELED

    client.show(2, encoding="32FC1")
    answers = []
    for encoding in ("mono8", "rgb8"):
        shown = client.show(3, encoding)

        def about_it(shown: Any = shown) -> list[str]:
            return [m.answer for m in client.landmarks if m.header.stamp == shown]

        client.until(about_it, f"landmarks of the {encoding} image after a bad one")
        answers += about_it()[:1]
    assert answers[0] == answers[1]

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0, output
    assert "Traceback" not in output


def test_bad_parameters_are_one_line_and_exit_code_2(start_each: Callable[..., list[tuple[int, str]]]) -> None:
    refusals = {
        "localizer:=compcat": "did you mean 'compact'",
        "model_folder:=/nowhere": "does not exist",
        "adapter:=/some/adapter": "localizer fused takes no adapter",
        "max_new_tokens:=1": "outside",
        "target:=carena": "did you mean 'Carina'",
    }
    ends = start_each("carm_perception.nodes.localizer_node", list(refusals))
    for words, (code, output) in zip(refusals.values(), ends, strict=True):
        assert code == 2, output
        assert words in output
        assert "Traceback" not in output
