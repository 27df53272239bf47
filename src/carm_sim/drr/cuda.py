# SPDX-License-Identifier: Apache-2.0
"""The renderer on an NVIDIA GPU: nanodrr's fused kernel with the interface of the CPU renderer."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.projection import XrayView
from carm_sim.drr.hu_mapping import Mapping, water_equivalent
from carm_sim.drr.region import Region
from carm_sim.drr.shear_warp.renderer import Renderer, VoxelGrid

SAMPLES_PER_VOXEL = 2.0
"""Samples along a ray per smallest voxel spacing."""


def cuda_available() -> bool:
    """Return whether nanodrr is installed and torch sees a GPU; torch, slow to import, is asked last."""
    if importlib.util.find_spec("nanodrr") is None:
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


def make_renderer(
    volume: VoxelGrid, mu_of_hu: Mapping | Sequence[Mapping] = water_equivalent, *, threads: int = 2
) -> Renderer:
    """Return the fastest renderer of this machine; arguments as of ``carm_sim.drr.shear_warp.renderer.Renderer``."""
    if cuda_available():
        return NanodrrRenderer(volume, mu_of_hu, threads=threads)
    return Renderer(volume, mu_of_hu, threads=threads)


class NanodrrRenderer(Renderer):
    """Line integrals by nanodrr: a fused kernel on CUDA, plain torch on the CPU (slow, for comparison).

    Interpolation and geometry are those of ``carm_sim.drr.shear_warp.renderer.Renderer``; images differ by how
    finely each samples its rays.
    """

    def __init__(
        self,
        volume: VoxelGrid,
        mu_of_hu: Mapping | Sequence[Mapping] = water_equivalent,
        *,
        device: Literal["cuda", "cpu"] = "cuda",
        samples: int = 0,
        threads: int = 2,
    ) -> None:
        """Prepare to render; the volume goes to the device with the first view.

        Args:
            volume: Voxels and their affine.
            mu_of_hu: Attenuation of HU, as for ``carm_sim.drr.shear_warp.renderer.Renderer``.
            device: Where to render.
            samples: Samples along each ray; 0: ``SAMPLES_PER_VOXEL``.
            threads: Threads on the CPU.

        Raises:
            ConfigurationError: The volume or a mapping is invalid.
        """
        self._device, self._samples = device, samples
        self._subjects: dict[int, Any] = {}
        super().__init__(volume, mu_of_hu, threads=threads)

    def prepare(self) -> None:
        """Copy the volume to the device now."""
        with self._lock:
            for material in range(self.channels):
                self._subject(material)

    def _store_tables(self, tables: NDArray[np.float64]) -> None:
        super()._store_tables(tables)
        self._subjects.clear()

    def _subject(self, material: int) -> Any:
        """Return the volume of one material on the device; None where it does not occur."""
        if material not in self._subjects:
            import torch
            from nanodrr.data import Subject

            table = (self._lut[material] * np.float32(self._scales[material])).astype(np.float32)
            if not table.any():
                self._subjects[material] = None
                return None
            values = table[self.volume.hu.astype(np.int32) + 32768]
            image = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 1, 0)))[None, None]
            affine = np.asarray(self.volume.transform_voxel_to_lps, np.float64)
            subject = Subject(
                image,
                torch.zeros_like(image),
                torch.tensor(affine, dtype=torch.float32),
                torch.tensor(np.linalg.inv(affine), dtype=torch.float32),
                Subject._make_voxel_to_grid(image.shape),
                torch.zeros(3),
                max_label=0,
                convert_to_mu=False,
            )
            self._subjects[material] = subject.to(self._device)
        return self._subjects[material]

    def _render(
        self,
        view: XrayView,
        region: Region,
        parts: Sequence[tuple[int, int, float]],
        out: NDArray[np.float32],
        add: bool = False,
    ) -> NDArray[np.float32]:
        import torch
        from nanodrr.drr import render

        if not add:
            out[:] = 0
        inverse_k, transform_camera_to_lps = camera(view, region)
        k_inv = torch.from_numpy(inverse_k).float()[None].to(self._device)
        rt_inv = torch.from_numpy(transform_camera_to_lps).float()[None].to(self._device)
        distance = torch.tensor([view.source_detector_mm], dtype=torch.float32, device=self._device)
        diagonal_mm = float(np.linalg.norm(np.asarray(self.volume.hu.shape) * self._spacing_mm))
        samples = self._samples or int(np.ceil(SAMPLES_PER_VOXEL * diagonal_mm / float(self._spacing_mm.min())))
        with torch.inference_mode():
            for target, material, weight in parts:
                subject = self._subject(material)
                if subject is not None and weight != 0:
                    image = render(subject, k_inv, rt_inv, distance, out.shape[1], out.shape[2], samples)
                    out[target] += np.float32(weight) * image[0, 0].cpu().numpy()
        return out


def camera(view: XrayView, region: Region) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a view as nanodrr wants it.

    Args:
        view: Source and detector in LPS, mm.
        region: Part of the detector.

    Returns:
        Inverse camera matrix (3, 3) of the region, pixel centers at half numbers, and the transform (4, 4) from
        ``xray_optical`` to LPS, mm.
    """
    column, row = view.center_px
    matrix = np.array(
        [
            [view.focal_px, 0, column - region[0] + 0.5],
            [0, view.focal_px, row - region[1] + 0.5],
            [0, 0, 1.0],
        ]
    )
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = view.rotation, view.source_mm
    return np.asarray(np.linalg.inv(matrix)), transform
