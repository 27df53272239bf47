# SPDX-License-Identifier: Apache-2.0
"""Line integrals of phantoms: rows of the format ``integrals``, which the compact models are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.landmarks import ALL_LANDMARKS
from carm_perception.datasets.storage.shards import IMAGE, NUMBERS, png
from carm_perception.datasets.views import ViewDistribution
from carm_sim.patient.patient import Patient

EXTRA_RAISED = 0.12
"""Fraction of bodies whose arms are raised in any case, as for a chest CT; more come from the generator's own draw."""

WHOLE_BODIES = 0.4
"""Fraction of bodies that reach to the feet; ``ELSEWHERE`` of their views are centered anywhere along them."""

ELSEWHERE = 0.15

FIELDS = {
    "patient": "string",
    "seed": "int64",
    "split": "string",
    "variant": "int32",
    "image": IMAGE,
    "image_max_mm": "float32",
    "bone": IMAGE,
    "bone_max_mm": "float32",
    "mm_per_px": "float32",
    "primary_deg": "float32",
    "secondary_deg": "float32",
    "roll_deg": "float32",
    "isocenter_mm": NUMBERS,
    "centered_on": "int32",
    "displacement_mm": NUMBERS,
    "landmark_mm": NUMBERS,
}


def scaled(image: NDArray[np.float32]) -> tuple[dict[str, Any], float]:
    """Encode an image of line integrals as 8 bits: gray value 255 stands for the returned maximum."""
    maximum = max(float(image.max()), 1e-3)
    gray = np.clip(np.rint(image * (255 / maximum)), 0, 255).astype(np.uint8)
    return png(gray), maximum


def encoded(soft: NDArray[np.float32], bone: NDArray[np.float32]) -> dict[str, Any]:
    """Return the columns of two materials' line integrals (rows, columns), mm: both together, and bone."""
    image, image_max = scaled(soft + bone)
    bone_image, bone_max = scaled(bone)
    return {"image": image, "image_max_mm": image_max, "bone": bone_image, "bone_max_mm": bone_max}


def rows(
    seed: int,
    style: str,
    split: str,
    patient: str,
    views: int,
    distribution: ViewDistribution,
    ct: Patient | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of one patient.

    Args:
        seed: Seed of the body, its scans and views.
        style: Style of the body.
        split: Name of the split.
        patient: Name of the patient.
        views: Number of rows.
        distribution: Spread of the views.
        ct: The body; None: generated from the seed.
    """
    from carm_perception.datasets.rendering.render import make_variant, render_views
    from carm_sim.phantom import generate_phantom

    rng = np.random.default_rng([seed, 77])
    arms = "raised" if rng.random() < EXTRA_RAISED else None
    whole = ct is None and bool(np.random.default_rng([seed, 78]).random() < WHOLE_BODIES)
    if whole:
        distribution = replace(distribution, anywhere_fraction=max(ELSEWHERE, distribution.anywhere_fraction))
    body = ct or generate_phantom(seed, style=style, arms=arms, whole_body=whole)
    for number, count in enumerate((views - views // 2, views // 2)):
        if not count:
            continue
        known = body.landmarks_mm | body.extra_landmarks_mm
        variant = make_variant(rng, body.volume, known)
        marks = np.array([variant.landmarks_mm.get(m.id, np.full(3, np.nan)) for m in ALL_LANDMARKS], np.float32)
        for view in render_views(rng, variant, count, distribution):
            yield {
                "patient": patient,
                "seed": seed,
                "split": split,
                "variant": number,
                **encoded(*view.materials),
                "mm_per_px": view.mm_per_px,
                "primary_deg": view.sampled.primary_deg,
                "secondary_deg": view.sampled.secondary_deg,
                "roll_deg": view.sampled.roll_deg,
                "isocenter_mm": view.sampled.isocenter_mm.tolist(),
                "centered_on": view.sampled.centered_on,
                "displacement_mm": view.displacement_mm.ravel().tolist(),
                "landmark_mm": marks.ravel().tolist(),
            }
