# SPDX-License-Identifier: Apache-2.0
"""What a model says about the calibration views, beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import ALL_LANDMARKS, ROWS
from carm_core.localization import Protocol, Query
from carm_core.transforms import Array
from carm_perception.datasets.calibration.patient_views import PatientViews, load_views
from carm_perception.networks.preprocessing import FIELD_MM, MODEL_PX

LISTED = 3
"""Landmarks kept of the language model's lists."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Answers about n views.

    Attributes:
        patient: Number of the patient (n,).
        truth_mm: True displacements (n, 48, 2); NaN for landmarks that the patient lacks.
        speaker_mm: The language model's displacements (n, 48, 2); NaN without an answer.
        speaker_std_mm: Its standard deviations (n, 48).
        referee_mm: The deep-learning localizer's displacements (n, 48, 2).
        referee_std_mm: Its standard deviations (n, 48).
        seen: Landmarks that it sees in the image (n, 48).
        presence: How surely each is in the image (n, 48).
        listed: Ids in the language model's list (n, 3), 0 where it is shorter.
        of_two: Whether that list is of the localization protocol, else of retrieval (n,).
    """

    patient: NDArray[np.int64]
    truth_mm: Array
    speaker_mm: Array
    speaker_std_mm: Array
    referee_mm: Array
    referee_std_mm: Array
    seen: NDArray[np.bool_]
    presence: Array
    listed: NDArray[np.int64]
    of_two: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.patient)

    def of(self, chosen: NDArray[np.bool_]) -> Samples:
        """Return some of the views (n,)."""
        return Samples(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    @property
    def distance_mm(self) -> Array:
        """True distance of each landmark from the image center (n, 48)."""
        distance: Array = np.linalg.norm(self.truth_mm, axis=-1)
        return distance

    @property
    def in_image(self) -> NDArray[np.bool_]:
        """Landmarks that truly lie in the image (n, 48)."""
        return np.asarray((np.abs(self.truth_mm) <= FIELD_MM / 2).all(axis=-1))


def join_samples(parts: list[Samples]) -> Samples:
    """Return all views of several parts."""
    return Samples(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Samples)})


class Reader:
    """Asks both localizers of a model folder about the views of a patient."""

    def __init__(self, folder: Path) -> None:
        """Load the model.

        Raises:
            LocalizerError: The folder is incomplete or its content is no such model.
        """
        from carm_perception.localizers.compact import CompactLocalizer
        from carm_perception.localizers.regression import RegressionLocalizer
        from carm_perception.networks.loaded_model import LoadedModel

        loaded = LoadedModel(folder, threads=1)
        self._speaker = CompactLocalizer(loaded, maximum_risk=0.0)
        self._referee = RegressionLocalizer(loaded, maximum_risk=0.0)

    def read(self, number: int, views: PatientViews) -> Samples:
        """Read all views of a patient.

        Args:
            number: Number that the patient gets.
            views: The images and the truth.
        """
        rows = [self._one(views, index) for index in range(len(views.images))]
        columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        patient = np.full(len(rows), number, dtype=np.int64)
        return Samples(patient=patient, truth_mm=views.displacement_mm, **columns)

    def read_strangers(self, images: NDArray[np.uint8]) -> tuple[Array, Array]:
        """Return the standard deviations and presences (n, 48) of images without truth (n, 128, 128)."""
        frames = [XrayFrame(image, FIELD_MM / MODEL_PX, 0.0) for image in images]
        readings = [self._referee.read(frame) for frame in frames]
        return np.array([r.std_mm for r in readings]), np.array([r.presence for r in readings])

    def _one(self, views: PatientViews, index: int) -> dict[str, Any]:
        frame = views.frame(index)
        reading = self._referee.read(frame)
        count = len(ALL_LANDMARKS)
        places, stds = np.full((count, 2), np.nan), np.full(count, np.nan)
        for estimate in self._speaker.localize(frame, Query(Protocol.POINTING)).estimates:
            row = ROWS[estimate.id]
            places[row], stds[row] = estimate.displacement_mm, estimate.std_mm
        protocol = Protocol.RETRIEVAL if index % 2 else Protocol.LOCALIZATION
        found = [e.id for e in self._speaker.localize(frame, Query(protocol)).estimates][:LISTED]
        return {
            "speaker_mm": places,
            "speaker_std_mm": stds,
            "referee_mm": reading.displacement_mm,
            "referee_std_mm": reading.std_mm,
            "seen": reading.seen,
            "presence": reading.presence,
            "listed": np.array(found + [0] * (LISTED - len(found)), dtype=np.int64),
            "of_two": protocol is Protocol.LOCALIZATION,
        }


_reader: list[Reader] = []
"""The worker process's own reader."""


def _start(folder: Path) -> None:
    _reader.append(Reader(folder))


def _read(number: int, path: Path) -> Samples:
    views = load_views(path)
    if views is None:
        raise ConfigurationError(f"{path} is damaged: delete it and run again")
    return _reader[-1].read(number, views)


def collect(folder: Path, paths: list[Path], workers: int, progress: Callable[[], object] = lambda: None) -> Samples:
    """Ask the localizers of a model folder about all calibration views.

    Args:
        folder: Model folder.
        paths: A file for each patient, from ``carm_perception.datasets.calibration.patient_views.prepare_views``.
        workers: Processes, each with one thread.
        progress: Called once for each patient.

    Raises:
        LocalizerError: The folder is incomplete or its content is no such model.
        ConfigurationError: A file of views is damaged.
    """
    from multiprocessing import get_context

    def drain(results: Iterator[Samples]) -> Samples:
        parts = []
        for part in results:
            parts.append(part)
            progress()
        return join_samples(parts)

    if workers <= 1:
        _start(folder)
        return drain(map(_read, range(len(paths)), paths))
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (folder,)) as pool:
        return drain(pool.map(_read, range(len(paths)), paths))
