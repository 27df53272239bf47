# SPDX-License-Identifier: Apache-2.0
"""Compiled loops from path lengths to digital units; each works on a band of rows."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

F32 = np.float32
I32 = np.int32
U32 = np.uint32
Image = NDArray[np.float32]

_INVERSE_LN2 = F32(1 / np.log(2.0))
_MOST_OCTAVES = F32(100.0)
# 2^x for x in [-0.5, 0.5]: Cephes exp2f.
_P1, _P2, _P3 = F32(6.931472028550421e-1), F32(2.402264791363012e-1), F32(5.550332471162809e-2)
_P4, _P5, _P6 = F32(9.618437357674640e-3), F32(1.339887440266574e-3), F32(1.535336188319500e-4)

_compiled = nb.njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
_in_order = nb.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")  # sums as they are written


@_in_order  # type: ignore[untyped-decorator]
def _look_up(
    water: Image,
    bone: Image,
    table: Image,
    energies: Image,
    steps: tuple[float, float],
    places: NDArray[np.int32],
    shares: Image,
    octaves: Image,
    quantum: Image,
) -> None:
    """Attenuation of the signal (octaves) and quantum energy (keV) of a row; ``places`` and ``shares`` (2, columns)."""
    nodes, one = I32(table.shape[1]), U32(1)
    flat, middles = table.reshape(-1), energies.reshape(-1)
    per_water, per_bone = F32(1 / steps[0]), F32(1 / steps[1])
    last_water, last_bone = I32(table.shape[0] - 2), I32(table.shape[1] - 2)
    for c in range(len(octaves)):
        u, v = water[c] * per_water, bone[c] * per_bone
        i, j = min(max(I32(u), I32(0)), last_water), min(max(I32(v), I32(0)), last_bone)
        shares[0, c], shares[1, c] = u - F32(i), v - F32(j)
        places[0, c], places[1, c] = i * nodes + j, i * nodes + j - i
    below = U32(nodes)
    for c in range(len(octaves)):
        at, v = U32(places[0, c]), shares[1, c]
        after = U32(at + below)
        near = flat[at] + v * (flat[U32(at + one)] - flat[at])
        far = flat[after] + v * (flat[U32(after + one)] - flat[after])
        octaves[c] = near + shares[0, c] * (far - near)
    for c in range(len(octaves)):
        quantum[c] = middles[U32(places[1, c])]


@_compiled  # type: ignore[untyped-decorator]
def _behind_metal(paths: Image, groups: Image, r: int, octaves: Image, quantum: Image) -> None:
    """Overwrite the pixels of row ``r`` whose ray meets metal."""
    for c in range(paths.shape[2]):
        if paths[2, r, c] > F32(0):
            signal, power = F32(0), F32(0)
            for g in range(len(groups)):
                depth = paths[0, r, c] * groups[g, 2] + paths[1, r, c] * groups[g, 3] + paths[2, r, c] * groups[g, 4]
                share = groups[g, 0] * np.exp(-min(depth, F32(80)))
                signal += share
                power += share * groups[g, 1]
            octaves[c] = -np.log(signal) * _INVERSE_LN2
            quantum[c] = power / signal


@_compiled  # type: ignore[untyped-decorator]
def _exponentiate(row: Image, exponents: NDArray[np.int32], sums: Image, sources: Image) -> None:
    """Turn octaves into transmission p; add p and -p log2(p) to the sums of a row of cells."""
    powers = exponents.view(np.float32)
    for c in range(len(row)):
        x = -min(row[c], _MOST_OCTAVES)
        whole = np.floor(x + F32(0.5))
        f = x - whole
        exponents[c] = (I32(whole) + I32(127)) << I32(23)
        p = F32(1) + f * (_P1 + f * (_P2 + f * (_P3 + f * (_P4 + f * (_P5 + f * _P6)))))
        p *= powers[c]
        sums[c] += p
        sources[c] -= p * x
        row[c] = p


@_compiled  # type: ignore[untyped-decorator]
def transmit(
    paths: Image,
    table: Image,
    energies: Image,
    steps: tuple[float, float],
    groups: Image,
    metal: bool,
    block: int,
    first: int,
    last: int,
    signal: Image,
    quantum: Image,
    cells: Image,
) -> None:
    """Fill rows of transmission and quantum energy, and rows ``first`` to ``last`` of cells.

    Args:
        paths: Path lengths (2 or 3, rows, columns), mm.
        table: ``carm_sim.physics.beam.Beam.log2_table``.
        energies: ``carm_sim.physics.beam.Beam.quantum_table``.
        steps: Steps of the tables, mm.
        groups: ``carm_sim.physics.beam.Beam.groups``.
        metal: Whether ``paths`` has metal.
        block: Pixels along each side of a cell.
        first: First row of cells.
        last: Row of cells after the last.
        signal: Transmission (rows, columns).
        quantum: Quantum energy (rows, columns), keV.
        cells: Sums over cells (2, cell rows, cell columns) of p and of -p log2(p), over the area of a whole cell.
    """
    rows, columns = signal.shape
    exponents = np.empty(columns, np.int32)
    places = np.empty((2, columns), np.int32)
    shares, sums = np.empty((2, columns), np.float32), np.empty((2, columns), np.float32)
    for cell_row in range(first, last):
        sums[:] = 0
        for r in range(cell_row * block, min((cell_row + 1) * block, rows)):
            _look_up(paths[0, r], paths[1, r], table, energies, steps, places, shares, signal[r], quantum[r])
            if metal:
                _behind_metal(paths, groups, r, signal[r], quantum[r])
            _exponentiate(signal[r], exponents, sums[0], sums[1])
        for kind in range(2):
            for cell in range(cells.shape[2]):
                total = F32(0)
                for c in range(cell * block, min((cell + 1) * block, columns)):
                    total += sums[kind, c]
                cells[kind, cell_row, cell] = total / F32(block * block)


@_compiled  # type: ignore[untyped-decorator]
def _blurred(image: Image, r: int, taps: Image, room: Image, out: Image) -> None:
    """Row ``r`` of an image after the taps along both axes; what lies outside is as the border."""
    rows, columns = image.shape
    reach = len(taps) // 2
    middle = room[reach : reach + columns]
    if reach == 0:
        for c in range(columns):
            out[c] = image[r, c]
        return
    source, weight = image[r], taps[reach]
    for c in range(columns):
        middle[c] = weight * source[c]
    for k in range(1, reach + 1):
        above, below, weight = image[max(r - k, 0)], image[min(r + k, rows - 1)], taps[reach + k]
        for c in range(columns):
            middle[c] += weight * (above[c] + below[c])
    room[:reach] = middle[0]
    room[reach + columns :] = middle[columns - 1]
    weight = taps[reach]
    for c in range(columns):
        out[c] = weight * middle[c]
    for k in range(1, reach + 1):
        left, right, weight = room[reach - k :], room[reach + k :], taps[reach + k]
        for c in range(columns):
            out[c] += weight * (left[c] + right[c])


@_compiled  # type: ignore[untyped-decorator]
def count_quanta(
    signal: Image,
    quantum: Image,
    taps: Image,
    scatter: Image,
    low: NDArray[np.int32],
    share: Image,
    gain: float,
    step: float,
    key: np.uint32,
    normal: Image,
    first: int,
    last: int,
    charge: Image,
) -> None:
    """Fill rows ``first`` to ``last`` of what the photons of one pulse give, in digital units.

    A signal of mean m and variance m q, made of quanta of q, is drawn as ``m + z sqrt(m q) + (z² - 1) q / 6``: mean,
    variance and skewness of a count (Cornish and Fisher 1938), with z from a table of normal quantiles by a hash of
    key and pixel.

    Args:
        signal: Transmission (rows, columns).
        quantum: Quantum energy (rows, columns), keV.
        taps: Blur of the focal spot (2 n + 1,).
        scatter: Scatter relative to the open beam (cell rows + 1, columns).
        low: Row of ``scatter`` above each row (rows,).
        share: Weight of the next row of ``scatter`` (rows,).
        gain: Digital units of the open beam.
        step: Digital units per keV in a pixel; 0: no noise.
        key: Seed of the frame.
        normal: Normal quantiles (65536,).
        first: First row.
        last: Row after the last.
        charge: Result (rows, columns).
    """
    columns = signal.shape[1]
    reach = len(taps) // 2
    room = np.empty(columns + 2 * reach, np.float32)
    factor, scale, sixth, one = F32(gain), F32(step), F32(1 / 6), F32(1)
    for r in range(first, last):
        target, energy = charge[r], quantum[r]
        _blurred(signal, r, taps, room, target)
        above, below, weight = scatter[low[r]], scatter[low[r] + 1], share[r]
        start = U32(key + U32(r * columns))
        for c in range(columns):
            mean = factor * (target[c] + above[c] + weight * (below[c] - above[c]))
            x = U32(start + U32(c))
            x = U32(x ^ (x >> U32(16)))
            x = U32(x * U32(0x7FEB352D))
            x = U32(x ^ (x >> U32(15)))
            x = U32(x * U32(0x846CA68B))
            z = normal[x >> U32(16)]
            q = scale * energy[c]
            target[c] = max(mean + z * np.sqrt(mean * q) + (z * z - one) * sixth * q, F32(0))


@_compiled  # type: ignore[untyped-decorator]
def digitize(
    charge: Image,
    taps: Image,
    glare: Image,
    glare_fraction: float,
    low: NDArray[np.int32],
    share: Image,
    trapped: Image,
    lag: tuple[float, float],
    noise: Image,
    noise_adu: float,
    key: np.uint32,
    saturation: float,
    origin: tuple[int, int],
    first: int,
    last: int,
    raw: NDArray[np.uint16],
) -> None:
    """Fill rows ``first`` to ``last`` of the field in the raw image.

    Args:
        charge: What the photons give (rows, columns), digital units.
        taps: Blur of the scintillator (2 n + 1,).
        glare: Glare (cell rows + 1, columns), digital units.
        glare_fraction: Share of the light that becomes glare.
        low: Row of ``glare`` above each row (rows,).
        share: Weight of the next row of ``glare`` (rows,).
        trapped: Charge held back by earlier frames (rows, columns), updated.
        lag: Share of the charge that is trapped; share of the trapped charge that stays until now. 0, 0: no lag.
        noise: Normal numbers, longer than ``columns`` by a power of two.
        noise_adu: Standard deviation of the readout, digital units.
        key: Seed of the frame.
        saturation: Highest signal, digital units.
        origin: Column and row of the field in ``raw``.
        first: First row.
        last: Row after the last.
        raw: Raw image of the whole detector.
    """
    columns = charge.shape[1]
    reach = len(taps) // 2
    room, line = np.empty(columns + 2 * reach, np.float32), np.empty(columns, np.float32)
    fraction, sigma, full, half = F32(glare_fraction), F32(noise_adu), F32(saturation), F32(0.5)
    kept, held, stays = F32(1 - lag[0]), F32(lag[0]), F32(lag[1])
    mask = U32(len(noise) - columns - 1)
    for r in range(first, last):
        _blurred(charge, r, taps, room, line)
        above, below, weight = glare[low[r]], glare[low[r] + 1], share[r]
        for c in range(columns):
            line[c] += fraction * (above[c] + weight * (below[c] - above[c]) - line[c])
        if lag[0] > 0:
            store = trapped[r]
            for c in range(columns):
                fresh = min(line[c], full)
                line[c] = kept * fresh + (F32(1) - stays) * store[c]
                store[c] = stays * store[c] + held * fresh
        x = U32(U32(key + U32(r)) * U32(0x9E3779B1))
        x = U32(U32(x ^ (x >> U32(15))) * U32(0x846CA68B))
        readout = noise[int(U32(x >> U32(7)) & mask) :]
        target = raw[origin[1] + r]
        left = origin[0]
        for c in range(columns):
            target[left + c] = np.uint16(min(max(line[c] + sigma * readout[c], F32(0)), full) + half)


@_compiled  # type: ignore[untyped-decorator]
def subtract(
    raw: NDArray[np.uint16],
    scatter: Image,
    low: NDArray[np.int32],
    share: Image,
    factor: float,
    out: NDArray[np.uint16],
) -> None:
    """Subtract a share of the scatter from an image.

    Args:
        raw: Image (rows, columns), contiguous.
        scatter: Scatter (cell rows + 1, columns), digital units.
        low: Row of ``scatter`` above each row (rows,).
        share: Weight of the next row of ``scatter`` (rows,).
        factor: Share that is subtracted.
        out: Result (rows, columns), contiguous.
    """
    part, half = F32(factor), F32(0.5)
    for r in range(raw.shape[0]):
        line, target = raw[r], out[r]
        above, below, weight = scatter[low[r]], scatter[low[r] + 1], share[r]
        for c in range(raw.shape[1]):
            found = part * (above[c] + weight * (below[c] - above[c]))
            target[c] = np.uint16(max(F32(line[c]) - found + half, F32(0)))


@_compiled  # type: ignore[untyped-decorator]
def look_up(values: NDArray[np.uint16], table: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Fill an image with the table's entry (65536,) for each value (rows, columns)."""
    for r in range(values.shape[0]):
        line, target = values[r], out[r]
        for c in range(values.shape[1]):
            target[c] = table[line[c]]
