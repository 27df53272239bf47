# SPDX-License-Identifier: Apache-2.0
"""What the page draws over the X-ray: landmarks, the registered CT's contours, and the target of a navigation.

All of it runs on the node's executor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from carm_interfaces.msg import LandmarkArray
from std_msgs.msg import String
from visualization_msgs.msg import ImageMarker

from carm_bringup.nodes.console_tasks import finite
from carm_core.errors import CarmError
from carm_core.landmarks import find_landmark, landmark
from carm_core.localization import POINT_NAME
from carm_ros.message_checks import LARGEST_TEXT
from carm_ros.messages import nanoseconds
from carm_ros.node import OrderlyNode

_MOST_LANDMARKS = 64
_MOST_CORNERS = 8000
_LARGEST_CONTOURS = 1 << 20
_LARGEST_PX = 8192.0


class Overlays:
    """Hears what is drawn.

    Attributes:
        localizer: What the page shows of the localizer; None before its first answer.
        target: Name of the landmark that the agent brings to the center; empty: there is none.
    """

    def __init__(self, node: OrderlyNode, tell: Callable[[dict[str, Any]], None]) -> None:
        """Begin to hear.

        Args:
            node: The console node.
            tell: Sends a message to all pages.
        """
        self._tell = tell
        self.localizer: dict[str, Any] | None = None
        self.target = ""
        node.create_subscription(LandmarkArray, "landmarks", self._on_landmarks, 5, largest=LARGEST_TEXT)
        node.create_subscription(ImageMarker, "landmarks/contours", self._on_contours, 2, largest=_LARGEST_CONTOURS)
        node.create_subscription(String, "agent/task", self._on_task, 5, largest=LARGEST_TEXT)

    def _on_landmarks(self, message: LandmarkArray) -> None:
        self.localizer = {
            "name": message.localizer[:80],
            "latency_ms": finite(1000 * message.latency_s),
            "age_ms": finite(1000 * message.age_s),
            "message": message.message[:300],
        }
        marks = [
            {
                "name": one.name[:80],
                "in_view": bool(one.in_view),
                "pixel": [finite(value) for value in one.pixel],
                "offset_mm": finite(1000 * math.hypot(*one.displacement)),
                "radius_mm": finite(1000 * one.radius_90),
            }
            for one in message.landmarks[:_MOST_LANDMARKS]
        ]
        self._tell({"type": "landmarks", "image": str(nanoseconds(message.header.stamp)), "marks": marks})

    def _on_contours(self, message: ImageMarker) -> None:
        ends = [(point.x, point.y) for point in message.points[:_MOST_CORNERS]]
        if message.type != ImageMarker.LINE_LIST or not all(0 <= v <= _LARGEST_PX for end in ends for v in end):
            return
        image = str(nanoseconds(message.header.stamp))
        self._tell({"type": "contours", "image": image, "lines": joined(ends)})

    def _on_task(self, message: String) -> None:
        try:
            self.target = target_of(json.loads(message.data))
        except (CarmError, ValueError, KeyError, TypeError, AttributeError):  # not a task of our agent
            self.target = ""


def target_of(task: dict[str, Any]) -> str:
    """Return the name under which the localizer tells the target of a navigation (``agent/task``)."""
    if task.get("point_mm") is not None:
        return POINT_NAME
    return landmark(int(task["target_id"])).name if task.get("target_id") else find_landmark(task["target_name"]).name


def joined(ends: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Return pieces, each of which has a begin and an end, as lines: column, row, column, row ..., to 0.1 px."""
    lines: list[list[float]] = []
    last = (-1.0, -1.0)
    for begin, end in zip(ends[::2], ends[1::2], strict=False):
        if begin != last or not lines:
            lines.append([round(value, 1) for value in begin])
        lines[-1] += [round(value, 1) for value in end]
        last = end
    return lines
