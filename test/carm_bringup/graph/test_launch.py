# SPDX-License-Identifier: Apache-2.0
"""Which nodes and settings the launch arguments of the three graphs ask for."""

from pathlib import Path

import pytest
import yaml

from carm_bringup.graph import description as graph
from carm_bringup.graph import launcher
from carm_core.paths import config_file
from carm_core.robot.kinematics import JOINT_NAMES, CArm

ROOT = Path(__file__).resolve().parents[3]
CARM = CArm.from_config()


def names(values: dict[str, graph.Value]) -> list[str]:
    return [spec.name for spec in graph.nodes(values)]


def spec(name: str) -> graph.NodeSpec:
    return next(s for s in graph.ALL_NODES if s.name == name)


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        ("sim", [], ["motion_node", "supervisor_node", "xray_node", "localizer_node", "agent_node", "console_node"]),
        (
            "sim",
            ["simulator:=gazebo"],
            ["state_node", "supervisor_node", "xray_node", "localizer_node", "agent_node", "console_node"],
        ),
        ("hardware", [], ["state_node", "supervisor_node", "localizer_node", "agent_node", "console_node"]),
        (
            "hardware",
            ["use_mock_hardware:=true"],
            ["state_node", "supervisor_node", "xray_node", "localizer_node", "agent_node", "console_node"],
        ),
        (
            "hardware",
            ["can:=virtual"],
            ["drive_node", "supervisor_node", "xray_node", "localizer_node", "agent_node", "console_node"],
        ),
        (
            "hardware",
            ["can:=socketcan:can0", "drives:=d.yaml"],
            ["drive_node", "supervisor_node", "localizer_node", "agent_node", "console_node"],
        ),
        (
            "hardware",
            ["xray:=simulated"],
            ["state_node", "supervisor_node", "xray_node", "localizer_node", "agent_node", "console_node"],
        ),
        ("replay", ["bag:=b"], ["localizer_node"]),
        (
            *("sim", ["headless:=true"]),
            ["motion_node", "supervisor_node", "xray_node", "localizer_node", "agent_node"],
        ),
        (
            "sim",
            ["console:=false", "localizer:=external"],
            ["motion_node", "supervisor_node", "xray_node", "agent_node"],
        ),
        ("sim", ["localizer:=external"], ["motion_node", "supervisor_node", "xray_node", "agent_node", "console_node"]),
    ],
)
def test_nodes(kind: str, words: list[str], expected: list[str]) -> None:
    values = graph.resolve(words, kind)
    assert graph.kind_of(values) == kind
    assert names(values) == expected


@pytest.mark.parametrize(
    ("words", "policy", "localizer"),
    [
        ([], "default", "fused"),
        (["policy:=pointing"], "pointing", "compact"),
        (["policy:=xml"], "xml", "compact"),
        (["policy:=regression"], "regression", "regression"),
        (["policy:=xml", "localizer:=openai"], "xml", "openai"),
    ],
)
def test_policy_chooses_the_localizer(words: list[str], policy: str, localizer: str) -> None:
    values = graph.resolve(words)
    assert graph.parameters(spec("agent_node"), values)["policy"] == policy
    assert graph.parameters(spec("localizer_node"), values)["localizer"] == localizer


def test_controller_and_joint_states_reach_the_nodes() -> None:
    values = graph.resolve(["controller:=/lab/jtc", "joint_states:=/lab/joint_states"], "hardware")
    for name in ("agent_node", "state_node", "supervisor_node"):
        assert graph.parameters(spec(name), values)["controller"] == "/lab/jtc"
        assert graph.remappings(spec(name), values) == (("joint_states", "/lab/joint_states"),)
    assert "controller" not in graph.parameters(spec("localizer_node"), values)


def test_what_moves_the_arm_is_supervised_and_surfaces_come_from_the_named_node() -> None:
    values = graph.resolve(["surface_source:=depth_camera"], "hardware")
    assert graph.parameters(spec("supervisor_node"), values)["surface_source"] == "depth_camera"
    assert graph.parameters(spec("agent_node"), values)["surface_source"] == "depth_camera"
    for name in ("motion_node", "drive_node", "state_node"):
        assert graph.parameters(spec(name), values)["supervised"] is True
    assert spec("supervisor_node").vital
    assert graph.parameters(spec("supervisor_node"), values)["watch_reference"] is True
    assert graph.parameters(spec("supervisor_node"), graph.resolve([]))["watch_reference"] is False


def test_optional_files_reach_their_nodes_when_named() -> None:
    plain = graph.resolve(["can:=virtual"], "hardware")
    assert "drives_config" not in graph.parameters(spec("drive_node"), plain)
    assert "adapter" not in graph.parameters(spec("localizer_node"), plain)
    named = graph.resolve(["can:=socketcan:can0", "drives:=/lab/drives.yaml", "adapter:=/lab/adapter"], "hardware")
    assert graph.parameters(spec("drive_node"), named)["drives_config"] == "/lab/drives.yaml"
    assert graph.parameters(spec("localizer_node"), named)["adapter"] == "/lab/adapter"


def test_simulated_time() -> None:
    for kind, word, on in (
        ("sim", "simulator:=gazebo", True),
        ("sim", "simulator:=embedded", False),
        ("hardware", "use_sim_time:=true", True),
        ("replay", "bag:=b", True),
    ):
        values = graph.resolve([word], kind)
        assert all(graph.parameters(s, values).get("use_sim_time", False) is on for s in graph.nodes(values)), word


