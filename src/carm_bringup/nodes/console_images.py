# SPDX-License-Identifier: Apache-2.0
"""X-ray images on their way to the console, on a thread of their own: they hold up neither state nor stop."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from carm_interfaces.msg import Exposure
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, JointState

from carm_bringup.console.archive import Picture, media_type
from carm_core.errors import CarmError, ImageError
from carm_core.imaging.orientation import direction_letters
from carm_core.imaging.projection import XrayView, flip_pixels
from carm_core.robot.joint_check import JointStateCheck
from carm_core.robot.kinematics import CArm
from carm_ros.message_checks import LARGEST_IMAGE, LARGEST_STATE, camera_info, joint_state
from carm_ros.messages import nanoseconds
from carm_ros.node import OrderlyNode
from carm_ros.side_node import SideNode

_KEPT = 64
"""Images whose view is known, or of which it is known whether they belong to a series."""
_WAITING = 8
"""Images that wait to be told which they are."""
_LATE_S = 0.5
"""Camera model and joint states that come later than the image by more are not of its pose, s."""
_PAUSE_S = 0.5
"""Where nothing tells single exposures from series, so many seconds lie between two that are kept."""


def side_letters(view: XrayView) -> dict[str, str]:
    """Return which side of the patient is at each side of the display image, such as ``{"right": "L", ...}``."""
    right, up = view.display_axes
    toward = {"right": right, "left": -right, "top": up, "bottom": -up}
    return {side: direction_letters(direction)[0] for side, direction in toward.items()}


def centered_isocenter_m(view: XrayView, pixel: tuple[float, float]) -> np.ndarray[Any, Any]:
    """Return where the isocenter has to be (3,), frame ``table``, m, for a pixel to come to the image center.

    Args:
        view: Of the image.
        pixel: Column and row in the display image, px; the point is taken to be at isocenter depth.
    """
    raw = flip_pixels(pixel, view.detector.columns)
    shift_mm = (np.asarray(view.center_px) - raw) * view.mm_per_px_at_isocenter
    return np.asarray((view.isocenter_mm + shift_mm @ np.array(view.display_axes)) / 1000.0)


class Images:
    """Hears images, and what belongs to them.

    Attributes:
        dose: The newest exposure; None before the first.
    """

    def __init__(
        self, node: OrderlyNode, carm: CArm, show: Callable[[Picture], None], keep: Callable[[Picture], None]
    ) -> None:
        """Begin to hear.

        Args:
            node: The console node.
            carm: The C-arm.
            show: Told each image, on this thread.
            keep: Told each single exposure, on this thread.
        """
        self._node, self._carm, self._show, self._keep = node, carm, show, keep
        self._check = JointStateCheck(carm.joints)
        self._info: CameraInfo | None = None
        self._joints = b""
        self._views: OrderedDict[str, XrayView] = OrderedDict()
        self._waiting: OrderedDict[str, Picture] = OrderedDict()
        self._series: OrderedDict[str, bool] = OrderedDict()
        self._kept_s = 0.0
        self._unplaced: Picture | None = None
        self._lock = threading.Lock()
        self.dose: Exposure | None = None
        self._side = SideNode(node, "images")
        self._side.subscribe(CompressedImage, "xray/image/compressed", self._on_image, 1, LARGEST_IMAGE)
        self._side.subscribe(CameraInfo, "xray/camera_info", self._on_info, 2, LARGEST_STATE)
        self._side.subscribe(Exposure, "xray/exposure", self._on_exposure, 20, LARGEST_STATE)
        joints = node.resolve_topic_name("joint_states")
        self._side.node.create_subscription(JointState, joints, self._on_joints, 1, raw=True)  # read when needed
        self._side.start()

    def view_of(self, key: str) -> XrayView:
        """Return the view of an image.

        Raises:
            ImageError: It is too old, or the view is unknown.
        """
        with self._lock:
            view = self._views.get(key)
        if view is None:
            raise ImageError("where this image was taken is not known any more; take another one")
        return view

    @property
    def joints(self) -> bytes:
        """The newest joint states as they came; empty before the first."""
        return self._joints

    def close(self) -> None:
        """End the thread."""
        self._side.close()

    def _on_joints(self, data: bytes) -> None:
        self._joints = data
        if self._unplaced is not None:
            self._place(self._unplaced)

    def _on_info(self, message: CameraInfo) -> None:
        self._info = camera_info(message)
        if self._unplaced is not None:
            self._place(self._unplaced)

    def _place(self, picture: Picture) -> None:
        """Show an image again that came before it could be known from where it was taken."""
        if time.time() - picture.about["time"] > _LATE_S:
            self._unplaced = None
            return
        about = self._placed(picture.key)
        if about:
            self._unplaced = None
            self._show(replace(picture, about=picture.about | about))

    def _placed(self, key: str) -> dict[str, Any]:
        """Return scale and sides of an image that was taken just now, and remember its view; empty: not known yet."""
        view = self._present_view()
        if view is None:
            return {}
        with self._lock:
            _remember(self._views, key, view)
        return {"mm_per_px": view.mm_per_px_at_isocenter, "sides": side_letters(view)}

    def _on_image(self, message: CompressedImage) -> None:
        data = bytes(message.data)
        kind = media_type(data)
        if not kind:
            raise ImageError("the compressed image is neither PNG nor JPEG")
        key = str(nanoseconds(message.header.stamp))
        placed = self._placed(key)
        picture = Picture(key, kind, data, {"time": time.time(), **placed})
        self._unplaced = None if placed else picture
        self._show(picture)
        self._sort(picture)

    def _present_view(self) -> XrayView | None:
        """Return the view by the newest joint states and camera model; None where one is missing or makes no sense."""
        info, data = self._info, self._joints
        if info is None or not data or len(data) > LARGEST_STATE:
            return None
        try:
            read = joint_state(deserialize_message(data, JointState), self._check, time.monotonic())
            return None if read is None else self._carm.view_of_image(read[0], info.width, info.height, info.k[0])
        except CarmError as error:
            self._node.refuse("joint_states", error)
            return None

    def _on_exposure(self, message: Exposure) -> None:
        self.dose = message
        key = str(nanoseconds(message.header.stamp))
        _remember(self._series, key, bool(message.fluoroscopy))
        picture = self._waiting.pop(key, None)
        if picture is not None:
            self._sort(picture)

    def _sort(self, picture: Picture) -> None:
        """Keep single exposures; which they are, another message says, which comes before or after."""
        series = self._series.get(picture.key)
        if series is None and self.dose is None:  # an X-ray system that does not say
            series = time.monotonic() - self._kept_s < _PAUSE_S
        if series is None:
            _remember(self._waiting, picture.key, picture, _WAITING)
        elif not series:
            self._kept_s = time.monotonic()
            self._keep(picture)


def _remember(memory: OrderedDict[str, Any], key: str, value: Any, most: int = _KEPT) -> None:
    memory[key] = value
    while len(memory) > most:
        memory.popitem(last=False)
