# SPDX-License-Identifier: Apache-2.0
"""The ``carm`` command, the one description of the ROS graph, and what starts it."""

__version__ = "0.1.0"
