# SPDX-License-Identifier: Apache-2.0
"""X-ray images of phantoms as a screen shows them, with the positions of all landmarks: rows of the format ``xray``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import PatientError
from carm_core.imaging.projection import XrayView, display_from_raw
from carm_core.landmarks import LANDMARKS
from carm_core.transforms import Array
from carm_perception.datasets.rendering.acquisition import Capture, Gray, Sheet, develop, draw_capture, finish
from carm_perception.datasets.rendering.integrals import EXTRA_RAISED
from carm_perception.datasets.rendering.render import SOURCE_DETECTOR_MM, SOURCE_ISOCENTER_MM, make_variant
from carm_perception.datasets.storage.shards import FLAGS, IMAGE, NUMBERS, png
from carm_perception.datasets.views import LIMB_IDS, SampledView, ViewDistribution, sample_view
from carm_sim.devices import equip
from carm_sim.display import display_image
from carm_sim.drr import Region, Renderer
from carm_sim.drr.parallel import Bands
from carm_sim.drr.scene import Scene
from carm_sim.patient.patient import Patient, make_patient
from carm_sim.phantom import PhantomBody
from carm_sim.physics.attenuation import bone_of_hu, water_of_hu
from carm_sim.physics.beam import beam
from carm_sim.physics.detector import Panel, Pulse
from carm_sim.physics.exposure_control import ExposureControl, Field
from carm_sim.physics.tube import Technique, Tube
from carm_sim.xray import control_view, field_region

WIDE_ROTATION, WIDE_ROLL_DEG = 0.2, 14.0
"""Part of the views that are turned in the image plane by more, and the standard deviation of that."""
_BODY_MM, _BODY_SHARE, _TRIES = 10.0, 0.15, 20
"""A view is drawn again when fewer rays than this share pass through so much of the body."""
VIEWS_PER_SCAN = 20
"""Views of one scan of a body; the next has other proportions, tissue, extent and hardware."""
HARDWARE_CHANCE = 0.4
HARDWARE = {
    "ecg": 3.0,
    "tubes": 3.0,
    "pacemaker": 2.0,
    "catheter": 2.0,
    "sternal_wires": 2.0,
    "table": 2.0,
    "jewellery": 2.0,
    "screws_rods": 1.5,
    "shoulder_implant": 1.5,
    "guide_wire": 1.0,
    "surgeon_hand": 1.0,
    "pleural_effusion": 1.0,
}
"""What may be in the beam, by name of ``carm_sim.devices``, with how often it is drawn."""

FIELDS = {
    "patient": "string",
    "seed": "int64",
    "split": "string",
    "variant": "int32",
    "image": IMAGE,
    "mm_per_px": "float32",
    "displacement_mm": NUMBERS,
    "landmark_px": NUMBERS,
    "landmark_mm": NUMBERS,
    "visible": FLAGS,
    "field_px": NUMBERS,
    "orientation": "string",
    "inverted": "bool",
    "truncated": "bool",
    "hardware": "string",
    "isocenter_mm": NUMBERS,
    "primary_deg": "float32",
    "secondary_deg": "float32",
    "roll_deg": "float32",
    "centered_on": "int32",
    "voltage_kv": "float32",
    "charge_mas": "float32",
    "detector_dose_ngy": "float32",
    "gamma": "float32",
    "linear": "bool",
    "jpeg_quality": "int32",
}


@dataclass(frozen=True, eq=False)
class Scan:
    """A body as it lies on the table once.

    Attributes:
        patient: Volume and hardware; landmarks inside the volume.
        landmarks_mm: Landmark id to position (3,) in LPS, also those that the volume does not reach.
        scene: Everything in the beam.
        truncated: Whether the volume was cut off above or below.
    """

    patient: Patient
    landmarks_mm: dict[int, Array]
    scene: Scene
    truncated: bool

    @property
    def hardware(self) -> str:
        """Names of what was added, joined by plus signs."""
        return self.patient.name.partition("+")[2]


@dataclass(frozen=True, eq=False)
class Xray:
    """One image.

    Attributes:
        image: Gray values (rows, columns) as in the file.
        mm_per_px: Pixel spacing at isocenter depth.
        landmark_px: Landmarks (14, 2) in the file, column and row, also outside; NaN when unknown.
        displacement_mm: The same from the file's center, in the patient's frame, towards the patient's left and the
            head at 0/0: what the pointing protocol asks for, however the image is shown.
        visible: Which landmarks (14,) lie in the exposed part of the image and in the volume.
        field_px: Exposed part of the file: left, top, right, bottom.
        sampled: The view.
        technique: What the tube did.
        capture: How the image was taken and shown.
    """

    image: NDArray[np.uint8]
    mm_per_px: float
    landmark_px: Array
    displacement_mm: Array
    visible: NDArray[np.bool_]
    field_px: tuple[float, float, float, float]
    sampled: SampledView
    technique: Technique
    capture: Capture


def draw_tissue(rng: np.random.Generator) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Draw water and bone per voxel by HU: density of the lungs, contrast of soft tissue and weight of bone vary."""
    lung, contrast = rng.uniform(0.6, 1.5), rng.uniform(0.6, 1.5)
    bone = math.exp(rng.uniform(math.log(0.75), math.log(1.3)))
    seen = (-1024.0, -950.0, -600.0, -120.0, 0.0, 100.0, 3000.0)
    meant = (-1024.0, -950.0, -1000 + 400 * lung, -120 * contrast, 0.0, 100 * contrast, 100 * contrast + 2900 * bone)

    def changed(hu: Array) -> Array:
        return np.interp(hu, seen, meant)

    return (lambda hu: water_of_hu(changed(hu))), (lambda hu: bone_of_hu(changed(hu)))


