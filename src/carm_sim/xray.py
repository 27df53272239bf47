# SPDX-License-Identifier: Apache-2.0
"""The X-ray system without ROS: joint positions in, exposures out."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.errors import ConfigurationError
from carm_core.frame import XrayFrame
from carm_core.geometry import Detector, XrayView
from carm_core.kinematics import CArm
from carm_sim.display import Window, display_image
from carm_sim.drr import Region, Renderer
from carm_sim.drr.bands import Bands
from carm_sim.patient import Patient
from carm_sim.physics.attenuation import bone_of_hu, material_weights, water_of_hu
from carm_sim.physics.detector import DetectorModel, read_out
from carm_sim.physics.exposure_control import ExposureControl
from carm_sim.physics.tube import (
    REFERENCE_POINT_MM,
    Technique,
    air_kerma_gy,
    dose_area_product_gym2,
    effective_energy_kev,
    fluence_per_mm2,
)

_CONTROL_RAYS = 16  # along each side of the field's middle


@dataclass(frozen=True)
class XrayConfig:
    """Settings of the X-ray system.

    Attributes:
        binning: Detector binning.
        threads: Threads for rendering.
        detector: Detector response and noise.
        control: Automatic exposure control.
        window: Display window.
    """

    binning: int = 3
    threads: int = 2
    detector: DetectorModel = field(default_factory=DetectorModel)
    control: ExposureControl = field(default_factory=ExposureControl)
    window: Window = field(default_factory=Window)


@dataclass(frozen=True)
class Request:
    """What an exposure should be; what is 0 is chosen automatically.

    Attributes:
        voltage_kv: Peak tube voltage, kV.
        charge_mas: Tube charge, mAs.
        field_m: Width and height of the collimated field at isocenter depth, centered, m; 0, 0: the whole
            detector.
    """

    voltage_kv: float = 0.0
    charge_mas: float = 0.0
    field_m: tuple[float, float] = (0.0, 0.0)


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

    def frame(self, stamp_s: float = 0.0) -> XrayFrame:
        """The display image as models and the agent see it, at a time, s."""
        return XrayFrame(
            self.display,
            self.view.mm_per_px_at_isocenter,
            stamp_s,
            self.primary_rad,
            self.secondary_rad,
            self.view,
        )


class XraySystem:
    """A C-arm's tube and detector with a patient on the table.

    The same patient, settings, seed and requests give the same bytes. Calls from several threads wait for
    each other.

    Attributes:
        patient: Who lies on the table.
        carm: Kinematics and detector.
        config: Settings.
    """

    def __init__(self, patient: Patient, carm: CArm, config: XrayConfig | None = None, seed: int = 0) -> None:
        """Set up; the renderer's copies of the volume are made when needed, or by :meth:`prepare`.

        Args:
            patient: Who lies on the table.
            carm: Kinematics and detector.
            config: Settings; None: the defaults.
            seed: Seed of the noise.
        """
        self.patient, self.carm = patient, carm
        self.config = config if config is not None else XrayConfig()
        self._seed = seed
        self._transform_table_to_lps = patient.transform_lps_to_table.inverse()
        self._renderer = Renderer(patient.volume, [water_of_hu, bone_of_hu], threads=self.config.threads)
        self._bands = Bands(self.config.threads)
        self._lock = threading.Lock()
        self._sequence = 0
        self._air_kerma_gy = 0.0
        self._dose_area_product_gym2 = 0.0

    def prepare(self, positions: ArrayLike | None = None) -> None:
        """Do now what would slow down the first exposure: compile, and copy the volume for a position's side.

        Args:
            positions: Joint positions (6,), m and rad; None: home.
        """
        with self._lock:
            view = self.carm.view(self.carm.home if positions is None else positions, self.config.binning)
            view_lps = view.transformed(self._transform_table_to_lps)
            region = 0, 0, 8, 8
            technique = self._technique(view_lps, region, Request())
            display_image(self._image(view_lps, region, technique, 0), self.config.window, region)

    def expose(self, positions: ArrayLike, request: Request | None = None) -> Exposure:
        """Make one exposure.

        Args:
            positions: Joint positions (6,), m and rad.
            request: Technique and field; None: everything automatic.

        Raises:
            ConfigurationError: Voltage, charge or field is out of range; the message names its limits.
        """
        wanted = request if request is not None else Request()
        with self._lock:
            view = self.carm.view(positions, self.config.binning)
            region = field_region(view, wanted.field_m)
            view_lps = view.transformed(self._transform_table_to_lps)
            technique = self._technique(view_lps, region, wanted)
            raw = self._image(view_lps, region, technique, self._sequence + 1)
            return self._exposure(positions, view, region, technique, raw, view_lps)

    def line_integrals(self, view: XrayView, voltage_kv: float, region: Region | None = None) -> NDArray[np.float32]:
        """Noise-free line integrals float32 (rows, columns), raw orientation, of a view in frame ``table``.

        Raises:
            ConfigurationError: The voltage is out of range.
        """
        weights = material_weights(effective_energy_kev(voltage_kv))
        return self._renderer.line_integrals(view.transformed(self._transform_table_to_lps), region, weights)

    def _technique(self, view_lps: XrayView, region: Region, wanted: Request) -> Technique:
        if wanted.voltage_kv and wanted.charge_mas:
            paths = np.zeros((2, 1), np.float32)
        else:
            paths = self._renderer.material_integrals(control_view(view_lps, region))
        return self.config.control.choose(paths, view_lps.source_detector_mm, wanted.voltage_kv, wanted.charge_mas)

    def _image(self, view_lps: XrayView, region: Region, technique: Technique, sequence: int) -> NDArray[np.uint16]:
        energy = effective_energy_kev(technique.voltage_kv)
        integrals = self._renderer.line_integrals(view_lps, region, material_weights(energy))
        fluence = fluence_per_mm2(technique.voltage_kv, technique.charge_mas, view_lps.source_detector_mm)
        key = int(np.random.SeedSequence([self._seed, sequence]).generate_state(1)[0])
        shape = (view_lps.detector.rows, view_lps.detector.columns)
        left, top, right, bottom = region
        raw = np.empty(shape, np.uint16) if integrals.shape == shape else np.zeros(shape, np.uint16)
        read_out(
            integrals,
            fluence,
            energy,
            view_lps.detector.pitch_mm,
            self.config.detector,
            key,
            self._bands,
            raw[top:bottom, left:right],
        )
        return raw

    def _exposure(
        self,
        positions: ArrayLike,
        view: XrayView,
        region: Region,
        technique: Technique,
        raw: NDArray[np.uint16],
        view_lps: XrayView,
    ) -> Exposure:
        left, top, right, bottom = region
        kv, mas = technique.voltage_kv, technique.charge_mas
        kerma = air_kerma_gy(kv, mas, view.source_isocenter_mm - REFERENCE_POINT_MM)
        area = (right - left) * (bottom - top) * view.detector.pitch_mm**2
        product = dose_area_product_gym2(kv, mas, area, view.source_detector_mm)
        self._sequence += 1
        self._air_kerma_gy += kerma
        self._dose_area_product_gym2 += product
        primary, secondary = self.carm.angles(positions)
        columns = view.detector.columns
        return Exposure(
            self._sequence,
            raw,
            display_image(raw, self.config.window, region),
            view,
            primary,
            secondary,
            technique,
            kerma,
            product,
            self._air_kerma_gy,
            self._dose_area_product_gym2,
            (columns - right, top, columns - left, bottom),
            self._renderer.hit_fraction(view_lps, region),
        )


def field_region(view: XrayView, field_m: tuple[float, float]) -> Region:
    """Raw pixels that a centered field exposes.

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
    """The few rays through the middle half of a field that the exposure control measures."""
    left, top, right, bottom = region
    pitch = max(right - left, bottom - top) / 2 / _CONTROL_RAYS
    column, row = view.center_px
    middle = (left + right - 1) / 2, (top + bottom - 1) / 2
    origin = middle[0] - (_CONTROL_RAYS - 1) / 2 * pitch, middle[1] - (_CONTROL_RAYS - 1) / 2 * pitch
    return XrayView(
        view.source_mm,
        view.rotation,
        Detector(_CONTROL_RAYS, _CONTROL_RAYS, view.detector.pitch_mm * pitch),
        view.source_detector_mm,
        view.source_isocenter_mm,
        ((column - origin[0]) / pitch, (row - origin[1]) / pitch),
    )
