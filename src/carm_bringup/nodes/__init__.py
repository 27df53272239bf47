# SPDX-License-Identifier: Apache-2.0
"""Parts of the bring-up that are ROS nodes."""
