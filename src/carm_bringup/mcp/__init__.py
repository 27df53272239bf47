# SPDX-License-Identifier: Apache-2.0
"""The tools of a running graph for other agents, by the Model Context Protocol. Knows nothing of ROS."""
