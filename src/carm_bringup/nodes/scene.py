# SPDX-License-Identifier: Apache-2.0
"""Where an X-ray image and the landmarks in it are in space: for viewers, which know neither of our messages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.parameters import FRAME_PREFIX, parameter
from carm_core.transforms import Array


@dataclass(frozen=True)
class SceneParameters:
    """Parameters of the scene node; ``config/scene.yaml`` has the same keys."""

    carm_config: str = parameter("", "C-arm description file; empty: the one in the package", read_only=True)
    frame_prefix: str = parameter(
        "",
        "prefix of every frame id, such as left_arm/ if two arms share /tf",
        pattern=FRAME_PREFIX,
        read_only=True,
    )
    image_px: int = parameter(
        96, "side of the image on the detector plane; larger images are reduced by averaging", lower=8, upper=256
    )
    rate_hz: float = parameter(2.0, "images per second at most", unit="Hz", lower=0.1, upper=30.0)


def averaged(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Average an image (rows, columns) over square blocks, so that neither side is longer than ``side`` px."""
    block = -(-max(image.shape) // side)
    rows, columns = (length // block * block for length in image.shape)
    blocks = image[:rows, :columns].reshape(rows // block, block, columns // block, block)
    return np.asarray(blocks.mean(axis=(1, 3)).round(), dtype=np.uint8)


def detector_points(pixels: ArrayLike, columns: int, rows: int, pitch_m: float) -> Array:
    """Map pixels of a display image to the detector plane.

    Args:
        pixels: (N, 2) column and row in the display image, px, origin at the top left pixel's center.
        columns: Width of the image, px.
        rows: Height of the image, px.
        pitch_m: Side of a pixel, m.

    Returns:
        Points (N, 3) in frame ``detector``, m: its x is the image's up, its y the image's left.
    """
    column, row = np.asarray(pixels, dtype=np.float64).reshape(-1, 2).T
    up = ((rows - 1) / 2 - row) * pitch_m
    left = ((columns - 1) / 2 - column) * pitch_m
    return np.column_stack([up, left, np.zeros_like(up)])


def isocenter_points(displacements_m: ArrayLike) -> Array:
    """Map displacements from the image center to points at isocenter depth.

    Args:
        displacements_m: (N, 2): towards the image's right, towards its top, m.

    Returns:
        Points (N, 3) in frame ``isocenter``, m.
    """
    right, up = np.asarray(displacements_m, dtype=np.float64).reshape(-1, 2).T
    return np.column_stack([up, -right, np.zeros_like(up)])
