# SPDX-License-Identifier: Apache-2.0
"""Draws a localizer's reply over the display image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.frame import XrayFrame
from carm_core.localization import LandmarkEstimate, Localization

MARK, RING, TEXT, CENTER = (255, 210, 0), (0, 200, 255), (255, 255, 255), (90, 200, 90)
RADIUS_90_PER_STD = 2.15
"""Radius that holds 90 % of a round normal distribution, in standard deviations of a component."""


def pixel_of(estimate: LandmarkEstimate, frame: XrayFrame) -> tuple[float, float]:
    """Return the position (column, row) of an estimate in the display image; NaN when it has no displacement."""
    rows, columns = frame.image.shape
    dx, dy = (value / frame.mm_per_px_at_isocenter for value in estimate.displacement_mm)
    return (columns - 1) / 2 + dx, (rows - 1) / 2 - dy


def in_view(estimate: LandmarkEstimate, frame: XrayFrame) -> bool:
    """Return whether an estimate lies inside the image."""
    column, row = pixel_of(estimate, frame)
    rows, columns = frame.image.shape
    return bool(-0.5 <= column <= columns - 0.5 and -0.5 <= row <= rows - 0.5)


def draw(frame: XrayFrame, reply: Localization) -> NDArray[np.uint8]:
    """Draw the landmarks in the image, uncertainty rings, answer and latency.

    Args:
        frame: Display image.
        reply: What the localizer said about it.

    Returns:
        Image uint8 (rows, columns, 3), RGB.
    """
    import cv2

    canvas: NDArray[np.uint8] = np.ascontiguousarray(np.repeat(frame.image[..., None], 3, axis=2))
    rows, columns = frame.image.shape
    scale = max(rows / 1000, 0.35)
    middle = (round((columns - 1) / 2), round((rows - 1) / 2))
    cv2.drawMarker(canvas, middle, CENTER, cv2.MARKER_CROSS, round(rows / 16), 1, cv2.LINE_AA)
    for estimate in reply.estimates:
        column, row = pixel_of(estimate, frame)
        if not (0 <= column < columns and 0 <= row < rows):
            continue
        place = (round(column), round(row))
        radius_mm = estimate.radius_90_mm
        if not math.isfinite(radius_mm):
            radius_mm = RADIUS_90_PER_STD * estimate.std_mm
        if math.isfinite(radius_mm):
            ring = round(radius_mm / frame.mm_per_px_at_isocenter)
            cv2.circle(canvas, place, min(ring, 2 * rows), RING, 1, cv2.LINE_AA)
        cv2.drawMarker(canvas, place, MARK, cv2.MARKER_TILTED_CROSS, max(7, round(rows / 50)), 1, cv2.LINE_AA)
        label = estimate.name
        cv2.putText(canvas, label, (place[0] + 6, place[1] - 6), cv2.FONT_HERSHEY_SIMPLEX, scale, MARK, 1, cv2.LINE_AA)
    said = reply.message or reply.answer.splitlines()[0] if reply.message or reply.answer else ""
    for number, line in enumerate((said[:90], f"{reply.localizer}  {1e3 * reply.latency_s:.0f} ms")):
        place = (6, rows - 10 - round((1 - number) * 30 * scale))
        cv2.putText(canvas, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, TEXT, 1, cv2.LINE_AA)
    return canvas
