# SPDX-License-Identifier: Apache-2.0
"""``ros2 launch carm_bringup sim.launch.py``: the whole graph on the embedded simulator."""

from __future__ import annotations

import sys
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, Shutdown
from launch_ros.actions import Node
from launch_ros.substitutions import ExecutableInPackage

try:
    from carm_bringup import graph
except ImportError:  # launched from a checkout that is not installed into this interpreter's environment
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    from carm_bringup import graph

STOP_PATIENCE_S = "2"
"""How long a process may take after SIGINT, and again after SIGTERM, s: all have ended within 5 s of Ctrl-C."""


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return the nodes, with their parameters from the launch arguments."""
    words = [f"{a.name}:={context.launch_configurations[a.name]}" for a in graph.ARGUMENTS]
    values = graph.resolve(words)
    config = Path(__file__).resolve().parents[1] / "config"
    actions: list[LaunchDescriptionEntity] = [
        Node(
            package=graph.PACKAGE,
            executable=spec.executable,
            name=spec.name,
            namespace=graph.namespace(values),
            parameters=[str(config / spec.config), spec.parameters(values)],
            remappings=list(spec.remappings),
            output="screen",
            on_exit=Shutdown(reason=f"{spec.name} ended"),
            sigterm_timeout=STOP_PATIENCE_S,
            sigkill_timeout=STOP_PATIENCE_S,
        )
        for spec in graph.NODES
    ]
    carm = ExecutableInPackage(package=graph.PACKAGE, executable="carm")
    options = ["--namespace", graph.namespace(values), "--patient", str(values["patient"])]
    options += ["--localizer", str(values["localizer"])]
    actions.append(ExecuteProcess(cmd=[carm, "wait", *options], name="carm", output="screen"))
    if values["record"]:
        words = graph.record_words(values)
        actions.append(ExecuteProcess(cmd=[carm, *words], name="record", output="screen"))
    return actions


def generate_launch_description() -> LaunchDescription:
    """Declare the launch arguments of :mod:`carm_bringup.graph` and start what it describes."""
    arguments = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default_text,
            description=argument.description,
            choices=list(argument.choices) or None,
        )
        for argument in graph.ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
