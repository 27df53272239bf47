# SPDX-License-Identifier: Apache-2.0
"""MoveIt's configuration of the C-arm, written from the same ``config/carm.yaml`` as the robot description.

Sources: SRDF as MoveIt 2 (Jazzy) reads it; parameter files in the form of MoveIt's setup assistant.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from carm_core.data_files import read_yaml
from carm_core.paths import share_dir
from carm_core.robot.kinematics import CArm
from carm_core.robot.urdf import urdf

GROUP = "carm"
"""Name of the planning group: all six joints, from the table to the isocenter."""
CONTROLLER = "joint_trajectory_controller"
Pair = tuple[str, str]


def named_states(carm: CArm) -> dict[str, dict[str, float]]:
    """Return named joint positions, m and rad: ``home``, and ``lateral``, the C turned by 90 degrees from there."""
    home = dict(zip(carm.joint_names, (float(value) for value in carm.home), strict=True))
    return {"home": home, "lateral": {**home, "orbital": home["orbital"] + math.pi / 2}}


def srdf(carm: CArm, apart: Mapping[Pair, str]) -> str:
    """Describe what MoveIt needs beyond the URDF: planning group, named states, pairs of links that are not checked.

    There is no virtual joint: the root link ``table`` stands still and is the planning frame, as on ``/tf``. There is
    no passive joint: every joint has a drive.

    Args:
        carm: The C-arm.
        apart: Pairs of links that need no collision check -> why, in MoveIt's words (``Adjacent``, ``Never``).

    Returns:
        The XML text.
    """
    robot = ET.Element("robot", name="carm")
    group = ET.SubElement(robot, "group", name=GROUP)
    ET.SubElement(group, "chain", base_link="table", tip_link="isocenter")
    for name, positions in named_states(carm).items():
        state = ET.SubElement(robot, "group_state", name=name, group=GROUP)
        for joint, value in positions.items():
            ET.SubElement(state, "joint", name=joint, value=repr(round(value, 12) + 0.0))
    for (first, second), reason in apart.items():
        ET.SubElement(robot, "disable_collisions", link1=first, link2=second, reason=reason)
    ET.indent(robot)
    return '<?xml version="1.0"?>\n' + ET.tostring(robot, encoding="unicode") + "\n"


def parameter_files(carm: CArm) -> dict[str, dict[str, Any]]:
    """Return MoveIt's parameters by file name; m, rad, s."""
    return {
        "joint_limits.yaml": _joint_limits(carm),
        "kinematics.yaml": {
            GROUP: {
                "kinematics_solver": "kdl_kinematics_plugin/KDLKinematicsPlugin",
                "kinematics_solver_search_resolution": 0.005,
                "kinematics_solver_timeout": 0.05,
            }
        },
        "moveit_controllers.yaml": _controllers(carm),
        "ompl_planning.yaml": _ompl(),
    }


def move_group_parameters(carm: CArm) -> dict[str, Any]:
    """Return the parameters of MoveIt's ``move_group`` node: robot description and the files of the folder ``moveit``.

    Args:
        carm: The C-arm.

    Raises:
        ConfigurationError: The shipped files are not found.
    """
    folder = share_dir() / "moveit"

    def content(name: str) -> Any:
        return read_yaml(folder / name)

    return {
        "robot_description": urdf(carm),
        "robot_description_semantic": (folder / "carm.srdf").read_text(encoding="utf-8"),
        "robot_description_kinematics": content("kinematics.yaml"),
        "robot_description_planning": content("joint_limits.yaml"),
        "planning_pipelines": ["ompl"],
        "default_planning_pipeline": "ompl",
        "ompl": content("ompl_planning.yaml"),
        **content("moveit_controllers.yaml"),
        "publish_robot_description": False,
        "publish_robot_description_semantic": True,
    }


def _joint_limits(carm: CArm) -> dict[str, Any]:
    limits = {
        joint.name: {
            "has_velocity_limits": True,
            "max_velocity": joint.velocity,
            "has_acceleration_limits": True,
            "max_acceleration": joint.acceleration,
            "has_jerk_limits": True,
            "max_jerk": joint.jerk,
        }
        for joint in carm.joints
    }
    return {
        "default_velocity_scaling_factor": 0.5,
        "default_acceleration_scaling_factor": 0.5,
        "joint_limits": limits,
    }


def _controllers(carm: CArm) -> dict[str, Any]:
    manager = "moveit_simple_controller_manager"
    return {
        "moveit_controller_manager": f"{manager}/MoveItSimpleControllerManager",
        manager: {
            "controller_names": [CONTROLLER],
            CONTROLLER: {
                "type": "FollowJointTrajectory",
                "action_ns": "follow_joint_trajectory",
                "default": True,
                "joints": list(carm.joint_names),
            },
        },
        "trajectory_execution": {
            "allowed_execution_duration_scaling": 1.2,
            "allowed_goal_duration_margin": 2.0,
            "allowed_start_tolerance": 0.005,
        },
    }


def _ompl() -> dict[str, Any]:
    requests = (
        "ResolveConstraintFrames",
        "ValidateWorkspaceBounds",
        "CheckStartStateBounds",
        "CheckStartStateCollision",
    )
    responses = ("AddTimeOptimalParameterization", "ValidateSolution", "DisplayMotionPath")
    return {
        "planning_plugins": ["ompl_interface/OMPLPlanner"],
        "request_adapters": [f"default_planning_request_adapters/{name}" for name in requests],
        "response_adapters": [f"default_planning_response_adapters/{name}" for name in responses],
        "planner_configs": {"RRTConnect": {"type": "geometric::RRTConnect", "range": 0.0}},
        GROUP: {
            "default_planner_config": "RRTConnect",
            "planner_configs": ["RRTConnect"],
            "longest_valid_segment_fraction": 0.005,
        },
    }
