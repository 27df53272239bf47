# SPDX-License-Identifier: Apache-2.0
"""The drive node as a process of its own with simulated drives on a CAN bus, driven over DDS as a client would."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from carm_control import OperatingState
from carm_core.paths import config_file
from carm_core.robot.kinematics import CArm

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("canopen", reason="needs the extra can")
from action_msgs.msg import GoalStatus

from carm_ros.messages import seconds

from .test_motion_node import EXIT_S, Client, Result, move

pytestmark = pytest.mark.integration
CARM = CArm.from_config()
NODE = (sys.executable, "-m", "carm_control.nodes.drive_node", "--ros-args")
VCAN = next((path.name for path in sorted(Path("/sys/class/net").glob("vcan*"))), "")
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    """Drives of which the lift follows nothing, and wigwag must be homed (where it stands)."""
    content: dict[str, Any] = yaml.safe_load(config_file("drives.yaml").read_text(encoding="utf-8"))
    content["drives"]["lift"]["following_error_m"] = 1e-6
    content["drives"]["wigwag"]["homing"] = {"method": 35, "position_deg": 0, "fast_deg_s": 2, "slow_deg_s": 1}
    path = tmp_path / "drives.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def connect(domain: int, process: subprocess.Popen[str]) -> Client:
    client = Client(domain)
    client.until(client.action.server_is_ready, f"action server (process: {process.poll()})")
    client.met()
    return client


@pytest.fixture
def client(ros_domain: int, spawn: Spawn) -> Iterator[Client]:
    made = connect(ros_domain, spawn((*NODE, "-p", "bus:=virtual")))
    yield made
    made.close()


def test_the_contract_of_the_motion_node(client: Client) -> None:
    client.await_state(OperatingState.IDLE)
    status, result = client.end_of(client.send(move(3.0, cart_longitudinal=0.1, tilt=-0.2)))
    assert (status, result.error_code) == (GoalStatus.STATUS_SUCCEEDED, Result.SUCCESSFUL), result.error_string
    heard = len(client.heard["joint_states"])
    client.until(lambda: len(client.heard["joint_states"]) > heard + 100, "joint states")
    np.testing.assert_allclose(client.positions(), CARM.home + np.array([0.1, 0, 0, 0, -0.2, 0]), atol=1e-3)
    stamps = np.array([seconds(m.header.stamp) for m in client.heard["joint_states"][heard:]])
    assert np.median(np.diff(stamps)) == pytest.approx(0.02, rel=0.1)
    assert client.feedback

    handle = client.send(move(5.0))
    client.until(lambda: abs(client.latest("joint_states").velocity[0]) > 0.01, "motion")
    client.wait(handle.cancel_goal_async(), "answer to cancel")
    assert client.end_of(handle)[0] == GoalStatus.STATUS_CANCELED

    handle = client.send(move(5.0, lift=0.05))
    client.until(lambda: abs(client.latest("joint_states").velocity[2]) > 0.005, "motion")
    assert client.call("stop").success
    status, result = client.end_of(handle)
    assert (status, result.error_code) == (GoalStatus.STATUS_ABORTED, Result.INVALID_GOAL)
    client.await_state(OperatingState.STOPPED)
    assert "reset" in client.rejected(move(5.0))
    assert client.call("reset").success
    client.await_state(OperatingState.IDLE)
    client.until(lambda: any("drive of lift" in m.status[0].name for m in client.heard["/diagnostics"]), "diagnostics")


def test_homing_a_fault_and_its_reset(ros_domain: int, spawn: Spawn, drives: Path) -> None:
    process = spawn((*NODE, "-p", f"drives_config:={drives}"))
    client = connect(ros_domain, process)
    client.until(lambda: client.heard["state"] and "wigwag not homed" in client.latest("state").message, "need to home")
    assert client.latest("state").state == OperatingState.STARTING
    assert "not homed" in client.rejected(move(3.0))
    answer = client.call("home")
    assert answer.success, answer.message
    client.await_state(OperatingState.IDLE)

    status, result = client.end_of(client.send(move(3.0, cart_longitudinal=0.1, lift=0.05)))
    assert (status, result.error_code) == (GoalStatus.STATUS_ABORTED, Result.PATH_TOLERANCE_VIOLATED)
    assert "lift: following error" in result.error_string
    state = client.await_state(OperatingState.FAULT)
    assert "lift: following error" in state.message
    rest = client.positions()
    assert "reset" in client.rejected(move(3.0, cart_longitudinal=0.1))
    answer = client.call("home")
    assert not answer.success
    assert "lift: following error" in answer.message
    assert "carm reset" in answer.message
    np.testing.assert_allclose(client.positions(), rest, atol=1e-3)
    answer = client.call("reset")
    assert answer.success, answer.message
    client.await_state(OperatingState.IDLE)
    status, result = client.end_of(client.send(move(3.0, ("cart_longitudinal",), cart_longitudinal=0.1)))
    assert (status, result.error_code) == (GoalStatus.STATUS_SUCCEEDED, Result.SUCCESSFUL), result.error_string
    client.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=EXIT_S) == 0
    assert process.stdout is not None
    assert "Traceback" not in process.stdout.read()


@pytest.mark.skipif(not VCAN, reason="no vcan interface: ip link add vcan0 type vcan")
def test_on_a_can_interface_of_the_kernel(ros_domain: int, spawn: Spawn) -> None:
    client = connect(ros_domain, spawn((*NODE, "-p", f"bus:=socketcan:{VCAN}", "-p", "simulate:=true")))
    client.await_state(OperatingState.IDLE)
    status, result = client.end_of(client.send(move(3.0, cart_longitudinal=0.1)))
    assert status == GoalStatus.STATUS_SUCCEEDED, result.error_string
    client.close()


DRIVES = config_file("drives.yaml")


def test_what_cannot_start_is_one_line(start_each: Callable[..., list[tuple[int, str]]]) -> None:
    refusals = [
        (f"bus:=can0 drives_config:={DRIVES}", 2, "neither 'virtual' nor INTERFACE:CHANNEL"),
        (f"bus:=socket:can0 drives_config:={DRIVES}", 2, "no interface 'socket'"),
        ("bus:=socketcan:nowhere0", 2, "needs drives_config"),
        (f"bus:=socketcan:nowhere0 drives_config:={DRIVES}", 1, "bus socketcan:nowhere0 cannot be opened"),
        ("bus:=virtual:empty", 1, "cart_longitudinal: node 1 does not answer"),
        ("control_rate_hz:=60.0", 2, "16.667 ms"),
        ("drives_config:=/nowhere.yaml", 2, "/nowhere.yaml"),
        ("use_sim_time:=true", 2, "use_sim_time"),
    ]
    ends = start_each("carm_control.nodes.drive_node", [setting for setting, _, _ in refusals])
    for (_, expected, words), (code, output) in zip(refusals, ends, strict=True):
        assert code == expected, output
        assert words in output
        assert len(output.strip().splitlines()) == 1, output


def test_a_failed_homing_says_that_a_reset_is_needed(ros_domain: int, spawn: Spawn, drives: Path) -> None:
    content = yaml.safe_load(drives.read_text(encoding="utf-8"))
    content["drives"]["wigwag"]["homing"]["method"] = -3
    drives.write_text(yaml.safe_dump(content), encoding="utf-8")
    process = spawn((*NODE, "-p", f"drives_config:={drives}"))
    client = connect(ros_domain, process)
    for words in ("method -3", "drive fault: wigwag: homing error"):
        answer = client.call("home")
        assert not answer.success
        assert words in answer.message
        assert "carm reset" in answer.message
    client.await_state(OperatingState.FAULT)
    answer = client.call("reset")
    assert answer.success, answer.message
    client.await_state(OperatingState.STARTING)
    client.close()
