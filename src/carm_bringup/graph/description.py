# SPDX-License-Identifier: Apache-2.0
"""The one description of the ROS graphs: nodes, parameters, launch arguments and remappings.

There is one graph per launch file: ``sim``, ``hardware`` and ``replay``.

The launch file (``ros2 launch``) and the launcher for machines without ``launch_ros`` both read this module, so it
needs nothing but the standard library.
"""

from __future__ import annotations

import difflib
import itertools
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from carm_ros.distribution import distribution

PACKAGE = "carm_bringup"
FRAME_PREFIX_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z0-9_]+)*/?")
NAMESPACE_PATTERN = re.compile(r"/?[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")

Value = str | float | bool


class ArgumentError(ValueError):
    """A launch argument is unknown or has a bad value; the text is one line."""


@dataclass(frozen=True)
class Argument:
    """A launch argument, ``name:=value``.

    Attributes:
        name: Name.
        default: Default; its type (text, number, flag) is the argument's type.
        description: One line.
        choices: Allowed values; empty when any will do.
        lower: Smallest number allowed.
        upper: Largest number allowed.
    """

    name: str
    default: Value
    description: str
    choices: tuple[str, ...] = ()
    lower: float | None = None
    upper: float | None = None

    def parse(self, text: str) -> Value:
        """Convert a value from the command line.

        Raises:
            ArgumentError: The value is not allowed.
        """
        if isinstance(self.default, bool):
            if text.lower() not in ("true", "false"):
                raise ArgumentError(f"{self.name}:={text} must be true or false")
            return text.lower() == "true"
        if isinstance(self.default, float):
            return self._parse_number(text)
        if not text.strip():
            raise ArgumentError(f"{self.name}:= needs a value")
        if self.choices and text not in self.choices:
            raise ArgumentError(f"{self.name}:={text} must be one of: {', '.join(self.choices)}")
        if self.name == "namespace" and not NAMESPACE_PATTERN.fullmatch(text):
            raise ArgumentError(f"{self.name}:={text} is not a ROS namespace (letters, digits, underscores)")
        if self.name == "frame_prefix" and not FRAME_PREFIX_PATTERN.fullmatch(text):
            raise ArgumentError(f"{self.name}:={text} is not the start of a frame id, such as left_arm/")
        return text

    def _parse_number(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise ArgumentError(f"{self.name}:={text} is not a number") from None
        low = float("-inf") if self.lower is None else self.lower
        high = float("inf") if self.upper is None else self.upper
        if not low <= number <= high:
            raise ArgumentError(f"{self.name}:={text} is outside [{low:g}, {high:g}]")
        return number

    @property
    def default_text(self) -> str:
        """The default as it would be typed."""
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)


AUTO = "auto"
NONE = "none"
OPTIONAL = ("drives_config", "adapter", "frame_prefix", "ct", "tls_cert", "tls_key", "users_file")
"""Parameters that keep their own default when the launch argument is ``NONE``."""
EXTERNAL = "external"
LOCALIZERS = {"default": "fused", "pointing": "compact", "xml": "compact", "regression": "regression"}
"""Policy -> localizer that it uses unless another is named."""

