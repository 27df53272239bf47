# SPDX-License-Identifier: Apache-2.0
"""How an X-ray came to be seen: technique, detector, collimation, display and what happened to the file, at random."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.display import Window
from carm_core.imaging.projection import Detector
from carm_core.transforms import Array
from carm_sim.physics.detector import DetectorModel
from carm_sim.physics.scatter import ScatterModel

Gray = NDArray[np.float32]

DETECTOR_PX, DETECTOR_PITCH_MM = 1536, 0.194
BINNINGS, BINNING_CHANCES = (3, 4, 6), (0.7, 0.2, 0.1)

UPRIGHT, MIRRORED, TURNED, FLIPPED = "upright", "mirrored", "upside down", "upside down and mirrored"
ORIENTATIONS = (UPRIGHT, MIRRORED, TURNED, FLIPPED)
ORIENTATION_CHANCES = (0.94, 0.03, 0.02, 0.01)
"""How an image is shown: as clinicians read it, or otherwise, which can be told from anatomy and markers alone."""

INVERTED = 0.12
"""Part of the images with bright air and dark bone."""
LINEAR = 0.12
"""Part of the images that show the signal instead of its logarithm."""


@dataclass(frozen=True)
class Capture:
    """Everything about one image besides body and view.

    Attributes:
        detector: The detector with its noise and blur.
        binning: Detector binning.
        voltage_kv: Tube voltage, kV; 0: automatic.
        dose_ngy: Air kerma at the detector that the exposure control aims at, nGy.
        focal_spot: Size of the focal spot relative to the tube's.
        field: Exposed part of the detector's width and height, centered.
        window: How the raw signal becomes gray.
        linear: Whether the signal is shown instead of its logarithm.
        detail: Weight of local contrast that is added; negative: smoothed.
        gamma: Exponent of the gray values.
        inverted: Whether air is bright and bone dark.
        surround: Gray value outside the exposed field, 0 to 1.
        marker: Place of a lead letter for the side in the display image (column, row), 0 to 1; None: no letter.
        blur_px: Standard deviation of a blur of the image, px of the detector after binning.
        motion_px: Length and direction (rad) of a blur by motion, px.
        noise: Standard deviation of noise in the display chain, of gray values 0 to 1.
        coarse: Resolution relative to the detector's that the image went through.
        crop: Part of the display image that is kept: left, top, width, height, of its size.
        scale: Size of the image file relative to the cropped image.
        orientation: One of ``ORIENTATIONS``.
        jpeg_quality: Of a JPEG that the image went through; 0: none.
    """

    detector: DetectorModel
    binning: int
    voltage_kv: float
    dose_ngy: float
    focal_spot: float
    field: tuple[float, float]
    window: Window
    linear: bool
    detail: float
    gamma: float
    inverted: bool
    surround: float
    marker: tuple[float, float] | None
    blur_px: float
    motion_px: tuple[float, float]
    noise: float
    coarse: float
    crop: tuple[float, float, float, float]
    scale: float
    orientation: str
    jpeg_quality: int

    @property
    def grid(self) -> Detector:
        """Pixels after binning."""
        side = DETECTOR_PX // self.binning
        return Detector(side, side, DETECTOR_PITCH_MM * self.binning)


def draw_capture(rng: np.random.Generator) -> Capture:
    """Draw how an image is made and shown."""

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    usual = DetectorModel()
    scatter = ScatterModel(fraction=usual.scatter.fraction * uniform(0.3, 1.5))
    detector = DetectorModel(
        electronic_noise_adu=usual.electronic_noise_adu * uniform(0.5, 2.5),
        blur_mm=uniform(0.08, 0.3),
        scatter=scatter,
        glare_fraction=uniform(0.0, 0.06),
    )
    collimated, cropped = chance(0.25), chance(0.3)
    width, height = (uniform(0.55, 1.0), uniform(0.55, 1.0)) if cropped else (1.0, 1.0)
    return Capture(
        detector=detector,
        binning=int(rng.choice(BINNINGS, p=BINNING_CHANCES)),
        voltage_kv=float(rng.integers(11, 25) * 5) if chance(0.5) else 0.0,
        dose_ngy=math.exp(uniform(math.log(4.0), math.log(400.0))),
        focal_spot=uniform(0.5, 2.0),
        field=(uniform(0.45, 1.0), uniform(0.45, 1.0)) if collimated else (1.0, 1.0),
        window=Window(
            bright_percentile=uniform(0.0, 5.0),
            dark_percentile=uniform(94.0, 100.0),
            highest_ratio=math.exp(uniform(math.log(4.0), math.log(60.0))),
            scatter_correction=uniform(0.0, 1.0),
        ),
        linear=chance(LINEAR),
        detail=uniform(-0.4, 2.0) if chance(0.5) else 0.0,
        gamma=math.exp(float(np.clip(rng.normal(0, 0.3), -0.8, 0.8))),
        inverted=chance(INVERTED),
        surround=uniform(0.0, 1.0) if chance(0.3) else 0.0,
        marker=(uniform(0.04, 0.25), uniform(0.08, 0.92)) if chance(0.12) else None,
        blur_px=uniform(0.5, 2.0) if chance(0.2) else 0.0,
        motion_px=(uniform(3.0, 18.0), uniform(0.0, math.pi)) if chance(0.08) else (0.0, 0.0),
        noise=uniform(0.0, 0.03) if chance(0.3) else 0.0,
        coarse=uniform(0.35, 0.8) if chance(0.12) else 1.0,
        crop=(uniform(0.0, 1.0 - width), uniform(0.0, 1.0 - height), width, height),
        scale=uniform(0.6, 1.4) if chance(0.25) else 1.0,
        orientation=str(rng.choice(ORIENTATIONS, p=ORIENTATION_CHANCES)),
        jpeg_quality=int(rng.integers(25, 96)) if chance(0.35) else 0,
    )


def develop(gray: Gray, field: tuple[int, int, int, int], capture: Capture) -> Gray:
    """Convert windowed gray values to the displayed image, before cropping.

    Args:
        gray: Gray values 0 to 1 (rows, columns), display orientation, bones bright.
        field: Exposed field: left, top, right, bottom; right and bottom exclusive.
        capture: What to do.

    Returns:
        Gray values 0 to 1, as large as before.
    """
    left, top, right, bottom = field
    inner = np.ascontiguousarray(gray[top:bottom, left:right])
    if capture.marker is not None:
        inner = _with_marker(inner, capture.marker)
    if capture.detail:
        inner = inner + capture.detail * (inner - cv2.GaussianBlur(inner, (0, 0), 0.02 * max(inner.shape)))
    if capture.blur_px:
        inner = cv2.GaussianBlur(inner, (0, 0), capture.blur_px)
    if capture.motion_px[0]:
        inner = cv2.filter2D(inner, -1, _motion_kernel(*capture.motion_px), borderType=cv2.BORDER_REPLICATE)
    if capture.coarse < 1:
        rows, columns = inner.shape
        small = max(8, round(columns * capture.coarse)), max(8, round(rows * capture.coarse))
        coarse = cv2.resize(inner, small, interpolation=cv2.INTER_AREA)
        inner = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_LINEAR)
    inner = np.clip(inner, 0, 1) ** capture.gamma
    if capture.inverted:
        inner = 1 - inner
    shown = np.full(gray.shape, capture.surround, np.float32)
    shown[top:bottom, left:right] = inner
    return shown


def _with_marker(image: Gray, place: tuple[float, float]) -> Gray:
    """Return a lead letter R on the patient's right, the left of the image, or L on the other side."""
    rows, columns = image.shape
    on_left = place[1] < 0.6
    across = place[0] if on_left else 1 - place[0]
    size = rows / 400
    origin = round(across * columns - 9 * size), round(place[1] * rows + 10 * size)
    mask = np.zeros(image.shape, np.uint8)
    letter = "R" if on_left else "L"
    cv2.putText(mask, letter, origin, cv2.FONT_HERSHEY_SIMPLEX, size, 255, max(1, round(3 * size)), cv2.LINE_AA)
    return np.maximum(image, mask.astype(np.float32) / 255)


