# SPDX-License-Identifier: Apache-2.0
"""Flat-panel detector: line integrals to a noisy raw image.

The signal is energy-integrating and flat-field corrected: Beer-Lambert, quantum noise of the photons absorbed
in each pixel, electronic noise, 16 bits. Noise comes from a counter-based generator, so that it depends on
nothing but seed, frame and pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from carm_sim.drr.bands import Bands

F32 = np.float32
U32 = np.uint32
SATURATION = 65535
_TABLE_BITS = 16
_NORMAL = ndtri((np.arange(1 << _TABLE_BITS) + 0.5) / (1 << _TABLE_BITS)).astype(np.float32)


@dataclass(frozen=True)
class DetectorModel:
    """A CsI flat panel.

    Attributes:
        absorption: Fraction of the photons that is absorbed.
        adu_per_kev_mm2: Signal for each keV absorbed per mm², digital units: independent of binning.
        electronic_noise_adu: Standard deviation of the readout, digital units.
        quantum_noise: Whether photons are counted or their mean is taken.
    """

    absorption: float = 0.65
    adu_per_kev_mm2: float = 0.0085
    electronic_noise_adu: float = 2.0
    quantum_noise: bool = True


@nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _read_out(
    transmission: NDArray[np.float32],
    photons: float,
    gain: float,
    quantum: float,
    readout: float,
    key: np.uint32,
    normal: NDArray[np.float32],
    first: int,
    last: int,
    out: NDArray[np.uint16],
) -> None:
    """Draw rows ``first`` to ``last`` of the raw image.

    A photon count of mean n plus readout noise of variance s², in photons, is drawn as
    ``n + z sqrt(n + s²) + (z² - 1) / 6 * n / (n + s²)``: mean, variance and skewness of the sum (Cornish and
    Fisher 1938), with z from a table of normal quantiles.
    """
    columns = transmission.shape[1]
    counts, scale, share, noise = F32(photons), F32(gain), F32(quantum), F32(readout * readout)
    sixth, one, half = F32(1.0 / 6.0), F32(1), F32(0.5)
    for r in range(first, last):
        line = transmission[r]
        target = out[r]
        start = U32(key + U32(r * columns))
        for c in range(columns):
            x = U32(start + U32(c))
            x = U32(x ^ (x >> U32(16)))
            x = U32(x * U32(0x7FEB352D))
            x = U32(x ^ (x >> U32(15)))
            x = U32(x * U32(0x846CA68B))
            z = normal[x >> U32(16)]
            mean = counts * line[c]
            shot = share * mean
            variance = shot + noise + F32(1e-12)
            value = mean + z * np.sqrt(variance) + (z * z - one) * sixth * shot / variance
            target[c] = np.uint16(min(max(value * scale + half, F32(0)), F32(65535)))


def read_out(
    line_integrals: NDArray[np.float32],
    fluence_per_mm2: float,
    energy_kev: float,
    pitch_mm: float,
    model: DetectorModel,
    key: int,
    bands: Bands,
    out: NDArray[np.uint16] | None = None,
) -> NDArray[np.uint16]:
    """Turn line integrals into a raw image.

    Args:
        line_integrals: Dimensionless (rows, columns); overwritten by the transmission.
        fluence_per_mm2: Photons per mm² at the detector without a patient.
        energy_kev: Photon energy, keV.
        pitch_mm: Pixel after binning, mm.
        model: The detector.
        key: Seed of this frame's noise, 32 bits.
        bands: Threads.
        out: Array for the result, contiguous along rows.

    Returns:
        Raw image uint16 (rows, columns).
    """
    raw = np.empty(line_integrals.shape, np.uint16) if out is None else out
    photons = fluence_per_mm2 * pitch_mm**2 * model.absorption
    gain = model.adu_per_kev_mm2 * energy_kev / pitch_mm**2
    quantum = 1.0 if model.quantum_noise else 0.0
    readout = model.electronic_noise_adu / gain

    def work(first: int, last: int) -> None:
        part = line_integrals[first:last]
        np.negative(part, out=part)
        np.exp(part, out=part)
        _read_out(line_integrals, photons, gain, quantum, readout, U32(key), _NORMAL, first, last, raw)

    bands.run(work, len(raw), bands.split(len(raw)))
    return raw
