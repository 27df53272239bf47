# SPDX-License-Identifier: Apache-2.0
"""The topic on which the supervisor gives permission to move."""

from __future__ import annotations

from rclpy.qos import QoSProfile, ReliabilityPolicy

PERMIT = "supervisor/permit"
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
LONGEST_REASON = 200
"""A longer reason is cut, in characters."""
