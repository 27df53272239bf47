# SPDX-License-Identifier: Apache-2.0
"""How nodes end: in time, in order, with their goals' clients told, and without a word about what raced."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
import rclpy
from action_msgs.msg import GoalStatus
from carm_interfaces.action import Localize
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

from carm_ros.node import END_S

pytestmark = pytest.mark.integration
FOLDER = Path(__file__).parent
STUBBORN = (sys.executable, FOLDER / "stubborn.py")
PATIENCE_S = 40.0
LATE_S = 1.5
"""A loaded machine may take so much longer to see the end of a process."""
Spawn = Callable[..., "subprocess.Popen[str]"]


class Client:
    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("client", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.localize = ActionClient(self.node, Localize, "localize")
        self.hang = self.node.create_client(Trigger, "hang")

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"no {what} in {PATIENCE_S} s"
            self.executor.spin_once(timeout_sec=0.05)

    def wait(self, future: Any, what: str) -> Any:
        self.until(future.done, what)
        return future.result()

    def goal(self) -> Any:
        self.until(self.localize.server_is_ready, "action server")
        handle = self.wait(self.localize.send_goal_async(Localize.Goal()), "answer to the goal")
        assert handle.accepted
        return handle.get_result_async()


@pytest.fixture
def client(ros_domain: int) -> Iterator[Client]:
    client = Client(ros_domain)
    yield client
    client.executor.shutdown()
    client.node.destroy_node()
    rclpy.shutdown(context=client.context)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_goal_is_aborted_and_its_client_told_before_the_node_is_gone(
    number: signal.Signals, client: Client, spawn: Spawn
) -> None:
    process = spawn((*STUBBORN, "goal"))
    results = [client.goal() for _ in range(3)]
    process.send_signal(number)
    for number_again in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number_again)
    for result in results:
        answer = client.wait(result, "result")
        assert (answer.status, answer.result.error_msg) == (GoalStatus.STATUS_ABORTED, "given up")
    output, _ = process.communicate(timeout=END_S + LATE_S)
    assert process.returncode == 0
    assert output == ""
    client.until(lambda: not client.localize.server_is_ready(), "end of the action server")


@pytest.mark.parametrize("what", ["close", "callback"])
def test_whatever_hangs_the_process_is_gone_in_time(what: str, client: Client, spawn: Spawn) -> None:
    process = spawn((*STUBBORN, what))
    client.until(client.hang.service_is_ready, "service")
    if what == "callback":
        client.hang.call_async(Trigger.Request())
        assert process.stdout is not None
        assert process.stdout.readline() == "hanging\n"
    started_s = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=END_S + LATE_S)
    assert process.returncode == 0
    assert time.monotonic() - started_s < END_S + LATE_S
    assert ("ended by force" in output) is (what == "close")
    assert "Traceback" not in output


@pytest.mark.parametrize(("what", "line"), [("fail", "the tick failed"), ("thread", "the thread failed")])
def test_an_error_in_a_callback_or_thread_ends_the_node_in_one_line(what: str, line: str, spawn: Spawn) -> None:
    process = spawn((*STUBBORN, what))
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, output) == (2, f"stubborn: {line}\n")


def test_a_thread_that_fails_while_the_node_ends_is_nobody_s_concern(spawn: Spawn) -> None:
    process = spawn((*STUBBORN, "late_thread"))
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=END_S + LATE_S)[0], process.returncode) == ("", 0)


def test_a_signal_during_the_imports_ends_the_process_without_a_word(spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "slow_module.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from carm_ros.entry import run; run('slow_module')"
    process = spawn((sys.executable, "-c", code))
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10.0)[0] == ""
    assert process.returncode == -signal.SIGINT
