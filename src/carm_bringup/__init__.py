# SPDX-License-Identifier: Apache-2.0
"""The ``carm`` command, the one description of the ROS graph, and what starts it."""
