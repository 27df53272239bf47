# SPDX-License-Identifier: Apache-2.0
"""What the network for body parts reads of an image; imports no torch."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

BODY_PART_FOLDER = Path(__file__).parents[1] / "models" / "body_part"
BODY_PART_FILE = "body_part.safetensors"
SQUARE_PX = 128
_PERCENTILES = (0.5, 99.5)


def model_square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image (rows, columns) as the network reads it: stretched to a square, gray over its whole range.

    The scale of an image is often unknown, and so is what of it was exposed: the network reads all of it.

    Returns:
        uint8 (128, 128).
    """
    smaller = min(image.shape) >= SQUARE_PX
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    square = cv2.resize(image, (SQUARE_PX, SQUARE_PX), interpolation=method).astype(np.float32)
    low, high = np.percentile(square, _PERCENTILES)
    gray = 255 * (square - low) / max(float(high - low), 1.0)
    return np.asarray(np.clip(np.rint(gray), 0, 255), np.uint8)
