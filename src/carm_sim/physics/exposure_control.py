# SPDX-License-Identifier: Apache-2.0
"""Automatic exposure control: voltage by thickness, charge by the signal behind the patient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_sim.physics.attenuation import air_absorption, material_weights
from carm_sim.physics.tube import Technique, check_voltage, effective_energy_kev, fluence_per_mm2

_JOULE_PER_KEV = 1.602176634e-16
_REFERENCE_ENERGY_KEV = 60.0


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
        paths_mm: NDArray[np.floating],
        source_detector_mm: float,
        voltage_kv: float = 0.0,
        charge_mas: float = 0.0,
    ) -> Technique:
        """Choose what is left open.

        Args:
            paths_mm: Path lengths in water and bone (2, ...) over the middle of the field, mm.
            source_detector_mm: Source-detector distance, mm.
            voltage_kv: Tube voltage, kV; 0: automatic.
            charge_mas: Tube charge, mAs; 0: automatic.

        Raises:
            ConfigurationError: The voltage or the charge is outside the tube's range.
        """
        if charge_mas and not self.lowest_mas <= charge_mas <= self.highest_mas:
            raise ConfigurationError(
                f"tube charge {charge_mas} mAs is outside [{self.lowest_mas}, {self.highest_mas}] mAs"
            )
        kv = check_voltage(voltage_kv) if voltage_kv else self._voltage(paths_mm)
        return self.pulse(kv, charge_mas or self._charge(paths_mm, kv, source_detector_mm))

    def pulse(self, voltage_kv: float, charge_mas: float) -> Technique:
        """Split a charge into current and pulse width."""
        time_s = max(self.pulse_s, charge_mas / self.highest_ma)
        return Technique(voltage_kv, charge_mas / time_s, time_s)

    def _voltage(self, paths_mm: NDArray[np.floating]) -> float:
        water, bone = material_weights(_REFERENCE_ENERGY_KEV)
        thickness = float(np.median(paths_mm[0] + paths_mm[1] * (bone / water)))
        return min(max(round(40 + 0.2 * thickness), self.lowest_kv), self.highest_kv)

    def _charge(self, paths_mm: NDArray[np.floating], voltage_kv: float, source_detector_mm: float) -> float:
        water, bone = material_weights(effective_energy_kev(voltage_kv))
        transmission = math.exp(-float(np.median(paths_mm[0] * water + paths_mm[1] * bone)))
        behind = energy_fluence_kev_mm2(voltage_kv, 1.0, source_detector_mm) * transmission
        wanted = energy_fluence_of_kerma_kev_mm2(self.detector_dose_gy)
        return min(max(wanted / behind, self.lowest_mas), self.highest_mas)


def energy_fluence_kev_mm2(voltage_kv: float, charge_mas: float, source_detector_mm: float) -> float:
    """Photon energy per area at the detector without a patient, keV/mm²: what the detector's signal follows."""
    photons = fluence_per_mm2(voltage_kv, charge_mas, source_detector_mm)
    return photons * effective_energy_kev(voltage_kv)


def energy_fluence_of_kerma_kev_mm2(air_kerma_gy: float) -> float:
    """Energy fluence that makes an air kerma, at 60 keV, keV/mm²."""
    return air_kerma_gy / (_JOULE_PER_KEV * float(air_absorption(_REFERENCE_ENERGY_KEV)) * 1e6)
