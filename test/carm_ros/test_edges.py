# SPDX-License-Identifier: Apache-2.0
"""What others send ends no node: messages, requests and goals that a node cannot take, and those it fails at."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
import rclpy
from carm_interfaces.action import Localize
from carm_interfaces.msg import CArmState
from rclpy.action import ActionClient, GoalResponse
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from carm_core.plausibility import ImplausibleError
from carm_ros import message_checks
from carm_ros.node import OrderlyNode, _Pool, request_age_s

PATIENCE_S = 20.0


def info(fx: float, **others: float) -> CameraInfo:
    k = [fx, 0.0, 256.0, 0.0, others.get("fy", fx), others.get("cy", 256.0), 0.0, 0.0, 1.0]
    return CameraInfo(height=512, width=512, k=k)


@pytest.mark.parametrize("fx", [5e9, 1e-9, 0.0, -1750.0, float("nan"), float("inf"), 1e308])
def test_focal_lengths_of_no_x_ray_system(fx: float) -> None:
    assert message_checks.camera_info(info(1750.0)).k[0] == 1750.0
    with pytest.raises(ImplausibleError, match="camera_info fx"):
        message_checks.camera_info(info(fx))
    with pytest.raises(ImplausibleError, match="camera_info fy"):
        message_checks.camera_info(info(1750.0, fy=fx))


def test_sizes_and_states_that_do_not_exist() -> None:
    with pytest.raises(ImplausibleError, match="image width = 0"):
        message_checks.image(Image(height=512))
    with pytest.raises(ImplausibleError, match="image height"):
        message_checks.image(Image(height=2**32 - 1, width=512))
    with pytest.raises(ImplausibleError, match="camera_info cy"):
        message_checks.camera_info(info(1750.0, cy=float("nan")))
    with pytest.raises(ImplausibleError, match="state = 99"):
        message_checks.arm_state(CArmState(state=99))
    assert message_checks.arm_state(CArmState(state=CArmState.STATE_FAULT)).state == CArmState.STATE_FAULT


class Bench:
    """A node that fails at what is sent to it, and who sends it."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = OrderlyNode("fragile", context=self.context)
        self.sender = Node("sender", context=self.context)
        self.heard: list[str] = []
        self.ages: list[float] = []
        self.node.create_subscription(String, "words", self.on_words, 10, largest=1000)
        self.node.create_service(Trigger, "ask", self.on_ask)
        self.node.serve_action(Localize, "localize", lambda handle: Localize.Result(), goal_callback=self.on_goal)
        self.words = self.sender.create_publisher(String, "words", 10)
        self.ask = self.sender.create_client(Trigger, "ask")
        self.localize = ActionClient(self.sender, Localize, "localize")
        self.executor = _Pool(2, context=self.context)
        for node in (self.node, self.sender):
            self.executor.add_node(node)
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self.spin, daemon=True)
        self.thread.start()
        self.until(self.words.get_subscription_count)
        self.until(lambda: self.ask.service_is_ready() and self.localize.server_is_ready())

    def on_words(self, message: String) -> None:
        self.heard.append(message.data)
        raise {"implausible": ImplausibleError("no"), "deep": RecursionError(), "odd": KeyError("odd")}[message.data]

    def on_ask(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.ages.append(request_age_s())
        raise ValueError("not today")

    def on_goal(self, goal: Any) -> GoalResponse:
        raise OverflowError("too large")

    def spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            try:
                while self.context.ok():
                    self.executor.spin_once()
            except Exception as error:
                self.error = error

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.error is None
            assert time.monotonic() < deadline
            threading.Event().wait(0.005)

    def wait(self, future: Any) -> Any:
        self.until(future.done)
        return future.result()

    def close(self) -> None:
        rclpy.shutdown(context=self.context)
        self.thread.join(5.0)


@pytest.fixture
def bench(ros_domain: int) -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@pytest.mark.integration
def test_a_node_goes_on_whatever_it_is_sent(bench: Bench) -> None:
    for text in ("implausible", "deep", "odd", "unknown", "x" * 2000):
        bench.words.publish(String(data=text))
    bench.until(lambda: bench.node.refusals.count("words") == 5)
    assert bench.heard == ["implausible", "deep", "odd", "unknown"]  # the last was not even unpacked

    answer = bench.wait(bench.ask.call_async(Trigger.Request()))
    assert (answer.success, answer.message) == (False, "not today")
    assert 0.0 <= bench.ages[0] < PATIENCE_S
    assert not bench.wait(bench.localize.send_goal_async(Localize.Goal())).accepted
    assert bench.node.refusals.values() == {
        "refused from ask": "1",
        "refused from localize": "1",
        "refused from words": "5",
    }
    assert bench.node.failure is None
    assert bench.error is None
