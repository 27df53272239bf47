# SPDX-License-Identifier: Apache-2.0
"""Line integrals of radiographs of all body parts: rows of the format ``body-part-integrals``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_core.body_parts import label_text
from carm_perception.datasets.body_parts.exams import Exam, draw_exam
from carm_perception.datasets.body_parts.subjects import (
    SPACINGS_MM,
    Subject,
    draw_object_exam,
    draw_objects,
    make_subject,
)
from carm_perception.datasets.rendering.integrals import encoded
from carm_perception.datasets.rendering.render import TABLE, tissue_tables, with_table
from carm_perception.datasets.storage.shards import IMAGE
from carm_perception.datasets.views import ViewDistribution
from carm_sim.drr import Renderer
from carm_sim.patient.patient import Patient
from carm_sim.patient.volume import Volume

RENDERED_PX, STORED_PX = 160, 144
"""Longer side of the rendered field; side of the square that it is stretched to, whatever its proportions."""
VIEWS_PER_SCAN = 80
"""Views with one tissue model."""
SPACING_CHANCES = (0.3, 0.7)
"""Of ``SPACINGS_MM``: coarse bodies are made in half the time."""
OBJECTS = 0.03
"""Part of the views that show an empty table or objects."""

FIELDS = {
    "patient": "string",
    "seed": "int64",
    "split": "string",
    "variant": "int32",
    "image": IMAGE,
    "image_max_mm": "float32",
    "bone": IMAGE,
    "bone_max_mm": "float32",
    "aspect": "float32",
    "label": "string",
    "projection": "string",
    "subject": "string",
}


def shown(image: NDArray[np.float32], exam: Exam) -> NDArray[np.float32]:
    """Return a raw image (..., rows, columns) as the exam shows it: mirrored or not, and turned."""
    upright = image if exam.mirrored else image[..., ::-1]
    return np.ascontiguousarray(np.rot90(upright, exam.quarter_turns, axes=(-2, -1)))


def scan_of(rng: np.random.Generator, subject: Subject) -> dict[str, Volume]:
    """Return the volumes of a body as it lies, or stands, once: perhaps with a table behind the back."""
    volumes = dict(subject.volumes)
    if rng.random() < TABLE:
        trunk = volumes["trunk"]
        volumes["trunk"] = Volume(with_table(rng, trunk.hu, trunk.transform_voxel_to_lps), trunk.transform_voxel_to_lps)
    return volumes


def rows(
    seed: int,
    style: str,
    split: str,
    patient: str,
    views: int,
    distribution: ViewDistribution,
    ct: Patient | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of one patient; arguments as in ``carm_perception.datasets.rendering.integrals.rows``, ``ct`` unused."""
    del distribution, ct
    rng = np.random.default_rng([seed, 61])
    subject = make_subject(seed, style, float(rng.choice(SPACINGS_MM, p=SPACING_CHANCES)))
    for number, first in enumerate(range(0, views, VIEWS_PER_SCAN)):
        tables = list(tissue_tables(rng))
        renderers = {name: Renderer(volume, tables, threads=1) for name, volume in scan_of(rng, subject).items()}
        for _ in range(min(VIEWS_PER_SCAN, views - first)):
            if rng.random() < OBJECTS:
                renderer = Renderer(draw_objects(rng), tables, threads=1)
                exam = draw_object_exam(rng, RENDERED_PX)
            else:
                exam = draw_exam(rng, subject.regions, RENDERED_PX)
                renderer = renderers[exam.limb]
            raw = shown(renderer.material_integrals(exam.view), exam)
            soft, bone = (cv2.resize(one, (STORED_PX, STORED_PX), interpolation=cv2.INTER_AREA) for one in raw)
            yield {
                "patient": patient,
                "seed": seed,
                "split": split,
                "variant": number,
                **encoded(soft, bone),
                "aspect": raw.shape[1] / raw.shape[2],
                "label": label_text(exam.part_ids),
                "projection": exam.projection,
                "subject": exam.limb,
            }
