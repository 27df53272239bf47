# SPDX-License-Identifier: Apache-2.0
"""Messages that several nodes share. Millimeters become meters here."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import Detector, XrayView
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory
from carm_ros.image_messages import display_pixels

NANOSECONDS = 1_000_000_000


FRAME = "xray_optical"


def image(pixels: NDArray[Any], header: Header) -> Image:
    """Return the image message of uint16 (``mono16``) or uint8 (``mono8``) pixels (rows, columns)."""
    rows, columns = pixels.shape
    message = Image(header=header, height=rows, width=columns, is_bigendian=0)
    message.encoding = "mono16" if pixels.dtype == np.uint16 else "mono8"
    message.step = columns * pixels.itemsize
    message.data = _bytes(pixels)
    return message


def compressed_image(
    pixels: NDArray[np.uint8], header: Header, image_format: str, jpeg_quality: int
) -> CompressedImage:
    """Return the compressed display image, ``png`` or ``jpeg``."""
    import cv2

    if image_format == "png":
        _, data = cv2.imencode(".png", pixels, (cv2.IMWRITE_PNG_COMPRESSION, 1))
    else:
        _, data = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, jpeg_quality))
    message = CompressedImage(header=header)
    message.format = f"mono8; {image_format} compressed "
    message.data = _bytes(data)
    return message


def camera_info(view: XrayView, header: Header) -> CameraInfo:
    """Return the camera model of ``image_raw``, without distortion."""
    message = CameraInfo(header=header, height=view.detector.rows, width=view.detector.columns)
    message.distortion_model = "plumb_bob"
    message.d = [0.0] * 5
    message.k = view.intrinsics.ravel().tolist()
    message.r = np.eye(3).ravel().tolist()
    message.p = np.hstack([view.intrinsics, np.zeros((3, 1))]).ravel().tolist()
    return message


def _bytes(pixels: NDArray[Any]) -> array[int]:
    data = array("B")
    data.frombytes(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data)
    return data


def nanoseconds(stamp: Time) -> int:
    """Return a stamp in ns."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def point_message(point_mm: Sequence[float]) -> Point:
    """Return a point (3,), mm, in m."""
    x, y, z = (float(value) / 1000.0 for value in point_mm)
    return Point(x=x, y=y, z=z)


def duration_message(seconds: float) -> Duration:
    """Return a duration of a number of seconds, rounded to ns."""
    total = round(seconds * NANOSECONDS)
    return Duration(sec=total // NANOSECONDS, nanosec=total % NANOSECONDS)


def trajectory_message(trajectory: Trajectory) -> JointTrajectory:
    """Return a trajectory that starts when it is received (zero stamp)."""
    message = JointTrajectory(joint_names=list(trajectory.joint_names))
    for index, time_s in enumerate(trajectory.times_s):
        point = JointTrajectoryPoint(time_from_start=duration_message(float(time_s)))
        point.positions = trajectory.positions[index].tolist()
        if trajectory.velocities is not None:
            point.velocities = trajectory.velocities[index].tolist()
        if trajectory.accelerations is not None:
            point.accelerations = trajectory.accelerations[index].tolist()
        message.points.append(point)
    return message


def frame_from_messages(image: Image, info: CameraInfo, carm: CArm, positions: NDArray[np.float64]) -> XrayFrame:
    """Return the frame of an image.

    Args:
        image: Any that ``carm_ros.image_messages`` reads.
        info: Its camera info.
        carm: The arm.
        positions: Joint positions at the image's stamp, shape (J,), m or rad.

    Raises:
        ImageError: The image cannot be read.
    """
    pixels = display_pixels(image)
    view = carm.view(positions)
    pitch_mm = view.source_detector_mm / info.k[0] if info.k[0] > 0.0 else view.detector.pitch_mm
    view = replace(view, detector=Detector(image.height, image.width, pitch_mm))
    primary, secondary = carm.angles(positions)
    scale = view.mm_per_px_at_isocenter
    return XrayFrame(pixels, scale, nanoseconds(image.header.stamp) / NANOSECONDS, primary, secondary, view)


def seconds(time: Time | Duration) -> float:
    """Convert a time or a duration to s."""
    return float(time.sec) + 1e-9 * float(time.nanosec)


def diagnostics(
    stamp: Time, name: str, level: bytes, text: str, values: Mapping[str, object], hardware_id: str = ""
) -> DiagnosticArray:
    """Make a report with one status.

    Args:
        stamp: Time of the report.
        name: Of the component.
        level: One of the levels of ``DiagnosticStatus``.
        text: One line.
        values: What to show.
        hardware_id: Of the component.
    """
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    status = DiagnosticStatus(level=level, name=name, message=text, values=pairs, hardware_id=hardware_id)
    return DiagnosticArray(header=Header(stamp=stamp), status=[status])
