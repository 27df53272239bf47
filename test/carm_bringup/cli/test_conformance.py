# SPDX-License-Identifier: Apache-2.0
"""``carm doctor --controller``: our own controllers pass, a bad one fails by the names of its faults."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_bringup.cli import app as cli
from carm_bringup.cli import conformance
from carm_core.errors import ConfigurationError
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()
DOCTOR = (
    sys.executable,
    "-c",
    "import sys; from carm_bringup.cli.app import run; sys.exit(run(sys.argv[1:]))",
    "doctor",
)
PATIENCE_S = 120.0
BAD = Path(__file__).parents[1] / "fakes/bad_controller.py"
Spawn = Callable[..., Any]


@given(st.floats(0.02, 0.8), st.floats(0, 0.0002))
def test_the_stop_time_is_that_of_the_motion(duration_s: float, noise: float) -> None:
    times = np.arange(0, 3, 0.02)
    left = np.clip(duration_s - times, 0, None)
    positions = (1.0 - left**2)[:, None] + noise * np.random.default_rng(0).standard_normal((len(times), 1))
    late_s = math.sqrt(max(1e-4, 6 * noise))
    measured = conformance.stop_time(times + 50, positions, 50.0, np.array([1e-4]))
    assert duration_s - late_s - 0.03 <= measured <= duration_s + (0.03 if noise < 1e-5 else 2.0)


def test_an_arm_at_rest_has_stopped() -> None:
    assert conformance.stop_time(np.arange(10.0), np.zeros((10, 2)), 0.0, np.array([1e-6, 1e-6])) == 0


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_steps_stay_inside_the_limits(parts: list[float]) -> None:
    position = np.array([j.lower + p * (j.upper - j.lower) for j, p in zip(CARM.joints, parts, strict=True)])
    joints = conformance.Joints.at(CARM.joint_names, position, CARM)
    CARM.check(position + joints.step)
    assert np.abs(joints.step[:3]).max() <= 0.003
    assert np.abs(joints.step[3:]).max() <= math.radians(0.3)


def test_joints_of_another_robot_move_little() -> None:
    joints = conformance.Joints.at(("elbow",), np.array([3.0]), CARM)
    assert 0 < joints.step[0] <= 0.003


def test_nothing_moves_without_a_yes() -> None:
    joints = conformance.Joints.at(("lift",), np.array([0.1]), CARM)
    asked: list[str] = []
    conformance.confirm(joints, False, lambda text: asked.append(text) or " Y ")
    assert "lift +0.0030" in asked[0]
    conformance.confirm(joints, True)
    with pytest.raises(ConfigurationError, match="nothing was moved"):
        conformance.confirm(joints, False, lambda text: "")


def exit_code(words: list[str]) -> int:
    try:
        return cli.run(words)
    except SystemExit as refused:
        return int(str(refused.code))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--controller", "not a name"], "not a ROS name"),
        (["--controller", "/carm/jtc", "--json", "/nowhere/x.json"], "/nowhere"),
        (["--controller", "/carm/jtc", "--joint-states", "/"], "not a ROS name"),
    ],
)
def test_bad_input_is_one_line(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["doctor", *words]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.strip().splitlines()) == 1


def outcomes(output: str) -> dict[str, str]:
    """Name of each check -> PASS, FAIL or -."""
    lines = [line for line in output.splitlines() if line[:4].strip() in ("PASS", "FAIL", "-")]
    return {line[6:34].strip(): line[:4].strip() for line in lines}


def wait_for(controller: str) -> None:
    """Wait for a controller that starts: `carm doctor` itself does so for 5 s only."""
    import rclpy
    from control_msgs.action import FollowJointTrajectory
    from rclpy.action import ActionClient

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("waiting", context=context)
    try:
        assert ActionClient(node, FollowJointTrajectory, f"{controller}/follow_joint_trajectory").wait_for_server(
            PATIENCE_S
        )
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.integration
@pytest.mark.serial
@pytest.mark.parametrize("node", ["motion_node", "drive_node"])
def test_our_controllers_pass(node: str, spawn: Spawn, tmp_path: Path) -> None:
    pytest.importorskip("canopen", reason="needs the extra can")
    spawn((sys.executable, "-m", f"carm_control.nodes.{node}"))
    file = tmp_path / "doctor.json"
    name = "/carm/joint_trajectory_controller"
    wait_for(name)
    doctor = spawn((*DOCTOR, "--controller", name, "--json", file, *(["--yes"] if node == "drive_node" else [])))
    output, _ = doctor.communicate(timeout=PATIENCE_S)
    assert doctor.returncode == 0, output
    assert set(outcomes(output).values()) == {"PASS"}
    results = json.loads(file.read_text(encoding="utf-8"))["results"][name]
    assert set(results) == set(outcomes(output))
    assert 0 < results["stop time"]["stop_time_ms"] < 500
    assert results["joint states"]["joint_states_hz"] == pytest.approx(50, rel=0.2)


@pytest.mark.integration
def test_an_interrupt_cancels_what_moves(spawn: Spawn) -> None:
    spawn((sys.executable, "-m", "carm_control.nodes.motion_node"))
    wait_for("/carm/joint_trajectory_controller")
    doctor = spawn((*DOCTOR, "--controller", "/carm/joint_trajectory_controller"))
    assert doctor.stdout is not None
    assert doctor.stdout.readline().startswith("PASS  joint states")
    doctor.send_signal(signal.SIGINT)
    output, _ = doctor.communicate(timeout=PATIENCE_S)
    assert doctor.returncode == 130
    assert "Traceback" not in output


@pytest.mark.integration
def test_a_bad_controller_fails_by_the_names_of_its_faults(spawn: Spawn) -> None:
    spawn((sys.executable, BAD))
    wait_for("/lab/jtc")
    doctor = spawn((*DOCTOR, "--namespace", "/lab", "--controller", "jtc", "--yes"))
    output, _ = doctor.communicate(timeout=PATIENCE_S)
    assert doctor.returncode == 1, output
    assert "Traceback" not in output
    seen = outcomes(output)
    assert {name for name, outcome in seen.items() if outcome == "FAIL"} >= {
        "joint states",
        "feedback, path tracking",
        "refuses unknown joint",
        "refuses NaN position",
        "refuses no points",
        "refuses times out of order",
        "path tolerance",
        "preemption by a new goal",
        "cancel stops and holds",
    }
    assert seen["stop time"] == "-"
    assert "below 20 Hz" in output
    assert "time stamps do not increase" in output


@pytest.mark.integration
def test_who_is_not_there_and_who_cannot_be_asked(spawn: Spawn) -> None:
    spawn((sys.executable, BAD))
    wait_for("/lab/jtc")
    unasked = spawn((*DOCTOR, "--namespace", "/lab", "--controller", "jtc"))
    absent = spawn((*DOCTOR, "--namespace", "/lab", "--controller", "nobody"))
    output, _ = unasked.communicate(timeout=PATIENCE_S)
    assert unasked.returncode == 2, output
    assert "confirm it with --yes" in output.splitlines()[-1]
    output, _ = absent.communicate(timeout=PATIENCE_S)
    assert absent.returncode == 2, output
    assert len(output.strip().splitlines()) == 1
    assert "no action server nobody/follow_joint_trajectory" in output
    assert "there are /lab/jtc" in output


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.integration
def test_ctrl_c_that_a_destructor_swallows_is_heeded(ros_domain: int) -> None:
    """Python only prints what is raised in a destructor; the wait must end all the same."""
    from carm_bringup.nodes.client import session

    class Swallows:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with session("/carm") as graph:
        held = [Swallows()]
        held.clear()
        assert graph.pressed
        with pytest.raises(KeyboardInterrupt):
            graph.spin_until(lambda: False, 20.0)
        assert not graph.pressed
        assert not graph.spin_until(lambda: False, 0.1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
