# SPDX-License-Identifier: Apache-2.0
"""Gray values of display images: the window that raw detector signal is shown in, and pictures out of files.

The polarity of a display image is that of radiographs: bones bright, air dark.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ImageError, ImageSizeError
from carm_core.imaging.projection import display_from_raw

if TYPE_CHECKING:
    from PIL.Image import Image

_GRAY_LEVELS = 65536
_LOGARITHM = np.log(np.maximum(np.arange(_GRAY_LEVELS), 1))
_SAMPLES = 256  # along each side: enough for percentiles
_DEEP_TO_GRAY = 257  # 65535 / 255


@dataclass(frozen=True)
class Window:
    """How the raw signal becomes gray.

    Attributes:
        bright_percentile: Percentile of the signal shown white (dense bone), percent.
        dark_percentile: Percentile shown black (air), percent.
        highest_ratio: Signals above this multiple of the median are black, so that bare beam around the
            patient does not take the contrast away.
        scatter_correction: Share of the scatter estimated from the image that is subtracted before the logarithm, as
            imaging chains do; 0: none.
    """

    bright_percentile: float = 0.5
    dark_percentile: float = 99.5
    highest_ratio: float = 12.0
    scatter_correction: float = 0.9


def gray_table(raw: NDArray[np.uint16], window: Window) -> NDArray[np.uint8]:
    """Return the gray value of each raw value (65536,): linear in the logarithm within the window of ``raw``."""
    return np.asarray(np.clip(np.rint(_grays(raw, window)), 0, 255), np.uint8)


def deep_display(raw: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return a display image for windowing: 86 times as fine as ``display_from_signal``, and beyond black and white.

    Args:
        raw: Signal uint16 (rows, columns), seen from the source, bright where there is air.

    Returns:
        Display image uint16 (rows, columns): 0 to 65535 stand for grays of -255 to 510.
    """
    table = np.rint((_grays(raw, Window()) + 255) * (65535 / 765))
    return display_from_raw(np.asarray(np.clip(table, 0, 65535), np.uint16)[raw])


def _grays(raw: NDArray[np.uint16], window: Window) -> NDArray[np.float64]:
    step = max(1, min(raw.shape) // _SAMPLES)
    sample = np.maximum(raw[::step, ::step], 1)
    low, middle, high = np.percentile(sample, (window.bright_percentile, 50.0, window.dark_percentile))
    high = max(min(high, middle * window.highest_ratio), low * 1.05)
    return np.asarray(255 * (np.log(high) - _LOGARITHM) / (np.log(high) - np.log(low)))


def display_from_signal(raw: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Apply the window to a detector signal and convert it to display orientation.

    Args:
        raw: Signal uint16 (rows, columns), seen from the source, bright where there is air.

    Returns:
        Display image uint8 (rows, columns).
    """
    return display_from_raw(gray_table(raw, Window())[raw])


def picture_size(content: bytes, formats: tuple[str, ...], longest_px: int) -> tuple[int, int]:
    """Return columns and rows of an image file by its header; nothing is decoded.

    Args:
        content: The file.
        formats: Formats in Pillow's words.
        longest_px: Longest side, px.

    Raises:
        ImageError: It is no such file, or too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=formats) as picture:
            columns, rows = picture.size
    except UnidentifiedImageError as error:
        raise ImageError(f"the image cannot be read (it is none of {', '.join(formats)})") from error
    except Exception as error:  # Pillow raises many unrelated types for damaged files
        raise ImageError(f"the image cannot be read ({(str(error).splitlines() or [''])[0]})") from error
    if max(columns, rows) > longest_px:
        raise ImageSizeError(columns, rows, longest_px)
    return columns, rows


def open_picture(content: bytes, formats: tuple[str, ...], longest_px: int) -> Image:
    """Open an image file, upright as its EXIF orientation says.

    Args:
        content: The file.
        formats: Formats in Pillow's words, for example ``"PNG"``.
        longest_px: Longest side, px.

    Returns:
        Picture of mode ``L``, ``RGB`` or, with 16 bits of gray, ``I;16``.

    Raises:
        ImageError: It is no such file, damaged, or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture: Image.Image = Image.open(io.BytesIO(content), formats=formats)
        if max(picture.size) > longest_px:
            raise ImageSizeError(*picture.size, longest_px)
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I"):
            values = np.asarray(picture)
            if values.min() < 0 or values.max() >= _GRAY_LEVELS:
                raise ImageError("the image has more than 16 bits of gray")
            return Image.fromarray(values.astype(np.uint16))
        if picture.mode == "F":
            raise ImageError("the image has fractional gray values")
        return picture.convert("L" if picture.mode in ("1", "L", "LA", "La") else "RGB")
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"the image cannot be read (it is none of {', '.join(formats)})") from error
    except Exception as error:  # Pillow raises many unrelated types for damaged files
        raise ImageError(f"the image cannot be read ({(str(error).splitlines() or [''])[0]})") from error


def shallow(picture: Image) -> Image:
    """Scale 16-bit gray to 8 bits by the full range, as file formats define it; other types do not change.

    Args:
        picture: From ``open_picture``.

    Raises:
        ImageError: The 16 bits are nearly unused, so that the picture would be black: it needs a window.
    """
    from PIL import Image

    if picture.mode != "I;16":
        return picture
    values = np.asarray(picture)
    if 0 < int(values.max()) < _GRAY_LEVELS // 4:
        raise ImageError(
            f"the image has 16 bits, but no value above {values.max()} of 65535: scale it to the full range"
        )
    return Image.fromarray(np.rint(values / _DEEP_TO_GRAY).astype(np.uint8))
