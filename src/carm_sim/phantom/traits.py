# SPDX-License-Identifier: Apache-2.0
"""Individual traits of bodies of the same build: age and its signs, organ sizes, gas, and rare strong deviations.

Drawn from a random stream of its own, so that a trait can be added without changing anything else about a body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MEAN_AGE_YEARS = 62.0
_STREAM = 6


@dataclass(frozen=True)
class Traits:
    """Traits of one body; most are near their typical value, a few per cent of bodies lie far off.

    Attributes:
        age_years: 18 to 98.
        density: Bone density against a healthy adult's; it falls with age, in women more.
        breath: Inspiration beyond what the pose brings, -0.5 to 1.
        obesity: Added to the fatness.
        kyphosis_mm, scoliosis_mm: Added bulge of the spine backwards and sideways.
        head_turn_rad: Added axial rotation of the head.
        leg_share: Leg length against what goes with the trunk.
        heart: Size factor of the heart.
        aorta: 0 (straight) to 1 (wide and unfolded).
        gas: Amount of gas in stomach and bowel, about 1.
        shape: Strength of the random shape of each bone, about 1.
        wedges: Vertebrae (``T8``, ``L1``, ...) to the share of front height that a compression fracture has taken.
        spine_on_pelvis_mm: How far the spine stands behind and above its usual place on the pelvis (2,).
        barrel: Share that the chest is deeper than wide against the typical one; lungs are over-inflated with it.
    """

    age_years: float
    density: float
    breath: float
    obesity: float
    kyphosis_mm: float
    scoliosis_mm: float
    head_turn_rad: float
    leg_share: float
    heart: float
    aorta: float
    gas: float
    shape: float
    wedges: dict[str, float]
    barrel: float
    spine_on_pelvis_mm: tuple[float, float]


def draw_traits(seed: int, style: str, female: bool) -> Traits:
    """Draw the traits of a body.

    Args:
        seed: The body's seed.
        style: ``standard`` or ``validation``; the latter has more rare deviations.
        female: Sex.
    """
    rng = np.random.default_rng([seed, len(style), _STREAM])
    rare = 1.0 if style == "standard" else 1.6

    def sometimes(share: float, low: float, high: float) -> float:
        value = float(rng.uniform(low, high))
        return value if rng.random() < share * rare else 0.0

    def side() -> float:
        return float(rng.choice([-1.0, 1.0]))

    age = float(np.clip(rng.normal(MEAN_AGE_YEARS, 16.0), 18.0, 98.0))
    old = float(np.clip((age - 55.0) / 35.0, 0.0, 1.0))
    density = 1.25 - 0.0085 * (age - 25.0) - (0.006 * max(0.0, age - 50.0) if female else 0.0) + rng.normal(0, 0.12)
    density = float(np.clip(density, 0.40, 1.40))
    return Traits(
        age_years=age,
        density=density,
        breath=side() * sometimes(0.10, 0.1, 0.5),
        obesity=sometimes(0.05, 0.1, 0.4),
        kyphosis_mm=sometimes(0.02 + 0.10 * old, 8.0, 28.0),
        scoliosis_mm=side() * sometimes(0.06, 6.0, 20.0),
        head_turn_rad=side() * sometimes(0.08, 0.2, 0.9),
        leg_share=float(np.clip(rng.normal(1.0, 0.035), 0.88, 1.12)),
        heart=1.0 + sometimes(0.04 + 0.08 * old, 0.10, 0.32),
        aorta=float(np.clip(rng.normal(0.15 + 0.55 * old, 0.18), 0.0, 1.0)),
        gas=float(np.exp(rng.normal(0, 0.25))) * (1.0 + sometimes(0.06, 0.4, 1.2)),
        shape=float(rng.uniform(0.6, 1.3)) * (1.0 + sometimes(0.05, 0.3, 0.8)),
        wedges=_wedges(rng, old * float(np.clip(1.5 - density, 0.0, 1.0)) * rare),
        barrel=sometimes(0.10 * old, 0.04, 0.14),
        spine_on_pelvis_mm=(float(rng.normal(0, 7.0)), float(rng.normal(0, 6.0))),
    )


def _wedges(rng: np.random.Generator, share: float) -> dict[str, float]:
    """Return the compression fractures, most often about T8 and T12 to L1."""
    names = ["T6", "T7", "T8", "T9", "T11", "T12", "L1", "L2"]
    picked = rng.choice(names, size=2, replace=False, p=[0.06, 0.12, 0.16, 0.08, 0.1, 0.2, 0.2, 0.08])
    depth = rng.uniform(0.15, 0.45, 2)
    drawn = rng.random(2) < np.array([0.35, 0.15]) * share
    return {str(name): float(value) for name, value, there in zip(picked, depth, drawn, strict=True) if there}
