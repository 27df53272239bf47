# SPDX-License-Identifier: Apache-2.0
"""What all nodes share at the ROS edge: how a node is run, managed and ended."""
