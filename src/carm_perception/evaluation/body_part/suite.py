# SPDX-License-Identifier: Apache-2.0
"""The generated suite: radiographs of bodies that no model was trained or chosen on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from carm_core.body_parts import part_names
from carm_perception.datasets.storage.dataset import BODY_PART_SPLITS

PATIENTS, VIEWS = 24, 25
"""Bodies of the suite, and images of each."""

Labeled = tuple[str, tuple[int, ...], NDArray[np.uint8]]
"""Name of an image, the body parts in it, gray values (rows, columns)."""


def images_of(seed: int, views: int) -> list[Labeled]:
    """Return the first radiographs of a body, as ``carm dataset --task body-part --split test`` makes them."""
    from carm_perception.datasets.body_parts.subjects import make_subject
    from carm_perception.datasets.body_parts.xrays import Imager

    imager = Imager(np.random.default_rng([seed, 62]), make_subject(seed))
    taken = [imager.take() for _ in range(views)]
    return [
        (f"phantom:{seed}#{number} {part_names(one.exam.part_ids)}", one.exam.part_ids, one.image)
        for number, one in enumerate(taken)
    ]


def generated(seed: int = 0, patients: int = PATIENTS, views: int = VIEWS, workers: int = 1) -> Iterator[Labeled]:
    """Yield the images of the suite.

    Args:
        seed: Of the suite: it begins at another body.
        patients: Number of bodies.
        views: Images of each.
        workers: Processes.
    """
    first = BODY_PART_SPLITS["test"][1] + 1000 * seed
    tasks = [(first + number, views) for number in range(patients)]
    if workers == 1:
        for task in tasks:
            yield from images_of(*task)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for images in pool.imap(_images, tasks):
            yield from images


def _images(task: tuple[int, int]) -> list[Labeled]:
    return images_of(*task)