def draw_scan(rng: np.random.Generator, body: PhantomBody | Patient, name: str) -> Scan:
    """Draw how a body is scanned: proportions, extent, tissue and hardware.

    Args:
        rng: Source of randomness.
        body: The body.
        name: Name of the patient.
    """
    known = {mark.id for mark in LANDMARKS}
    everything = {**body.extra_landmarks_mm, **body.landmarks_mm}
    variant = make_variant(rng, body.volume, everything)
    marks = {key: point for key, point in variant.landmarks_mm.items() if key in known}
    inside = {key: point for key, point in marks.items() if variant.volume.contains(point)}
    extra = {key: point for key, point in variant.landmarks_mm.items() if key not in known}
    patient = replace(make_patient(name, variant.volume, inside, "data set"), extra_landmarks_mm=extra)
    patient = _equipped(patient, rng)
    devices = [patient.devices.with_threads(1)] if len(patient.devices) else []
    scene = Scene([Renderer(patient.volume, list(draw_tissue(rng)), threads=1), *devices])
    return Scan(patient, marks, scene, variant.volume.shape[2] < body.volume.shape[2])


def _equipped(patient: Patient, rng: np.random.Generator) -> Patient:
    """Return the patient with up to three things; what does not fit on this body is left out."""
    count = int(rng.integers(1, 4)) if rng.random() < HARDWARE_CHANCE else 0
    weights = np.array(list(HARDWARE.values()))
    names = rng.choice(list(HARDWARE), size=count, replace=False, p=weights / weights.sum())
    for name, variant in zip(names, rng.integers(0, 1_000_000, size=count), strict=True):
        try:
            item = equip(replace(patient, name=patient.name.partition("+")[0]), [f"{name}:{variant}"])
        except PatientError:
            continue
        patient = replace(item, name=f"{patient.name}+{name}:{variant}")
    return patient


