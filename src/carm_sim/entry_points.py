# SPDX-License-Identifier: Apache-2.0
"""Entry point of the X-ray node."""

from typing import NoReturn

from carm_ros.entry import run


def xray_node() -> NoReturn:
    """Run the X-ray node."""
    run("carm_sim.nodes.xray_node")
