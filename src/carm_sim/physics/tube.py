# SPDX-License-Identifier: Apache-2.0
"""X-ray tube: spectrum and dose as functions of voltage, charge and filtration.

Spectra tabulated with SpekPy (Poludniowski et al., Med. Phys. 48:3630, 2021), tungsten anode at 12 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from carm_core.errors import ConfigurationError
from carm_core.transforms import Array
from carm_sim.physics.attenuation import air_absorption, mu
from carm_sim.physics.tables import tables

LOWEST_KV = 40.0
HIGHEST_KV = 125.0
REFERENCE_POINT_MM = 150.0
"""Distance of the interventional reference point from the isocenter, towards the source (IEC 60601-2-43)."""
GY_PER_KEV_MM2_KG_M2 = 1.602176634e-16 * 1e6
"""Kerma, Gy, of an energy fluence of 1 keV/mm² where the mass energy-absorption is 1 m²/kg."""

_TABLE_DISTANCE_MM = 1000.0
_EFFECTIVE_DEPTH_MM = 200.0


@dataclass(frozen=True)
class Tube:
    """The tube assembly.

    Attributes:
        aluminum_mm: Filtration, mm of aluminum; IEC 60601-1-3 asks for 2.5 mm or more.
        copper_mm: Added filtration, mm of copper; 0.1 mm is usual on mobile C-arms.
        focal_spot_mm: Width of the focal spot, mm (IEC 60336: 0.6 is common for C-arms); 0: a point.
        beam_hardening: Whether the beam has its whole spectrum; otherwise all photons have the effective energy.
    """

    aluminum_mm: float = 3.0
    copper_mm: float = 0.1
    focal_spot_mm: float = 0.6
    beam_hardening: bool = True


DEFAULT_TUBE = Tube()


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


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Photons behind the filtration, in air.

    Attributes:
        energy_kev: Energies (n,), keV.
        fluence_mm2_mas: Photons of each energy per mm² and mAs at 1 m (n,).
    """

    energy_kev: Array
    fluence_mm2_mas: Array

    @property
    def energy_fluence(self) -> Array:
        """Energy of each kind of photons per mm² and mAs at 1 m (n,), keV."""
        return self.energy_kev * self.fluence_mm2_mas

    @property
    def air_kerma_gy_mas(self) -> float:
        """Air kerma at 1 m, Gy per mAs."""
        return float(self.energy_fluence @ air_absorption(self.energy_kev)) * GY_PER_KEV_MM2_KG_M2

    @property
    def effective_energy_kev(self) -> float:
        """Energy whose attenuation in 200 mm of water equals the spectrum's, energy-weighted, keV."""
        behind = np.exp(-_EFFECTIVE_DEPTH_MM * mu("water", self.energy_kev))
        wanted = -np.log(self.energy_fluence @ behind / self.energy_fluence.sum()) / _EFFECTIVE_DEPTH_MM
        energies = tables().energy_kev
        return float(np.exp(np.interp(-np.log(wanted), -np.log(mu("water", energies)), np.log(energies))))


def check_voltage(voltage_kv: float) -> float:
    """Return the voltage, kV.

    Raises:
        ConfigurationError: It is outside the tube's range.
    """
    if not LOWEST_KV <= voltage_kv <= HIGHEST_KV:
        raise ConfigurationError(f"tube voltage {voltage_kv} kV is outside [{LOWEST_KV:.0f}, {HIGHEST_KV:.0f}] kV")
    return voltage_kv


@lru_cache(maxsize=64)
def spectrum(voltage_kv: float, tube: Tube = DEFAULT_TUBE) -> Spectrum:
    """Return the spectrum at a voltage, linear between whole kilovolts.

    Args:
        voltage_kv: Peak tube voltage, kV.
        tube: Filtration, and whether to keep the spectrum or its effective energy.

    Raises:
        ConfigurationError: The voltage is outside the tube's range.
    """
    known = tables()
    place = check_voltage(voltage_kv) - known.voltage_kv[0]
    low = min(int(place), len(known.voltage_kv) - 2)
    share = place - low
    bare = (1 - share) * known.fluence_mm2_mas_kev[low] + share * known.fluence_mm2_mas_kev[low + 1]
    filtered = bare * np.exp(
        -tube.aluminum_mm * mu("aluminum", known.energy_kev) - tube.copper_mm * mu("copper", known.energy_kev)
    )
    used = filtered > 0
    whole = Spectrum(known.energy_kev[used], filtered[used])
    if tube.beam_hardening:
        return whole
    energy = whole.effective_energy_kev
    return Spectrum(np.array([energy]), np.array([whole.energy_fluence.sum() / energy]))


def effective_energy_kev(voltage_kv: float, tube: Tube = DEFAULT_TUBE) -> float:
    """Return the energy whose attenuation in 200 mm of water equals the spectrum's, energy-weighted, keV.

    Raises:
        ConfigurationError: The voltage is outside the tube's range.
    """
    return spectrum(voltage_kv, tube).effective_energy_kev


def inverse_square(distance_mm: float) -> float:
    """Return the fluence at a distance from the source, mm, relative to that at 1 m."""
    return (_TABLE_DISTANCE_MM / distance_mm) ** 2


def fluence_per_mm2(voltage_kv: float, charge_mas: float, distance_mm: float, tube: Tube = DEFAULT_TUBE) -> float:
    """Return the photons per mm² in air at a distance from the source.

    Args:
        voltage_kv: Peak tube voltage, kV.
        charge_mas: Tube charge, mAs.
        distance_mm: Distance from the source, mm.
        tube: Filtration.

    Raises:
        ConfigurationError: The voltage is outside the tube's range.
    """
    return float(spectrum(voltage_kv, tube).fluence_mm2_mas.sum()) * charge_mas * inverse_square(distance_mm)


def air_kerma_gy(voltage_kv: float, charge_mas: float, distance_mm: float, tube: Tube = DEFAULT_TUBE) -> float:
    """Return the air kerma free in air at a distance from the source, Gy. Arguments as in ``fluence_per_mm2``."""
    whole = Tube(tube.aluminum_mm, tube.copper_mm)  # dose has the whole spectrum, whatever the image has
    return spectrum(voltage_kv, whole).air_kerma_gy_mas * charge_mas * inverse_square(distance_mm)


def dose_area_product_gym2(
    voltage_kv: float, charge_mas: float, area_mm2: float, distance_mm: float, tube: Tube = DEFAULT_TUBE
) -> float:
    """Return the dose-area product, Gy m²: the same at every distance.

    Args:
        voltage_kv: Peak tube voltage, kV.
        charge_mas: Tube charge, mAs.
        area_mm2: Area of the field at that distance, mm².
        distance_mm: Distance from the source, mm.
        tube: Filtration.
    """
    return air_kerma_gy(voltage_kv, charge_mas, distance_mm, tube) * area_mm2 * 1e-6
