# SPDX-License-Identifier: Apache-2.0
"""Every node by the time of /clock: it may stand still, go on, and go faster than the wall's."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

CARM = [sys.executable, "-c", "from carm_bringup.cli.app import main; main()"]
START_S = 1000.0
TICK_S = 0.01
READY_S = 90.0
PATIENCE_S = 30.0

Spawn = Callable[..., "subprocess.Popen[str]"]


class World:
    """Publishes /clock at a speed that can change, and keeps what the graph says."""

    def __init__(self) -> None:
        import rclpy
        from carm_interfaces.msg import CArmState, LandmarkArray
        from carm_interfaces.srv import Expose
        from rclpy.executors import SingleThreadedExecutor
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CameraInfo, JointState

        self.context = rclpy.Context()
        self.context.init()
        self.node: Any = rclpy.create_node("world", context=self.context)
        self.clock = self.node.create_publisher(Clock, "/clock", 10)
        self.speed, self.now_s, self.last_s = 0.0, START_S, time.monotonic()
        self.joints: list[Any] = []
        self.states: list[Any] = []
        self.infos: list[Any] = []
        self.answers: list[Any] = []
        for kind, name, store in (
            (JointState, "joint_states", self.joints),
            (CArmState, "state", self.states),
            (CameraInfo, "xray/camera_info", self.infos),
            (LandmarkArray, "landmarks", self.answers),
        ):
            self.node.create_subscription(kind, f"/carm/{name}", store.append, 10)
        self.expose = self.node.create_client(Expose, "/carm/xray/expose")
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def tick(self) -> None:
        from rosgraph_msgs.msg import Clock

        now_s = time.monotonic()
        if now_s - self.last_s >= TICK_S:  # at the rate of a simulator, however many messages come in between
            self.now_s += self.speed * (now_s - self.last_s)
            self.last_s = now_s
            message = Clock()
            message.clock.sec, message.clock.nanosec = int(self.now_s), int(1e9 * (self.now_s % 1))
            self.clock.publish(message)
        self.executor.spin_once(timeout_sec=TICK_S)

    def until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.states[-1:]
            self.tick()

    def shoot(self) -> Any:
        from carm_interfaces.srv import Expose

        answer = self.expose.call_async(Expose.Request())
        self.until(answer.done)
        return answer.result()


@pytest.fixture
def world(ros_domain: int) -> Iterator[World]:
    del ros_domain
    world = World()
    yield world
    world.executor.remove_node(world.node)
    world.node.destroy_node()
    world.context.shutdown()


def seconds(stamp: Any) -> float:
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


@pytest.mark.serial
def test_clock_paused_then_fast(spawn: Spawn, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    terminal = spawn([*CARM, "sim", "use_sim_time:=true", "localizer:=oracle", "patient:=phantom:7", "scene:=true"])
    lines: list[str] = []
    stream = terminal.stdout
    assert stream is not None
    threading.Thread(target=lambda: lines.extend(iter(stream.readline, "")), daemon=True).start()
    world.speed = 1.0
    world.until(lambda: any(line.startswith("Ready in") for line in lines) or terminal.poll() is not None, READY_S)
    assert terminal.poll() is None, "".join(lines)

    world.speed = 0.0
    world.until(lambda: len(world.joints) > 3)
    paused_s = world.now_s
    shot = world.shoot()
    assert shot.success, shot.error_msg
    assert seconds(shot.stamp) == pytest.approx(paused_s, abs=0.05)
    world.until(lambda: any(answer.header.stamp == shot.stamp for answer in world.answers))

    world.speed = 4.0
    for _ in range(3):
        view = spawn([*CARM, "view", "--primary", "20"])
        begin_s, begin = time.monotonic(), world.now_s
        world.until(lambda view=view: view.poll() is not None)  # type: ignore[misc]
        output = view.communicate()[0]
        if "held up" not in output:
            break
        reset = spawn([*CARM, "reset"])  # this machine stood still for 50 ms, which is a latched stop, rightly
        world.until(lambda reset=reset: reset.poll() is not None)  # type: ignore[misc]
    assert view.returncode == 0, output
    assert world.now_s - begin > 3 * (time.monotonic() - begin_s)
    assert world.states[-1].primary_angle == pytest.approx(0.349, abs=0.01)
    assert abs(seconds(world.joints[-1].header.stamp) - world.now_s) < 2.0

    go = spawn([*CARM, "navigate", "carina"])
    world.until(lambda: go.poll() is not None, READY_S)
    assert go.returncode == 0, go.communicate()[0] + "".join(lines)
    assert terminal.poll() is None, "".join(lines)
    assert not any("Traceback" in line for line in lines)