def expose(rng: np.random.Generator, scene: Scene, view: XrayView, capture: Capture) -> tuple[Gray, Region, Technique]:
    """Make the display image of a view, before cropping.

    Args:
        rng: Source of randomness.
        scene: What is in the beam.
        view: Source and detector, frame LPS.
        capture: How it is taken.

    Returns:
        Gray values 0 to 1 (rows, columns), display orientation, bones bright; the exposed field in it (left, top,
        right, bottom); what the tube did.
    """
    tube = Tube()
    width_m, height_m = (
        count * view.mm_per_px_at_isocenter / 1000 for count in (view.detector.columns, view.detector.rows)
    )
    region = field_region(view, (capture.field[0] * width_m, capture.field[1] * height_m))
    rays = control_view(view, region)
    field = Field(scene.material_integrals(rays), rays.detector.pitch_mm, rays.source_detector_mm)
    control = ExposureControl(detector_dose_gy=1e-9 * capture.dose_ngy)
    technique = control.choose(field, capture.detector, tube, capture.voltage_kv)
    magnification = view.source_detector_mm / view.source_isocenter_mm
    pulse = Pulse(
        beam(technique.voltage_kv, tube, capture.detector.scintillator_g_cm2),
        technique.charge_mas,
        view.source_detector_mm,
        capture.focal_spot * tube.focal_spot_mm * (magnification - 1) / math.sqrt(12),
        int(rng.integers(2**32)),
    )
    paths = scene.material_integrals(view, region)
    raw = np.zeros((view.detector.rows, view.detector.columns), np.uint16)
    panel = Panel(capture.detector, Bands(1))
    used = paths if scene.solids else paths[:2]
    panel.expose(np.ascontiguousarray(used), view.detector.pitch_mm, pulse, raw, region[:2])
    left, top, right, bottom = region
    columns = view.detector.columns
    shown = columns - right, top, columns - left, bottom
    return _gray(raw, region, capture, panel, pulse, view), shown, technique


def _gray(
    raw: NDArray[np.uint16], region: Region, capture: Capture, panel: Panel, pulse: Pulse, view: XrayView
) -> Gray:
    left, top, right, bottom = region
    field = raw[top:bottom, left:right]
    if not capture.linear:
        wanted = capture.window.scatter_correction > 0
        scatter = panel.scatter_estimate(field, view.detector.pitch_mm, pulse) if wanted else None
        return np.asarray(display_image(raw, capture.window, region, scatter) / 255, np.float32)
    low, high = np.percentile(field[::2, ::2], (capture.window.bright_percentile, capture.window.dark_percentile))
    gray = np.zeros(raw.shape, np.float32)
    gray[top:bottom, left:right] = np.clip((high - field.astype(np.float32)) / max(high - low, 1.0), 0, 1)
    return display_from_raw(gray)


def draw_xray(rng: np.random.Generator, scan: Scan, distribution: ViewDistribution) -> Xray:
    """Draw a view of a scan and how it is taken and shown.

    Args:
        rng: Source of randomness.
        scan: The body.
        distribution: Spread of the views.
    """
    capture = draw_capture(rng)
    volume = scan.patient.volume
    corners = volume.lps_from_voxel(np.array([[0, 0, 0], np.array(volume.shape) - 1], dtype=np.float64))
    if rng.random() < WIDE_ROTATION:
        distribution = replace(distribution, roll_deg=WIDE_ROLL_DEG)
    distances = SOURCE_DETECTOR_MM, SOURCE_ISOCENTER_MM
    box = corners.min(0), corners.max(0)
    for _ in range(_TRIES):
        sampled = sample_view(rng, scan.landmarks_mm, box, capture.grid, distances, distribution)
        if _sees_body(scan, sampled.view):
            break
    gray, field, technique = expose(rng, scan.scene, sampled.view, capture)
    sheet = Sheet.of((gray.shape[0], gray.shape[1]), capture)
    image = finish(sheet.apply(develop(gray, field, capture)), capture, rng)
    return _labeled(image, sheet, field, scan, sampled, technique, capture)


def _sees_body(scan: Scan, view: XrayView) -> bool:
    rays = control_view(view, (0, 0, view.detector.columns, view.detector.rows))
    return bool((scan.scene.material_integrals(rays).sum(0) > _BODY_MM).mean() > _BODY_SHARE)


