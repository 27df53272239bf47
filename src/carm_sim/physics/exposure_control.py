# SPDX-License-Identifier: Apache-2.0
"""Automatic exposure control: voltage by thickness, charge by the signal behind the patient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_sim.physics.attenuation import air_absorption, material_weights
from carm_sim.physics.beam import absorbed_fraction, beam
from carm_sim.physics.detector import DetectorModel
from carm_sim.physics.tube import DEFAULT_TUBE, GY_PER_KEV_MM2_KG_M2, Technique, Tube, check_voltage

_REFERENCE_ENERGY_KEV = 60.0


@dataclass(frozen=True)
class Field:
    """A field seen by a few rays, one in the middle of each cell.

    Attributes:
        paths_mm: Path lengths in water, bone and, if given, metal (2 or 3, rows, columns), mm.
        cell_mm: Side of a cell on the detector, mm.
        source_detector_mm: Source-detector distance, mm.
    """

    paths_mm: NDArray[np.floating]
    cell_mm: float
    source_detector_mm: float

    def middle(self, image: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the middle half (..., rows, columns) along both axes."""
        rows, columns = image.shape[-2:]
        return image[..., rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]


@dataclass(frozen=True)
class ExposureControl:
    """Dose regulation of a mobile C-arm.

    Attributes:
        detector_dose_gy: Air kerma (at 60 keV) whose signal the detector is to give, median of the field's
            middle, Gy per frame.
        lowest_kv: Voltage for thin patients, kV.
        highest_kv: Voltage for thick patients, kV.
        lowest_mas: Smallest charge, mAs.
        highest_mas: Largest charge, mAs.
        pulse_s: Pulse width, s; longer when the current does not suffice.
        highest_ma: Largest tube current, mA.
    """

    detector_dose_gy: float = 1e-7
    lowest_kv: float = 50.0
    highest_kv: float = 110.0
    lowest_mas: float = 0.005
    highest_mas: float = 20.0
    pulse_s: float = 0.010
    highest_ma: float = 75.0

    def choose(
        self,
        field: Field | None,
        detector: DetectorModel,
        tube: Tube = DEFAULT_TUBE,
        voltage_kv: float = 0.0,
        charge_mas: float = 0.0,
    ) -> Technique:
        """Choose the parameters that are not set.

        Args:
            field: What lies in the beam; None where nothing is left open.
            detector: The detector.
            tube: The tube.
            voltage_kv: Tube voltage, kV; 0: automatic.
            charge_mas: Tube charge, mAs; 0: automatic.

        Raises:
            ConfigurationError: The voltage or the charge is outside the tube's range, or nothing is known about the
                field but must be.
        """
        if charge_mas and not self.lowest_mas <= charge_mas <= self.highest_mas:
            raise ConfigurationError(
                f"tube charge {charge_mas} mAs is outside [{self.lowest_mas}, {self.highest_mas}] mAs"
            )
        if voltage_kv and charge_mas:
            return self.pulse(check_voltage(voltage_kv), charge_mas)
        if field is None:
            raise ConfigurationError("automatic exposure needs the thickness in the beam")
        kv = check_voltage(voltage_kv) if voltage_kv else self._voltage(field)
        return self.pulse(kv, charge_mas or self._charge(field, kv, detector, tube))

    def pulse(self, voltage_kv: float, charge_mas: float) -> Technique:
        """Split a charge into current and pulse width."""
        time_s = max(self.pulse_s, charge_mas / self.highest_ma)
        return Technique(voltage_kv, charge_mas / time_s, time_s)

    def target_adu(self, detector: DetectorModel) -> float:
        """Return the signal that is held behind the patient, digital units."""
        absorbed = float(absorbed_fraction(np.array(_REFERENCE_ENERGY_KEV), detector.scintillator_g_cm2))
        return energy_fluence_of_kerma_kev_mm2(self.detector_dose_gy) * absorbed * detector.adu_per_kev_mm2

    def _voltage(self, field: Field) -> float:
        water, *others = material_weights(_REFERENCE_ENERGY_KEV)
        relative = np.array([1.0, *(weight / water for weight in others)])[: len(field.paths_mm)]
        thickness = float(np.median(np.tensordot(relative, field.middle(field.paths_mm), 1)))
        return min(max(round(40 + 0.2 * thickness), self.lowest_kv), self.highest_kv)

    def _charge(self, field: Field, voltage_kv: float, detector: DetectorModel, tube: Tube) -> float:
        source = beam(voltage_kv, tube, detector.scintillator_g_cm2)
        primary = source.transmission(field.paths_mm)
        scatter = detector.scatter.scatter(-primary * np.log(primary), field.cell_mm)
        light = primary + scatter
        behind = float(np.median(field.middle(light)))
        wanted = self.target_adu(detector) / detector.open_adu(source, 1.0, field.source_detector_mm)
        return min(max(wanted / max(behind, math.ulp(1.0)), self.lowest_mas), self.highest_mas)


def energy_fluence_of_kerma_kev_mm2(air_kerma_gy: float) -> float:
    """Return the energy fluence that makes an air kerma, at 60 keV, keV/mm²."""
    return air_kerma_gy / (GY_PER_KEV_MM2_KG_M2 * float(air_absorption(_REFERENCE_ENERGY_KEV)))
