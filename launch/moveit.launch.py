# SPDX-License-Identifier: Apache-2.0
"""``ros2 launch carm_bringup moveit.launch.py``: MoveIt's move_group beside a graph (needs ros-jazzy-moveit)."""

from __future__ import annotations

import sys
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

try:
    from carm_bringup.graph.description import strangers, unknown_argument
except ImportError:  # launched from a checkout that is not installed into this interpreter's environment
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    from carm_bringup.graph.description import strangers, unknown_argument
from carm_core.robot.kinematics import CArm
from carm_core.robot.moveit import move_group_parameters

ARGUMENTS = ("namespace", "use_sim_time")


def _move_group(context: LaunchContext) -> list[Node]:
    for word in strangers(context.argv, ARGUMENTS, sys.argv, __file__):
        raise unknown_argument(word.partition(":=")[0], ARGUMENTS)
    settings = context.launch_configurations
    parameters = move_group_parameters(CArm.from_config())
    parameters["use_sim_time"] = settings["use_sim_time"] == "true"
    return [
        Node(
            package="moveit_ros_move_group",
            executable="move_group",
            namespace=settings["namespace"],
            output="screen",
            parameters=[parameters],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Describe move_group, in the namespace of the graph."""
    arguments = [
        DeclareLaunchArgument("namespace", default_value="carm", description="ROS namespace of the graph"),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            description="true: move_group's time is that of /clock",
            choices=["true", "false"],
        ),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_move_group)])
