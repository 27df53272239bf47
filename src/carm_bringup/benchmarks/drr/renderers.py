# SPDX-License-Identifier: Apache-2.0
"""The renderers that `carm bench drr` compares: each renders water-equivalent line integrals, mm, of a view in LPS."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_bringup import __version__
from carm_core.imaging.projection import XrayView
from carm_sim.drr import Renderer
from carm_sim.drr.hu_mapping import water_equivalent
from carm_sim.drr.parallel import Bands
from carm_sim.patient.volume import Volume
from carm_sim.physics.attenuation import CORTICAL_BONE_HU, bone_of_hu, water_of_hu
from carm_sim.physics.beam import beam
from carm_sim.physics.detector import DetectorModel, Panel, Pulse
from carm_sim.physics.tube import Tube

Image = NDArray[np.float32]
TORCH_SAMPLES = 500
"""Samples along a ray of the renderers on torch: their default."""


class Candidate(ABC):
    """A renderer under test.

    Attributes:
        package: Distribution it comes with; empty: this one.
        largest_px: It is not asked for larger images: it would need too much memory.
    """

    package = ""
    largest_px = 1536

    @abstractmethod
    def __init__(self, volume: Volume, threads: int) -> None:
        """Load the volume."""

    @abstractmethod
    def render(self, view: XrayView) -> Image:
        """Return the line integrals float32 (rows, columns), raw orientation, mm of water."""

    def line_integrals(self, image: Image) -> Image:
        """Return the line integrals of what ``render`` returned; computed after the clock has stopped."""
        return image

    @classmethod
    def version(cls) -> str:
        """Return the version of the package."""
        return importlib.metadata.version(cls.package) if cls.package else __version__


class Ours(Candidate):
    """The renderer of this project, line integrals alone."""

    def __init__(self, volume: Volume, threads: int) -> None:
        """Load the volume."""
        self._renderer = Renderer(volume, water_equivalent, threads=threads)
        self._out: dict[int, Image] = {}

    def render(self, view: XrayView) -> Image:
        """Render into an array that is reused."""
        rows, columns = view.detector.rows, view.detector.columns
        out = self._out.setdefault(rows, np.empty((rows, columns), np.float32))
        return self._renderer.line_integrals(view, out=out)


class OursImage(Candidate):
    """The same in two materials, and the X-ray image of it: spectrum, scatter, blur, photon noise, digitization."""

    _VOLTAGE_KV = 80.0
    _CHARGE_MAS = 0.5

    def __init__(self, volume: Volume, threads: int) -> None:
        """Load the volume."""
        model, tube = DetectorModel(), Tube()
        self._renderer = Renderer(volume, [water_of_hu, bone_of_hu], threads=threads)
        self._panel = Panel(model, Bands(threads))
        self._beam = beam(self._VOLTAGE_KV, tube, model.scintillator_g_cm2)
        self._focal_mm = tube.focal_spot_mm
        self._bone = np.float32(1 + CORTICAL_BONE_HU / 1000)
        self._room: dict[int, tuple[Image, NDArray[np.uint16]]] = {}

    def render(self, view: XrayView) -> Image:
        """Compute the raw image.

        Returns:
            The path lengths, whose water-equivalent sum ``line_integrals`` takes, of the last image.
        """
        rows, columns = view.detector.rows, view.detector.columns
        if rows not in self._room:
            self._room[rows] = np.empty((2, rows, columns), np.float32), np.empty((rows, columns), np.uint16)
        paths, raw = self._room[rows]
        self._renderer.material_integrals(view, out=paths)
        focal = self._focal_mm * (view.source_detector_mm / view.source_isocenter_mm - 1) / np.sqrt(12)
        pulse = Pulse(self._beam, self._CHARGE_MAS, view.source_detector_mm, float(focal), key=1)
        self._panel.expose(paths, view.detector.pitch_mm, pulse, raw)
        return paths

    def line_integrals(self, image: Image) -> Image:
        """Return the water-equivalent line integrals of what ``render`` returned."""
        whole: Image = image[0] + self._bone * image[1]
        return whole


class Nanodrr(Candidate):
    """nanodrr on torch, on the CPU."""

    package = "nanodrr"
    largest_px = 1024

    def __init__(self, volume: Volume, threads: int) -> None:
        """Load the volume."""
        import nanodrr.drr  # noqa: F401 - a missing package is noticed here
        import torch

        from carm_sim.drr.cuda import NanodrrRenderer

        torch.set_num_threads(threads)
        self._renderer = NanodrrRenderer(volume, water_equivalent, device="cpu", samples=TORCH_SAMPLES)

    def render(self, view: XrayView) -> Image:
        """Render."""
        return self._renderer.line_integrals(view)


class Diffdrr(Candidate):
    """DiffDRR, trilinear."""

    package = "diffdrr"
    largest_px = 1024

    def __init__(self, volume: Volume, threads: int) -> None:
        """Load the volume."""
        import torch
        from diffdrr.renderers import Trilinear

        torch.set_num_threads(threads)
        self._torch: Any = torch
        self._volume = torch.from_numpy(
            np.ascontiguousarray(water_equivalent(volume.hu.astype(np.float32)), np.float32)
        )
        self._inverse = np.linalg.inv(volume.transform_voxel_to_lps)
        self._trilinear = Trilinear()

    def render(self, view: XrayView) -> Image:
        """Render; rays end at the pixels' centers."""
        torch, detector = self._torch, view.detector
        columns, rows = np.meshgrid(np.arange(detector.columns), np.arange(detector.rows))
        across = (columns - view.center_px[0])[..., None] * detector.pitch_mm * view.right
        along = (rows - view.center_px[1])[..., None] * detector.pitch_mm * view.down
        rays = (across + along + view.source_detector_mm * view.forward).reshape(-1, 3)
        start = self._inverse[:3, :3] @ view.source_mm + self._inverse[:3, 3]
        source = torch.from_numpy(start.astype(np.float32))[None, None]
        target = torch.from_numpy((start + rays @ self._inverse[:3, :3].T).astype(np.float32))[None]
        lengths = torch.from_numpy(np.linalg.norm(rays, axis=1).astype(np.float32))[None, None]
        with torch.inference_mode():
            image = self._trilinear(self._volume, source, target, lengths, n_points=TORCH_SAMPLES)
        return np.asarray(image.reshape(detector.rows, detector.columns).numpy(), np.float32)


