# SPDX-License-Identifier: Apache-2.0
"""Digitally reconstructed radiographs: line integrals through a CT volume for any cone-beam view."""

from __future__ import annotations

from carm_sim.drr.cuda import make_renderer
from carm_sim.drr.region import Region
from carm_sim.drr.scene import Scene
from carm_sim.drr.shear_warp.renderer import Renderer

__all__ = ["Region", "Renderer", "Scene", "make_renderer"]
