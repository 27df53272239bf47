# SPDX-License-Identifier: Apache-2.0
"""``landmarks/contours``: edges of the registered CT's bones, for viewers that draw them over the X-ray image."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import ImageMarker

from carm_core.imaging.frame import XrayFrame
from carm_core.transforms import Array, RigidTransform
from carm_perception.nodes.messages import FRAME
from carm_perception.registration.similarity import field_mask
from carm_ros.node import OrderlyNode

if TYPE_CHECKING:
    from carm_sim.patient.volume import Volume

TOPIC = "landmarks/contours"
_COLOR = ColorRGBA(r=0.35, g=0.85, b=1.0, a=1.0)
_JOIN_S = 1.0

_Work = tuple[XrayFrame, RigidTransform, Time]


class CtLines:
    """Draws on a thread of its own, so that no answer waits for it; of images that wait, the newest only."""

    def __init__(self, node: OrderlyNode, frame_prefix: str) -> None:
        """Create the publisher.

        Args:
            node: The localizer node.
            frame_prefix: Prefix of the frame.
        """
        self._node, self._prefix = node, frame_prefix
        self._publisher: Any = node.create_publisher(ImageMarker, TOPIC, 2)
        self._work: _Work | None = None
        self._changed = threading.Condition()
        self._ended = False
        self._thread: threading.Thread | None = None

    def start(self, volume: Volume) -> None:
        """Prepare a CT, on the thread.

        Args:
            volume: The CT.
        """
        self.close()
        self._ended = False
        self._thread = threading.Thread(target=self._run, args=(volume,), name="contours", daemon=True)
        self._thread.start()

    def draw(self, frame: XrayFrame, transform_lps_to_table: RigidTransform, stamp: Time) -> None:
        """Draw an image's lines soon, if somebody listens; returns at once.

        Args:
            frame: The image, with its view.
            transform_lps_to_table: Where the CT lies, mm.
            stamp: Of the image.
        """
        if self._publisher.get_subscription_count():
            with self._changed:
                self._work = frame, transform_lps_to_table, stamp
                self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._ended, self._work = True, None
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
            self._thread = None

    def _run(self, volume: Volume) -> None:
        from carm_perception.localizers.ct_contours import CtContours

        contours = CtContours(volume)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._work is not None)
                work, self._work = self._work, None
            if self._ended or work is None:
                return
            frame, pose, stamp = work
            try:
                assert frame.view is not None
                lines = contours.lines(frame.view, pose, field_mask(frame.image))
                self._publisher.publish(marker(lines, stamp, self._prefix))
            except Exception as error:  # whatever it is, answers go on without lines
                self._node.get_logger().warning(f"no contours: {error}", throttle_duration_sec=5.0)


def marker(lines: list[Array], stamp: Time, frame_prefix: str) -> ImageMarker:
    """Return lines as one message.

    Args:
        lines: (N, 2) each: columns and rows in the display image, px.
        stamp: Of the image.
        frame_prefix: Prefix of the frame.
    """
    message = ImageMarker(ns="ct", type=ImageMarker.LINE_LIST, action=ImageMarker.ADD, scale=1.0, outline_color=_COLOR)
    message.header.stamp, message.header.frame_id = stamp, f"{frame_prefix}{FRAME}"
    corners = [[Point(x=x, y=y) for x, y in line.tolist()] for line in lines]
    message.points = [end for line in corners for pair in pairwise(line) for end in pair]
    return message
