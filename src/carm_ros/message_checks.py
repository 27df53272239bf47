# SPDX-License-Identifier: Apache-2.0
"""Plausibility of messages, checked where they come in (``carm_core.plausibility``)."""

from __future__ import annotations

from carm_interfaces.msg import CArmState
from sensor_msgs.msg import CameraInfo, Image, JointState

from carm_core.plausibility import ImplausibleError, at_most, number
from carm_core.robot.joint_check import Array, JointStateCheck
from carm_ros.messages import seconds

LARGEST_STATE = 2**16
"""Bytes of a message without image, mesh or list of landmarks."""
LARGEST_IMAGE = 2**26
"""Bytes of an image message: 8192 x 8192 pixels of 8 bits."""
LARGEST_TEXT = 2**20
"""Bytes of a sentence, or of what a model answers."""
LARGEST_PLAN = 2**22
"""Bytes of a planned motion; a trajectory has at most 10,000 points."""
_LONGEST_SIDE_PX = 8192
_FOCAL_PER_SIDE = (0.5, 1000.0)
_LONGEST_LINE = 4096


def joint_state(message: JointState, check: JointStateCheck, now_s: float) -> tuple[Array, Array] | None:
    """Return positions and velocities (J,), m or rad and per s; None when a joint is missing.

    Args:
        message: What came in.
        check: Of the arm.
        now_s: Monotonic, s.

    Raises:
        ImplausibleError: They cannot be true.
    """
    return check.read(message.name, message.position, message.velocity, seconds(message.header.stamp), now_s)


def camera_info(message: CameraInfo) -> CameraInfo:
    """Return a camera info whose focal lengths, in pixels, are those of an X-ray system.

    Raises:
        ImplausibleError: They are not.
    """
    sides = image_size(message.width, message.height)
    for name, place, side in (("fx", 0, sides[0]), ("fy", 4, sides[1])):
        low, high = (bound * side for bound in _FOCAL_PER_SIDE)
        number(f"camera_info {name}", message.k[place], low, high, "px")
    for name, place, side in (("cx", 2, sides[0]), ("cy", 5, sides[1])):
        number(f"camera_info {name}", message.k[place], -2.0 * side, 3.0 * side, "px")
    return message


def image(message: Image) -> Image:
    """Return an image of a size that can be used; its bytes are checked where its pixels are read.

    Raises:
        ImplausibleError: It is empty or too large.
    """
    image_size(message.width, message.height)
    return message


def image_size(columns: int, rows: int) -> tuple[int, int]:
    """Return width and height, px.

    Raises:
        ImplausibleError: One is 0 or too large.
    """
    number("image width", columns, 1, _LONGEST_SIDE_PX, "px")
    number("image height", rows, 1, _LONGEST_SIDE_PX, "px")
    return columns, rows


def arm_state(message: CArmState) -> CArmState:
    """Return an operating state that exists.

    Raises:
        ImplausibleError: It does not.
    """
    if message.state > CArmState.STATE_FAULT:
        raise ImplausibleError(f"state = {message.state} is none of 0 to {CArmState.STATE_FAULT}")
    at_most("message", message.message, _LONGEST_LINE)
    return message
