# SPDX-License-Identifier: Apache-2.0
"""Entry points of the nodes of the bring-up."""

from typing import NoReturn

from carm_ros.entry import run


def scene_node() -> NoReturn:
    """Run the scene node."""
    run("carm_bringup.nodes.scene_node")


def console_node() -> NoReturn:
    """Run the console node."""
    run("carm_bringup.nodes.console_node")
