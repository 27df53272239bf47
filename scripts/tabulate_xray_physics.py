# SPDX-License-Identifier: Apache-2.0
"""Write the tables of the X-ray physics: tube spectra and attenuation coefficients.

Needs SpekPy and XrayDB (``pip install .[tables]``); the simulator reads the table alone.

Spectra: SpekPy (Poludniowski et al., Med. Phys. 48:3630, 2021), tungsten anode at 12 degrees, no filter; mass
attenuation: XrayDB (Elam, Ravel and Sieber 2002); energy absorption of air: SpekPy's table.

    python scripts/tabulate_xray_physics.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import spekpy
import xraydb

TARGET = Path(__file__).resolve().parents[1] / "src/carm_sim/data/xray_physics.npz"
VOLTAGES_KV = range(40, 126)
HIGHEST_KEV = 125
ANODE_DEG = 12.0
ICRU_44_BONE = {
    "H": 0.034, "C": 0.155, "N": 0.042, "O": 0.435, "Na": 0.001, "Mg": 0.002, "P": 0.103, "S": 0.003, "Ca": 0.225,
}  # fmt: skip
WEIGHT_FRACTIONS = {
    "water": {"H": 0.1119, "O": 0.8881},
    "bone": ICRU_44_BONE,
    "titanium": {"Ti": 1.0},
    "aluminum": {"Al": 1.0},
    "copper": {"Cu": 1.0},
    "cesium_iodide": {"Cs": 0.5115, "I": 0.4885},
}


def main() -> None:
    """Write the file."""
    energy_kev = np.arange(1, HIGHEST_KEV) + 0.5
    spectra = np.zeros((len(VOLTAGES_KV), len(energy_kev)), np.float32)
    for row, kv in enumerate(VOLTAGES_KV):
        spek = spekpy.Spek(kvp=kv, th=ANODE_DEG, dk=1.0, z=100.0, mas=1.0)
        energy, fluence = spek.get_spectrum(edges=False, diff=True)  # photons per cm² and keV at 1 m
        spectra[row, np.round(energy - 1.5).astype(int)] = fluence / 100
    coefficients = {
        name: sum(share * xraydb.mu_elam(element, 1000 * energy_kev) for element, share in parts.items())
        for name, parts in WEIGHT_FRACTIONS.items()
    }
    coefficients["air_absorption"] = spekpy.Spek(kvp=80).muen_air_data.get_muen_over_rho_air(energy_kev)
    arrays: dict[str, Any] = {
        "energy_kev": energy_kev,
        "voltage_kv": np.array(VOLTAGES_KV, float),
        "fluence_mm2_mas_kev": spectra,
    }
    arrays |= {f"{name}_cm2_g": np.asarray(values, np.float32) for name, values in coefficients.items()}
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
