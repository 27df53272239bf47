# SPDX-License-Identifier: Apache-2.0
"""What has happened since the console began, and its export as one file. Knows nothing of ROS."""
