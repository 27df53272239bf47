# SPDX-License-Identifier: Apache-2.0
"""Pixels of ``sensor_msgs/Image`` and ``CompressedImage``: the one conversion for live nodes and bags.

Images of 8 bits are display images. Images of 16 bits of gray are a detector's signal, as on ``xray/image_raw``: seen
from the source, bright where there is air; they are windowed and mirrored into display images. Messages are anything
with the fields of the message types, so that bags are read without ROS. Where ROS has ``cv_bridge``, it unpacks pixels.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ImageError
from carm_core.imaging.display import display_from_signal, open_picture

_SIGNAL = ("mono16", "16UC1")
_CHANNELS = {
    **dict.fromkeys((*_SIGNAL, "mono8", "8UC1"), 1),
    **dict.fromkeys(("rgb8", "bgr8", "8UC3"), 3),
    **dict.fromkeys(("rgba8", "bgra8", "8UC4"), 4),
}
"""Encoding to its number of channels; OpenCV orders the unnamed ones blue, green, red."""
_DEEP = re.compile("16|32|64")
_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
_LONGEST_PX = 8192
_DEPTH_HEADER = 12  # bytes before the PNG in compressed_depth_image_transport
_PNG = b"\x89PNG"
_EIGHT_TO_SIXTEEN = 257  # 65535 / 255


def display_pixels(message: Any, *, signal: bool = False) -> NDArray[np.uint8]:
    """Return the display image of an image message.

    Args:
        message: ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``.
        signal: The message comes from a topic with a detector's signal, whatever its depth.

    Returns:
        uint8 (rows, columns), display orientation.

    Raises:
        ImageError: The image cannot be read.
    """
    if hasattr(message, "format"):
        gray, deep = _decompressed(message)
    else:
        gray, deep = _gray(unpacked(message), message.encoding), message.encoding in _SIGNAL
    if not (signal or deep):
        return gray
    return display_from_signal(gray if gray.dtype == np.uint16 else gray.astype(np.uint16) * _EIGHT_TO_SIXTEEN)


def signal_pixels(message: Any) -> NDArray[np.uint16]:
    """Return the signal uint16 (rows, columns) of a ``sensor_msgs/Image``, raw orientation.

    Raises:
        ImageError: The image is no detector's signal, or cannot be read.
    """
    if message.encoding not in _SIGNAL:
        raise ImageError(f"encoding {message.encoding!r} is not that of a detector's signal ({', '.join(_SIGNAL)})")
    return unpacked(message)


def unpacked(message: Any) -> NDArray[Any]:
    """Return the pixels of a ``sensor_msgs/Image``, without padding, in this machine's byte order.

    Returns:
        uint8 or uint16, (rows, columns) or (rows, columns, channels).

    Raises:
        ImageError: The encoding is none that can be read, or the data do not fit the size.
    """
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        raise ImageError(f"encoding {message.encoding!r} is not supported; {', '.join(_CHANNELS)} are")
    rows, columns = int(message.height), int(message.width)
    kind = np.dtype((">" if message.is_bigendian else "<") + ("u2" if message.encoding in _SIGNAL else "u1"))
    used = columns * channels * kind.itemsize
    step = int(message.step) or used
    data = np.frombuffer(message.data, np.uint8)
    if not rows or not columns or step < used or data.size < rows * step - (step - used):
        raise ImageError(f"an image of {columns} x {rows} px has {data.size} bytes, {step} a row")
    bridge = cv_bridge()
    whole = message.step and data.size >= rows * step and step % (channels * kind.itemsize) == 0
    if bridge is not None and whole:
        pixels = np.asarray(bridge.imgmsg_to_cv2(message, "passthrough"))
        return pixels.reshape((rows, columns) if channels == 1 else (rows, columns, channels))
    lines = np.lib.stride_tricks.as_strided(data, (rows, used), (step, 1))
    pixels = np.ascontiguousarray(lines).view(kind).astype(kind.newbyteorder("="), copy=False)
    return pixels if channels == 1 else pixels.reshape(rows, columns, channels)


@cache
def cv_bridge() -> Any:
    """Return the ROS's converter of images; None where it is not installed."""
    try:
        return importlib.import_module("cv_bridge").CvBridge()
    except ImportError:
        return None


def _gray(pixels: NDArray[Any], encoding: str) -> NDArray[Any]:
    """Return the luma of colors; gray stays as it is."""
    if pixels.ndim == 2:
        return pixels
    from PIL import Image

    color = pixels[..., :3] if encoding.startswith("rgb") else pixels[..., 2::-1]
    return np.asarray(Image.fromarray(np.ascontiguousarray(color)).convert("L"))


def _decompressed(message: Any) -> tuple[NDArray[Any], bool]:
    """Return the gray values, and whether they are a detector's signal.

    The format reads ``ENCODING; CODEC compressed ...``: the encoding is that of the image before it was compressed.
    """
    content = np.frombuffer(message.data, np.uint8).tobytes()
    encoding = message.format.partition(";")[0].strip()
    if "compressedDepth" in message.format and content[_DEPTH_HEADER:].startswith(_PNG):
        content = content[_DEPTH_HEADER:]
    signal = encoding in _SIGNAL
    if _DEEP.search(encoding) and not signal:
        raise ImageError(f"a compressed image of encoding {encoding!r} is not supported")
    try:
        picture = open_picture(content, _FORMATS, _LONGEST_PX)
    except ImageError as error:
        raise ImageError(f"compressed image of format {message.format!r}: {error}") from error
    deep = picture.mode == "I;16"
    return np.asarray(picture if deep else picture.convert("L")), deep or signal