def _labeled(
    image: NDArray[np.uint8],
    sheet: Sheet,
    field: Region,
    scan: Scan,
    sampled: SampledView,
    technique: Technique,
    capture: Capture,
) -> Xray:
    view = sampled.view
    display = np.full((len(LANDMARKS), 2), np.nan)
    contained = np.zeros(len(LANDMARKS), bool)
    for index, mark in enumerate(LANDMARKS):
        if mark.id in scan.landmarks_mm:
            display[index] = view.pixel_display(scan.landmarks_mm[mark.id])
            contained[index] = mark.id in scan.patient.landmarks_mm
    placed = sheet.upright(display)
    in_image = ((placed >= 0) & (placed <= (sheet.columns - 1, sheet.rows - 1))).all(-1)
    limbs = np.isin([mark.id for mark in LANDMARKS], LIMB_IDS)
    display[in_image & ~contained & limbs] = np.nan
    exposed = ((display >= field[:2]) & (display < field[2:])).all(-1)
    corners = sheet.pixels(np.array([field[:2], field[2:]], np.float64) - 0.5)
    low, high = corners.min(0), corners.max(0)
    limit = np.array([sheet.columns, sheet.rows]) - 0.5
    low, high = np.clip(low, -0.5, limit), np.clip(high, -0.5, limit)
    spacing = view.mm_per_px_at_isocenter
    return Xray(
        image=image,
        mm_per_px=sheet.mm_per_px(spacing),
        landmark_px=sheet.pixels(display),
        displacement_mm=sheet.displacement_mm(display, spacing),
        visible=in_image & exposed & contained,
        field_px=(float(low[0]), float(low[1]), float(high[0]), float(high[1])),
        sampled=sampled,
        technique=technique,
        capture=capture,
    )


def rows(
    seed: int,
    style: str,
    split: str,
    patient: str,
    views: int,
    distribution: ViewDistribution,
    ct: Patient | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of one patient; arguments as in ``carm_perception.datasets.rendering.integrals.rows``."""
    from carm_sim.phantom import generate_phantom

    rng = np.random.default_rng([seed, 91])
    arms = "raised" if rng.random() < EXTRA_RAISED else None
    body = ct or generate_phantom(seed, style=style, arms=arms)
    for number, first in enumerate(range(0, views, VIEWS_PER_SCAN)):
        scan = draw_scan(rng, body, patient)
        marks = np.array([scan.landmarks_mm.get(m.id, np.full(3, np.nan)) for m in LANDMARKS], np.float32)
        fixed = {"patient": patient, "seed": seed, "split": split, "variant": number, "hardware": scan.hardware}
        fixed |= {"truncated": scan.truncated, "landmark_mm": marks.ravel().tolist()}
        for _ in range(min(VIEWS_PER_SCAN, views - first)):
            yield fixed | _row(draw_xray(rng, scan, distribution))


def _row(xray: Xray) -> dict[str, Any]:
    sampled, capture = xray.sampled, xray.capture
    return {
        "image": png(xray.image),
        "mm_per_px": xray.mm_per_px,
        "displacement_mm": xray.displacement_mm.ravel().tolist(),
        "landmark_px": xray.landmark_px.ravel().tolist(),
        "visible": xray.visible.tolist(),
        "field_px": list(xray.field_px),
        "orientation": capture.orientation,
        "inverted": capture.inverted,
        "isocenter_mm": sampled.isocenter_mm.tolist(),
        "primary_deg": sampled.primary_deg,
        "secondary_deg": sampled.secondary_deg,
        "roll_deg": sampled.roll_deg,
        "centered_on": sampled.centered_on,
        "voltage_kv": xray.technique.voltage_kv,
        "charge_mas": xray.technique.charge_mas,
        "detector_dose_ngy": capture.dose_ngy,
        "gamma": capture.gamma,
        "linear": capture.linear,
        "jpeg_quality": capture.jpeg_quality,
    }
