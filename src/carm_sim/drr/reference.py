# SPDX-License-Identifier: Apache-2.0
"""An independent, slow renderer to measure errors against: fine ray marching in double precision."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numba as nb
import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.projection import XrayView


@nb.njit(nogil=True, cache=True)
def _march(mu, transform, source, corner, right, down, pixels, step_mm, out):  # type: ignore[no-untyped-def]
    """Sum trilinear samples of ``mu`` (0 outside the grid) every ``step_mm`` along each ray."""
    ni, nj, nk = mu.shape
    linear = transform[:3, :3].copy()
    start = linear @ source + transform[:3, 3]
    for index in range(len(pixels)):
        end = corner + pixels[index, 0] * right + pixels[index, 1] * down
        length = math.sqrt(end[0] ** 2 + end[1] ** 2 + end[2] ** 2)
        ray = linear @ end
        count = math.ceil(length / step_mm)
        low, high = 0.0, 1.0
        for axis in range(3):
            if ray[axis] != 0:
                a = (-1 - start[axis]) / ray[axis]
                b = (mu.shape[axis] - start[axis]) / ray[axis]
                low, high = max(low, min(a, b)), min(high, max(a, b))
        total = 0.0
        for sample in range(int(low * count), int(high * count) + 1):
            t = (sample + 0.5) / count
            x, y, z = start[0] + t * ray[0], start[1] + t * ray[1], start[2] + t * ray[2]
            i, j, k = math.floor(x), math.floor(y), math.floor(z)
            for di in range(2):
                if not 0 <= i + di < ni:
                    continue
                for dj in range(2):
                    if not 0 <= j + dj < nj:
                        continue
                    for dk in range(2):
                        if 0 <= k + dk < nk:
                            weight = (1 - abs(x - i - di)) * (1 - abs(y - j - dj)) * (1 - abs(z - k - dk))
                            total += weight * mu[i + di, j + dj, k + dk]
        out[index] = total * length / count


def march(
    mu: NDArray[np.float32],
    transform_voxel_to_lps: NDArray[np.float64],
    view: XrayView,
    pixels: NDArray[np.float64],
    step_mm: float = 0.2,
) -> NDArray[np.float64]:
    """Return the line integrals (N,) of ``mu`` [i, j, k] along the rays to raw pixels (column, row) (N, 2)."""
    pitch = view.detector.pitch_mm
    column, row = view.center_px
    corner = view.source_detector_mm * view.forward - pitch * (column * view.right + row * view.down)
    out = np.zeros(len(pixels))
    inverse = np.linalg.inv(transform_voxel_to_lps)

    def work(part: slice) -> None:
        _march(
            mu,
            inverse,
            view.source_mm,
            corner,
            pitch * view.right,
            pitch * view.down,
            np.ascontiguousarray(pixels[part], dtype=np.float64),
            step_mm,
            out[part],
        )

    half = len(pixels) // 2
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (slice(0, half), slice(half, None))))
    return out