def _motion_kernel(length_px: float, angle_rad: float) -> Gray:
    side = 2 * math.ceil(length_px / 2) + 1
    kernel = np.zeros((side, side), np.float32)
    along = np.linspace(-length_px / 2, length_px / 2, 4 * side)
    column = np.rint(side // 2 + along * math.cos(angle_rad)).astype(int)
    row = np.rint(side // 2 + along * math.sin(angle_rad)).astype(int)
    np.add.at(kernel, (row, column), 1.0)
    return np.asarray(kernel / kernel.sum(), np.float32)


@dataclass(frozen=True)
class Sheet:
    """From the display image to the image file: where pixels go.

    Attributes:
        left: First column that is kept.
        top: First row that is kept.
        width: Columns that are kept.
        height: Rows that are kept.
        columns: Width of the file.
        rows: Height of the file.
        orientation: One of ``ORIENTATIONS``.
    """

    left: int
    top: int
    width: int
    height: int
    columns: int
    rows: int
    orientation: str

    @classmethod
    def of(cls, shape: tuple[int, int], capture: Capture) -> Sheet:
        """Return the sheet that a capture cuts out of an image (rows, columns)."""
        rows, columns = shape
        left, top, width, height = capture.crop
        first = round(left * columns), round(top * rows)
        size = min(round(width * columns), columns - first[0]), min(round(height * rows), rows - first[1])
        scaled = max(32, round(size[0] * capture.scale)), max(32, round(size[1] * capture.scale))
        return cls(*first, *size, *scaled, capture.orientation)

    def apply(self, image: Gray) -> Gray:
        """Crop, resize and rotate an image (rows, columns)."""
        cut = image[self.top : self.top + self.height, self.left : self.left + self.width]
        if (self.height, self.width) != (self.rows, self.columns):
            method = cv2.INTER_AREA if self.columns < self.width else cv2.INTER_LINEAR
            cut = cv2.resize(np.ascontiguousarray(cut), (self.columns, self.rows), interpolation=method)
        if self.orientation in (MIRRORED, TURNED):
            cut = cut[:, ::-1]
        if self.orientation in (TURNED, FLIPPED):
            cut = cut[::-1]
        return np.ascontiguousarray(cut)

    def upright(self, pixels: Array) -> Array:
        """Return the positions (..., 2) in the display image as (column, row) in the file, were it upright."""
        scale = np.array([self.columns / self.width, self.rows / self.height])
        return np.asarray((pixels - (self.left, self.top) + 0.5) * scale - 0.5)

    def pixels(self, pixels: Array) -> Array:
        """Return the positions (..., 2) in the display image as (column, row) in the file."""
        placed = self.upright(pixels)
        if self.orientation in (MIRRORED, TURNED):
            placed[..., 0] = self.columns - 1 - placed[..., 0]
        if self.orientation in (TURNED, FLIPPED):
            placed[..., 1] = self.rows - 1 - placed[..., 1]
        return placed

    def displacement_mm(self, pixels: Array, mm_per_px: float) -> Array:
        """Return the displacements (..., 2) from the file's center, right and up in the upright image, mm.

        Args:
            pixels: Positions in the display image.
            mm_per_px: Pixel spacing of the display image at isocenter depth.
        """
        middle = np.array([self.left + (self.width - 1) / 2, self.top + (self.height - 1) / 2])
        return np.asarray((pixels - middle) * (mm_per_px, -mm_per_px))

    def mm_per_px(self, mm_per_px: float) -> float:
        """Return the pixel spacing of the file; along the rows it differs by rounding to whole pixels only."""
        return mm_per_px * self.width / self.columns


def finish(image: Gray, capture: Capture, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the noise of the display chain, 8 bits, and a passage through JPEG."""
    if capture.noise:
        image = image + rng.normal(0, capture.noise, image.shape).astype(np.float32)
    gray: NDArray[np.uint8] = np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
    if capture.jpeg_quality:
        _, encoded = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, capture.jpeg_quality])
        gray = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)
    return gray