@pytest.mark.parametrize(
    ("command", "unknown"),
    [
        (["ros2", "launch", "carm_bringup", "sim.launch.py"], ["patinet:=phantom:7"]),
        (["ros2", "launch", "launch/sim.launch.py"], ["patinet:=phantom:7"]),
        (["ros2", "launch", "lab_bringup", "sim.launch.py"], []),
        (["ros2", "launch", "/lab/sim.launch.py"], []),
        (["ros2", "launch", "carm_bringup", "hardware.launch.py"], []),
    ],
)
def test_misspelled_arguments_of_ros2_launch(command: list[str], unknown: list[str]) -> None:
    words = ["patinet:=phantom:7", "localizer:=oracle", "launch-prefix:=nice"]
    known = [argument.name for argument in graph.ARGUMENTS_OF["sim"]]
    assert graph.strangers(words, known, [*command, *words], str(ROOT / "launch/sim.launch.py")) == unknown
    for word in unknown:
        with pytest.raises(graph.ArgumentError, match="did you mean patient"):
            graph.resolve([word])
    other = ["ros2", "launch", "carm_bringup", "moveit.launch.py", "namespce:=lab"]
    known = ["namespace", "use_sim_time"]
    (word,) = graph.strangers(other[4:], known, other, str(ROOT / "launch/moveit.launch.py"))
    assert "did you mean namespace" in str(
        graph.unknown_argument(word.partition(":=")[0], ["namespace", "use_sim_time"])
    )


def test_frame_prefix_reaches_every_node_that_names_frames() -> None:
    values = graph.resolve(["frame_prefix:=left_arm/", "scene:=true"])
    prefixed = {s.name for s in graph.nodes(values) if graph.parameters(s, values).get("frame_prefix") == "left_arm/"}
    assert prefixed == {"motion_node", "supervisor_node", "xray_node", "localizer_node", "scene_node"}
    for name in ("state_node", "drive_node"):
        assert graph.parameters(spec(name), values)["frame_prefix"] == "left_arm/"
    assert graph.viewer_words(values) == ["--fixed-frame", "left_arm/table"]
    plain = graph.resolve(["scene:=true"])
    assert not any("frame_prefix" in graph.parameters(s, plain) for s in graph.nodes(plain))
    assert graph.viewer_words(plain) == []
    with pytest.raises(graph.ArgumentError, match="frame id"):
        graph.resolve(["frame_prefix:=/left arm"])


def test_description_is_published_once() -> None:
    for words, ours in (([], True), (["use_mock_hardware:=true"], False)):
        values = graph.resolve(words, "hardware")
        assert graph.parameters(spec("state_node"), values)["publish_description"] is ours


def test_no_exposure_is_made_on_a_real_detector() -> None:
    command = launcher.readiness_command(graph.resolve([], "hardware"), 0.0)
    assert "--no-exposure" in command.words
    assert "--no-exposure" not in launcher.readiness_command(graph.resolve([]), 0.0).words


@pytest.mark.parametrize(
    ("kind", "words", "reason"),
    [
        ("hardware", ["use_mock_hardware:=true", "can:=virtual"], "exclude each other"),
        ("hardware", ["use_sim_time:=true", "can:=virtual"], "exclude each other"),
        ("hardware", ["can:=socketcan:can0"], "needs drives:=FILE"),
        ("replay", [], "bag:= needs a value"),
        ("replay", ["bag:=b", "speed:=0"], "outside"),
        ("sim", ["policy:=guess"], "one of: default, pointing, xml, regression"),
        ("hardware", ["simulator:=gazebo"], "unknown launch argument"),
    ],
)
def test_contradictions_are_refused(kind: str, words: list[str], reason: str) -> None:
    with pytest.raises(graph.ArgumentError, match=reason):
        graph.resolve(words, kind)


@pytest.mark.parametrize(
    ("kind", "word", "wanted"),
    [("sim", "simulator:=gazebo", "gz-ros2-control"), ("hardware", "use_mock_hardware:=true", "ros2-controllers")],
)
def test_what_needs_a_ros_machine_says_so(
    kind: str, word: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launcher.launch([word], kind) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(word)
    assert wanted in line


def test_controllers_are_those_of_the_arm() -> None:
    content = yaml.safe_load(config_file("controllers.yaml").read_text(encoding="utf-8"))
    motion = yaml.safe_load(config_file("motion.yaml").read_text(encoding="utf-8"))["/**"]["ros__parameters"]
    manager = content["/**/controller_manager"]["ros__parameters"]
    for controller in ("joint_state_broadcaster", "joint_trajectory_controller"):
        assert manager[controller]["type"].startswith(f"{controller}/")
        assert content[f"/**/{controller}"]["ros__parameters"]["joints"] == list(JOINT_NAMES)
    settings = content["/**/joint_trajectory_controller"]["ros__parameters"]
    constraints = settings["constraints"]
    assert "state_publish_rate" not in settings
    assert settings["interpolate_from_desired_state"] is True
    assert constraints["decelerate_on_cancel"] is True
    assert constraints["goal_time"] == motion["goal_time_s"]
    for joint in CARM.joints:
        assert constraints[joint.name]["trajectory"] == motion[f"path_tolerance_{joint.unit}"]
        assert constraints[joint.name]["goal"] == motion[f"goal_tolerance_{joint.unit}"]
        assert constraints[joint.name]["max_deceleration_on_cancel"] == pytest.approx(joint.acceleration, rel=1e-4)