ARGUMENTS: tuple[Argument, ...] = (
    Argument(
        "patient",
        "chest_ct",
        "chest_ct (real), phantom:SEED (generated), or a path (NIfTI file, DICOM folder)",
    ),
    Argument(
        "policy",
        "default",
        "how the agent navigates: default (fused localizer), pointing (the multimodal LLM alone), xml (it"
        " answers with directions and extents), regression (the deep-learning localizer alone)",
        choices=("default", "pointing", "xml", "regression"),
    ),
    Argument(
        "localizer",
        AUTO,
        "auto (set by the policy), fused"
        " (multimodal LLM of this project, checked by the deep-learning"
        " localizer), registered (the patient's CT, see ct), compact (the LLM alone),"
        " regression, a Hugging Face id or folder, openai (a server), oracle, or external (its node runs elsewhere)",
    ),
    Argument(
        "ct", NONE, "the patient's own CT with a landmarks.yaml: localizer fused or registered finds it in the X-rays"
    ),
    Argument("adapter", NONE, "folder or Hugging Face id of a PEFT adapter, if localizer:= names its base model"),
    Argument("server_url", "http://127.0.0.1:8000/v1", "localizer:=openai: address of the OpenAI-compatible server"),
    Argument("wait_for_all", True, "false: the agent moves before the X-ray system or the localizer is ready"),
    Argument("confirm", False, "true: the agent asks before each motion"),
    Argument("head_url", NONE, "OpenAI-compatible server of a larger model that acts with tools"),
    Argument("simulator", "embedded", "simulator instead of hardware", choices=("embedded", "gazebo")),
    Argument("headless", False, "true: do not open windows, and no console"),
    Argument("rviz", False, "true: open RViz, with scene:=true"),
    Argument("scene", False, "true: patient, X-ray image and landmarks as markers, for RViz and Foxglove"),
    Argument("console", True, "false: no operator console in the browser"),
    Argument("console_port", 0.0, "port of the console; 0: 8090, or any that is free", lower=0.0, upper=65535.0),
    Argument("console_host", "127.0.0.1", "address of the console; another needs console_cert and console_key"),
    Argument("console_cert", NONE, "certificate (PEM) of the console: HTTPS and named users (carm console user)"),
    Argument("console_key", NONE, "its private key (PEM)"),
    Argument("console_users", NONE, "users file of the console; none: ~/.config/carm/console_users.json"),
    Argument(
        "console_run",
        "confirm",
        "console: what moves runs after a confirmation (confirm), or only while a button or key is held (hold)",
        choices=("confirm", "hold"),
    ),
    Argument("use_sim_time", False, "true: the nodes use the time of /clock; always true with Gazebo"),
    Argument("record", False, "true: record the session as a bag (rosbag2, mcap) into ./recordings"),
    Argument("namespace", "carm", "ROS namespace of the graph"),
    Argument("frame_prefix", NONE, "prefix of every frame id, such as left_arm/ if two arms share /tf"),
    Argument("rate", 0.0, "fluoroscopy, frames per second; 0: single exposures on demand", lower=0.0, upper=30.0),
)


_BY_NAME = {argument.name: argument for argument in ARGUMENTS}
HARDWARE_ARGUMENTS: tuple[Argument, ...] = (
    Argument("use_mock_hardware", False, "true: ros2_control with mock hardware that repeats its commands"),
    Argument("can", NONE, "CAN bus with CiA 402 drives, such as socketcan:can0; virtual: simulated drives"),
    Argument(
        "drives", NONE, "file that describes the drives on the bus, a copy of config/drives.yaml with your numbers"
    ),
    Argument(
        "controller",
        "joint_trajectory_controller",
        "server of FollowJointTrajectory: the action is CONTROLLER/follow_joint_trajectory, such as /my_robot/jtc",
    ),
    Argument("joint_states", "joint_states", "topic of the joint states"),
    Argument(
        "xray",
        AUTO,
        "simulated, external (a driver of yours serves xray/expose), or auto: simulated without real motors",
        choices=(AUTO, "simulated", EXTERNAL),
    ),
    Argument(
        "surface_source",
        "xray_node",
        "node whose patient_surface is trusted; any: whichever it is, if it is the only one",
    ),
    *(_BY_NAME[name] for name in _BY_NAME if name not in ("simulator", "headless")),
)
REPLAY_ARGUMENTS: tuple[Argument, ...] = (
    Argument("bag", NONE, "folder of the bag"),
    Argument("speed", 1.0, "speed relative to the recording", lower=0.01, upper=100.0),
    *(
        _BY_NAME[name]
        for name in (
            "policy",
            "localizer",
            "ct",
            "adapter",
            "server_url",
            "patient",
            "namespace",
            "frame_prefix",
            "rviz",
            "scene",
        )
    ),
)
ARGUMENTS_OF: dict[str, tuple[Argument, ...]] = {
    "sim": ARGUMENTS,
    "hardware": HARDWARE_ARGUMENTS,
    "replay": REPLAY_ARGUMENTS,
}
"""Launch file -> its arguments."""


