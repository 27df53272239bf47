# SPDX-License-Identifier: Apache-2.0
"""ROS nodes that move the arm and that report where it is."""
