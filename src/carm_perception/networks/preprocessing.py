# SPDX-License-Identifier: Apache-2.0
"""From a display image of any size and scale to the square field that the compact model was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import LocalizerError
from carm_core.imaging.frame import XrayFrame

FIELD_MM = 1536 * 0.194 * 530.0 / 1020.0
"""Side of the field that the models are trained on, at isocenter depth, mm."""

MODEL_PX = 128
_SCALE_TOLERANCE = 0.01


def check_frame(frame: XrayFrame) -> None:
    """Refuse images that no localizer can read.

    Raises:
        LocalizerError: The image is no uint8 array (rows, columns) of at least 16 px, or its scale is unknown.
    """
    image = frame.image
    if image.ndim != 2 or image.dtype != np.uint8 or min(image.shape) < 16:
        raise LocalizerError(
            f"a display image is uint8 (rows, columns), at least 16 px; got {image.dtype} {image.shape}"
        )
    if not (np.isfinite(frame.mm_per_px_at_isocenter) and frame.mm_per_px_at_isocenter > 0):
        raise LocalizerError(f"the pixel spacing at the isocenter is {frame.mm_per_px_at_isocenter} mm")


def to_field(frame: XrayFrame) -> NDArray[np.uint8]:
    """Cut or pad (with black) the image about its center to the square field ``FIELD_MM``.

    Args:
        frame: Display image with its scale.

    Returns:
        Square uint8 image, in the frame's pixel spacing.

    Raises:
        LocalizerError: The image cannot be read.
    """
    check_frame(frame)
    rows, columns = frame.image.shape
    side = round(FIELD_MM / frame.mm_per_px_at_isocenter)
    if rows == columns and abs(side / rows - 1) < _SCALE_TOLERANCE:
        return frame.image
    out = np.zeros((side, side), np.uint8)
    top, left = (side - rows) // 2, (side - columns) // 2
    source = frame.image[max(-top, 0) : max(-top, 0) + side, max(-left, 0) : max(-left, 0) + side]
    out[max(top, 0) : max(top, 0) + source.shape[0], max(left, 0) : max(left, 0) + source.shape[1]] = source
    return out


def model_gray(frame: XrayFrame) -> NDArray[np.uint8]:
    """Return the gray image uint8 (128, 128) of the trained field.

    Raises:
        LocalizerError: The image cannot be read.
    """
    from PIL import Image

    field = to_field(frame)
    if field.shape == (MODEL_PX, MODEL_PX):
        return field
    resized = Image.fromarray(field).resize((MODEL_PX, MODEL_PX), Image.Resampling.BOX)
    return np.asarray(resized)
