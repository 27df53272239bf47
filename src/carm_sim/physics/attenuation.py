# SPDX-License-Identifier: Apache-2.0
"""Attenuation of tissue at one effective energy, and the materials that a CT number stands for.

Mass attenuation coefficients: Hubbell and Seltzer, NISTIR 5632 (water, cortical bone of ICRU-44; with
    coherent
scattering); mass energy-absorption of dry air from the same source. Between the nodes log-log interpolation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_ENERGY_KEV = np.array([10.0, 15, 20, 30, 40, 50, 60, 80, 100, 150])
_WATER_CM2_G = np.array([5.329, 1.673, 0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505])
_BONE_CM2_G = np.array([28.51, 9.032, 4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480])
_AIR_ABSORPTION_CM2_G = np.array([4.742, 1.334, 0.5389, 0.1537, 0.06833, 0.04098, 0.03041, 0.02407, 0.02325, 0.02496])
_BONE_DENSITY_G_CM3 = 1.92

CT_ENERGY_KEV = 70.0
"""Effective energy of the CT scan (120 kV) that the Hounsfield units come from."""
SOFT_TISSUE_HU = 100.0
"""Up to here a voxel is soft tissue of varying density; above it holds a share of cortical bone."""
AIR_HU = -950.0
"""Below this a voxel is air: the rest is noise of the scan."""


def _interpolate(energy_kev: ArrayLike, values: Array) -> Array:
    energy = np.asarray(energy_kev, dtype=np.float64)
    return np.asarray(np.exp(np.interp(np.log(energy), np.log(_ENERGY_KEV), np.log(values))))


def mu_water(energy_kev: ArrayLike) -> Array:
    """Linear attenuation of water, 1/mm.

    Args:
        energy_kev: Photon energy, keV, 10 to 150.
    """
    return _interpolate(energy_kev, _WATER_CM2_G) / 10


def mu_bone(energy_kev: ArrayLike) -> Array:
    """Linear attenuation of cortical bone (ICRU-44, 1.92 g/cm³), 1/mm.

    Args:
        energy_kev: Photon energy, keV, 10 to 150.
    """
    return _interpolate(energy_kev, _BONE_CM2_G) * _BONE_DENSITY_G_CM3 / 10


def air_absorption(energy_kev: ArrayLike) -> Array:
    """Mass energy-absorption coefficient of air, m²/kg.

    Args:
        energy_kev: Photon energy, keV, 10 to 150.
    """
    return _interpolate(energy_kev, _AIR_ABSORPTION_CM2_G) / 10


_BONE_RELATIVE = float(mu_bone(CT_ENERGY_KEV) / mu_water(CT_ENERGY_KEV))
CORTICAL_BONE_HU = 1000 * (_BONE_RELATIVE - 1)
"""CT number of cortical bone at :data:`CT_ENERGY_KEV`."""


def bone_of_hu(hu: Array) -> Array:
    """Millimeters of cortical bone per millimeter of a voxel; above 1 for what is denser than bone."""
    share = (np.asarray(hu, dtype=np.float64) - SOFT_TISSUE_HU) / (CORTICAL_BONE_HU - SOFT_TISSUE_HU)
    dense = (1 + np.asarray(hu, dtype=np.float64) / 1000) / _BONE_RELATIVE
    return np.where(share > 1, dense, np.maximum(share, 0.0))


def water_of_hu(hu: Array) -> Array:
    """Millimeters of water per millimeter of a voxel, beside :func:`bone_of_hu`.

    At :data:`CT_ENERGY_KEV` both together attenuate as the CT number says, ``mu_water * (1 + HU / 1000)``.
    """
    relative = 1 + np.asarray(hu, dtype=np.float64) / 1000
    return np.where(hu < AIR_HU, 0.0, np.maximum(relative - bone_of_hu(hu) * _BONE_RELATIVE, 0.0))


def material_weights(energy_kev: float) -> tuple[float, float]:
    """Linear attenuation of (water, bone), 1/mm: the weights of their path lengths in a line integral."""
    return float(mu_water(energy_kev)), float(mu_bone(energy_kev))
