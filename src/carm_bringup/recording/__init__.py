# SPDX-License-Identifier: Apache-2.0
"""Recordings: rosbag2 bags (mcap) of a session, written, read and replayed. Knows nothing of rclpy."""
