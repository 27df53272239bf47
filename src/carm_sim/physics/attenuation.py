# SPDX-License-Identifier: Apache-2.0
"""Attenuation of materials, and the materials that a CT number stands for.

Coefficients as tabulated from XrayDB (``carm_sim.physics.tables``); between the energies log-log interpolation.
Materials by index: water, cortical bone (ICRU-44), titanium.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from carm_core.transforms import Array
from carm_sim.physics.tables import tables

DENSITY_G_CM3 = {
    "water": 1.0,
    "bone": 1.92,
    "titanium": 4.506,
    "aluminum": 2.699,
    "copper": 8.96,
}
"""Density of what attenuates, g/cm³."""

CT_ENERGY_KEV = 70.0
"""Effective energy of the CT scan (120 kV) that the Hounsfield units come from."""
SOFT_TISSUE_HU = 100.0
"""Up to here a voxel is soft tissue of varying density; above it holds a share of cortical bone."""
AIR_HU = -950.0
"""Below this a voxel is air: the rest is noise of the scan."""


def mass_attenuation_cm2_g(material: str, energy_kev: ArrayLike) -> Array:
    """Return the mass attenuation coefficient, cm²/g.

    Args:
        material: A key of ``carm_sim.physics.tables.Tables.mass_cm2_g``.
        energy_kev: Photon energy, keV, 1.5 to 124.5.
    """
    known = tables()
    energy = np.log(np.asarray(energy_kev, dtype=np.float64))
    return np.asarray(np.exp(np.interp(energy, np.log(known.energy_kev), np.log(known.mass_cm2_g[material]))))


def mu(material: str, energy_kev: ArrayLike) -> Array:
    """Return the linear attenuation, 1/mm, of a material of ``DENSITY_G_CM3``. Energy in keV."""
    return mass_attenuation_cm2_g(material, energy_kev) * DENSITY_G_CM3[material] / 10


def mu_water(energy_kev: ArrayLike) -> Array:
    """Return the linear attenuation of water, 1/mm. Energy in keV."""
    return mu("water", energy_kev)


def mu_bone(energy_kev: ArrayLike) -> Array:
    """Return the linear attenuation of cortical bone (ICRU-44, 1.92 g/cm³), 1/mm. Energy in keV."""
    return mu("bone", energy_kev)


def mu_metal(energy_kev: ArrayLike) -> Array:
    """Return the linear attenuation of titanium, 1/mm. Energy in keV."""
    return mu("titanium", energy_kev)


def air_absorption(energy_kev: ArrayLike) -> Array:
    """Return the mass energy-absorption coefficient of air, m²/kg. Energy in keV."""
    return mass_attenuation_cm2_g("air_absorption", energy_kev) / 10


_BONE_RELATIVE = float(mu_bone(CT_ENERGY_KEV) / mu_water(CT_ENERGY_KEV))
CORTICAL_BONE_HU = 1000 * (_BONE_RELATIVE - 1)
"""CT number of cortical bone at ``CT_ENERGY_KEV``."""


def bone_of_hu(hu: Array) -> Array:
    """Return the millimeters of cortical bone per millimeter of a voxel; above 1 for what is denser than bone."""
    share = (np.asarray(hu, dtype=np.float64) - SOFT_TISSUE_HU) / (CORTICAL_BONE_HU - SOFT_TISSUE_HU)
    dense = (1 + np.asarray(hu, dtype=np.float64) / 1000) / _BONE_RELATIVE
    return np.where(share > 1, dense, np.maximum(share, 0.0))


def water_of_hu(hu: Array) -> Array:
    """Return the millimeters of water per millimeter of a voxel, beside ``bone_of_hu``.

    At ``CT_ENERGY_KEV`` both together attenuate as the CT number says, ``mu_water * (1 + HU / 1000)``.
    """
    relative = 1 + np.asarray(hu, dtype=np.float64) / 1000
    return np.where(hu < AIR_HU, 0.0, np.maximum(relative - bone_of_hu(hu) * _BONE_RELATIVE, 0.0))


def material_weights(energy_kev: float) -> tuple[float, float, float]:
    """Linear attenuation of (water, bone, metal), 1/mm: the weights of their path lengths in a line integral."""
    return float(mu_water(energy_kev)), float(mu_bone(energy_kev)), float(mu_metal(energy_kev))