class Rtk(Candidate):
    """ITK-RTK, Joseph's forward projector."""

    package = "itk-rtk"

    def __init__(self, volume: Volume, threads: int) -> None:
        """Load the volume."""
        import itk
        from itk import RTK

        itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(threads)
        itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
        self._itk, self._rtk = itk, RTK
        values = water_equivalent(volume.hu.astype(np.float32)).astype(np.float32)
        self._volume = itk.image_from_array(np.ascontiguousarray(values.transpose(2, 1, 0)))
        affine, spacing = volume.transform_voxel_to_lps, volume.spacing_mm
        self._volume.SetSpacing(spacing.tolist())
        self._volume.SetOrigin(affine[:3, 3].tolist())
        self._volume.SetDirection(itk.matrix_from_array(np.ascontiguousarray(affine[:3, :3] / spacing)))

    def render(self, view: XrayView) -> Image:
        """Render."""
        itk, rtk, detector = self._itk, self._rtk, view.detector
        geometry = rtk.ThreeDCircularProjectionGeometry.New()
        geometry.AddProjection(
            itk.Point[itk.D, 3](view.source_mm.tolist()),
            itk.Point[itk.D, 3](view.detector_center_mm.tolist()),
            itk.Vector[itk.D, 3](view.right.tolist()),
            itk.Vector[itk.D, 3](view.down.tolist()),
        )
        empty = itk.image_from_array(np.zeros((1, detector.rows, detector.columns), np.float32))
        empty.SetSpacing([detector.pitch_mm, detector.pitch_mm, 1.0])
        column, row = view.center_px
        empty.SetOrigin([-column * detector.pitch_mm, -row * detector.pitch_mm, 0.0])
        kind = itk.Image[itk.F, 3]
        projector = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
        projector.SetInput(0, empty)
        projector.SetInput(1, self._volume)
        projector.SetGeometry(geometry)
        projector.Update()
        return np.asarray(itk.array_from_image(projector.GetOutput())[0], np.float32)


CANDIDATES: dict[str, type[Candidate]] = {
    "ours": Ours,
    "ours_image": OursImage,
    "itk_rtk": Rtk,
    "nanodrr_cpu": Nanodrr,
    "diffdrr": Diffdrr,
}
