# SPDX-License-Identifier: Apache-2.0
"""How well a rendered image fits an X-ray image: correlation of gradients whose strength is limited.

Gradients survive another energy, scatter and the display's window; limiting them keeps metal from outvoting anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.transforms import Array
from carm_perception.registration.model import Mask, reduced

Features = NDArray[np.float32]
"""(2, rows, columns): limited gradients along columns and rows."""

_BLUR_PX = 1.0
_STRONG = 2.0
"""Gradients above this multiple of the median count hardly more."""
_EDGE_PX = 2
_PATCH_PX = 12
LEAST_SHARE = 0.12
"""An overlap of less than this share of the image says nothing."""


def features(image: NDArray[np.float32], mask: Mask) -> Features:
    """Return the limited gradients of an image (rows, columns); 0 outside the mask."""
    smooth = cv2.GaussianBlur(image, (0, 0), _BLUR_PX)
    gradients = np.stack([cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)])
    strength = np.sqrt((gradients**2).sum(0))
    if not mask.any():
        return np.zeros_like(gradients)
    typical = float(np.median(strength[mask]))
    gradients /= np.sqrt(1.0 + (strength / max(_STRONG * typical, 1e-6)) ** 2)
    return np.asarray(gradients * mask, np.float32)


def correlation(one: Features, other: Features, mask: Mask) -> float:
    """Return the correlation of features where a mask (rows, columns) holds, -1 to 1; 0 where it hardly holds."""
    if mask.mean() < LEAST_SHARE:
        return 0.0
    return correlation_of(one[:, mask].ravel(), other[:, mask].ravel())


def correlation_of(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the correlation of features (n,), -1 to 1."""
    return float(one @ other / (np.sqrt(float(one @ one) * float(other @ other)) + 1e-12))


def patches(mask: Mask, one: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[np.intp], Array, Array]:
    """Compare features patch by patch.

    Args:
        mask: (rows, columns), with n pixels in it.
        one: (2, n) features at these pixels.
        other: (2, n) others.

    Returns:
        The patch of each pixel (n,), and of each patch the correlation (patches,) and the energy of ``other``.
    """
    rows, columns = np.nonzero(mask)
    patch = (rows // _PATCH_PX) * -(-mask.shape[1] // _PATCH_PX) + columns // _PATCH_PX
    count = int(patch.max(initial=0)) + 1

    def total(values: NDArray[Any]) -> Array:
        return np.asarray(np.bincount(patch, values.sum(0), count), np.float64)

    energy = total(other**2)
    return patch, total(one * other) / (np.sqrt(total(one**2) * energy) + 1e-12), energy


def field_mask(image: NDArray[np.uint8]) -> Mask:
    """Return the exposed field (rows, columns) of a display image: what lies outside is black."""
    exposed = image > 0
    mask = np.zeros(image.shape, bool)
    rows, columns = (np.flatnonzero(exposed.mean(axis) > 0.02) for axis in (1, 0))
    if len(rows) and len(columns):
        mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return mask


@dataclass(frozen=True, eq=False)
class Target:
    """An X-ray image at one resolution.

    Attributes:
        view: Its geometry with pixels of that resolution, frame ``table``.
        features: Of the image.
        mask: Exposed, and away from the field's edges.
    """

    view: XrayView
    features: Features
    mask: Mask

    @classmethod
    def of(cls, frame: XrayFrame, side_px: int) -> Target:
        """Reduce a frame that carries its view."""
        assert frame.view is not None
        view = reduced(frame.view, side_px)
        size = view.detector.columns, view.detector.rows
        image = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        whole = cv2.resize(field_mask(frame.image).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        padded = cv2.copyMakeBorder(whole, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        mask = cv2.erode(padded, np.ones((2 * _EDGE_PX + 1,) * 2, np.uint8))[1:-1, 1:-1] > 0
        return cls(view, features(image, mask), mask)

    def inverted(self) -> Target:
        """Return the same image with its gray values inverted: bones dark instead of bright, or bright again."""
        return replace(self, features=-self.features)
