# SPDX-License-Identifier: Apache-2.0
"""An exposure, or a fluoroscopic run, as an X-ray angiographic image (DICOM PS3.3 A.14), losslessly compressed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import JPEGLSLossless, XRayAngiographicImageStorage

from carm_bringup.dicom_export.exposure import XrayExposure
from carm_bringup.dicom_export.study import RESEARCH_NOTE, Study, date, decimal, time
from carm_core.imaging.orientation import direction_letters

SERIES_NUMBER = 1
DGYCM2_PER_GYM2 = 1e5
"""Unit of the image's dose-area product (0018,115E): dGy cm²."""
_WINDOW = (1.0, 95.0)
"""Percentiles of the field's signal between which the window lies; above is mostly bare beam."""


def xa_image(study: Study, frames: Sequence[XrayExposure], instance: int, event_uid: str) -> Dataset:
    """Create an image from one exposure or from the frames of one run.

    Args:
        study: The session.
        frames: All of one size; one, or the frames of a run in order of time.
        instance: Number of the image in its series.
        event_uid: Irradiation event UID, which the dose report names, too.

    Returns:
        The image, ready to be saved; its transfer syntax is JPEG-LS lossless.
    """
    out = study.dataset(XRayAngiographicImageStorage, "XA", study.image_series_uid, SERIES_NUMBER, instance)
    first = frames[0]
    out.ContentDate = out.AcquisitionDate = out.SeriesDate = date(first.time)
    out.ContentTime = out.AcquisitionTime = time(first.time)
    out.SeriesDate, out.SeriesTime = date(study.started), time(study.started)
    out.ImageType = ["ORIGINAL", "PRIMARY", "SINGLE PLANE"]
    out.ContentQualification = "RESEARCH"
    out.ImageComments = RESEARCH_NOTE
    out.IrradiationEventUID = event_uid
    out.PatientOrientation = patient_orientation(first)
    out.PatientPosition, out.Laterality = "HFS", ""
    _add_acquisition(out, frames)
    _add_geometry(out, frames)
    _add_collimator(out, first)
    _add_frames(out, frames)
    _add_pixels(out, frames)
    return out


def patient_orientation(exposure: XrayExposure) -> list[str]:
    """Return the anatomical directions (supine patient) of rows, left to right, and columns, top to bottom."""
    right, top = exposure.view.display_axes
    return [direction_letters(np.asarray(right)), direction_letters(-np.asarray(top))]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _add_acquisition(out: Dataset, frames: Sequence[XrayExposure]) -> None:
    """X-Ray Acquisition module: technique and dose; the dose is the sum over the frames."""
    pulse_s = _mean([frame.pulse_s for frame in frames])
    current = _mean([frame.current_ma for frame in frames])
    total_s = sum(frame.pulse_s for frame in frames)
    charge = sum(frame.current_ma * frame.pulse_s for frame in frames)
    out.KVP = decimal(_mean([frame.voltage_kv for frame in frames]))
    out.XRayTubeCurrent, out.XRayTubeCurrentInuA = max(1, round(current)), decimal(1000 * current)
    out.ExposureTime, out.ExposureTimeInuS = max(1, round(1000 * total_s)), decimal(1e6 * total_s)
    out.Exposure, out.ExposureInuAs = round(charge), round(1000 * charge)
    out.AveragePulseWidth = decimal(1000 * pulse_s)
    out.RadiationSetting = "SC" if frames[0].fluoroscopy else "GR"
    out.RadiationMode = "PULSED"
    product = sum(frame.dose_area_product_gym2 for frame in frames)
    out.ImageAndFluoroscopyAreaDoseProduct = decimal(DGYCM2_PER_GYM2 * product)


def _add_geometry(out: Dataset, frames: Sequence[XrayExposure]) -> None:
    """XA Positioner module: angles, distances, spacing."""
    first, view = frames[0], frames[0].view
    spacing = view.mm_per_px_at_isocenter
    out.DistanceSourceToDetector = decimal(view.source_detector_mm)
    out.DistanceSourceToPatient = decimal(view.source_isocenter_mm)
    out.EstimatedRadiographicMagnificationFactor = decimal(view.source_detector_mm / view.source_isocenter_mm)
    out.ImagerPixelSpacing = [decimal(view.detector.pitch_mm)] * 2
    out.PixelSpacing = [decimal(spacing)] * 2
    out.PixelSpacingCalibrationType = "GEOMETRY"
    out.PixelSpacingCalibrationDescription = "At the depth of the isocenter"
    out.PositionerPrimaryAngle = decimal(math.degrees(first.primary_rad))
    out.PositionerSecondaryAngle = decimal(math.degrees(first.secondary_rad))
    if len(frames) == 1:
        return
    primary = [math.degrees(frame.primary_rad - first.primary_rad) for frame in frames]
    secondary = [math.degrees(frame.secondary_rad - first.secondary_rad) for frame in frames]
    moves = max(map(abs, primary + secondary)) > 0.1
    out.PositionerMotion = "DYNAMIC" if moves else "STATIC"
    if moves:
        out.PositionerPrimaryAngleIncrement = [decimal(round(angle, 4)) for angle in primary]
        out.PositionerSecondaryAngleIncrement = [decimal(round(angle, 4)) for angle in secondary]


def _add_collimator(out: Dataset, exposure: XrayExposure) -> None:
    """X-Ray Collimator module, where the field is smaller than the detector; edges are counted from 1."""
    rows, columns = exposure.pixels.shape
    left, top, right, bottom = exposure.field_px
    if (left, top, right, bottom) in ((0, 0, columns, rows), (0, 0, 0, 0)):
        return
    out.CollimatorShape = "RECTANGULAR"
    out.CollimatorLeftVerticalEdge, out.CollimatorRightVerticalEdge = left, right + 1
    out.CollimatorUpperHorizontalEdge, out.CollimatorLowerHorizontalEdge = top, bottom + 1


def _add_frames(out: Dataset, frames: Sequence[XrayExposure]) -> None:
    """Multi-frame and Cine modules; the time of each frame is the one it was taken at."""
    if len(frames) == 1:
        return
    steps = [1000 * (later.time - earlier.time).total_seconds() for earlier, later in pairwise(frames)]
    out.NumberOfFrames = len(frames)
    out.FrameIncrementPointer = Tag("FrameTimeVector")
    out.FrameTimeVector = [decimal(step) for step in (0.0, *steps)]
    out.RecommendedDisplayFrameRate = out.CineRate = max(1, round(1000 / _mean(steps)))


def _add_pixels(out: Dataset, frames: Sequence[XrayExposure]) -> None:
    pixels = np.stack([frame.pixels for frame in frames])
    out.Rows, out.Columns = pixels.shape[1:]
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation = 16, 16, 15, 0
    out.PixelIntensityRelationship = "LIN"
    out.LossyImageCompression = "00"
    out.BurnedInAnnotation = "NO"
    left, top, right, bottom = frames[0].field_px
    field = pixels[0, top:bottom, left:right]
    low, high = np.percentile(field if field.size else pixels, _WINDOW)
    out.WindowCenter, out.WindowWidth = decimal(round((low + high) / 2)), decimal(max(1, round(high - low)))
    out.compress(JPEGLSLossless, pixels if len(frames) > 1 else pixels[0], generate_instance_uid=False)
