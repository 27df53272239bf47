# SPDX-License-Identifier: Apache-2.0
"""``ros2 launch carm_bringup sim.launch.py``: the whole graph on the embedded simulator or on Gazebo."""

from __future__ import annotations

import sys
from pathlib import Path

from launch import LaunchDescription

try:
    from carm_bringup.graph.ros_launch import describe
except ImportError:  # launched from a checkout that is not installed into this interpreter's environment
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    from carm_bringup.graph.ros_launch import describe


def generate_launch_description() -> LaunchDescription:
    """Describe the graph ``sim`` of :mod:`carm_bringup.graph.description`."""
    return describe("sim")
