# SPDX-License-Identifier: Apache-2.0
"""The X-ray system without ROS: joint positions in, exposures out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.errors import ConfigurationError
from carm_core.imaging.display import Window
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import Detector, XrayView
from carm_core.robot.kinematics import CArm
from carm_sim.display import display_image
from carm_sim.drr import Region, Renderer, make_renderer
from carm_sim.drr.buffers import Buffers
from carm_sim.drr.parallel import Bands
from carm_sim.drr.scene import MATERIALS, Scene, SolidSet
from carm_sim.patient.patient import Patient
from carm_sim.patient.volume import Volume
from carm_sim.physics.attenuation import bone_of_hu, material_weights, water_of_hu
from carm_sim.physics.beam import beam
from carm_sim.physics.detector import DetectorModel, Panel, Pulse
from carm_sim.physics.dose import DoseAlarm, DoseMeter
from carm_sim.physics.exposure_control import ExposureControl, Field
from carm_sim.physics.tube import Technique, Tube, effective_energy_kev

SMALLEST_READOUT_PX = 64
_CONTROL_RAYS = 32  # along each side of the field
_CONTROL_SPACING_MM = 4.0  # of the voxels they meet


@dataclass(frozen=True)
class XrayConfig:
    """Settings of the X-ray system.

    Attributes:
        binning: Detector binning.
        readout_px: Side of the central square of the binned detector that is read out, as detectors do for zoom; 0:
            the whole detector.
        threads: Threads for rendering.
        detector: Detector response and noise.
        tube: Filtration, focal spot.
        control: Automatic exposure control.
        alarm: Levels of dose from which the operator is warned.
        window: Display window.
    """

    binning: int = 3
    readout_px: int = 0
    threads: int = 2
    detector: DetectorModel = field(default_factory=DetectorModel)
    tube: Tube = field(default_factory=Tube)
    control: ExposureControl = field(default_factory=ExposureControl)
    alarm: DoseAlarm = field(default_factory=DoseAlarm)
    window: Window = field(default_factory=Window)


@dataclass(frozen=True)
class Request:
    """What an exposure should be; what is 0 is chosen automatically.

    Attributes:
        voltage_kv: Peak tube voltage, kV.
        charge_mas: Tube charge, mAs.
        field_m: Width and height of the collimated field at isocenter depth, centered, m; 0, 0: the whole
            detector.
        since_last_s: Time since the last frame of a series, s, from which the detector's lag follows; infinite: a
            single exposure, without lag.
    """

    voltage_kv: float = 0.0
    charge_mas: float = 0.0
    field_m: tuple[float, float] = (0.0, 0.0)
    since_last_s: float = math.inf


@dataclass(frozen=True, eq=False)
class Exposure:
    """One exposure.

    Attributes:
        sequence: Exposures since the start, from 1.
        raw: Detector signal uint16 (rows, columns), raw orientation; 0 outside the field.
        display: Windowed image uint8 (rows, columns), display orientation, bones bright.
        view: Geometry in frame ``table``, mm.
        primary_rad: DICOM positioner primary angle, LAO positive, rad.
        secondary_rad: DICOM positioner secondary angle, cranial positive, rad.
        technique: What the tube did.
        air_kerma_gy: Air kerma at the interventional reference point, Gy.
        dose_area_product_gym2: Dose-area product, Gy m².
        cumulative_air_kerma_gy: Since the start, Gy.
        cumulative_dose_area_product_gym2: Since the start, Gy m².
        field_px: Exposed field in the display image: left, top, right, bottom; right and bottom exclusive.
        hit_fraction: Fraction of the field's rays that meet the patient's CT.
        scatter_to_primary: Scatter-to-primary ratio behind the grid, median over the middle half of the field.
        warning: Which dose alarm is on; empty: none.
    """

    sequence: int
    raw: NDArray[np.uint16]
    display: NDArray[np.uint8]
    view: XrayView
    primary_rad: float
    secondary_rad: float
    technique: Technique
    air_kerma_gy: float
    dose_area_product_gym2: float
    cumulative_air_kerma_gy: float
    cumulative_dose_area_product_gym2: float
    field_px: Region
    hit_fraction: float
    scatter_to_primary: float = 0.0
    warning: str = ""

    def frame(self, stamp_s: float = 0.0) -> XrayFrame:
        """Return the display image as models and the agent see it, at a time, s."""
        return XrayFrame(
            self.display,
            self.view.mm_per_px_at_isocenter,
            stamp_s,
            self.primary_rad,
            self.secondary_rad,
            self.view,
        )


@dataclass(frozen=True, eq=False)
class _Images:
    """Images of one exposure, as in ``Exposure``."""

    raw: NDArray[np.uint16]
    display: NDArray[np.uint8]
    scatter_to_primary: float


class XraySystem:
    """A C-arm's tube and detector with a patient on the table.

    The same patient, settings, seed and requests give the same bytes. Calls from several threads wait for
    each other.

    Attributes:
        patient: Who lies on the table.
        carm: Kinematics and detector.
        config: Settings.
    """

    def __init__(
        self,
        patient: Patient,
        carm: CArm,
        config: XrayConfig | None = None,
        seed: int = 0,
        solids: Sequence[SolidSet] = (),
    ) -> None:
        """Set up; the renderer's copies of the volume are made when needed, or by ``prepare``.

        Args:
            patient: Who lies on the table.
            carm: Kinematics and detector.
            config: Settings; None: the defaults.
            seed: Seed of the noise.
            solids: Things in the beam beside the patient's own devices, in the frame of the patient's CT.
        """
        self.patient, self.carm = patient, carm
        self.config = config if config is not None else XrayConfig()
        self._seed = seed
        self._transform_table_to_lps = patient.transform_lps_to_table.inverse()
        materials, threads = [water_of_hu, bone_of_hu], self.config.threads
        devices = [patient.devices.with_threads(threads)] if len(patient.devices) else []
        self._scene = Scene([make_renderer(patient.volume, materials, threads=threads), *devices, *solids])
        self._control_scene = Scene([Renderer(_thinned(patient.volume), materials, threads=1), *devices, *solids])
        self._panel = Panel(self.config.detector, Bands(self.config.threads), seed)
        self._buffers = Buffers()
        self._dose = DoseMeter(self.config.alarm)
        self._lock = threading.Lock()
        self._sequence = 0

    def adjust(self, config: XrayConfig) -> None:
        """Use exposure control and display window of other settings from the next exposure on."""
        with self._lock:
            self.config = replace(self.config, control=config.control, window=config.window)

    def prepare(self, positions: ArrayLike | None = None) -> None:
        """Compile and copy the volume now, so that the first exposure is fast.

        Args:
            positions: Joint positions (6,), m and rad; None: home.
        """
        with self._lock:
            view = self._view(self.carm.home if positions is None else positions)
            view_lps = view.transformed(self._transform_table_to_lps)
            region = 0, 0, 8, 8
            wanted = Request()
            self._images(view_lps, region, self._technique(view_lps, region, wanted), wanted, 0)

    def expose(
        self,
        positions: ArrayLike,
        request: Request | None = None,
        release: Callable[[], None] = lambda: None,
    ) -> Exposure:
        """Take one exposure.

        Args:
            positions: Joint positions (6,), m and rad.
            request: Technique and field; None: everything automatic.
            release: Called when the image is computed, just before the exposure counts; what it raises comes through,
                and then there was no exposure.

        Raises:
            ConfigurationError: Voltage, charge or field is out of range; the message names its limits.
        """
        wanted = request if request is not None else Request()
        with self._lock:
            view = self._view(positions)
            region = field_region(view, wanted.field_m)
            view_lps = view.transformed(self._transform_table_to_lps)
            technique = self._technique(view_lps, region, wanted)
            images = self._images(view_lps, region, technique, wanted, self._sequence + 1)
            hit = self._scene.hit_fraction(view_lps, region)
            release()
            return self._exposure(positions, view, region, technique, images, hit)

    def line_integrals(self, view: XrayView, voltage_kv: float, region: Region | None = None) -> NDArray[np.float32]:
        """Return the noise-free line integrals float32 (rows, columns), raw orientation, of a view in frame ``table``.

        Raises:
            ConfigurationError: The voltage is out of range.
        """
        weights = material_weights(effective_energy_kev(voltage_kv, self.config.tube))
        return self._scene.line_integrals(view.transformed(self._transform_table_to_lps), region, weights)

    def _view(self, positions: ArrayLike) -> XrayView:
        return read_out(self.carm.view(positions, self.config.binning), self.config.readout_px)

    def _technique(self, view_lps: XrayView, region: Region, wanted: Request) -> Technique:
        seen = None
        if not (wanted.voltage_kv and wanted.charge_mas):
            rays = control_view(view_lps, region)
            paths = np.maximum(self._control_scene.material_integrals(rays), 0.0)  # coarse rays overshoot at edges
            seen = Field(paths, rays.detector.pitch_mm, rays.source_detector_mm)
        config = self.config
        return config.control.choose(seen, config.detector, config.tube, wanted.voltage_kv, wanted.charge_mas)

    def _images(
        self, view_lps: XrayView, region: Region, technique: Technique, wanted: Request, sequence: int
    ) -> _Images:
        """Return what the detector and the display show."""
        left, top, right, bottom = region
        tube, detector = self.config.tube, view_lps.detector
        paths = self._buffers.shared("paths", (len(MATERIALS), bottom - top, right - left))
        self._scene.material_integrals(view_lps, region, paths)
        magnification = view_lps.source_detector_mm / view_lps.source_isocenter_mm
        pulse = Pulse(
            beam(technique.voltage_kv, tube, self.config.detector.scintillator_g_cm2),
            technique.charge_mas,
            view_lps.source_detector_mm,
            tube.focal_spot_mm * (magnification - 1) / math.sqrt(12),
            int(np.random.SeedSequence([self._seed, sequence]).generate_state(1)[0]),
            wanted.since_last_s,
        )
        whole = (bottom - top, right - left) == (detector.rows, detector.columns)
        raw = (np.empty if whole else np.zeros)((detector.rows, detector.columns), np.uint16)
        has_metal = bool(self._scene.solids)
        ratio = self._panel.expose(paths if has_metal else paths[:2], detector.pitch_mm, pulse, raw, (left, top))
        field, window = raw[top:bottom, left:right], self.config.window
        scatter = self._panel.scatter_estimate(field, detector.pitch_mm, pulse) if window.scatter_correction else None
        return _Images(raw, display_image(raw, window, region, scatter), ratio)

    def _exposure(
        self,
        positions: ArrayLike,
        view: XrayView,
        region: Region,
        technique: Technique,
        images: _Images,
        hit_fraction: float,
    ) -> Exposure:
        left, top, right, bottom = region
        area = (right - left) * (bottom - top) * view.detector.pitch_mm**2
        kerma, product = self._dose.add(
            technique, self.config.tube, view.source_isocenter_mm, area, view.source_detector_mm
        )
        self._sequence += 1
        primary, secondary = self.carm.angles(positions)
        columns = view.detector.columns
        return Exposure(
            self._sequence,
            images.raw,
            images.display,
            view,
            primary,
            secondary,
            technique,
            kerma,
            product,
            self._dose.air_kerma_gy,
            self._dose.dose_area_product_gym2,
            (columns - right, top, columns - left, bottom),
            hit_fraction,
            images.scatter_to_primary,
            self._dose.warning,
        )


def _thinned(volume: Volume) -> Volume:
    """Return every few voxels of a volume: enough for what the exposure control measures."""
    steps = [max(1, round(_CONTROL_SPACING_MM / spacing)) for spacing in volume.spacing_mm]
    first = [(count - 1) % step // 2 for count, step in zip(volume.hu.shape, steps, strict=True)]
    hu = volume.hu[tuple(slice(at, None, step) for at, step in zip(first, steps, strict=True))]
    affine = volume.transform_voxel_to_lps @ np.diag([*steps, 1.0])
    affine[:3, 3] = volume.transform_voxel_to_lps[:3] @ [*first, 1.0]
    return Volume(np.ascontiguousarray(hu), affine)


def read_out(view: XrayView, side_px: int) -> XrayView:
    """Return the view of the central square of a detector.

    Args:
        view: Geometry of the whole detector.
        side_px: Side of the square, pixels after binning; 0: the whole detector.

    Raises:
        ConfigurationError: The square is smaller than ``SMALLEST_READOUT_PX``, larger than the detector, or not
            centered on whole pixels.
    """
    if side_px == 0:
        return view
    rows, columns = view.detector.rows, view.detector.columns
    if not SMALLEST_READOUT_PX <= side_px <= min(rows, columns) or (rows - side_px) % 2 or (columns - side_px) % 2:
        raise ConfigurationError(
            f"a readout of {side_px} pixels does not fit the detector of {columns} x {rows} pixels: from"
            f" {SMALLEST_READOUT_PX} to {min(rows, columns)}, in steps of 2"
        )
    return view.central(side_px, side_px)


def field_region(view: XrayView, field_m: tuple[float, float]) -> Region:
    """Return the raw pixels that a centered field exposes.

    Args:
        view: Geometry.
        field_m: Width and height at isocenter depth, m; 0, 0: the whole detector.

    Raises:
        ConfigurationError: The field is not positive, or wider or higher than the detector allows.
    """
    columns, rows = view.detector.columns, view.detector.rows
    if field_m[0] == 0 and field_m[1] == 0:
        return 0, 0, columns, rows
    bounds = []
    for name, size_m, count in (("width", field_m[0], columns), ("height", field_m[1], rows)):
        limit = count * view.mm_per_px_at_isocenter / 1000
        if not (math.isfinite(size_m) and 0 < size_m <= limit + 1e-6):
            raise ConfigurationError(f"field {name} {size_m:.4f} m is outside (0, {limit:.4f}] m")
        pixels = min(count, max(1, round(1000 * size_m / view.mm_per_px_at_isocenter)))
        first = (count - pixels) // 2
        bounds.append((first, first + pixels))
    return bounds[0][0], bounds[1][0], bounds[0][1], bounds[1][1]


def control_view(view: XrayView, region: Region) -> XrayView:
    """The few rays through a field by which the exposure control sees it, one in the middle of each square cell."""
    left, top, right, bottom = region
    pitch = max(right - left, bottom - top) / _CONTROL_RAYS
    rows, columns = (max(1, round((last - first) / pitch)) for first, last in ((top, bottom), (left, right)))
    column, row = view.center_px
    middle = (left + right - 1) / 2, (top + bottom - 1) / 2
    origin = middle[0] - (columns - 1) / 2 * pitch, middle[1] - (rows - 1) / 2 * pitch
    return XrayView(
        view.source_mm,
        view.rotation,
        Detector(rows, columns, view.detector.pitch_mm * pitch),
        view.source_detector_mm,
        view.source_isocenter_mm,
        ((column - origin[0]) / pitch, (row - origin[1]) / pitch),
    )
