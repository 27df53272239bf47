# SPDX-License-Identifier: Apache-2.0
"""Scattered radiation: a kernel model, with an antiscatter grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_sim.physics.blur import smoothed

_DARKEST = 1e-9  # transmission behind anything


@dataclass(frozen=True)
class ScatterModel:
    """Convolution model of first order (after Ohnesorge et al., Eur. Radiol. 9:563, 1999).

    Each ray sends scatter in proportion to what it transmits and to its attenuation exponent, ``p ln(1 / p)``, spread
    by a Gaussian on the detector. The defaults give a scatter-to-primary ratio of 1.55 behind 200 mm of water in a
    field of 300 mm without a grid, an assumption for the air gap of a C-arm, and a ninth of that behind a
    fiber-interspaced grid of ratio 15 (Fetterly and Schueler, Phys. Med. Biol. 52:4863, 2007). The spread is an
    assumption.

    Attributes:
        fraction: Scatter without a grid, in all directions of the detector, for each unit of ``p ln(1 / p)``; 0: none.
        spread_mm: Standard deviation of the Gaussian, mm on the detector.
        grid_primary: Fraction of the primary that the antiscatter grid lets pass.
        grid_scatter: Fraction of the scatter that it lets pass.
    """

    fraction: float = 0.5
    spread_mm: float = 100.0
    grid_primary: float = 0.7
    grid_scatter: float = 0.08

    def scatter(self, source: NDArray[np.floating], cell_mm: float) -> NDArray[np.float64]:
        """Return the scatter behind the grid, relative to the open beam's primary behind the grid.

        Args:
            source: ``p ln(1 / p)`` of cells (rows, columns), p: transmission.
            cell_mm: Side of a cell on the detector, mm.
        """
        if self.fraction == 0:
            return np.zeros(source.shape)
        factor = self.fraction * self.grid_scatter / self.grid_primary
        return factor * smoothed(source, self.spread_mm / cell_mm)

    def estimate(self, light: NDArray[np.floating], cell_mm: float, rounds: int = 6) -> NDArray[np.float64]:
        """Return the scatter in what a detector has seen, as an imaging chain estimates it from the image.

        Looks for the primary that together with its own scatter makes the light, in multiplicative steps.

        Args:
            light: Primary and scatter of cells (rows, columns), relative to the open beam's primary behind the grid.
            cell_mm: Side of a cell on the detector, mm.
            rounds: Steps.

        Returns:
            Scatter (rows, columns), in the same units.
        """
        seen = np.clip(np.asarray(light, np.float64), _DARKEST, 1.0)
        primary = seen
        for _ in range(rounds):
            primary = primary * seen / (primary + self.scatter(-primary * np.log(primary), cell_mm))
            primary = np.clip(primary, _DARKEST, 1.0)
        return np.maximum(seen - primary, 0.0)
