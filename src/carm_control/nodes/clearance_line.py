# SPDX-License-Identifier: Apache-2.0
"""The smallest clearance as a line that RViz, Foxglove and the console draw."""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker

from carm_core.collision.clearance import Clearance, Margins, Verdict
from carm_core.transforms import Array
from carm_ros.node import OrderlyNode

TOPIC = "clearance/line"
PERIOD_S = 0.1
LIFETIME_S = 0.5
"""Viewers take a line away that is not renewed for so long, s."""
_WIDTH_M = 0.008
LINE_COLORS = {Verdict.CLEAR: (0.3, 0.8, 0.5), Verdict.WARNING: (1.0, 0.7, 0.0), Verdict.COLLISION: (0.9, 0.1, 0.1)}
"""Red, green, blue by how near it is."""


class ClearanceLine:
    """Publishes a marker on ``clearance/line``, at most 10 times a second, while somebody listens."""

    def __init__(self, node: OrderlyNode, frame_prefix: str) -> None:
        """Create the publisher.

        Args:
            node: The supervisor node.
            frame_prefix: Prefix of the frame.
        """
        self._publisher: Any = node.create_publisher(Marker, TOPIC, 1)
        self._next_s = 0.0
        self._marker = Marker(ns="clearance", type=Marker.LINE_LIST)
        self._marker.header.frame_id = f"{frame_prefix}table"
        self._marker.scale.x = _WIDTH_M
        self._marker.lifetime.nanosec = int(LIFETIME_S * 1e9)

    def show(self, clearance: Clearance | None, margins: Margins, stamp: Any, now_s: float) -> None:
        """Publish a clearance, unless that was done just now or nobody listens.

        Args:
            clearance: At the present position; None: not known, so there is no line.
            margins: What is near, and too near.
            stamp: Of the joint states.
            now_s: Monotonic time, s.
        """
        if now_s < self._next_s or not self._publisher.get_subscription_count():
            return
        self._next_s = now_s + 0.9 * PERIOD_S  # ticks come at their own rate
        marker = self._marker
        marker.header.stamp = stamp
        line = None if clearance is None else clearance.line_m
        marker.action = Marker.DELETE if line is None else Marker.ADD
        if line is None or clearance is None:
            marker.points = []
        else:
            marker.points = [_point(end) for end in line]
            red, green, blue = LINE_COLORS[margins.verdict(clearance.distance_m)]
            marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
        self._publisher.publish(marker)


def _point(place_m: Array) -> Point:
    x, y, z = place_m.tolist()
    return Point(x=x, y=y, z=z)