@dataclass(frozen=True)
class NodeSpec:
    """A node of the graph.

    Attributes:
        name: Node name.
        executable: Console script, which is also the ROS executable of ``carm_bringup``.
        config: Parameter file in ``config/``.
        arguments: Parameter -> launch argument that sets it.
        remappings: (from, to) pairs.
        vital: The graph ends with it.
    """

    name: str
    executable: str
    config: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    vital: bool = True


NODES: tuple[NodeSpec, ...] = (
    NodeSpec("motion_node", "motion_node", "motion.yaml", {"frame_prefix": "frame_prefix"}),
    NodeSpec(
        "xray_node", "xray_node", "xray.yaml", {"patient": "patient", "rate_hz": "rate", "frame_prefix": "frame_prefix"}
    ),
    NodeSpec(
        "localizer_node",
        "localizer_node",
        "localizer.yaml",
        {name: name for name in ("localizer", "ct", "patient", "server_url", "adapter", "frame_prefix")},
    ),
    NodeSpec(
        "agent_node",
        "agent_node",
        "agent.yaml",
        {
            "confirm_moves": "confirm",
            "wait_for_all": "wait_for_all",
            "head_url": "head_url",
            "policy": "policy",
            "surface_source": "surface_source",
        },
    ),
)
"""The graph on the embedded simulator."""
STATE_NODE = NodeSpec("state_node", "state_node", "state.yaml", {"frame_prefix": "frame_prefix"})
DRIVE_NODE = NodeSpec(
    "drive_node",
    "drive_node",
    "drive_node.yaml",
    {"bus": "can", "drives_config": "drives", "frame_prefix": "frame_prefix"},
)
SUPERVISOR_NODE = NodeSpec(
    "supervisor_node",
    "supervisor_node",
    "supervisor.yaml",
    {"surface_source": "surface_source", "frame_prefix": "frame_prefix"},
)
SCENE_NODE = NodeSpec("scene_node", "scene_node", "scene.yaml", {"frame_prefix": "frame_prefix"}, vital=False)
CONSOLE_NODE = NodeSpec(
    "console_node",
    "console_node",
    "console.yaml",
    {
        "host": "console_host",
        "tls_cert": "console_cert",
        "tls_key": "console_key",
        "users_file": "console_users",
        "run_mode": "console_run",
    },
    vital=False,
)
ALL_NODES = (*NODES, STATE_NODE, DRIVE_NODE, SUPERVISOR_NODE, SCENE_NODE, CONSOLE_NODE)
VIEWED = ("robot_description", "scene/patient", "scene/xray", "scene/landmarks", "landmarks/image", "clearance/line")
"""Topics of ``rviz/carm.rviz``."""
PACKAGES = {
    "gazebo": ("ros_gz_sim", "ros_gz_bridge", "gz_ros2_control", "robot_state_publisher", "controller_manager"),
    "mock": ("robot_state_publisher", "controller_manager", "joint_trajectory_controller", "joint_state_broadcaster"),
    "replay": ("ros2bag", "rosbag2_storage_mcap"),
}
"""What needs more of ROS 2 than the nodes do -> the packages."""


def kind_of(values: Mapping[str, Value]) -> str:
    """Return ``"sim"``, ``"hardware"`` or ``"replay"``: which graph the values are of."""
    return next(kind for kind, arguments in ARGUMENTS_OF.items() if {a.name for a in arguments} == set(values))


