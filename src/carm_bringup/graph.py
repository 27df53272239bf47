# SPDX-License-Identifier: Apache-2.0
"""The one description of the ROS graph: nodes, parameters, launch arguments and remappings.

The launch file (``ros2 launch``) and the launcher for machines without ``launch_ros`` both read this module, so it
needs nothing but the standard library.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PACKAGE = "carm_bringup"
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


ARGUMENTS: tuple[Argument, ...] = (
    Argument(
        "patient",
        "chest_ct",
        "chest_ct (real), phantom:SEED (generated), or a path (NIfTI file, DICOM folder)",
    ),
    Argument(
        "localizer",
        "fused",
        "fused (multimodal LLM of this project, with the deep-learning localizer as referee), compact (the LLM alone),"
        " regression, a Hugging Face id or folder, openai (a server), or oracle",
    ),
    Argument("server_url", "http://127.0.0.1:8000/v1", "localizer:=openai: address of the OpenAI-compatible server"),
    Argument("confirm", False, "true: the agent asks before each motion"),
    Argument("head_url", "none", "OpenAI-compatible server of a larger model that acts by tools"),
    Argument("simulator", "embedded", "what stands in for hardware", choices=("embedded",)),
    Argument("headless", False, "true: open no windows"),
    Argument("record", False, "true: record the session as a bag (rosbag2, mcap) into ./recordings"),
    Argument("namespace", "carm", "ROS namespace of the graph"),
    Argument("rate", 0.0, "fluoroscopy, frames per second; 0: single exposures on demand", lower=0.0, upper=30.0),
)


@dataclass(frozen=True)
class NodeSpec:
    """A node of the graph.

    Attributes:
        name: Node name.
        executable: Console script, which is also the ROS executable of ``carm_bringup``.
        config: Parameter file in ``config/``.
        arguments: Parameter -> launch argument that sets it.
        remappings: (from, to) pairs.
    """

    name: str
    executable: str
    config: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()

    def parameters(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the parameters that launch arguments set."""
        return {parameter: values[argument] for parameter, argument in self.arguments.items()}


NODES: tuple[NodeSpec, ...] = (
    NodeSpec("motion_node", "motion_node", "motion.yaml"),
    NodeSpec("xray_node", "xray_node", "xray.yaml", {"patient": "patient", "rate_hz": "rate"}),
    NodeSpec(
        "localizer_node",
        "localizer_node",
        "localizer.yaml",
        {"localizer": "localizer", "patient": "patient", "server_url": "server_url"},
    ),
    NodeSpec("agent_node", "agent_node", "agent.yaml", {"confirm_moves": "confirm", "head_url": "head_url"}),
)


def record_words(values: Mapping[str, Value]) -> list[str]:
    """Return the words after ``carm`` that record the graph into a new folder below ./recordings."""
    folder = f"recordings/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    return ["record", "--namespace", namespace(values), "--output", folder]


def namespace(values: Mapping[str, Value]) -> str:
    """Return the namespace with its leading slash, for example ``"/carm"``."""
    return "/" + str(values["namespace"]).strip("/")


def resolve(words: Sequence[str]) -> dict[str, Value]:
    """Parse launch arguments.

    Args:
        words: ``name:=value`` each.

    Returns:
        A value for every argument of the graph.

    Raises:
        ArgumentError: A word is malformed, unknown or has a value that is not allowed.
    """
    known = {argument.name: argument for argument in ARGUMENTS}
    values: dict[str, Value] = {argument.name: argument.default for argument in ARGUMENTS}
    for word in words:
        name, separator, text = word.partition(":=")
        if not separator:
            raise ArgumentError(f"{word!r} is not of the form name:=value, for example patient:=phantom:7")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ArgumentError(f"unknown launch argument {name!r}; {hint}")
        values[name] = known[name].parse(text)
    return values
