# SPDX-License-Identifier: Apache-2.0
"""Landmark vocabulary, frames, C-arm kinematics and projection geometry: free of ROS and of torch."""
