# SPDX-License-Identifier: Apache-2.0
"""Scene for X-rays: volumes and solids, summed as path lengths in each material."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.imaging.projection import XrayView
from carm_sim.drr.region import Region, checked_out, checked_region
from carm_sim.drr.shear_warp.renderer import Renderer

MATERIALS = ("soft tissue", "cortical bone", "metal")
"""Materials by index: mm of water, mm of cortical bone (ICRU-44, 1.92 g/cm³), mm of titanium."""


class SolidSet(Protocol):
    """Solids with exact chords; ``carm_sim.drr.solids`` has them."""

    def material_integrals(self, view_lps: XrayView, region: Region, out: NDArray[np.float32]) -> None:
        """Add path lengths, mm, to ``out`` (materials, rows, columns), raw orientation, of a region."""


class Scene:
    """Volumes and solids in one frame, seen together.

    Parts that overlap add up: each is seen as if it were alone. A scene serves one thread at a time, as its renderers
    do.

    Attributes:
        renderers: The volumes; the first is the patient's. Mapping 0 of each gives soft tissue, 1 bone, 2 metal.
        solids: The solids.
    """

    def __init__(self, parts: Sequence[Renderer | SolidSet]) -> None:
        """Combine the parts.

        Args:
            parts: Volumes and sets of solids, at least one.

        Raises:
            ConfigurationError: There is no part, or a volume has more materials than there are.
        """
        self.renderers = [part for part in parts if isinstance(part, Renderer)]
        self.solids = [part for part in parts if not isinstance(part, Renderer)]
        if not parts:
            raise ConfigurationError("a scene needs at least one volume or set of solids")
        for renderer in self.renderers:
            if renderer.channels > len(MATERIALS):
                raise ConfigurationError(f"a scene has {len(MATERIALS)} materials, not {renderer.channels}")

    def material_integrals(
        self, view_lps: XrayView, region: Region | None = None, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the path length in each material along the ray of each pixel.

        Args:
            view_lps: Source and detector in LPS, mm.
            region: Part of the detector to compute; None: all of it.
            out: Array for the result, contiguous.

        Returns:
            float32 (3, rows, columns) of the region, raw orientation, mm; ``MATERIALS`` names them.

        Raises:
            ConfigurationError: The region is empty or outside the detector, the field is too wide, or ``out`` has the
                wrong shape or type.
        """
        area = checked_region(view_lps, region)
        out = checked_out(out, len(MATERIALS), area)
        first = self.renderers[0].channels if self.renderers else 0
        out[first:] = 0
        for index, renderer in enumerate(self.renderers):
            renderer.material_integrals(view_lps, area, out[: renderer.channels], add=index > 0)
        for solid in self.solids:
            solid.material_integrals(view_lps, area, out)
        return out

    def line_integrals(
        self,
        view_lps: XrayView,
        region: Region | None,
        weights: Sequence[float],
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return the attenuation along the ray of each pixel.

        Args:
            view_lps: Source and detector in LPS, mm.
            region: Part of the detector to compute; None: all of it.
            weights: Linear attenuation of each material (3,), 1/mm.
            out: Array for the result, contiguous.

        Returns:
            Line integrals float32 (rows, columns) of the region, raw orientation.

        Raises:
            ConfigurationError: As in ``material_integrals``, or there are not three weights.
        """
        if len(weights) != len(MATERIALS):
            raise ConfigurationError(f"a scene has {len(MATERIALS)} materials, got {len(weights)} weights")
        if len(self.renderers) == 1 and not self.solids:
            renderer = self.renderers[0]
            return renderer.line_integrals(view_lps, region, weights[: renderer.channels], out)
        paths = self.material_integrals(view_lps, region)
        if out is None:
            out = np.empty(paths.shape[1:], np.float32)
        np.einsum("m,mrc->rc", np.asarray(weights, np.float32), paths, out=out)
        return out

    def hit_fraction(self, view_lps: XrayView, region: Region | None = None) -> float:
        """Return the fraction of the field whose rays meet the patient's volume; 1 in a scene of solids only.

        Args:
            view_lps: Source and detector in LPS, mm.
            region: Part of the detector; None: all of it.
        """
        return self.renderers[0].hit_fraction(view_lps, region) if self.renderers else 1.0
