# SPDX-License-Identifier: Apache-2.0
"""Flat-panel detector: path lengths to a raw image.

The signal is energy-integrating and flat-field corrected: hardened primary, blur of the focal spot, scatter, quantum
noise, blur and glare of the scintillator, lag, readout noise, 16 bits. Noise comes from counter-based generators, so
that it depends on nothing but seed, frame and pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from carm_sim.drr.buffers import Buffers
from carm_sim.drr.parallel import Bands
from carm_sim.physics import kernels
from carm_sim.physics.beam import BONE_STEP_MM, WATER_STEP_MM, Beam
from carm_sim.physics.blur import CoarseGrid, coarse_grid, smoothed, taps
from carm_sim.physics.scatter import ScatterModel
from carm_sim.physics.tube import inverse_square

SATURATION = 65535
"""Highest raw value."""

_TABLE_BITS = 16
_NORMAL = ndtri((np.arange(1 << _TABLE_BITS) + 0.5) / (1 << _TABLE_BITS)).astype(np.float32)
_SHUFFLED = np.random.default_rng(0).permutation(_NORMAL)
_FORGOTTEN = 1e-4  # of trapped charge, still there: as good as none
_ESTIMATE_SAMPLE_MM = 1.2  # one pixel in so many is enough to estimate scatter
_DEAD_PIXELS = 0xDEAD  # stream of the seed from which they are drawn


@dataclass(frozen=True)
class DetectorModel:
    """A CsI flat panel behind an antiscatter grid.

    Attributes:
        scintillator_g_cm2: CsI, g/cm²; 0.2 is a usual 0.55 mm of needles.
        adu_per_kev_mm2: Signal for each keV absorbed per mm², digital units: independent of binning. Assumption: frames
            of fluoroscopy and single exposures both fit 16 bits.
        quantum_noise: Whether photons are counted or their mean is taken.
        electronic_noise_adu: Standard deviation of the readout, digital units, an assumption; 0: none.
        blur_mm: Standard deviation of the light's spread in the scintillator, mm; with 0.15 the presampled MTF is about
            0.6 at 1 /mm (Granfors and Aufrichtig, Med. Phys. 27:1324, 2000). 0: none.
        scatter: Scatter and grid.
        glare_fraction: Share of the light that spreads far, the low-frequency drop of flat panels, a few percent
            (Rowlands and Yorkston, Handbook of Medical Imaging 1, 2000). 0: none.
        glare_mm: Standard deviation of that spread, mm: an assumption.
        lag_fraction: Share of the charge that traps hold back; 0: none. With 0.08 and 0.15 s, 3 % of a frame appear in
            the next one at 15 frames/s (Siewerdsen and Jaffray, Med. Phys. 26:1624, 1999: 2 to 10 %).
        lag_s: Time after which 1 / e of it is still trapped, s.
        saturation_adu: Signal that the pixels hold at most, digital units, up to 65535.
        dead_pixel_fraction: Share of pixels that read 0, drawn from the seed.
    """

    scintillator_g_cm2: float = 0.2
    adu_per_kev_mm2: float = 0.007
    quantum_noise: bool = True
    electronic_noise_adu: float = 2.0
    blur_mm: float = 0.15
    scatter: ScatterModel = field(default_factory=ScatterModel)
    glare_fraction: float = 0.03
    glare_mm: float = 15.0
    lag_fraction: float = 0.08
    lag_s: float = 0.15
    saturation_adu: float = SATURATION
    dead_pixel_fraction: float = 0.0

    @classmethod
    def ideal(cls) -> DetectorModel:
        """Return a detector without noise, blur, scatter, glare and lag, behind no grid."""
        return cls(
            quantum_noise=False,
            electronic_noise_adu=0.0,
            blur_mm=0.0,
            scatter=ScatterModel(fraction=0.0, grid_primary=1.0),
            glare_fraction=0.0,
            lag_fraction=0.0,
        )

    def open_adu(self, beam: Beam, charge_mas: float, source_detector_mm: float) -> float:
        """Return the signal of the open beam without scatter, digital units.

        Args:
            beam: The beam.
            charge_mas: Tube charge, mAs.
            source_detector_mm: Source-detector distance, mm.
        """
        absorbed = beam.open_kev_mm2_mas * charge_mas * inverse_square(source_detector_mm)
        return absorbed * self.scatter.grid_primary * self.adu_per_kev_mm2


@dataclass(frozen=True)
class Pulse:
    """What the panel sees of an exposure.

    Attributes:
        beam: The beam behind its filtration.
        charge_mas: Tube charge, mAs.
        source_detector_mm: Source-detector distance, mm.
        focal_blur_mm: Standard deviation of the focal spot's blur, mm on the detector.
        key: Seed of the frame's noise, 32 bits.
        since_last_s: Time since the last pulse of a series, s; infinite: a single exposure, which is read out until no
            charge is left.
    """

    beam: Beam
    charge_mas: float
    source_detector_mm: float
    focal_blur_mm: float = 0.0
    key: int = 0
    since_last_s: float = math.inf


class Panel:
    """A panel with its memory: charge trapped by earlier frames, dead pixels, work space.

    It serves one thread at a time.

    Attributes:
        model: The detector.
    """

    def __init__(self, model: DetectorModel, bands: Bands, seed: int = 0) -> None:
        """Store the settings; allocate nothing yet.

        Args:
            model: The detector.
            bands: Threads.
            seed: Seed of the dead pixels.
        """
        self.model = model
        self._bands = bands
        self._seed = seed
        self._buffers = Buffers()
        self._trapped = np.zeros((1, 1), np.float32)
        self._dead: dict[tuple[int, int], NDArray[np.intp]] = {}

    def expose(
        self,
        paths_mm: NDArray[np.float32],
        pitch_mm: float,
        pulse: Pulse,
        raw: NDArray[np.uint16],
        origin: tuple[int, int] = (0, 0),
    ) -> float:
        """Compute the raw image of a field.

        Args:
            paths_mm: Path lengths in water, bone and, if given, metal (2 or 3, rows, columns) of the field, mm.
            pitch_mm: Pixel after binning, mm.
            pulse: The exposure.
            raw: Image of the whole detector, contiguous; the field is filled.
            origin: Column and row of the field in it.

        Returns:
            Scatter-to-primary ratio behind the grid: median over the middle half of the field.
        """
        rows, columns = paths_mm.shape[1:]
        grid = coarse_grid(rows, columns, pitch_mm)
        signal, quantum, charge = (
            self._buffers.shared(name, (rows, columns)) for name in ("signal", "quantum", "charge")
        )
        cells = np.empty((2, *grid.shape), np.float32)
        self._transmit(paths_mm, pulse.beam, grid, signal, quantum, cells)
        primary = np.asarray(cells[0], np.float64)
        cell_mm = grid.block * pitch_mm
        scatter = self.model.scatter.scatter(math.log(2) * cells[1], cell_mm)
        self._count(signal, quantum, grid, scatter, pitch_mm, pulse, charge)
        self._digitize(charge, grid, primary + scatter, pitch_mm, pulse, raw, origin)
        return middle_ratio(scatter, primary)

    def scatter_estimate(
        self, field: NDArray[np.uint16], pitch_mm: float, pulse: Pulse
    ) -> tuple[CoarseGrid, NDArray[np.float32]]:
        """Return the scatter that an imaging chain finds in a raw image, which knows the technique and the grid.

        Args:
            field: The exposed part of the raw image (rows, columns).
            pitch_mm: Pixel after binning, mm.
            pulse: The exposure.

        Returns:
            The coarse grid, and the scatter on it, digital units, widened (cell rows + 1, columns).
        """
        model = self.model
        rows, columns = field.shape
        grid = coarse_grid(rows, columns, pitch_mm)
        gain = model.open_adu(pulse.beam, pulse.charge_mas, pulse.source_detector_mm)
        light = grid.means(field, max(1, round(_ESTIMATE_SAMPLE_MM / pitch_mm)))
        return grid, grid.widened(gain * model.scatter.estimate(light / gain, grid.block * pitch_mm))

    def _transmit(
        self,
        paths_mm: NDArray[np.float32],
        beam: Beam,
        grid: CoarseGrid,
        signal: NDArray[np.float32],
        quantum: NDArray[np.float32],
        cells: NDArray[np.float32],
    ) -> None:
        steps, metal = (WATER_STEP_MM, BONE_STEP_MM), len(paths_mm) > 2

        def work(first: int, last: int) -> None:
            kernels.transmit(
                paths_mm, beam.log2_table, beam.quantum_table, steps, beam.groups, metal, grid.block, first, last,
                signal, quantum, cells,
            )  # fmt: skip

        self._bands.run(work, grid.shape[0], self._bands.split(grid.shape[0]))

    def _count(
        self,
        signal: NDArray[np.float32],
        quantum: NDArray[np.float32],
        grid: CoarseGrid,
        scatter: NDArray[np.float64],
        pitch_mm: float,
        pulse: Pulse,
        charge: NDArray[np.float32],
    ) -> None:
        model = self.model
        gain = model.open_adu(pulse.beam, pulse.charge_mas, pulse.source_detector_mm)
        step = model.adu_per_kev_mm2 / pitch_mm**2 if model.quantum_noise else 0.0
        focal, wide = taps(pulse.focal_blur_mm / pitch_mm), grid.widened(scatter)

        def work(first: int, last: int) -> None:
            kernels.count_quanta(
                signal, quantum, focal, wide, grid.low, grid.share, gain, step, np.uint32(pulse.key), _NORMAL,
                first, last, charge,
            )  # fmt: skip

        self._bands.run(work, len(charge), self._bands.split(len(charge)))

    def _digitize(
        self,
        charge: NDArray[np.float32],
        grid: CoarseGrid,
        light: NDArray[np.float64],
        pitch_mm: float,
        pulse: Pulse,
        raw: NDArray[np.uint16],
        origin: tuple[int, int],
    ) -> None:
        model = self.model
        gain = model.open_adu(pulse.beam, pulse.charge_mas, pulse.source_detector_mm)
        spread = model.glare_mm / (grid.block * pitch_mm)
        glare = grid.widened(gain * smoothed(light, spread) if model.glare_fraction else np.zeros(grid.shape))
        blur, lag = taps(model.blur_mm / pitch_mm), self._lag(charge.shape, pulse.since_last_s)
        noise = _readout_noise(charge.shape[1])
        full = min(model.saturation_adu, SATURATION)

        def work(first: int, last: int) -> None:
            kernels.digitize(
                charge, blur, glare, model.glare_fraction, grid.low, grid.share, self._trapped, lag, noise,
                model.electronic_noise_adu, np.uint32(pulse.key), full, origin, first, last, raw,
            )  # fmt: skip

        self._bands.run(work, len(charge), self._bands.split(len(charge)))
        if model.dead_pixel_fraction:
            raw.reshape(-1)[self._dead_pixels(raw.shape)] = 0

    def _lag(self, shape: tuple[int, int], since_last_s: float) -> tuple[float, float]:
        """Return the shares trapped and kept; traps are empty after a pause and after a change of the field."""
        fraction = self.model.lag_fraction
        if fraction == 0 or since_last_s == math.inf:
            self._trapped = np.zeros((1, 1), np.float32)
            return 0.0, 0.0
        stays = math.exp(-since_last_s / self.model.lag_s) if self.model.lag_s > 0 else 0.0
        if self._trapped.shape != shape:
            self._trapped = np.zeros(shape, np.float32)
        elif stays < _FORGOTTEN:
            self._trapped[:] = 0
        return fraction, stays

    def _dead_pixels(self, shape: tuple[int, int]) -> NDArray[np.intp]:
        if shape not in self._dead:
            rng = np.random.default_rng([self._seed, _DEAD_PIXELS])
            self._dead[shape] = np.flatnonzero(rng.random(shape) < self.model.dead_pixel_fraction)
        return self._dead[shape]


def middle_ratio(scatter: NDArray[np.float64], primary: NDArray[np.float64]) -> float:
    """Return the median of scatter / primary over the middle half of a field, both (rows, columns)."""
    rows, columns = primary.shape
    middle = slice(rows // 4, rows - rows // 4), slice(columns // 4, columns - columns // 4)
    return float(np.median(scatter[middle] / primary[middle]))


_readout: dict[int, NDArray[np.float32]] = {}


def _readout_noise(columns: int) -> NDArray[np.float32]:
    """Return the normal numbers from which rows are taken at random places (65536 + columns,)."""
    if columns not in _readout:
        _readout[columns] = np.resize(_SHUFFLED, len(_SHUFFLED) + columns)
    return _readout[columns]
