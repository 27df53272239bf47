# SPDX-License-Identifier: Apache-2.0
"""Radiographs of all body parts as a screen shows them: rows of the format ``body-part-xray``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_core.body_parts import label_text
from carm_core.imaging.projection import display_from_raw
from carm_perception.datasets.body_parts.exams import Exam, draw_exam
from carm_perception.datasets.body_parts.integrals import OBJECTS, scan_of
from carm_perception.datasets.body_parts.regions import TRUNK
from carm_perception.datasets.body_parts.subjects import (
    OBJECTS_ALONE,
    Subject,
    draw_object_exam,
    draw_objects,
    make_subject,
)
from carm_perception.datasets.rendering.acquisition import UPRIGHT, Capture, develop, draw_capture, finish
from carm_perception.datasets.rendering.xrays import draw_tissue, expose
from carm_perception.datasets.storage.shards import IMAGE, png
from carm_perception.datasets.views import ViewDistribution
from carm_sim.drr import Renderer
from carm_sim.drr.scene import Scene
from carm_sim.patient.patient import Patient

LONGEST_PX = 320
"""Longer side of an image as it is made."""
SURROUNDED = 0.3
"""Part of the images with a margin that was not exposed, of one gray."""
_LARGEST_MARGIN = 0.12
DOSE_NGY, LIMB_KV = (100.0, 5000.0), (50.0, 70.0)
"""Air kerma at the detector; tube voltage for single limbs."""

FIELDS = {
    "patient": "string",
    "seed": "int64",
    "split": "string",
    "image": IMAGE,
    "label": "string",
    "projection": "string",
    "subject": "string",
    "inverted": "bool",
}


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One image.

    Attributes:
        image: Gray values (rows, columns) as in the file.
        exam: How it was taken.
        capture: How it came to be seen.
    """

    image: NDArray[np.uint8]
    exam: Exam
    capture: Capture


class Imager:
    """Takes radiographs of one body."""

    def __init__(self, rng: np.random.Generator, subject: Subject) -> None:
        """Prepare the body with random tissue, perhaps on a table."""
        self._rng, self._regions = rng, subject.regions
        self._tables = list(draw_tissue(rng))
        self._scenes = {
            name: Scene([Renderer(volume, self._tables, threads=1)]) for name, volume in scan_of(rng, subject).items()
        }

    def take(self) -> Radiograph:
        """Take one at random."""
        rng = self._rng
        if rng.random() < OBJECTS:
            exam, scene = (
                draw_object_exam(rng, LONGEST_PX),
                Scene([Renderer(draw_objects(rng), self._tables, threads=1)]),
            )
        else:
            exam = draw_exam(rng, self._regions, LONGEST_PX)
            scene = self._scenes[exam.limb]
        capture = capture_of(rng, exam.limb)
        gray, field, _ = expose(rng, scene, exam.view, capture)
        upright = display_from_raw(gray) if exam.mirrored else gray
        shown = np.ascontiguousarray(np.rot90(develop(upright, field, capture), exam.quarter_turns))
        margin = rng.uniform(0, _LARGEST_MARGIN, 4) * max(shown.shape) * (rng.random() < SURROUNDED)
        top, bottom, left, right = (round(float(side)) for side in margin)
        shown = cv2.copyMakeBorder(shown, top, bottom, left, right, cv2.BORDER_CONSTANT, value=capture.surround)
        return Radiograph(finish(np.asarray(shown, np.float32), capture, rng), exam, capture)


def capture_of(rng: np.random.Generator, subject: str) -> Capture:
    """Draw how an image is made and shown: as for images of the upper body, with the field, dose and voltage of exams.

    Nothing is cropped, and nothing is upside down but what the exam turns.

    Args:
        rng: Source of randomness.
        subject: What is in the beam, as in ``Exam.limb``.
    """
    capture = draw_capture(rng)
    dose = math.exp(float(rng.uniform(*np.log(DOSE_NGY))))
    kilovolts = capture.voltage_kv if subject in (TRUNK, OBJECTS_ALONE) else float(rng.uniform(*LIMB_KV))
    changed = replace(capture, dose_ngy=dose, voltage_kv=kilovolts, field=(1.0, 1.0), crop=(0.0, 0.0, 1.0, 1.0))
    return replace(changed, orientation=UPRIGHT, scale=1.0)


def rows(
    seed: int,
    style: str,
    split: str,
    patient: str,
    views: int,
    distribution: ViewDistribution,
    ct: Patient | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of one patient; arguments as in ``carm_perception.datasets.body_parts.integrals.rows``."""
    del distribution, ct
    imager = Imager(np.random.default_rng([seed, 62]), make_subject(seed, style))
    for _ in range(views):
        taken = imager.take()
        yield {
            "patient": patient,
            "seed": seed,
            "split": split,
            "image": png(taken.image),
            "label": label_text(taken.exam.part_ids),
            "projection": taken.exam.projection,
            "subject": taken.exam.limb,
            "inverted": taken.capture.inverted,
        }
