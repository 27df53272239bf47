# SPDX-License-Identifier: Apache-2.0
"""A CT at several resolutions, ready to be rendered many hundred times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.projection import Detector, XrayView, display_from_raw
from carm_core.transforms import Array, RigidTransform
from carm_sim.drr.shear_warp.renderer import Renderer
from carm_sim.patient.patient import Patient
from carm_sim.patient.volume import Volume

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Level:
    """A resolution.

    Attributes:
        side_px: Pixels along the longer side of the images that are compared.
        voxel_mm: Voxels of the CT are averaged up to this size, mm.
    """

    side_px: int
    voxel_mm: float


LEVELS = (Level(48, 5.0), Level(80, 3.5), Level(144, 2.0))
"""From coarse to fine. An image of 200 mm at isocenter depth has pixels of 4, 2.5 and 1.4 mm there."""

BONE_HU = 130.0
"""What is above counts as bone."""


def averaged(volume: Volume, voxel_mm: float) -> Volume:
    """Return a volume whose voxels are averages of as many as fit into a size, mm."""
    factors = np.maximum(1, np.floor(voxel_mm / volume.spacing_mm + 1e-6)).astype(int)
    i, j, k = np.minimum(factors, volume.shape)
    return averaged_by(volume, (int(i), int(j), int(k)))


def averaged_by(volume: Volume, factors: tuple[int, int, int]) -> Volume:
    """Return a volume of averages of blocks of voxels; what remains at the far ends is left out."""
    hu: NDArray[np.float32] = volume.hu.astype(np.float32)
    for axis, factor in enumerate(factors):
        if factor > 1:
            count = hu.shape[axis] // factor
            hu = np.take(hu, range(count * factor), axis)
            hu = hu.reshape((*hu.shape[:axis], count, factor, *hu.shape[axis + 1 :])).mean(axis + 1, dtype=np.float32)
    scale = np.diag([*(float(factor) for factor in factors), 1.0])
    scale[:3, 3] = (np.array(factors) - 1) / 2
    return Volume(np.round(hu).astype(np.int16), volume.transform_voxel_to_lps @ scale)


def reduced(view: XrayView, side_px: int) -> XrayView:
    """Return a view with the same field and pixels so large that its longer side has a number of them."""
    detector = view.detector
    factor = max(detector.rows, detector.columns) / side_px
    rows, columns = (max(1, round(n / factor)) for n in (detector.rows, detector.columns))
    point = tuple((value + 0.5) / factor - 0.5 for value in view.center_px)
    small = Detector(rows, columns, detector.pitch_mm * factor)
    return replace(view, detector=small, principal_point_px=(point[0], point[1]))


def bone(hu: Array) -> Array:
    """Return the attenuation (n,) of what is bone at HU (n,), 1/mm; 0 for soft tissue."""
    return np.asarray(np.where(hu > BONE_HU, (hu - BONE_HU) / 1000, 0.0))


class CtModel:
    """The patient's CT, rendered at the resolutions of ``LEVELS``. Several threads may render at once.

    Attributes:
        name: Of the CT.
        landmarks_mm: Landmark id to its LPS position (3,), mm.
        center_mm: Center of the body in the CT (3,), LPS, mm.
    """

    def __init__(self, patient: Patient, threads: int = 2, levels: Sequence[Level] = LEVELS) -> None:
        """Average the voxels; the first images of each direction take some 10 ms longer.

        Args:
            patient: The CT with its landmarks; where it lies on the table is not looked at.
            threads: How many may render at once.
            levels: Resolutions.
        """
        self.name = patient.name
        self.landmarks_mm = {key: np.asarray(point, float) for key, point in patient.imaged_landmarks_mm.items()}
        self.levels = tuple(levels)
        self.threads = threads
        self._low, self._high = patient.volume.body_box_mm()
        self.center_mm: Array = (self._low + self._high) / 2
        ends = patient.volume.lps_from_voxel(np.array([[0, 0, -0.5], [0, 0, patient.volume.shape[2] - 0.5]]))
        self._ends = float(ends[:, 2].min()), float(ends[:, 2].max())
        volumes = [averaged(patient.volume, level.voxel_mm) for level in self.levels]
        self._renderers = [[Renderer(volume, threads=1) for _ in range(threads)] for volume in volumes]
        self._bones = [Renderer(volume, bone, threads=1) for volume in volumes]

    @property
    def body_box_mm(self) -> tuple[Array, Array]:
        """Lower and upper corner of the body (3,), LPS, mm."""
        return self._low, self._high

    def render(
        self, level: int, view: XrayView, transform_lps_to_table: RigidTransform, worker: int = 0
    ) -> tuple[Image, Mask]:
        """Render the CT where it is taken to lie.

        Args:
            level: Index into ``levels``; ``view`` has its size (``reduced``).
            view: Source and detector, frame ``table``.
            transform_lps_to_table: Where the CT lies, mm.
            worker: Which of the renderers; each serves one thread at a time.

        Returns:
            Line integrals float32 (rows, columns), display orientation, and bool (rows, columns): rays that the CT
            knows from end to end, that is to say that do not leave the body through the CT's upper or lower end.
        """
        there = view.transformed(transform_lps_to_table.inverse())
        image = self._renderers[level][worker].line_integrals(there)
        return display_from_raw(image), display_from_raw(self._known(there))

    def render_bones(self, level: int, view: XrayView, transform_lps_to_table: RigidTransform) -> Image:
        """Render what is bone in the CT, as ``render`` does; serves one thread at a time."""
        there = view.transformed(transform_lps_to_table.inverse())
        return display_from_raw(self._bones[level].line_integrals(there))

    def _known(self, view: XrayView) -> Mask:
        """Rays (rows, columns), raw orientation, whose part beside the body's sides lies between the CT's ends."""
        rows, columns = view.detector.rows, view.detector.columns
        c, r = (np.arange(n) - p for n, p in zip((columns, rows), view.center_px, strict=True))
        direction = (view.forward * view.focal_px + c[None, :, None] * view.right + r[:, None, None] * view.down) * (
            view.source_detector_mm / view.focal_px
        )
        near = np.full((rows, columns), 0.0)
        far = np.full((rows, columns), 1.0)
        for axis in (0, 1):
            step = np.where(np.abs(direction[..., axis]) < 1e-9, 1e-9, direction[..., axis])
            one, two = ((bound[axis] - view.source_mm[axis]) / step for bound in (self._low, self._high))
            near, far = np.maximum(near, np.minimum(one, two)), np.minimum(far, np.maximum(one, two))
        beside = near >= far
        heights = (view.source_mm[2] + share * direction[..., 2] for share in (near, far))
        inside = np.logical_and(*((height > self._ends[0]) & (height < self._ends[1]) for height in heights))
        return np.asarray(inside | beside)
