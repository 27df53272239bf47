# SPDX-License-Identifier: Apache-2.0
"""The operator console: its web server, who is connected, who controls. Knows nothing of ROS."""
