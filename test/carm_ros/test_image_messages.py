# SPDX-License-Identifier: Apache-2.0
"""Image messages of every kind become the same display image; what cannot be read is refused."""

from __future__ import annotations

import io
from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carm_core.errors import ImageError
from carm_core.imaging.display import Window, display_from_signal
from carm_ros import image_messages
from carm_ros.image_messages import cv_bridge, display_pixels, signal_pixels, unpacked
from carm_sim.display import display_image

ROWS, COLUMNS = 37, 50
GRAY = np.random.default_rng(5).integers(0, 256, (ROWS, COLUMNS), np.uint8)
SIGNAL = np.random.default_rng(6).integers(300, 60_000, (ROWS, COLUMNS), np.uint16)
COLOR = np.random.default_rng(7).integers(0, 256, (ROWS, COLUMNS, 3), np.uint8)


def image(pixels: Any, encoding: str, pad: int = 0, big: bool = False, **more: Any) -> SimpleNamespace:
    wide = pixels.astype(pixels.dtype.newbyteorder(">")) if big else pixels
    lines = [row.tobytes() + b"\xee" * pad for row in wide]
    content = {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "step": len(lines[0]),
        "encoding": encoding,
        "is_bigendian": int(big),
        "data": array("B", b"".join(lines)),
        **more,
    }
    return SimpleNamespace(**content)


def file(pixels: Any, kind: str = "PNG", turned: int = 0, **options: Any) -> bytes:
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    if turned:
        exif = picture.getexif()
        exif[0x0112] = turned
        options["exif"] = exif
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def compressed(content: bytes, kind: str) -> SimpleNamespace:
    return SimpleNamespace(format=kind, data=np.frombuffer(content, np.uint8))


@pytest.mark.parametrize("pad", [0, 24, 5])
@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_display_images_stay_as_they_are(encoding: str, pad: int) -> None:
    np.testing.assert_array_equal(display_pixels(image(GRAY, encoding, pad)), GRAY)


@pytest.mark.parametrize("pad", [0, 24, 5])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_signal_is_windowed_and_mirrored(encoding: str, big: bool, pad: int) -> None:
    message = image(SIGNAL, encoding, pad, big)
    np.testing.assert_array_equal(signal_pixels(message), SIGNAL)
    assert signal_pixels(message).dtype.isnative
    np.testing.assert_array_equal(display_pixels(message), display_image(SIGNAL, Window()))


@pytest.mark.parametrize("pad", [0, 24, 5])
def test_colors_become_luma(pad: int) -> None:
    luma = np.rint(COLOR @ [0.299, 0.587, 0.114])
    for encoding, pixels in (
        ("rgb8", COLOR),
        ("bgr8", COLOR[..., ::-1]),
        ("8UC3", COLOR[..., ::-1]),
        ("rgba8", np.dstack([COLOR, GRAY])),
        ("bgra8", np.dstack([COLOR[..., ::-1], GRAY])),
    ):
        assert np.abs(display_pixels(image(pixels, encoding, pad)) - luma).max() <= 1, encoding
    gray = np.repeat(GRAY[..., None], 3, axis=2)
    np.testing.assert_array_equal(display_pixels(image(gray, "rgb8", pad)), GRAY)


def test_last_row_may_lack_its_padding() -> None:
    message = image(GRAY, "mono8", 14)
    message.data = message.data[:-14]
    np.testing.assert_array_equal(display_pixels(message), GRAY)


def test_compressed_display_images_are_decoded() -> None:
    np.testing.assert_array_equal(display_pixels(compressed(file(GRAY), "mono8; png compressed ")), GRAY)
    np.testing.assert_array_equal(display_pixels(compressed(file(GRAY), "png")), GRAY)
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    jpeg = compressed(file(np.dstack([smooth] * 3), "JPEG", quality=95), "rgb8; jpeg compressed bgr8")
    assert np.abs(display_pixels(jpeg).astype(int) - smooth).max() <= 4
    turned = compressed(file(np.rot90(smooth), "JPEG", turned=6, quality=95), "jpeg")
    assert np.abs(display_pixels(turned).astype(int) - smooth).max() <= 4


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("16UC1; png compressed ", file(SIGNAL)),
        ("mono16; png compressed ", file(SIGNAL)),
        ("png", file(SIGNAL)),
        ("mono16; tiff compressed ", file(SIGNAL, "TIFF")),
        ("16UC1; compressedDepth png", bytes(12) + file(SIGNAL)),
        ("16UC1; compressedDepth", bytes(12) + file(SIGNAL)),
        ("png", file(np.rot90(SIGNAL), turned=6)),
    ],
)
def test_compressed_signal_is_windowed_and_mirrored(kind: str, content: bytes) -> None:
    np.testing.assert_array_equal(display_pixels(compressed(content, kind)), display_from_signal(SIGNAL))


def test_signal_of_eight_bits_is_mirrored_too() -> None:
    """A JPEG of a 16-bit image has 8 bits; its format, or its topic, tells what it was."""
    eight = display_from_signal(GRAY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(display_pixels(compressed(file(GRAY), "mono16; jpeg compressed ")), eight)
    np.testing.assert_array_equal(display_pixels(image(GRAY, "mono8"), signal=True), eight)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (image(GRAY, "32FC1"), "'32FC1' is not supported"),
        (image(GRAY, "bayer_rggb8"), "'bayer_rggb8' is not supported"),
        (image(GRAY, "rgb8"), "50 x 37 px has 1850 bytes"),
        (image(GRAY, "mono16"), "has 1850 bytes"),
        (image(GRAY, "mono8", step=49), "49 a row"),
        (image(GRAY, "mono8", height=38), "50 x 38 px"),
        (image(GRAY, "mono8", height=2**32 - 1, width=2**32 - 1, step=2**32 - 1), "has 1850 bytes"),
        (image(GRAY, "mono8", height=0), "50 x 0 px"),
        (compressed(b"no image", "jpeg"), "cannot be read"),
        (compressed(b"", "png"), "cannot be read"),
        (compressed(file(SIGNAL)[:-900], "16UC1; png compressed "), "cannot be read"),
        (compressed(bytes(12) + file(SIGNAL), "32FC1; compressedDepth png"), "'32FC1' is not supported"),
        (compressed(file(GRAY.astype(np.float32), "TIFF"), "tiff"), "fractional"),
        (compressed(file(np.zeros((1, 8193), np.uint8)), "png"), "8193 x 1 px"),
    ],
)
def test_what_cannot_be_read_is_refused(message: Any, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        display_pixels(message)


@pytest.mark.skipif(cv_bridge() is None, reason="cv_bridge comes with ROS only")
@pytest.mark.parametrize("pad", [0, 24, 5])
@pytest.mark.parametrize(
    ("pixels", "encoding", "big"),
    [(GRAY, "mono8", False), (SIGNAL, "mono16", False), (SIGNAL, "mono16", True), (COLOR, "rgb8", False)],
)
def test_cv_bridge_and_its_stand_in_give_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, pixels: Any, encoding: str, big: bool, pad: int
) -> None:
    message = image(pixels, encoding, pad, big)
    by_bridge = unpacked(message)
    monkeypatch.setattr(image_messages, "cv_bridge", lambda: None)
    np.testing.assert_array_equal(by_bridge, pixels)
    np.testing.assert_array_equal(unpacked(message), pixels)
