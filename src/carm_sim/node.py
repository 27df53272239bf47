# SPDX-License-Identifier: Apache-2.0
"""Entry points of the nodes that stand in for hardware, or drive it."""

from typing import NoReturn

from carm_ros.entry import run


def motion_node() -> NoReturn:
    """Be the motion node."""
    run("carm_sim.nodes.motion_node")


def drive_node() -> NoReturn:
    """Be the drive node."""
    run("carm_sim.nodes.drive_node")


def xray_node() -> NoReturn:
    """Be the X-ray node."""
    run("carm_sim.nodes.xray_node")
