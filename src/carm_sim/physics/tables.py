# SPDX-License-Identifier: Apache-2.0
"""Tabulated spectra and attenuation, written by ``scripts/tabulate_xray_physics.py``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from carm_core.transforms import Array

_FILE = Path(__file__).resolve().parents[1] / "data/xray_physics.npz"
_SUFFIX = "_cm2_g"


@dataclass(frozen=True, eq=False)
class Tables:
    """What SpekPy and XrayDB say.

    Attributes:
        energy_kev: Middles of bins of 1 keV (n,), keV.
        voltage_kv: Tube voltages (v,), in steps of 1 kV.
        fluence_mm2_mas_kev: Photons per mm², mAs and keV at 1 m (v, n), behind no filter but the anode.
        mass_cm2_g: Mass attenuation by material (n,), with coherent scattering; ``air_absorption``: mass
            energy-absorption. cm²/g.
    """

    energy_kev: Array
    voltage_kv: Array
    fluence_mm2_mas_kev: Array
    mass_cm2_g: dict[str, Array]


@cache
def tables() -> Tables:
    """Read the file, once."""
    with np.load(_FILE) as file:
        arrays = {name: np.asarray(file[name], np.float64) for name in file.files}
    masses = {name.removesuffix(_SUFFIX): values for name, values in arrays.items() if name.endswith(_SUFFIX)}
    return Tables(arrays["energy_kev"], arrays["voltage_kv"], arrays["fluence_mm2_mas_kev"], masses)
