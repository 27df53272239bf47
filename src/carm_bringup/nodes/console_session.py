# SPDX-License-Identifier: Apache-2.0
"""Exposures on their way to the session's export, on a thread of their own.

The detector's signal is kept as it comes, and unpacked for single exposures only.
"""

from __future__ import annotations

import math
import struct
import time
from collections import OrderedDict, deque
from dataclasses import asdict, replace

import numpy as np
from carm_interfaces.msg import Exposure
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image, JointState

from carm_bringup.console.session.store import ExposureRecord, Session
from carm_core.errors import CarmError
from carm_core.plausibility import ImplausibleError
from carm_core.robot.joint_check import JointStateCheck
from carm_core.robot.kinematics import CArm
from carm_ros.image_messages import signal_pixels
from carm_ros.message_checks import LARGEST_IMAGE, LARGEST_STATE, camera_info, image, joint_state
from carm_ros.messages import nanoseconds
from carm_ros.node import OrderlyNode
from carm_ros.side_node import SideNode

_KEPT_IMAGES = 4
_KEPT_EXPOSURES = 32
_KEPT_JOINT_STATES = 400
_OLDEST_JOINTS_NS = 500_000_000
_HEADER = struct.Struct("<4xiI")
"""Begin of a serialized message (CDR, little-endian) that begins with a header: its stamp, s and ns."""


class SessionExposures:
    """Hears exposures and writes them into the session."""

    def __init__(self, node: OrderlyNode, carm: CArm, session: Session) -> None:
        """Begin to hear.

        Args:
            node: The console node.
            carm: The C-arm.
            session: Told each exposure.
        """
        self._node, self._carm, self._session = node, carm, session
        self._images: OrderedDict[int, bytes] = OrderedDict()
        self._joints: deque[tuple[int, bytes]] = deque(maxlen=_KEPT_JOINT_STATES)
        self._waiting: OrderedDict[int, ExposureRecord] = OrderedDict()
        self._info: CameraInfo | None = None
        self._side = SideNode(node, "session")
        self._side.subscribe(CameraInfo, "xray/camera_info", self._on_info, 2, LARGEST_STATE)
        self._side.subscribe(Exposure, "xray/exposure", self._on_exposure, 20, LARGEST_STATE)
        for kind, topic, callback, depth in (
            (Image, "xray/image_raw", self._on_image, 2),
            (JointState, "joint_states", self._on_joints, 10),
        ):
            self._side.node.create_subscription(kind, node.resolve_topic_name(topic), callback, depth, raw=True)
        self._side.start()

    def close(self) -> None:
        """End the thread; exposures whose image has not come are written without."""
        self._side.close()
        for record in self._waiting.values():
            self._session.expose(record)
        self._waiting.clear()

    def _on_info(self, message: CameraInfo) -> None:
        self._info = camera_info(message)

    def _on_joints(self, data: bytes) -> None:
        if _HEADER.size <= len(data) <= LARGEST_STATE:
            self._joints.append((_stamp_ns(data), data))

    def _on_image(self, data: bytes) -> None:
        if not _HEADER.size <= len(data) <= LARGEST_IMAGE:
            return
        stamp_ns = _stamp_ns(data)
        if stamp_ns in self._waiting:
            self._write(stamp_ns, data)
            return
        self._images[stamp_ns] = data
        while len(self._images) > _KEPT_IMAGES:
            self._images.popitem(last=False)

    def _on_exposure(self, message: Exposure) -> None:
        stamp_ns = nanoseconds(message.header.stamp)
        info = self._info
        record = ExposureRecord(
            time=time.time(),
            stamp_ns=stamp_ns,
            fluoroscopy=bool(message.fluoroscopy),
            voltage_kv=message.tube_voltage_kv,
            current_ma=message.tube_current_ma,
            pulse_s=message.exposure_time_s,
            air_kerma_gy=message.air_kerma_gy,
            dose_area_product_gym2=message.dose_area_product_gym2,
            cumulative_air_kerma_gy=message.cumulative_air_kerma_gy,
            cumulative_dose_area_product_gym2=message.cumulative_dose_area_product_gym2,
            field_px=tuple(int(edge) for edge in message.field_px),
            positions=self._positions(stamp_ns),
            size_px=(0, 0) if info is None else (int(info.width), int(info.height)),
            focal_px=0.0 if info is None else float(info.k[0]),
        )
        wrong = [
            name for name, value in asdict(record).items() if isinstance(value, float) and not math.isfinite(value)
        ]
        if wrong:
            raise ImplausibleError(f"exposure: {wrong[0]} is not finite")
        if record.fluoroscopy:
            self._session.expose(record)
            return
        self._waiting[stamp_ns] = record
        data = self._images.pop(stamp_ns, None)
        if data is not None:
            self._write(stamp_ns, data)
        while len(self._waiting) > _KEPT_EXPOSURES:
            self._session.expose(self._waiting.popitem(last=False)[1])

    def _write(self, stamp_ns: int, data: bytes) -> None:
        """Write an exposure whose image is there, by the joint states that have come meanwhile."""
        record = self._waiting.pop(stamp_ns)
        pixels: NDArray[np.uint16] | None = None
        try:
            pixels = signal_pixels(image(deserialize_message(data, Image)))
        except CarmError as error:
            self._node.refuse("xray/image_raw", error)
        record = replace(record, positions=self._positions(stamp_ns))
        if pixels is not None:
            record = replace(record, size_px=(pixels.shape[1], pixels.shape[0]))
        self._session.expose(record, pixels)

    def _positions(self, stamp_ns: int) -> tuple[float, ...]:
        """Return the joint positions nearest to a stamp; nothing where none are near or they make no sense."""
        nearest = min(self._joints, key=lambda one: abs(one[0] - stamp_ns), default=None)
        if nearest is None or abs(nearest[0] - stamp_ns) > _OLDEST_JOINTS_NS:
            return ()
        try:
            message = deserialize_message(nearest[1], JointState)
            read = joint_state(message, JointStateCheck(self._carm.joints), time.monotonic())
        except CarmError as error:
            self._node.refuse("joint_states", error)
            return ()
        return () if read is None else tuple(float(value) for value in read[0])


def _stamp_ns(data: bytes) -> int:
    seconds, nanoseconds_ = _HEADER.unpack_from(data)
    return int(seconds) * 10**9 + int(nanoseconds_)
