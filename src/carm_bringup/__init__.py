# SPDX-License-Identifier: Apache-2.0
"""The ``carm`` command, the description of the ROS graph, and its launchers."""

__version__ = "0.1.0"
