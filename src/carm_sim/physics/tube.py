# SPDX-License-Identifier: Apache-2.0
"""X-ray tube: output and dose as functions of voltage and charge.

Tabulated with SpekPy 2.5.4 (Poludniowski et al., Med. Phys. 2021) for a tungsten anode at 12 degrees behind 3
mm Al and 0.1 mm Cu, a usual filtration of mobile C-arms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from carm_core.errors import ConfigurationError

_VOLTAGE_KV = np.array([40.0, 50, 60, 70, 80, 90, 100, 110, 120, 125])
_EFFECTIVE_ENERGY_KEV = np.array([33.19, 38.42, 43.12, 47.31, 51.12, 55.03, 58.24, 61.37, 64.75, 66.37])
_AIR_KERMA_UGY_MAS = np.array([3.762, 9.341, 16.695, 25.370, 35.755, 47.743, 61.028, 75.782, 91.202, 99.173])
_FLUENCE_MM2_MAS = np.array([5.252e4, 1.64e5, 3.405e5, 5.723e5, 8.694e5, 1.223e6, 1.617e6, 2.053e6, 2.5e6, 2.726e6])

LOWEST_KV = 40.0
HIGHEST_KV = 125.0
REFERENCE_POINT_MM = 150.0
"""Distance of the interventional reference point from the isocenter, towards the source (IEC 60601-2-43)."""


@dataclass(frozen=True)
class Technique:
    """What the tube does in one pulse.

    Attributes:
        voltage_kv: Peak tube voltage, kV.
        current_ma: Tube current, mA.
        time_s: Pulse width, s.
    """

    voltage_kv: float
    current_ma: float
    time_s: float

    @property
    def charge_mas(self) -> float:
        """Tube current times pulse width, mAs."""
        return self.current_ma * self.time_s


def check_voltage(voltage_kv: float) -> float:
    """Return the voltage, kV.

    Raises:
        ConfigurationError: It is outside the tube's range.
    """
    if not LOWEST_KV <= voltage_kv <= HIGHEST_KV:
        raise ConfigurationError(f"tube voltage {voltage_kv} kV is outside [{LOWEST_KV:.0f}, {HIGHEST_KV:.0f}] kV")
    return voltage_kv


def effective_energy_kev(voltage_kv: float) -> float:
    """Energy whose attenuation in 200 mm of water equals the spectrum's, energy-weighted, keV.

    Raises:
        ConfigurationError: The voltage is outside the tube's range.
    """
    return float(np.interp(check_voltage(voltage_kv), _VOLTAGE_KV, _EFFECTIVE_ENERGY_KEV))


def _power_law(voltage_kv: float, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return math.exp(np.interp(math.log(check_voltage(voltage_kv)), np.log(_VOLTAGE_KV), np.log(values)))


def fluence_per_mm2(voltage_kv: float, charge_mas: float, distance_mm: float) -> float:
    """Photons per mm² in air at a distance from the source.

    Args:
        voltage_kv: Peak tube voltage, kV.
        charge_mas: Tube charge, mAs.
        distance_mm: Distance from the source, mm.

    Raises:
        ConfigurationError: The voltage is outside the tube's range.
    """
    return _power_law(voltage_kv, _FLUENCE_MM2_MAS) * charge_mas * (1000 / distance_mm) ** 2


def air_kerma_gy(voltage_kv: float, charge_mas: float, distance_mm: float) -> float:
    """Air kerma free in air at a distance from the source, Gy. Arguments as in :func:`fluence_per_mm2`."""
    return 1e-6 * _power_law(voltage_kv, _AIR_KERMA_UGY_MAS) * charge_mas * (1000 / distance_mm) ** 2


def dose_area_product_gym2(voltage_kv: float, charge_mas: float, area_mm2: float, distance_mm: float) -> float:
    """Dose-area product, Gy m²: the same at every distance.

    Args:
        voltage_kv: Peak tube voltage, kV.
        charge_mas: Tube charge, mAs.
        area_mm2: Area of the field at ``distance_mm`` from the source, mm².
        distance_mm: Distance from the source, mm.
    """
    return air_kerma_gy(voltage_kv, charge_mas, distance_mm) * area_mm2 * 1e-6
