# SPDX-License-Identifier: Apache-2.0
"""rosbag2 bags (mcap): reader, writer, topics, message definitions."""
