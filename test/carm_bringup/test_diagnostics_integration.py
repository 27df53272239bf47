# SPDX-License-Identifier: Apache-2.0
"""What every node says about itself on /diagnostics, and which of its parameters change while it runs."""

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
READY_S = 90.0
PATIENCE_S = 15.0
PARTS = {
    "/carm/motion_node: control loop": {
        "missed cycles",
        "longest cycle (ms)",
        "measured control rate (Hz)",
        "joint states (Hz)",
    },
    "/carm/xray_node: X-ray": {"images (Hz)", "images left out", "requests waiting", "last exposure took (ms)"},
    "/carm/localizer_node: localizer": {"frames (Hz)", "frames passed over", "answers (Hz)", "latency (ms)"},
    "carm_agent": {"task", "joint states (Hz)", "images passed over", "localizer latency (ms)", "late answers dropped"},
    "/carm/scene_node: scene": {"images (Hz)", "images", "images shown"},
}
LATCHED = ("/tf_static", "/carm/robot_description", "/carm/patient_surface", "/carm/state", "/carm/scene/xray")

Spawn = Callable[..., "subprocess.Popen[str]"]


class Listener:
    """Hears diagnostics and sets parameters."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor

        self.context = rclpy.Context()
        self.context.init()
        self.node: Any = rclpy.create_node("listener", context=self.context)
        self.heard: dict[str, Any] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, 10)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def _hear(self, message: Any) -> None:
        self.heard |= {status.name: status for status in message.status}

    def until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, sorted(self.heard)
            self.executor.spin_once(timeout_sec=0.05)

    def set(self, node: str, **values: Any) -> str:
        """Set parameters one by one; return the reasons of refusals."""
        from rclpy.parameter import Parameter
        from rclpy.parameter_client import AsyncParameterClient

        client = AsyncParameterClient(self.node, f"/carm/{node}")
        self.until(client.services_are_ready)
        answer = client.set_parameters([Parameter(name, value=value) for name, value in values.items()])
        self.until(answer.done)
        return "; ".join(r.reason or "refused" for r in answer.result().results if not r.successful)

    def close(self) -> None:
        self.executor.remove_node(self.node)
        self.node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def listener(ros_domain: int) -> Iterator[Listener]:
    del ros_domain
    listener = Listener()
    yield listener
    listener.close()


def test_diagnostics_and_parameters(
    spawn: Spawn, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    terminal = spawn([*CARM, "sim", "policy:=regression", "patient:=phantom:7", "scene:=true"])
    lines: list[str] = []
    stream = terminal.stdout
    assert stream is not None
    threading.Thread(target=lambda: lines.extend(iter(stream.readline, "")), daemon=True).start()
    listener.until(lambda: any(line.startswith("Ready in") for line in lines) or terminal.poll() is not None, READY_S)
    assert terminal.poll() is None, "".join(lines)

    listener.until(lambda: set(PARTS) <= set(listener.heard))
    for name, keys in PARTS.items():
        assert keys <= {value.key for value in listener.heard[name].values}, name
    answers = {value.key: value.value for value in listener.heard["/carm/localizer_node: localizer"].values}
    assert answers["localizer"] == "regression"

    for topic in LATCHED:  # whoever comes late (a viewer, a bag, `ros2 topic echo`) hears the last word
        for info in listener.node.get_publishers_info_by_topic(topic):
            assert info.qos_profile.durability is DurabilityPolicy.TRANSIENT_LOCAL, topic
            assert info.qos_profile.reliability is ReliabilityPolicy.RELIABLE, topic

    assert listener.set("agent_node", tolerance_m=0.02, velocity_scaling=0.5) == ""
    assert "out of range" in listener.set("agent_node", tolerance_m=5.0)
    assert "one of: default" in listener.set("agent_node", policy="guess")
    assert "read-only" in listener.set("agent_node", controller="other")
    assert "min_confidence" in listener.set("agent_node", min_confidence=0.0)
    assert "maximum_risk" in listener.set("localizer_node", maximum_risk=0.0)  # never to abstain
    assert listener.set("localizer_node", maximum_risk=0.2, target="carina") == ""
    assert "to 1" in listener.set("localizer_node", maximum_risk=0.0001)
    assert "did you mean" in listener.set("localizer_node", target="carinna")
    assert "read-only" in listener.set("localizer_node", localizer="compact")
    assert listener.set("xray_node", rate_hz=5.0) == ""
    assert "out of range" in listener.set("xray_node", rate_hz=100.0)
    assert "read-only" in listener.set("xray_node", binning=1)
    assert listener.set("scene_node", rate_hz=1.0) == ""
    assert "read-only" in listener.set("motion_node", control_rate_hz=200.0)
    assert "joint" in listener.set("motion_node", blocked_joint="elbow")

    listener.until(lambda: listener.heard["/carm/xray_node: X-ray"].message == "fluoroscopy")
    view = spawn([*CARM, "view", "--primary", "25"])
    listener.until(lambda: listener.heard["carm_agent"].message not in ("idle", ""))
    if view.poll() is None:
        assert "a task runs" in listener.set("agent_node", tolerance_m=0.01)
    listener.until(lambda: view.poll() is not None)
    if view.returncode:  # on a machine that is too busy, late joint states stop the arm
        assert "no valid joint states" in view.communicate()[0]
        view = spawn([*CARM, "view", "--primary", "25"])
        listener.until(lambda: view.poll() is not None)
    assert view.returncode == 0, view.communicate()[0]

    assert "6 numbers" in listener.set("agent_node", staff_zones="1 2 3")
    zone = "-0.05 0.10 0.60 0.05 0.14 0.66"  # where the detector is at 0 deg, and not at 25 deg
    assert listener.set("agent_node", staff_zones=zone) == ""
    crowded = spawn([*CARM, "view", "--primary", "0"])
    listener.until(lambda: crowded.poll() is not None)
    assert crowded.returncode == 1
    assert "staff" in crowded.communicate()[0]
