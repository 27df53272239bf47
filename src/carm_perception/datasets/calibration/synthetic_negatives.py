# SPDX-License-Identifier: Apache-2.0
"""Images that show no body, made from nothing: what a localizer must learn to leave alone.

Three families that resemble what may reach a localizer by mistake: overlapping shapes of random gray ("dead leaves",
whose statistics are those of photographs; Lee, Mumford and Huang 2001, Int. J. Comput. Vis. 41), noise of any color
down to plain gray, and shadows of a few rods, plates and balls in air.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_perception.networks.preprocessing import MODEL_PX

LEAVES, NOISES, SHADOWS = 80, 40, 120
"""Images of each family."""


def strangers(seed: int = 0) -> NDArray[np.uint8]:
    """Return the images uint8 (n, 128, 128) of shapes and noise, the same for the same seed."""
    rng = np.random.default_rng([seed, 41])
    return np.stack([_leaves(rng) for _ in range(LEAVES)] + [_noise(rng) for _ in range(NOISES)])


def shadows(seed: int = 0) -> NDArray[np.uint8]:
    """Return the images uint8 (n, 128, 128) of a few rods, plates and balls in air, the same for the same seed."""
    rng = np.random.default_rng([seed, 42])
    return np.stack([_shadows(rng) for _ in range(SHADOWS)])


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


def _shadows(rng: np.random.Generator) -> NDArray[np.uint8]:
    from scipy.ndimage import gaussian_filter

    depth = np.zeros((MODEL_PX, MODEL_PX))
    down, right = np.mgrid[:MODEL_PX, :MODEL_PX]
    for _ in range(int(rng.integers(1, 10))):
        x, y = rng.uniform(-20, MODEL_PX + 20, 2)
        turn, wide, long = rng.uniform(0, np.pi), 4 / rng.random() ** 0.7, rng.uniform(5, 90)
        u = (right - x) * np.cos(turn) + (down - y) * np.sin(turn)
        v = (down - y) * np.cos(turn) - (right - x) * np.sin(turn)
        wide = min(wide, 60.0)
        kind = int(rng.integers(3))
        rod = 2 * np.sqrt(np.maximum(wide**2 - u**2, 0)) * (np.abs(v) < long)
        ball = 2 * np.sqrt(np.maximum(wide**2 - u**2 - v**2, 0))
        plate = rng.uniform(2, 40) * (np.abs(u) < wide) * (np.abs(v) < long)
        depth += rng.uniform(0.005, 0.12) * (rod, ball, plate)[kind]
    signal = np.exp(-depth) + rng.normal(0, rng.uniform(0.001, 0.02), depth.shape)
    shown = gaussian_filter(-np.log(np.clip(signal, 1e-3, None)), rng.uniform(0, 1.2))
    low, high = np.percentile(shown, [0.5, 99.5])
    return np.asarray(np.clip(255 * (shown - low) / max(high - low, 1e-3), 0, 255), np.uint8)


def _noise(rng: np.random.Generator) -> NDArray[np.uint8]:
    shape = MODEL_PX, MODEL_PX
    frequency = np.hypot(np.fft.fftfreq(MODEL_PX)[:, None], np.fft.rfftfreq(MODEL_PX)[None])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / frequency ** rng.uniform(0, 2)
    noise = np.fft.irfft2(spectrum, shape)
    noise = (noise - noise.mean()) / noise.std()
    return np.asarray(np.clip(rng.uniform(20, 230) + rng.uniform(0, 70) * noise, 0, 255), np.uint8)
