# SPDX-License-Identifier: Apache-2.0
"""Images that show no body, made from nothing: what a localizer must learn to leave alone.

Two families that resemble what may reach a localizer by mistake: overlapping shapes of random gray ("dead leaves",
whose statistics are those of photographs; Lee, Mumford and Huang 2001, Int. J. Comput. Vis. 41), and noise of any color
down to plain gray.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_perception.networks.preprocessing import MODEL_PX

LEAVES, NOISES = 80, 40
"""Images of either family."""


def strangers(seed: int = 0) -> NDArray[np.uint8]:
    """Return the images uint8 (n, 128, 128), the same for the same seed."""
    rng = np.random.default_rng([seed, 41])
    return np.stack([_leaves(rng) for _ in range(LEAVES)] + [_noise(rng) for _ in range(NOISES)])


def _leaves(rng: np.random.Generator) -> NDArray[np.uint8]:
    from scipy.ndimage import gaussian_filter

    image = np.full((MODEL_PX, MODEL_PX), rng.uniform(0, 255))
    down, right = np.mgrid[:MODEL_PX, :MODEL_PX]
    for _ in range(int(rng.integers(10, 120))):
        size = min(80.0, 4 / rng.random() ** 0.7) if rng.random() < 0.8 else rng.uniform(20, 70)
        x, y = rng.uniform(0, MODEL_PX, 2)
        turn, aspect = rng.uniform(0, np.pi), rng.uniform(0.3, 1.0)
        u = (right - x) * np.cos(turn) + (down - y) * np.sin(turn)
        v = (down - y) * np.cos(turn) - (right - x) * np.sin(turn)
        if rng.random() < 0.6:
            leaf = (u / size) ** 2 + (v / (size * aspect)) ** 2 < 1
        else:
            leaf = (np.abs(u) < size) & (np.abs(v) < size * aspect)
        slope = rng.normal(0, 1.5) if rng.random() < 0.5 else 0.0
        image[leaf] = rng.uniform(0, 255) + slope * u[leaf]
    blurred = gaussian_filter(image, rng.uniform(0, 1.5)) + rng.normal(0, rng.uniform(0, 8), image.shape)
    return np.asarray(np.clip(blurred, 0, 255), np.uint8)


def _noise(rng: np.random.Generator) -> NDArray[np.uint8]:
    shape = MODEL_PX, MODEL_PX
    frequency = np.hypot(np.fft.fftfreq(MODEL_PX)[:, None], np.fft.rfftfreq(MODEL_PX)[None])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / frequency ** rng.uniform(0, 2)
    noise = np.fft.irfft2(spectrum, shape)
    noise = (noise - noise.mean()) / noise.std()
    return np.asarray(np.clip(rng.uniform(20, 230) + rng.uniform(0, 70) * noise, 0, 255), np.uint8)
