# SPDX-License-Identifier: Apache-2.0
"""The agent's ROS edge: parameters and messages in, a pure call, messages out."""
