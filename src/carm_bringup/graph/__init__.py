# SPDX-License-Identifier: Apache-2.0
"""The description of the ROS graph, and its launchers."""