def stack(values: Mapping[str, Value]) -> str:
    """Return the key of ``PACKAGES`` that says what else runs beside the nodes; empty when nothing does."""
    if kind_of(values) == "replay":
        return "replay"
    if values.get("simulator") == "gazebo":
        return "gazebo"
    return "mock" if values.get("use_mock_hardware") else ""


def needs(values: Mapping[str, Value]) -> tuple[str, str]:
    """Return how the user asked for packages that not every machine has, and how to get them; empty when none."""
    ros = distribution()
    packages = {
        "gazebo": ("simulator:=gazebo", f"Gazebo {ros.gazebo} and {ros.packages('ros-gz', 'gz-ros2-control')}"),
        "mock": ("use_mock_hardware:=true", ros.packages("ros2-control", "ros2-controllers")),
        "replay": ("replay.launch.py", ros.packages("ros2bag", "rosbag2-storage-mcap")),
    }
    return packages.get(stack(values), ("", ""))


def nodes(values: Mapping[str, Value]) -> tuple[NodeSpec, ...]:
    """Return the nodes of the graph that the values of the launch arguments ask for."""
    motion, xray, localizer, agent = NODES
    kind = kind_of(values)
    scene = (SCENE_NODE,) if values["scene"] or values["rviz"] else ()
    here = () if values["localizer"] == EXTERNAL else (localizer,)
    if kind == "replay":
        return (*here, *scene)
    console = (CONSOLE_NODE,) if values["console"] and not values.get("headless") else ()
    if kind == "sim":
        driver = STATE_NODE if values["simulator"] == "gazebo" else motion
        return (driver, SUPERVISOR_NODE, xray, *here, agent, *console, *scene)
    driver = STATE_NODE if values["can"] == NONE else DRIVE_NODE
    return (driver, SUPERVISOR_NODE, *((xray,) if simulates_xray(values) else ()), *here, agent, *console, *scene)


def simulates_xray(values: Mapping[str, Value]) -> bool:
    """Return whether the graph simulates X-ray images; if not, only a task requests exposures."""
    if kind_of(values) == "sim":
        return True
    motorless = bool(values["use_mock_hardware"]) or values["can"] == "virtual"
    return values["xray"] == "simulated" or (values["xray"] == AUTO and motorless)


