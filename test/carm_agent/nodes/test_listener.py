# SPDX-License-Identifier: Apache-2.0
"""A stop among floods of sentences, and the share of each publisher."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import String
from std_srvs.srv import Trigger

from carm_agent.nodes.listener import FairShare, Listener
from carm_ros.node import OrderlyNode

SOON_S = 1.0
"""A stop is asked for within milliseconds; this much is allowed where the processor is busy with others, s."""
PATIENCE_S = 20.0


def test_one_publisher_does_not_take_all_and_a_second_is_not_refused() -> None:
    share = FairShare(20, 15)
    loud = [share.admits(number, 0.01 * number) for number in range(1, 100)]
    assert sum(loud) == 15
    assert share.admits(1, 0.99)
    assert not share.admits(100, 0.995)
    assert share.admits(101, 1.2)


def test_many_publishers_together_have_their_bound() -> None:
    share = FairShare(20, 15)
    admitted = sum(share.admits(1000 * stream + number, 0.5) for number in range(1, 30) for stream in range(1, 10))
    assert admitted == 20


def test_lost_sentences_do_not_make_another_publisher() -> None:
    share = FairShare(100, 5)
    assert sum(share.admits(number, 0.1) for number in range(1, 3000, 50)) == 5


class Room:
    """Agent node without an agent, a stop service, and publishers of words."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.agent = OrderlyNode("agent_node", namespace="/carm", context=self.context)
        self.others = Node("others", namespace="/carm", context=self.context)
        self.stops: list[float] = []
        self.heard: list[tuple[str, Any]] = []
        self.stopped: list[str] = []
        self.flooded: list[str] = []
        self.others.create_service(Trigger, "stop", self.stop)
        self.listener = Listener(
            self.agent, self.stopped.append, lambda words, stop: self.heard.append((words, stop)), self.flooded.append
        )
        self.flooder, self.clinician = (
            self.others.create_publisher(String, "clinician", QoSProfile(depth=1000)) for _ in range(2)
        )
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.others)
        self.thread = threading.Thread(target=self.spin, daemon=True)
        self.thread.start()
        self.until(lambda: self.clinician.get_subscription_count() and self.listener._client.service_is_ready())

    def spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self.executor.spin()

    def stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.stops.append(time.monotonic())
        response.success = True
        return response

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline
            threading.Event().wait(0.005)

    def close(self) -> None:
        self.listener.close()
        self.executor.shutdown()
        self.thread.join(5.0)
        self.agent.destroy_node()
        self.others.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def room(ros_domain: int) -> Iterator[Room]:
    made = Room()
    yield made
    made.close()


@pytest.mark.integration
def test_a_stop_among_hundreds_of_sentences_is_asked_for_at_once(room: Room) -> None:
    for turn, length in enumerate((20, 400, 100_000)):
        flood, words = String(data="take a look at it " * (length // 18 + 1)), f"please stop {turn}"
        stops, read, flooded = len(room.stops), len(room.heard), len(room.flooded)
        begun_s = time.monotonic()
        for number in range(300):
            room.flooder.publish(flood)
            threading.Event().wait(max(0.0, begun_s + number / 300 - time.monotonic()))
        asked_s = time.monotonic()
        room.clinician.publish(String(data=words))
        room.until(lambda before=stops: len(room.stops) > before)
        assert room.stops[stops] - asked_s < SOON_S, f"among sentences of {length} characters"
        room.until(lambda said=words: any(heard == said for heard, _ in room.heard))
        assert room.stopped[-1] == words
        answer = next(stop for heard, stop in room.heard if heard == words)
        room.until(answer.done)
        assert answer.result().success
        others = [heard for heard, _ in room.heard[read:] if heard != words]
        assert 1 <= len(others) <= 15 * (time.monotonic() - begun_s + 1)
        assert all(len(heard) <= 10_000 for heard in others)
        rest = flooded + 300 - len(others)
        room.until(lambda count=rest: len(room.flooded) == count)


@pytest.mark.integration
def test_in_a_flood_others_are_read_too_and_every_stop_is_obeyed(room: Room) -> None:
    for _ in range(200):
        room.flooder.publish(String(data="left a bit"))
    room.clinician.publish(String(data="show me the carina"))
    room.until(lambda: any(words == "show me the carina" for words, _ in room.heard))
    for _ in range(50):
        room.flooder.publish(String(data="stop"))
    room.until(lambda: len(room.stopped) == 50)
    last_s = time.monotonic()
    room.until(lambda: room.stops and room.stops[-1] >= last_s - 0.2)
    assert len(room.stops) < 50
    assert sum(words == "stop" for words, _ in room.heard) <= 10


@pytest.mark.integration
def test_a_sentence_that_is_no_sentence_is_refused_and_a_stop_is_heard_after_it(room: Room) -> None:
    room.flooder.publish(String(data="z" * (2**20 + 1)))
    room.until(lambda: room.agent.refusals.count("clinician") == 1)
    room.flooder.publish(String(data="stop"))
    room.until(lambda: room.stops)
