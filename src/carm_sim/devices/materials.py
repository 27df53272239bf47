# SPDX-License-Identifier: Apache-2.0
"""Materials of hardware, in terms of the three materials of a scene.

Factors are ratios of linear attenuation at 60 keV, near the mean energy of a chest spectrum, from ``xraydb``'s tables
and the densities given; heavier metals harden the beam in their own way, which a factor cannot say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from carm_sim.drr.solids import Body, Material, Solid


@dataclass(frozen=True)
class Substance:
    """A substance as a multiple of a scene's material.

    Attributes:
        material: The material.
        factor: Attenuation relative to it.
    """

    material: Material
    factor: float

    def solid(self, bodies: Body | Iterable[Body], holes: Iterable[Body] = ()) -> Solid:
        """Return a solid of this substance."""
        return Solid.of(bodies, self.material, self.factor, holes)

    def shell(self, bodies: Body | Iterable[Body], wall_mm: float, *, ends: bool = True) -> Solid:
        """Return a hollow solid of this substance."""
        return Solid.shell(bodies, wall_mm, self.material, self.factor, ends=ends)


TITANIUM = Substance(Material.METAL, 0.95)
"""Ti-6Al-4V, 4.43 g/cm³."""
STEEL = Substance(Material.METAL, 2.88)
"""Steel 316L, 8.0 g/cm³."""
COBALT_CHROME = Substance(Material.METAL, 3.35)
"""Cobalt-chromium-molybdenum, 8.3 g/cm³."""
CONDUCTOR = Substance(Material.METAL, 3.93)
"""MP35N, the alloy of pacing leads' coils, 8.43 g/cm³."""
NITINOL = Substance(Material.METAL, 2.2)
"""Nickel-titanium, 6.45 g/cm³."""
COPPER = Substance(Material.METAL, 4.13)
PLATINUM = Substance(Material.METAL, 26.9)
"""Platinum with a tenth of iridium, 21.5 g/cm³."""
GOLD = Substance(Material.METAL, 19.4)
"""Gold of 18 carats, 15.5 g/cm³."""
SILVER = Substance(Material.METAL, 16.4)
"""Sterling silver, 10.36 g/cm³."""
ALUMINUM = Substance(Material.METAL, 0.22)
STRIPE = Substance(Material.METAL, 1.4)
"""Plastic with half barium sulfate by weight, as in the line of a tube's wall."""
POLYETHYLENE = Substance(Material.WATER, 0.91)
POLYURETHANE = Substance(Material.WATER, 1.08)
EPOXY = Substance(Material.WATER, 1.1)
SILICONE = Substance(Material.WATER, 1.37)
VINYL = Substance(Material.WATER, 2.18)
"""Polyvinyl chloride, 1.35 g/cm³."""
CARBON_FIBER = Substance(Material.WATER, 1.36)
"""Carbon fiber laminate, 1.6 g/cm³."""
FOAM = Substance(Material.WATER, 0.05)
TISSUE = Substance(Material.WATER, 1.05)
CORTEX = Substance(Material.BONE, 1.0)
SPONGIOSA = Substance(Material.BONE, 0.18)
"""Trabecular bone without its marrow, which counts as tissue."""
