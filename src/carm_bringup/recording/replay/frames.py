# SPDX-License-Identifier: Apache-2.0
"""The X-ray frames of a bag: image, scale, dose and joint positions joined by stamp, whoever recorded them."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_bringup.recording.bag.reader import Bag
from carm_bringup.recording.errors import BagError
from carm_core.errors import ImageError
from carm_core.robot.kinematics import CArm
from carm_ros.image_messages import display_pixels

IMAGE, RAW, INFO, EXPOSURE = "xray/image", "xray/image_raw", "xray/camera_info", "xray/exposure"
JOINTS = "joint_states"
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_SAME_STAMP_NS = 1_000


@dataclass(frozen=True, eq=False)
class RecordedFrame:
    """One frame.

    Attributes:
        stamp_ns: Middle of the exposure, ns.
        sent_ns: When the image was sent, ns.
        image: Message ``mono8`` in display orientation, as the nodes receive it.
        info: Camera info; made from ``config/carm.yaml`` where the bag has none.
        dose_area_product_gym2: Gy m²; NaN when not recorded.
    """

    stamp_ns: int
    sent_ns: int
    image: Any
    info: Any
    dose_area_product_gym2: float = float("nan")


@dataclass(eq=False)
class Frames:
    """All frames and joint states of a bag.

    Attributes:
        frames: In order of their stamps.
        topic: Where the images came from.
        joint_stamps_ns: Stamps of the joint states, ascending, ns.
        joint_sent_ns: When they were sent, ns.
        positions: Joint positions (N, J), m or rad.
        notes: What had to be assumed, one line each.
    """

    frames: list[RecordedFrame]
    topic: str
    joint_stamps_ns: list[int] = field(default_factory=list)
    joint_sent_ns: list[int] = field(default_factory=list)
    positions: list[NDArray[np.float64]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def positions_at(self, stamp_ns: int) -> NDArray[np.float64] | None:
        """Return the joint positions (J,) nearest to a stamp; None when none were recorded."""
        if not self.positions:
            return None
        place = bisect.bisect_left(self.joint_stamps_ns, stamp_ns)
        near = [p for p in (place - 1, place) if 0 <= p < len(self.positions)]
        return self.positions[min(near, key=lambda p: abs(self.joint_stamps_ns[p] - stamp_ns))]

    def positions_known_at(self, time_ns: int) -> NDArray[np.float64] | None:
        """Return the joint positions (J,) that a listener knew at a time; None when none were recorded."""
        if not self.positions:
            return None
        return self.positions[max(0, bisect.bisect_right(self.joint_sent_ns, time_ns) - 1)]


def stamp_ns(message: Any) -> int:
    """Return the stamp of a message with a header, ns."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def find_frames(bag: Bag, prefix: str, carm: CArm, image_topic: str = "") -> Frames:
    """Join the frames of a bag.

    Args:
        bag: The bag.
        prefix: Namespace with its trailing slash.
        carm: The arm: joint names, scale where camera infos are missing.
        image_topic: Topic of the images; chosen when empty.

    Raises:
        BagError: There are no images.
    """
    topic = image_topic or _choose_topic(bag, prefix)
    out = Frames([], topic)
    _add_joints(out, bag, prefix, carm)
    infos = {stamp_ns(m.message): m.message for m in bag.of(prefix + INFO)}
    doses = {stamp_ns(m.message): float(m.message.dose_area_product_gym2) for m in bag.of(prefix + EXPOSURE)}
    unreadable: set[str] = set()
    for recorded in bag.of(topic):
        try:
            image = as_mono8(recorded.message, signal=topic.startswith(prefix + RAW))
        except ImageError as error:
            unreadable.add(str(error))
            continue
        stamp = stamp_ns(recorded.message) or recorded.sent_ns
        info = _nearest(infos, stamp) or _assumed_info(image, carm)
        out.frames.append(RecordedFrame(stamp, recorded.sent_ns, image, info, _nearest(doses, stamp) or float("nan")))
    out.notes += [f"images of {topic} are skipped: {reason}" for reason in sorted(unreadable)]
    if not out.frames:
        raise BagError(f"{bag.path}: no image of {topic} can be used" + "".join(f"; {note}" for note in out.notes))
    out.frames.sort(key=lambda frame: frame.stamp_ns)
    if not infos:
        scale = 1000 * carm.source_isocenter_m / _assumed_info(out.frames[0].image, carm).k[0]
        out.notes.append(f"no camera info: the whole detector of carm.yaml is assumed ({scale:.3f} mm per pixel)")
    return out


def as_mono8(message: Any, *, signal: bool = False) -> Any:
    """Return an image as the X-ray node sends it: ``mono8``, display orientation.

    Args:
        message: Image or compressed image.
        signal: It comes from a topic with a detector's signal, whatever its depth.

    Raises:
        ImageError: The image cannot be read.
    """
    pixels = display_pixels(message, signal=signal)
    rows, columns = pixels.shape
    return SimpleNamespace(
        header=message.header,
        height=rows,
        width=columns,
        encoding="mono8",
        step=columns,
        is_bigendian=0,
        data=pixels.reshape(-1),
    )


def _choose_topic(bag: Bag, prefix: str) -> str:
    """Return the display image, else the raw one, else the only topic with images."""
    for topic in (prefix + IMAGE, prefix + RAW):
        for transport in ("", "/compressed"):
            if bag.of(topic + transport):
                return topic + transport
    found = sorted(topic for topic, kind in bag.types.items() if kind in _IMAGE_TYPES)
    if len(found) == 1:
        return found[0]
    if not found:
        raise BagError(f"{bag.path}: no images in it; it holds {', '.join(sorted(bag.types))}")
    raise BagError(f"{bag.path}: choose the images with --image-topic: {', '.join(found)}")


def _add_joints(out: Frames, bag: Bag, prefix: str, carm: CArm) -> None:
    topic = prefix + JOINTS if bag.of(prefix + JOINTS) else f"/{JOINTS}"
    states = []
    for recorded in bag.of(topic):
        index = {name: place for place, name in enumerate(recorded.message.name)}
        if all(name in index for name in carm.joint_names) and len(recorded.message.position) >= len(index):
            positions = np.array([recorded.message.position[index[name]] for name in carm.joint_names])
            states.append((stamp_ns(recorded.message) or recorded.sent_ns, recorded.sent_ns, positions))
    states.sort(key=lambda state: state[0])
    out.joint_stamps_ns, out.joint_sent_ns = [s[0] for s in states], [s[1] for s in states]
    out.positions = [s[2] for s in states]
    if bag.of(topic) and not states:
        names = ", ".join(bag.of(topic)[0].message.name)
        out.notes.append(f"joint states of {topic} are those of another robot ({names})")
    elif not states:
        out.notes.append("no joint states")


def _nearest(store: dict[int, Any], stamp: int) -> Any:
    if stamp in store:
        return store[stamp]
    return next((value for key, value in store.items() if abs(key - stamp) <= _SAME_STAMP_NS), None)


def _assumed_info(image: Any, carm: CArm) -> Any:
    pitch_mm = carm.detector.pitch_mm * carm.detector.columns / image.width
    focal = 1000 * carm.source_detector_m / pitch_mm
    k = np.array([focal, 0, (image.width - 1) / 2, 0, focal, (image.height - 1) / 2, 0, 0, 1])
    return SimpleNamespace(header=image.header, width=image.width, height=image.height, k=k)
