# SPDX-License-Identifier: Apache-2.0
"""Entry points of the nodes that move the arm and that report where it is."""

from __future__ import annotations

from typing import NoReturn

from carm_ros.entry import run


def motion_node() -> NoReturn:
    """Run the motion node."""
    run("carm_control.nodes.motion_node")


def drive_node() -> NoReturn:
    """Run the drive node."""
    run("carm_control.nodes.drive_node")


def state_node() -> NoReturn:
    """Run the state node."""
    run("carm_control.nodes.state_node")


def supervisor_node() -> NoReturn:
    """Run the supervisor node."""
    run("carm_control.nodes.supervisor_node")
