# SPDX-License-Identifier: Apache-2.0
"""Parameters of the X-ray node."""

from __future__ import annotations

from dataclasses import dataclass, replace

from carm_core.errors import ConfigurationError
from carm_core.imaging.display import Window
from carm_core.parameters import FRAME_PREFIX, parameter
from carm_sim.physics.detector import DetectorModel
from carm_sim.physics.dose import DoseAlarm
from carm_sim.physics.exposure_control import ExposureControl
from carm_sim.physics.tube import Tube
from carm_sim.xray import Request, XrayConfig

COMPRESSED_FORMATS = ("png", "jpeg")


@dataclass(frozen=True)
class XrayParameters:
    """Parameters of the X-ray node, see ``config/xray.yaml``; technique, field and display may change while it runs."""

    patient: str = parameter(
        "chest_ct", "chest_ct, phantom:SEED, or the path of a CT (NIfTI file or DICOM folder)", read_only=True
    )
    autostart: bool = parameter(
        True, "configure and activate automatically; false: wait for a lifecycle manager", read_only=True
    )
    carm_config: str = parameter("", "C-arm description file; empty: the one in the package", read_only=True)
    frame_prefix: str = parameter(
        "",
        "prefix of every frame id, such as left_arm/ if two arms share /tf",
        pattern=FRAME_PREFIX,
        read_only=True,
    )
    rate_hz: float = parameter(0.0, "fluoroscopy; 0: single exposures on demand", unit="Hz", lower=0.0, upper=30.0)
    held_rate_hz: float = parameter(
        7.5, "fluoroscopy while it is asked for by xray/fluoroscopy", unit="Hz", lower=0.5, upper=30.0
    )
    binning: int = parameter(3, "detector binning: 1, 2, 3, 4 or 6", lower=1, upper=6, read_only=True)
    readout_px: int = parameter(
        0,
        "side of the central square of the binned detector that is read out (zoom); 0: the whole detector",
        lower=0,
        upper=1536,
        read_only=True,
    )
    seed: int = parameter(0, "seed of the noise", lower=0, upper=2**31 - 1, read_only=True)
    threads: int = parameter(2, "threads for rendering", lower=1, upper=64, read_only=True)
    detector_dose_ngy: float = parameter(
        100.0,
        "automatic exposure: air kerma at the detector per frame",
        unit="nGy",
        lower=1.0,
        upper=1e4,
    )
    fluoroscopy_voltage_kv: float = parameter(
        0.0, "tube voltage of fluoroscopy; 0: automatic", unit="kV", lower=0.0, upper=125.0
    )
    fluoroscopy_charge_mas: float = parameter(
        0.0, "tube charge of each frame of fluoroscopy; 0: automatic", unit="mAs", lower=0.0, upper=20.0
    )
    field_width_m: float = parameter(
        0.0,
        "fluoroscopy field at isocenter depth; 0: whole detector",
        unit="m",
        lower=0.0,
        upper=1.0,
    )
    field_height_m: float = parameter(
        0.0,
        "fluoroscopy field at isocenter depth; 0: whole detector",
        unit="m",
        lower=0.0,
        upper=1.0,
    )
    fluoroscopy_delay_s: float = parameter(
        0.05,
        "delay from exposure to publication of images of a series, so that their interval does not depend on the"
        " computing time; at most 0.9 of the period",
        unit="s",
        lower=0.0,
        upper=1.0,
    )
    aluminum_mm: float = parameter(
        3.0, "filtration of the beam, aluminum", unit="mm", lower=0.0, upper=20.0, read_only=True
    )
    copper_mm: float = parameter(0.1, "filtration of the beam, copper", unit="mm", lower=0.0, upper=2.0, read_only=True)
    quantum_noise: bool = parameter(True, "count photons; false: their mean", read_only=True)
    electronic_noise_adu: float = parameter(
        2.0, "readout noise, standard deviation", unit="ADU", lower=0.0, upper=1000.0, read_only=True
    )
    beam_hardening: bool = parameter(True, "whole spectrum; false: its effective energy", read_only=True)
    blur: bool = parameter(True, "blur of the focal spot and the scintillator", read_only=True)
    scatter: bool = parameter(True, "scattered radiation", read_only=True)
    scatter_correction: float = parameter(
        0.9, "fraction of the estimated scatter that is removed from the display image", lower=0.0, upper=1.0
    )
    glare: bool = parameter(True, "veiling glare of the scintillator", read_only=True)
    lag: bool = parameter(True, "lag of the detector in fluoroscopy", read_only=True)
    saturation_adu: float = parameter(
        65535.0, "maximum signal of a pixel", unit="ADU", lower=1.0, upper=65535.0, read_only=True
    )
    dead_pixel_fraction: float = parameter(
        0.0, "fraction of the detector pixels that read 0", lower=0.0, upper=0.1, read_only=True
    )
    air_kerma_alarm_gy: float = parameter(
        3.0, "cumulative air kerma that raises a warning; 0: none", unit="Gy", lower=0.0, upper=1e3, read_only=True
    )
    dose_area_product_alarm_gym2: float = parameter(
        0.03,
        "cumulative dose-area product that raises a warning; 0: none",
        unit="Gy·m²",
        lower=0.0,
        upper=10.0,
        read_only=True,
    )
    bright_percentile: float = parameter(
        0.5, "percentile of the signal displayed as white", unit="%", lower=0.0, upper=49.0
    )
    dark_percentile: float = parameter(
        99.5, "percentile of the signal displayed as black", unit="%", lower=51.0, upper=100.0
    )
    compressed_format: str = parameter("png", "compressed image: png or jpeg", read_only=True)
    jpeg_quality: int = parameter(90, "quality of JPEG", lower=1, upper=100)
    joint_states_timeout_s: float = parameter(
        0.5, "maximum age of joint states for an exposure", unit="s", lower=0.05, upper=10.0, read_only=True
    )
    request_timeout_s: float = parameter(
        2.0, "maximum age of a request for an exposure", unit="s", lower=0.1, upper=10.0, read_only=True
    )

    def __post_init__(self) -> None:
        """Check what a range cannot say.

        Raises:
            ConfigurationError: An unknown format, or one side of the field without the other.
        """
        if self.compressed_format not in COMPRESSED_FORMATS:
            formats = ", ".join(COMPRESSED_FORMATS)
            raise ConfigurationError(
                f"parameter compressed_format = {self.compressed_format!r} is not one of: {formats}"
            )
        if (self.field_width_m == 0) != (self.field_height_m == 0):
            raise ConfigurationError(
                f"parameters field_width_m = {self.field_width_m} and field_height_m = {self.field_height_m}:"
                " set both or neither"
            )

    @property
    def config(self) -> XrayConfig:
        """Settings of the X-ray system."""
        return XrayConfig(
            binning=self.binning,
            readout_px=self.readout_px,
            threads=self.threads,
            detector=self._detector,
            tube=Tube(self.aluminum_mm, self.copper_mm, Tube.focal_spot_mm if self.blur else 0.0, self.beam_hardening),
            control=ExposureControl(detector_dose_gy=1e-9 * self.detector_dose_ngy),
            alarm=DoseAlarm(self.air_kerma_alarm_gy, self.dose_area_product_alarm_gym2),
            window=Window(
                self.bright_percentile, self.dark_percentile, scatter_correction=self.scatter_correction * self.scatter
            ),
        )

    @property
    def _detector(self) -> DetectorModel:
        usual = DetectorModel()
        return DetectorModel(
            quantum_noise=self.quantum_noise,
            electronic_noise_adu=self.electronic_noise_adu,
            blur_mm=usual.blur_mm if self.blur else 0.0,
            scatter=usual.scatter if self.scatter else replace(usual.scatter, fraction=0.0),
            glare_fraction=usual.glare_fraction if self.glare else 0.0,
            lag_fraction=usual.lag_fraction if self.lag else 0.0,
            saturation_adu=self.saturation_adu,
            dead_pixel_fraction=self.dead_pixel_fraction,
        )

    @property
    def fluoroscopy(self) -> Request:
        """Settings of each frame of a series."""
        return Request(
            self.fluoroscopy_voltage_kv, self.fluoroscopy_charge_mas, (self.field_width_m, self.field_height_m)
        )
