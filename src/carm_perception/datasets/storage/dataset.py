# SPDX-License-Identifier: Apache-2.0
"""The data set on disk: Parquet shards of rendered phantoms, resumable, split by patient, with a data card.

A shard holds all views of a few patients and is written whole (to a temporary name, then renamed), so an interrupted
run goes on where it stopped. The image columns are read by Hugging Face ``datasets`` as images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from carm_core.errors import ConfigurationError
from carm_perception.datasets.known_cts import KnownCt
from carm_perception.datasets.parallel import LOCAL, run
from carm_perception.datasets.storage.card import write_data_card
from carm_perception.datasets.storage.shards import StorageError, remove_abandoned, schema, storage_message, write_rows
from carm_perception.datasets.views import ViewDistribution
from carm_sim.patient_loader import with_landmarks

SPLITS: dict[str, tuple[str, int]] = {
    "train": ("standard", 100_000),
    "validation": ("validation", 500_000),
    "test": ("standard", 900_000),
}
"""Split to (style of the phantoms, first seed): no seed is in two splits."""

LIVING = 0.6
"""Part of the phantoms of ``train`` that are of the style ``living``."""

MAXIMUM_PATIENTS = 100_000

INTEGRALS, XRAY = "integrals", "xray"
BODY_PART_INTEGRALS, BODY_PART_XRAY = "body-part-integrals", "body-part-xray"

BODY_PART_SPLITS: dict[str, tuple[str, int]] = {
    "train": ("standard", 100_000),
    "validation": ("standard", 830_000),
    "test": ("standard", 960_000),
}
"""``SPLITS`` of the formats of body parts, which are chosen on bodies of the style that they are tested on."""


class Format(NamedTuple):
    """A kind of data set.

    Attributes:
        module: Where its ``FIELDS`` and ``rows`` are.
        prefix: Of the names of its shards and specifications.
        distribution: How its views are drawn.
        splits: As ``SPLITS``.
    """

    module: str
    prefix: str
    distribution: ViewDistribution
    splits: dict[str, tuple[str, int]] = SPLITS


FORMATS = {
    INTEGRALS: Format("carm_perception.datasets.rendering.integrals", "", ViewDistribution()),
    XRAY: Format("carm_perception.datasets.rendering.xrays", "xray-", ViewDistribution(landmark_fraction=0.5)),
    BODY_PART_INTEGRALS: Format(
        "carm_perception.datasets.body_parts.integrals", "body-part-integrals-", ViewDistribution(), BODY_PART_SPLITS
    ),
    BODY_PART_XRAY: Format(
        "carm_perception.datasets.body_parts.xrays", "body-part-", ViewDistribution(), BODY_PART_SPLITS
    ),
}
"""``integrals``: for the compact models, whose training draws the display anew each time; ``xray``: images as seen;
the others are the same for body parts."""


@dataclass(frozen=True)
class DatasetSpec:
    """What to generate.

    Attributes:
        split: One of ``SPLITS``.
        patients: Number of phantoms.
        views: Views of each phantom.
        patients_per_shard: Phantoms in one Parquet file.
        first: Index of the first phantom within the split.
        distribution: Spread of the views; None: that of the format.
        format: One of ``FORMATS``.
        cts: CTs of this split that views are rendered from, too.
        ct_views: Views of each.
    """

    split: str = "train"
    patients: int = 360
    views: int = 120
    patients_per_shard: int = 6
    first: int = 0
    distribution: ViewDistribution | None = None
    format: str = INTEGRALS
    cts: tuple[KnownCt, ...] = ()
    ct_views: int = 1

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: A value is out of range.
        """
        for kind, value, known in (("split", self.split, SPLITS), ("format", self.format, FORMATS)):
            if value not in known:
                raise ConfigurationError(f"unknown {kind} {value!r}; there are {', '.join(known)}")
        for name in ("patients", "views", "patients_per_shard", "ct_views"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.first <= self.first + self.patients <= MAXIMUM_PATIENTS:
            raise ConfigurationError(f"a split holds at most {MAXIMUM_PATIENTS} patients")
        for ct in self.cts:
            if ct.split != self.split:
                raise ConfigurationError(f"{ct.name} belongs to split {ct.split}, not {self.split}")

    @property
    def prefix(self) -> str:
        """What the names of all files of this split begin with."""
        return FORMATS[self.format].prefix + self.split

    @property
    def chosen_distribution(self) -> ViewDistribution:
        """Spread of the views."""
        return self.distribution or FORMATS[self.format].distribution

    def shards(self) -> dict[str, list[int]]:
        """Return the file name of each shard and the seeds of its phantoms."""
        base = FORMATS[self.format].splits[self.split][1]
        seeds = [base + index for index in range(self.first, self.first + self.patients)]
        size = self.patients_per_shard
        groups = [seeds[i : i + size] for i in range(0, len(seeds), size)]
        return {f"{self.prefix}-{group[0]:06d}-{group[-1]:06d}-{self.views}.parquet": group for group in groups}

    def ct_shards(self) -> dict[str, list[KnownCt]]:
        """Return the file name of each shard of a CT, and the CT."""
        return {f"{self.prefix}-ct-{ct.checksum[:12]}-{self.ct_views}.parquet": [ct] for ct in self.cts}

    def rows(self, patient: int | KnownCt) -> Iterator[Mapping[str, Any]]:
        """Rows of one patient: of the phantom of a seed, or of a CT."""
        style = FORMATS[self.format].splits[self.split][0]
        if style == "standard" and isinstance(patient, int) and self.split == "train":
            style = "living" if np.random.default_rng([patient, 79]).random() < LIVING else style
        make: Callable[..., Iterator[Mapping[str, Any]]] = import_module(FORMATS[self.format].module).rows
        if isinstance(patient, KnownCt):
            spread, body = self.chosen_distribution, with_landmarks(patient.path)
            return make(patient.seed, style, self.split, patient.name, self.ct_views, spread, body)
        name = f"phantom:{patient}" if style == "standard" else f"phantom-{style}:{patient}"
        return make(patient, style, self.split, name, self.views, self.chosen_distribution)


class Shard(NamedTuple):
    """One piece of work: a file, its patients (seeds of phantoms, or CTs), and what to make of them."""

    path: Path
    patients: Sequence[int | KnownCt]
    spec: DatasetSpec

    @property
    def views(self) -> int:
        """Number of views in it."""
        return sum(self.spec.ct_views if isinstance(one, KnownCt) else self.spec.views for one in self.patients)


def write_shard(shard: Shard) -> int:
    """Generate one shard and move it into place.

    Returns:
        Number of views.

    Raises:
        StorageError: It cannot be written; nothing of it is left behind.
    """
    rows = [row for patient in shard.patients for row in shard.spec.rows(patient)]
    write_rows(shard.path, rows, schema(import_module(FORMATS[shard.spec.format].module).FIELDS))
    return len(rows)


def generate(folder: Path, spec: DatasetSpec, workers: int = 2, progress: bool = True, engine: str = LOCAL) -> int:
    """Generate what is missing of a split.

    Args:
        folder: Folder of the data set; made if needed. On a Ray cluster every node must see it under this name.
        spec: What to generate.
        workers: Processes; 0: all cores.
        progress: Show a progress bar.
        engine: One of ``carm_perception.datasets.parallel.ENGINES``.

    Returns:
        Number of shards that were made now.

    Raises:
        ConfigurationError: The folder cannot be written, or the engine is not there.
        StorageError: The disk is full; the shards made so far are complete.
    """
    from tqdm import tqdm

    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        specification = asdict(replace(spec, distribution=spec.chosen_distribution))
        (folder / f"{spec.prefix}.json").write_text(json.dumps(specification, indent=1) + "\n")
        write_data_card(folder, spec.prefix, cts=bool(spec.cts))
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror or error}") from error
    shards = [Shard(folder / name, own, spec) for name, own in (spec.shards() | spec.ct_shards()).items()]
    missing = [shard for shard in shards if not shard.path.exists()]
    total, left = (sum(shard.views for shard in some) for some in (shards, missing))
    bar = tqdm(total=total, initial=total - left, unit="image", desc=spec.prefix, disable=not progress)
    with bar, closing(_results(engine, missing, workers)) as results:
        for count in results:
            bar.update(count)
    return len(missing)


def _results(engine: str, shards: list[Shard], workers: int) -> Generator[int]:
    try:
        yield from run(engine, write_shard, shards, workers)
    except OSError as error:
        raise StorageError(storage_message(shards[0].path.parent, error)) from error
