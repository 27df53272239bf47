# SPDX-License-Identifier: Apache-2.0
"""The graph on somebody else's motors: a controller in another namespace, found by launch arguments alone."""

import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from carm_core.robot.kinematics import JOINT_NAMES

pytestmark = pytest.mark.integration

CARM = [sys.executable, "-c", "from carm_bringup.cli.app import main; main()"]
MOTORS = [sys.executable, "-m", "carm_control.nodes.motion_node", "--ros-args", "-r", "__ns:=/my_robot"]
WORDS = [
    "controller:=/my_robot/joint_trajectory_controller",
    "joint_states:=/my_robot/joint_states",
    "xray:=simulated",
    "localizer:=oracle",
    "patient:=phantom:7",
]
READY_S = 90.0
PATIENCE_S = 20.0

Spawn = Callable[..., "subprocess.Popen[str]"]


class Bench:
    """The motors' and the arm's last words, and who publishes what."""

    def __init__(self) -> None:
        import rclpy
        from carm_interfaces.msg import CArmState
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import JointState

        self.context = rclpy.Context()
        self.context.init()
        self.node: Any = rclpy.create_node("bench", context=self.context)
        self.state: Any = None
        self.joints: Any = None
        self.node.create_subscription(CArmState, "/carm/state", lambda m: setattr(self, "state", m), 5)
        self.node.create_subscription(JointState, "/my_robot/joint_states", lambda m: setattr(self, "joints", m), 5)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        self.executor.spin_once(timeout_sec=0.05)
        while not condition():
            assert time.monotonic() < deadline, (self.state, self.joints)
            self.executor.spin_once(timeout_sec=0.05)

    def is_state(self, number: int) -> bool:
        self.executor.spin_once(timeout_sec=0.0)
        return self.state is not None and self.state.state == number

    def stop(self) -> None:
        """Press stop without the second or two that a new process takes."""
        from std_srvs.srv import Trigger

        client = self.node.create_client(Trigger, "/carm/stop")
        self.until(client.service_is_ready)
        answer = client.call_async(Trigger.Request())
        self.until(answer.done)
        assert answer.result().success

    @property
    def speed(self) -> float:
        return max(abs(v) for v in self.joints.velocity) if self.joints is not None else 0.0

    def close(self) -> None:
        self.executor.remove_node(self.node)
        self.node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def bench(ros_domain: int) -> Iterator[Bench]:
    del ros_domain
    bench = Bench()
    yield bench
    bench.close()


def carm(*words: str, timeout_s: float = 90.0) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*CARM, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False
    )


def child(process: "subprocess.Popen[str]", name: str) -> psutil.Process:
    children = psutil.Process(process.pid).children(recursive=True)
    return next(c for c in children if any(name in word for word in c.cmdline()[:3]))


def test_somebody_elses_controller(spawn: Spawn, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from carm_interfaces.msg import CArmState

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    motors = spawn(MOTORS)
    terminal = spawn([*CARM, "hardware", *WORDS])
    lines: list[str] = []
    assert terminal.stdout is not None
    stream = terminal.stdout
    threading.Thread(target=lambda: lines.extend(iter(stream.readline, "")), daemon=True).start()
    bench.until(
        lambda: any(line.startswith("Ready in") for line in list(lines)) or terminal.poll() is not None, READY_S
    )
    assert terminal.poll() is None, "".join(lines)
    assert bench.is_state(CArmState.STATE_IDLE)

    for _ in range(3):  # on a machine that is too busy, late joint states make the supervisor stop such a controller
        if carm("view", "--primary", "5").returncode == 0:
            break
        carm("reset")
    bench.until(lambda: bench.is_state(CArmState.STATE_IDLE) and abs(bench.state.primary_angle) > 0.08)

    moving = spawn([*CARM, "view", "--primary", "-30"])
    bench.until(lambda: bench.is_state(CArmState.STATE_MOVING) and bench.speed > 0.05)
    bench.stop()
    bench.until(lambda: bench.is_state(CArmState.STATE_STOPPED) and bench.speed < 0.01)
    assert moving.wait(PATIENCE_S) == 1
    refused = carm("view", "--primary", "5")
    assert refused.returncode == 1
    assert "stop" in refused.stderr
    assert carm("reset").returncode == 0
    bench.until(lambda: bench.is_state(CArmState.STATE_IDLE))

    goal = math.radians(40)
    spawn([*CARM, "view", "--primary", "40"])
    bench.until(lambda: bench.is_state(CArmState.STATE_MOVING) and bench.speed > 0.05)
    child(terminal, "agent_node").kill()  # nobody is left to cancel the motion but the state node
    assert terminal.wait(PATIENCE_S) == 1
    bench.until(lambda: bench.speed < 0.01)
    assert motors.poll() is None
    assert abs(bench.joints.position[JOINT_NAMES.index("orbital")]) < goal - 0.1, "the motion went on to its end"
    assert any("agent_node ended (killed by SIGKILL): stopping the graph" in line for line in lines)
    motors.send_signal(signal.SIGINT)
    assert motors.wait(PATIENCE_S) == 0
