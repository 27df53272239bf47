# SPDX-License-Identifier: Apache-2.0
"""The ROS side of this package."""
