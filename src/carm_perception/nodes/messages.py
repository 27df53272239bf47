# SPDX-License-Identifier: Apache-2.0
"""Messages of the localizer node. Meters become millimeters here, and back."""

from __future__ import annotations

from array import array

import numpy as np
from builtin_interfaces.msg import Time
from carm_interfaces.msg import Landmark, LandmarkArray
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from carm_core.imaging.frame import XrayFrame
from carm_core.localization import LandmarkEstimate, Localization
from carm_perception.images.overlay import in_view, pixel_of
from carm_ros.messages import seconds

FRAME = "xray_optical"


def landmark_message(estimate: LandmarkEstimate, frame: XrayFrame) -> Landmark:
    """Return one estimate."""
    message = Landmark(id=estimate.id, name=estimate.name, in_view=in_view(estimate, frame))
    message.pixel = np.array(pixel_of(estimate, frame), np.float32)
    message.displacement = np.array(estimate.displacement_mm, np.float32) / np.float32(1000)
    message.standard_deviation = float(estimate.std_mm) / 1000
    message.radius_90 = float(estimate.radius_90_mm) / 1000
    message.confidence = float(estimate.confidence)
    message.depth = float(estimate.depth_mm) / 1000
    message.depth_standard_deviation = float(estimate.depth_std_mm) / 1000
    return message


def landmark_array(
    stamp: Time, now: Time, frame: XrayFrame, reply: Localization, frame_prefix: str = ""
) -> LandmarkArray:
    """Return what a localizer says about a frame."""
    message = LandmarkArray(header=Header(stamp=stamp, frame_id=frame_prefix + FRAME))
    message.localizer, message.model_version = reply.localizer, reply.model_version
    message.protocol, message.target_id = str(reply.query.protocol), reply.query.target_id or 0
    message.answer, message.abstained, message.message = reply.answer, reply.abstained, reply.message
    message.landmarks = [landmark_message(estimate, frame) for estimate in reply.estimates]
    message.latency_s = float(reply.latency_s)
    message.age_s = max(0.0, seconds(now) - seconds(stamp))
    return message


def rgb_image(stamp: Time, pixels: NDArray[np.uint8], frame_prefix: str = "") -> Image:
    """Return the image message of uint8 (rows, columns, 3)."""
    rows, columns, _ = pixels.shape
    header = Header(stamp=stamp, frame_id=frame_prefix + FRAME)
    message = Image(header=header, height=rows, width=columns, encoding="rgb8")
    message.step = 3 * columns
    data = array("B")
    data.frombytes(pixels.tobytes())
    message.data = data
    return message
