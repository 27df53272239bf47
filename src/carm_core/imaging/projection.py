# SPDX-License-Identifier: Apache-2.0
"""Cone-beam projection geometry of a flat detector. Lengths in mm, positions in pixels.

Pixel positions are (column, row) with the origin at the center of the top left pixel. The raw image
(``image_raw``) has the axes of the frame ``xray_optical``: x right, y down, z from source to detector. The display
image, which people and models see, is the raw image with its columns mirrored (see ``display_from_raw``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.transforms import Array, RigidTransform

AnyDType = TypeVar("AnyDType", bound=np.generic)


def display_from_raw(image: NDArray[AnyDType]) -> NDArray[AnyDType]:
    """Mirror the columns of a raw image (rows, columns, ...) into display orientation, and back: its own inverse.

    From the source, the patient's right is on the right; clinicians read radiographs as if facing the patient.
    This is the one place where the two orientations meet. The result is contiguous.
    """
    return np.ascontiguousarray(image[:, ::-1])


raw_from_display = display_from_raw
"""The same mirror, named for the other direction."""


def flip_pixels(pixels: ArrayLike, columns: int) -> Array:
    """Map pixel positions (..., 2) between raw and display orientation: its own inverse.

    Args:
        pixels: Positions (column, row).
        columns: Width of the image in pixels.
    """
    out = np.array(pixels, dtype=np.float64)
    out[..., 0] = columns - 1 - out[..., 0]
    return out


@dataclass(frozen=True)
class Detector:
    """A flat detector after binning.

    Attributes:
        rows: Pixels along a column.
        columns: Pixels along a row.
        pitch_mm: Pixel spacing, mm.
    """

    rows: int
    columns: int
    pitch_mm: float


@dataclass(frozen=True, eq=False)
class XrayView:
    """Position of X-ray source and detector in one frame (``table`` unless said otherwise).

    Attributes:
        source_mm: Focal spot (3,), mm.
        rotation: Columns are the axes of ``xray_optical`` (right, down, forward) in the frame (3, 3).
        detector: Pixel grid.
        source_detector_mm: Distance from the source to the detector plane, mm.
        source_isocenter_mm: Distance from the source to the isocenter, mm.
        principal_point_px: Foot of the perpendicular from the source, raw (column, row); None: the image center.
    """

    source_mm: Array
    rotation: Array
    detector: Detector
    source_detector_mm: float
    source_isocenter_mm: float
    principal_point_px: tuple[float, float] | None = None

    @property
    def right(self) -> Array:
        """Unit vector (3,) along the columns of the raw image."""
        return self.rotation[:, 0]

    @property
    def down(self) -> Array:
        """Unit vector (3,) along the rows, downwards."""
        return self.rotation[:, 1]

    @property
    def forward(self) -> Array:
        """Unit vector (3,) from source to detector."""
        return self.rotation[:, 2]

    @property
    def center_px(self) -> tuple[float, float]:
        """Principal point of the raw image (column, row)."""
        if self.principal_point_px is not None:
            return self.principal_point_px
        return (self.detector.columns - 1) / 2, (self.detector.rows - 1) / 2

    @property
    def isocenter_mm(self) -> Array:
        """Isocenter (3,), mm."""
        return self.source_mm + self.source_isocenter_mm * self.forward

    @property
    def detector_center_mm(self) -> Array:
        """Foot of the perpendicular from the source on the detector (3,), mm."""
        return self.source_mm + self.source_detector_mm * self.forward

    @property
    def focal_px(self) -> float:
        """Source-detector distance in pixels: ``fx`` and ``fy`` of the camera model."""
        return self.source_detector_mm / self.detector.pitch_mm

    def central(self, columns: int, rows: int) -> XrayView:
        """Return the same view on the central part of the detector.

        Args:
            columns: Width, px; at most the detector's, and even or odd as it is.
            rows: Height, px; likewise.
        """
        column, row = self.center_px
        point = column - (self.detector.columns - columns) / 2, row - (self.detector.rows - rows) / 2
        detector = replace(self.detector, rows=rows, columns=columns)
        return replace(self, detector=detector, principal_point_px=point)

    @property
    def mm_per_px_at_isocenter(self) -> float:
        """Pixel spacing projected back to the isocenter's depth, mm."""
        return self.detector.pitch_mm * self.source_isocenter_mm / self.source_detector_mm

    @property
    def intrinsics(self) -> Array:
        """Camera matrix K (3, 3) of the raw image."""
        column, row = self.center_px
        return np.array([[self.focal_px, 0, column], [0, self.focal_px, row], [0, 0, 1.0]])

    @property
    def display_axes(self) -> tuple[Array, Array]:
        """Unit vectors (3,), (3,) towards the right and the top of the display image.

        At 0/0 these point to the patient's left and to the head.
        """
        return -self.right, -self.down

    def pixel_raw(self, points_mm: ArrayLike) -> Array:
        """Project points (..., 3), mm, to positions (..., 2) in the raw image; NaN at or behind the source."""
        local = (np.asarray(points_mm, dtype=np.float64) - self.source_mm) @ self.rotation
        depth = np.where(local[..., 2:] > 1e-9, local[..., 2:], np.nan)
        pixels: Array = self.focal_px * local[..., :2] / depth + np.asarray(self.center_px)
        return pixels

    def pixel_display(self, points_mm: ArrayLike) -> Array:
        """Project points (..., 3), mm, to positions (..., 2) in the display image; NaN at or behind the source."""
        return flip_pixels(self.pixel_raw(points_mm), self.detector.columns)

    def displacement_mm(self, points_mm: ArrayLike) -> Array:
        """Displacement (..., 2) from the isocenter's projection to that of points (..., 3), at isocenter depth, mm.

        The first component points to the right of the display image (patient's left at 0/0), the second to its top
        (head at 0/0).
        """
        offset = self.pixel_raw(points_mm) - np.asarray(self.center_px)
        displacement: Array = -offset * self.mm_per_px_at_isocenter
        return displacement

    def transformed(self, transform_here_to_there: RigidTransform) -> XrayView:
        """Express the same view in another frame."""
        return replace(
            self,
            source_mm=transform_here_to_there.apply(self.source_mm),
            rotation=transform_here_to_there.rotation @ self.rotation,
        )


def displacement_to_pixel_display(displacement_mm: ArrayLike, view: XrayView) -> Array:
    """Return the position (..., 2) in the display image of a displacement (..., 2) at isocenter depth, mm."""
    offset = np.asarray(displacement_mm, dtype=np.float64) / view.mm_per_px_at_isocenter
    return flip_pixels(np.asarray(view.center_px) - offset, view.detector.columns)
