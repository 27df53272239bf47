# SPDX-License-Identifier: Apache-2.0
"""Follows a dome of the diaphragm, which breathing has moved since the CT, along the body in a registered image."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.transforms import Array, RigidTransform
from carm_perception.registration.model import CtModel, Image, Mask, reduced
from carm_perception.registration.similarity import correlation_of, field_mask

FOLLOWED = (12, 13)
"""Landmarks that are followed: the domes, whose edge against the lung is the strongest around them."""
LEAST_SCORE = 0.7
"""A dome that fits less is not found."""
_REACH_MM, _STEP_MM = 24.0, 1.0
_USUAL_MM, _WEIGHT = 8.0, 0.02
"""A movement of this size costs this much correlation, one of twice the size four times as much."""
_HALF_MM, _BLUR_MM, _EDGE_PX, _LEAST_SHARE = 30.0, 3.0, 3, 0.4


def followed_mm(model: CtModel, frame: XrayFrame, pose: RigidTransform, point: Array) -> tuple[float, float]:
    """Find out how far a dome has moved towards the head.

    The edges across the body around it are compared, without bones.

    Args:
        model: The CT.
        frame: An image with its view.
        pose: Where the CT lies, LPS to table, mm.
        point: The dome in the CT (3,), LPS, mm.

    Returns:
        How far, mm, and how well image and CT fit there, -1 to 1; 0 where too little of it is in the image.
    """
    assert frame.view is not None
    level = len(model.levels) - 1
    view = reduced(frame.view, model.levels[level].side_px)
    size = view.detector.columns, view.detector.rows
    image = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    field = cv2.resize(field_mask(frame.image).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    mask = ndimage.binary_erosion(field > 0, iterations=_EDGE_PX)
    drawn, known = model.render(level, view, pose)
    drawn -= model.render_bones(level, view, pose)

    way = np.arange(-_REACH_MM, _REACH_MM + _STEP_MM / 2, _STEP_MM)
    places = view.pixel_display(pose.apply(point + np.outer(way, (0.0, 0.0, 1.0))))
    middle, along = places[len(way) // 2], places[-1] - places[0]
    edges, template = (_edges(picture, view, along) for picture in (image, drawn))
    wanted, inside = _patch(template, view, middle), _patch(known, view, middle) > 0.5
    best = (0.0, 0.0)
    highest = -np.inf
    for moved, place in zip(way, places, strict=True):
        both = inside & (_patch(mask, view, place) > 0.5)
        if both.mean() < _LEAST_SHARE:
            continue
        score = correlation_of(_patch(edges, view, place)[both], wanted[both])
        if (value := score - _WEIGHT * (moved / _USUAL_MM) ** 2) > highest:
            highest, best = value, (float(moved), score)
    return best


def _edges(image: Image, view: XrayView, along: Array) -> Array:
    """Return the derivative of an image (rows, columns) along a direction (2,) in it."""
    sigma = _BLUR_MM / view.mm_per_px_at_isocenter
    smooth = cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), sigma)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    return np.asarray((along[0] * across + along[1] * down) / np.linalg.norm(along))


def _patch(image: Array | Mask, view: XrayView, place_px: Array) -> Array:
    """Return what lies around a place, column and row; 0 outside the image."""
    half = round(_HALF_MM / view.mm_per_px_at_isocenter)
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1]
    at = [place_px[1] + rows, place_px[0] + columns]
    return np.asarray(ndimage.map_coordinates(np.asarray(image, np.float32), at, order=1))