def parameters(spec: NodeSpec, values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the parameters of a node that launch arguments set, ``use_sim_time`` among them when it is on."""
    known = {parameter: values[name] for parameter, name in spec.arguments.items() if name in values}
    known = {name: value for name, value in known.items() if name not in OPTIONAL or value != NONE}
    if spec.name in ("agent_node", "state_node", "supervisor_node") and "controller" in values:
        known["controller"] = values["controller"]
    if spec.name == "agent_node" and values.get("ct", NONE) != NONE:
        from carm_agent.navigation.task import EXACT_WITH_CT_MM  # numpy, which `carm --help` does not need

        known["exact_radius_m"] = EXACT_WITH_CT_MM / 1000
    if spec.name == "console_node":
        known["port"] = int(values["console_port"])
    if spec.name in ("motion_node", "drive_node", "state_node"):
        known["supervised"] = True
    if spec.name == "supervisor_node":
        known["watch_reference"] = nodes(values)[0].name != "motion_node"  # simulated drives follow by construction
    if spec.name == "state_node":
        known["publish_description"] = stack(values) == ""  # else robot_state_publisher does
    if values.get("use_sim_time") or stack(values) in ("gazebo", "replay"):
        known["use_sim_time"] = True
    return known


def remappings(spec: NodeSpec, values: Mapping[str, Value]) -> tuple[tuple[str, str], ...]:
    """Return the (from, to) pairs of a node, those that launch arguments ask for among them."""
    topic = str(values.get("joint_states", "joint_states"))
    return spec.remappings + ((("joint_states", topic),) if topic != "joint_states" else ())


def viewer_remappings(values: Mapping[str, Value]) -> list[tuple[str, str]]:
    """Return the (from, to) pairs that bring ``rviz/carm.rviz`` into another namespace."""
    space = namespace(values)
    return [] if space == "/carm" else [(f"/carm/{topic}", f"{space}/{topic}") for topic in VIEWED]


def frame_prefix(values: Mapping[str, Value]) -> str:
    """Return what stands before every frame id; empty when nothing does."""
    return "" if values["frame_prefix"] == NONE else str(values["frame_prefix"])


def viewer_words(values: Mapping[str, Value]) -> list[str]:
    """Return the options of ``rviz2`` besides its file: the frame in which all else is drawn."""
    return ["--fixed-frame", f"{frame_prefix(values)}table"] if frame_prefix(values) else []


def record_words(values: Mapping[str, Value]) -> list[str]:
    """Return the words after ``carm`` that record the graph into a new folder below ./recordings."""
    folder = f"recordings/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    return ["record", "--namespace", namespace(values), "--output", folder]


def namespace(values: Mapping[str, Value]) -> str:
    """Return the namespace with its leading slash, for example ``"/carm"``."""
    return "/" + str(values["namespace"]).strip("/")


def strangers(words: Sequence[str], known: Collection[str], command: Sequence[str], path: str) -> list[str]:
    """Return the arguments of `ros2 launch` that a launch file does not have.

    Args:
        words: ``name:=value`` each, as typed.
        known: Names of the launch file's arguments.
        command: The whole command line. Where another launch file includes ours the arguments are for that one.
        path: Our launch file.
    """
    file = Path(path).name
    ours = (PACKAGE, file) in itertools.pairwise(command)
    ours = ours or any(Path(word).resolve() == Path(path).resolve() for word in command if word.endswith(file))
    own = {"launch-prefix", "launch-prefix-filter"}  # of ros2 launch
    return [word for word in words if ours and word.partition(":=")[0] not in own.union(known)]


def unknown_argument(name: str, known: Collection[str]) -> ArgumentError:
    """Return the refusal of a launch argument, with the nearest name that is known, or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return ArgumentError(f"unknown launch argument {name!r}; {hint}")


def resolve(words: Sequence[str], kind: str = "sim") -> dict[str, Value]:
    """Parse launch arguments.

    Args:
        words: ``name:=value`` each.
        kind: Key of ``ARGUMENTS_OF``.

    Returns:
        A value for every argument of the graph; ``localizer`` is what the policy wants unless it was named.

    Raises:
        ArgumentError: A word is malformed, unknown or has a value that is not allowed, or values contradict each other.
    """
    known = {argument.name: argument for argument in ARGUMENTS_OF[kind]}
    values: dict[str, Value] = {name: argument.default for name, argument in known.items()}
    for word in words:
        name, separator, text = word.partition(":=")
        if not separator:
            raise ArgumentError(f"{word!r} is not of the form name:=value, for example patient:=phantom:7")
        if name not in known:
            raise unknown_argument(name, known)
        values[name] = known[name].parse(text)
    if values["localizer"] == AUTO:
        values["localizer"] = LOCALIZERS[str(values["policy"])]
    if values.get("use_mock_hardware") and values["can"] != NONE:
        raise ArgumentError(f"use_mock_hardware:=true and can:={values['can']} exclude each other")
    bus = str(values.get("can", NONE))
    if bus != NONE and values["use_sim_time"]:
        raise ArgumentError(f"use_sim_time:=true and can:={bus} exclude each other: drives have their own time")
    if bus != NONE and not bus.startswith("virtual") and values["drives"] == NONE:
        raise ArgumentError(
            f"can:={bus} needs drives:=FILE, a copy of config/drives.yaml with the values of your drives"
        )
    if values.get("bag") == NONE:
        raise ArgumentError("bag:= needs a value: the folder of the bag")
    return values
