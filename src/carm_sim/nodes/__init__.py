# SPDX-License-Identifier: Apache-2.0
"""ROS nodes that stand in for hardware: motion controllers and X-ray system."""
