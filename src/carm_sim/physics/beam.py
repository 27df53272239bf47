# SPDX-License-Identifier: Apache-2.0
"""Signal of a polyenergetic beam behind water, bone and metal.

The detector integrates energy, so a photon of energy E that is absorbed adds E to the signal and E² to its variance.
Both are integrals over the spectrum that depend on the path lengths alone. They are tabulated over water and bone; the
few pixels behind metal get a sum over groups of energies instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from carm_core.transforms import Array
from carm_sim.physics.attenuation import mass_attenuation_cm2_g, mu_bone, mu_metal, mu_water
from carm_sim.physics.tube import Tube, spectrum

WATER_STEP_MM, WATER_NODES = 4.0, 201
BONE_STEP_MM, BONE_NODES = 1.0, 201
_GROUPS = 32
_GROUPING_WATER_MM, _GROUPING_METAL_MM = 100.0, 20.0


def absorbed_fraction(energy_kev: Array, scintillator_g_cm2: float) -> Array:
    """Return the fraction of photons that a layer of CsI absorbs.

    Args:
        energy_kev: Photon energies, keV.
        scintillator_g_cm2: Mass per area, g/cm².
    """
    return np.asarray(1 - np.exp(-scintillator_g_cm2 * mass_attenuation_cm2_g("cesium_iodide", energy_kev)))


@dataclass(frozen=True, eq=False)
class Beam:
    """A beam and the scintillator that absorbs it.

    Attributes:
        open_kev_mm2_mas: Energy absorbed in the open beam at 1 m, keV per mm² and mAs.
        shares: Share of each energy in it (n,).
        energy_kev: Energies (n,), keV.
        mu: Linear attenuation (3, n) by water, bone and metal, 1/mm.
        log2_table: Attenuation of the signal in octaves, float32 (WATER_NODES, BONE_NODES).
        quantum_table: Variance of the signal relative to the signal in the middle of each of the table's cells, keV,
            float32 (WATER_NODES - 1, BONE_NODES - 1).
        groups: Share, energy (keV) and the three attenuations (1/mm) of groups of energies, float32 (g, 5).
    """

    open_kev_mm2_mas: float
    shares: Array
    energy_kev: Array
    mu: Array
    log2_table: NDArray[np.float32]
    quantum_table: NDArray[np.float32]
    groups: NDArray[np.float32]

    def transmission(self, paths_mm: NDArray[np.floating]) -> Array:
        """Return the signal relative to the open beam, integrated over all energies.

        Args:
            paths_mm: Path lengths in water, bone and, if given, metal (2 or 3, ...), mm.
        """
        paths = np.asarray(paths_mm, np.float64)
        depth = np.tensordot(paths, self.mu[: len(paths)], (0, 0))
        return np.asarray(np.exp(-depth) @ self.shares)

    def quantum_kev(self, paths_mm: NDArray[np.floating]) -> Array:
        """Return the variance of the energy absorbed relative to its mean, keV. Arguments as in ``transmission``."""
        paths = np.asarray(paths_mm, np.float64)
        behind = np.exp(-np.tensordot(paths, self.mu[: len(paths)], (0, 0))) * self.shares
        return np.asarray(behind @ self.energy_kev / behind.sum(-1))


def _tabulated(shares: Array, attenuation: Array, water_mm: Array, bone_mm: Array) -> Array:
    water = np.exp(-water_mm[:, None] * attenuation[0])
    bone = np.exp(-bone_mm[:, None] * attenuation[1])
    return np.asarray((water * shares) @ bone.T)


def _grouped(shares: Array, energy: Array, attenuation: Array) -> NDArray[np.float32]:
    """Groups of neighboring energies with about equal shares, half of them in the open beam, half behind thick metal.

    The signal behind up to 30 mm of titanium and 300 mm of water is within 0.3 % of the integral, at 40 to 125 kV.
    """
    behind = shares * np.exp(-_GROUPING_WATER_MM * attenuation[0] - _GROUPING_METAL_MM * attenuation[2])
    running = np.cumsum(shares / shares.sum() + behind / behind.sum())
    label = np.minimum((running / running[-1] * _GROUPS).astype(int), _GROUPS - 1)
    rows = []
    for group in np.unique(label):
        inside = label == group
        share = shares[inside].sum()
        means = np.vstack([energy, attenuation])[:, inside] @ shares[inside] / share
        rows.append([share, *means])
    return np.asarray(rows, np.float32)


@lru_cache(maxsize=64)
def beam(voltage_kv: float, tube: Tube, scintillator_g_cm2: float) -> Beam:
    """Tabulate a beam; some milliseconds, once.

    Args:
        voltage_kv: Peak tube voltage, kV.
        tube: Filtration.
        scintillator_g_cm2: CsI, g/cm².

    Raises:
        ConfigurationError: The voltage is outside the tube's range.
    """
    source = spectrum(voltage_kv, tube)
    energy = source.energy_kev
    absorbed = source.energy_fluence * absorbed_fraction(energy, scintillator_g_cm2)
    shares = absorbed / absorbed.sum()
    attenuation = np.stack([mu_water(energy), mu_bone(energy), mu_metal(energy)])
    water = np.linspace(0, WATER_STEP_MM * (WATER_NODES - 1), WATER_NODES)
    bone = np.linspace(0, BONE_STEP_MM * (BONE_NODES - 1), BONE_NODES)
    signal = _tabulated(shares, attenuation, water, bone)
    middles = water[:-1] + WATER_STEP_MM / 2, bone[:-1] + BONE_STEP_MM / 2
    quantum = _tabulated(shares * energy, attenuation, *middles) / _tabulated(shares, attenuation, *middles)
    return Beam(
        float(absorbed.sum()),
        shares,
        energy,
        attenuation,
        np.asarray(-np.log2(signal), np.float32),
        np.asarray(quantum, np.float32),
        _grouped(shares, energy, attenuation),
    )
