# SPDX-License-Identifier: Apache-2.0
"""ROS node that replaces the X-ray system."""
