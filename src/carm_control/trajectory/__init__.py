# SPDX-License-Identifier: Apache-2.0
"""The trajectory controller: goals, splines, tolerances and stops, free of ROS."""
