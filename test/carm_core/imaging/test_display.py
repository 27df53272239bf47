# SPDX-License-Identifier: Apache-2.0
"""Picture files: upright, of 8 bits, or refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carm_core.errors import ImageError, ImageSizeError
from carm_core.imaging.display import deep_display, display_from_signal, open_picture, shallow

GRAY = np.add.outer(4 * np.arange(30), 3 * np.arange(40)).astype(np.uint8)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


def file(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(content: bytes) -> Image.Image:
    return shallow(open_picture(content, FORMATS, 512))


def test_a_deep_display_image_is_the_same_but_finer_and_not_cut_off() -> None:
    raw = np.geomspace(50, 65000, 64 * 64).astype(np.uint16).reshape(64, 64)
    raw[0, :3], raw[1, :3] = 1, 65535  # dense metal, bare beam
    plain, deep = display_from_signal(raw).astype(float), deep_display(raw) * (765 / 65535) - 255
    assert np.abs(np.clip(deep, 0, 255) - plain).max() <= 0.51
    assert len(np.unique(deep)) > 4 * len(np.unique(plain))
    assert deep.max() > 300
    assert deep.min() < -10


def test_sixteen_bits_are_scaled_by_the_full_range() -> None:
    np.testing.assert_array_equal(opened(file(Image.fromarray(GRAY.astype(np.uint16) * 257))), GRAY)
    big = Image.fromarray((GRAY.astype(np.uint16) * 257).astype(">u2"))
    np.testing.assert_array_equal(opened(file(big, "TIFF")), GRAY)
    assert not np.asarray(opened(file(Image.fromarray(np.zeros((30, 40), np.uint16))))).any()


@pytest.mark.parametrize("highest", [255, 4095, 16383])
def test_sixteen_bits_that_are_hardly_used_are_refused(highest: int) -> None:
    values = (GRAY.astype(np.uint32) * highest // GRAY.max()).astype(np.uint16)
    with pytest.raises(ImageError, match=f"no value above {highest} of 65535"):
        opened(file(Image.fromarray(values)))


STORED = {
    1: GRAY,
    2: GRAY[:, ::-1],
    3: GRAY[::-1, ::-1],
    4: GRAY[::-1],
    5: GRAY.T,
    6: np.rot90(GRAY),
    7: GRAY[::-1, ::-1].T,
    8: np.rot90(GRAY, -1),
}
"""Value of EXIF's orientation to the rows that are stored for an upright picture (EXIF 3.0, 4.6.5.1)."""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation_of_the_file_is_heeded(kind: str, orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    exif = stored.getexif()
    exif[0x0112] = orientation
    options = {} if kind == "TIFF" else {"quality": 100}
    shown = np.asarray(opened(file(stored, kind, exif=exif, **options)).convert("L"))
    assert shown.shape == GRAY.shape
    assert np.abs(shown.astype(int) - GRAY).max() <= 6


def test_other_kinds_of_gray_and_color() -> None:
    picture = Image.fromarray(GRAY)
    for mode in ("L", "LA", "RGB", "RGBA"):
        assert opened(file(picture.convert(mode))).mode == ("L" if mode in ("L", "LA") else "RGB")
        np.testing.assert_array_equal(opened(file(picture.convert(mode))).convert("L"), GRAY)
    assert opened(file(picture.convert("1"))).mode == "L"
    assert opened(file(picture.convert("P"))).mode == "RGB"
    assert opened(file(picture.convert("CMYK"), "JPEG")).mode == "RGB"


def test_what_is_no_picture_is_refused() -> None:
    whole = file(Image.fromarray(GRAY))
    for content in (b"", b"text", whole[:60], whole[:-40], file(Image.fromarray(GRAY), "GIF")):
        with pytest.raises(ImageError, match="cannot be read"):
            opened(content)
    with pytest.raises(ImageError, match="more than 16 bits"):
        opened(file(Image.fromarray(GRAY.astype(np.int32) << 16), "TIFF"))
    with pytest.raises(ImageSizeError, match="513 x 2 px; 512 is the longest side"):
        opened(file(Image.new("L", (513, 2))))
