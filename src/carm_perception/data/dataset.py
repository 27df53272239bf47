# SPDX-License-Identifier: Apache-2.0
"""The data set on disk: Parquet shards of rendered phantoms, resumable, split by patient, with a data card.

A shard holds all views of a few patients and is written whole (to a temporary name, then renamed), so an interrupted
run goes on where it stopped. The image columns are read by Hugging Face ``datasets`` as images.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.landmarks import LANDMARKS
from carm_perception.data.views import ViewDistribution

SPLITS: dict[str, tuple[str, int]] = {
    "train": ("standard", 100_000),
    "validation": ("validation", 500_000),
    "test": ("standard", 900_000),
}
"""Split to (style of the phantoms, first seed): no seed is in two splits."""

EXTRA_RAISED = 0.12
"""Fraction of bodies whose arms are raised in any case, as for a chest CT; more come from the generator's own draw."""

MAXIMUM_PATIENTS = 100_000


@dataclass(frozen=True)
class DatasetSpec:
    """What to generate.

    Attributes:
        split: One of :data:`SPLITS`.
        patients: Number of phantoms.
        views: Views of each phantom.
        patients_per_shard: Phantoms in one Parquet file.
        first: Index of the first phantom within the split.
        distribution: Spread of the views.
    """

    split: str = "train"
    patients: int = 360
    views: int = 120
    patients_per_shard: int = 6
    first: int = 0
    distribution: ViewDistribution = field(default_factory=ViewDistribution)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: A value is out of range.
        """
        if self.split not in SPLITS:
            raise ConfigurationError(f"unknown split {self.split!r}; there are {', '.join(SPLITS)}")
        for name in ("patients", "views", "patients_per_shard"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.first <= self.first + self.patients <= MAXIMUM_PATIENTS:
            raise ConfigurationError(f"a split has room for {MAXIMUM_PATIENTS} patients")

    def shards(self) -> dict[str, list[int]]:
        """File name of each shard and the seeds of its phantoms."""
        base = SPLITS[self.split][1]
        seeds = [base + index for index in range(self.first, self.first + self.patients)]
        size = self.patients_per_shard
        groups = [seeds[i : i + size] for i in range(0, len(seeds), size)]
        return {f"{self.split}-{group[0]:06d}-{group[-1]:06d}-{self.views}.parquet": group for group in groups}


def _png(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _scaled(image: NDArray[np.float32]) -> tuple[dict[str, Any], float]:
    """Encode an image of line integrals as 8 bits: gray value 255 stands for the returned maximum."""
    maximum = max(float(image.max()), 1e-3)
    gray = np.clip(np.rint(image * (255 / maximum)), 0, 255).astype(np.uint8)
    return {"bytes": _png(gray), "path": None}, maximum


def _schema() -> Any:
    import pyarrow as pa

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    numbers = pa.list_(pa.float32())
    fields: list[tuple[str, Any]] = [
        ("patient", pa.string()),
        ("seed", pa.int64()),
        ("split", pa.string()),
        ("variant", pa.int32()),
        ("image", picture),
        ("image_max_mm", pa.float32()),
        ("bone", picture),
        ("bone_max_mm", pa.float32()),
        ("mm_per_px", pa.float32()),
        ("primary_deg", pa.float32()),
        ("secondary_deg", pa.float32()),
        ("roll_deg", pa.float32()),
        ("isocenter_mm", numbers),
        ("centered_on", pa.int32()),
        ("displacement_mm", numbers),
        ("landmark_mm", numbers),
    ]

    def feature(kind: Any) -> dict[str, Any]:
        if kind == picture:
            return {"_type": "Image"}
        if kind == numbers:
            return {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
        return {"dtype": str(kind).replace("float", "float32") if str(kind) == "float" else str(kind), "_type": "Value"}

    features = {name: feature(kind) for name, kind in fields}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(fields, metadata=metadata)


def _rows(seed: int, spec: DatasetSpec) -> Iterator[dict[str, Any]]:
    from carm_perception.data.render import make_variant, render_views
    from carm_sim.phantom import generate_phantom

    rng = np.random.default_rng([seed, 77])
    arms = "raised" if rng.random() < EXTRA_RAISED else None
    body = generate_phantom(seed, style=SPLITS[spec.split][0], arms=arms)
    halves = (spec.views - spec.views // 2, spec.views // 2)
    for number, count in enumerate(halves):
        if not count:
            continue
        variant = make_variant(rng, body.volume, body.landmarks_mm)
        marks = np.array([variant.landmarks_mm.get(m.id, np.full(3, np.nan)) for m in LANDMARKS], np.float32)
        for view in render_views(rng, variant, count, spec.distribution):
            soft, bone = view.materials
            image, image_max = _scaled(soft + bone)
            bone_image, bone_max = _scaled(bone)
            yield {
                "patient": f"phantom:{seed}" if spec.split != "validation" else f"phantom-validation:{seed}",
                "seed": seed,
                "split": spec.split,
                "variant": number,
                "image": image,
                "image_max_mm": image_max,
                "bone": bone_image,
                "bone_max_mm": bone_max,
                "mm_per_px": view.mm_per_px,
                "primary_deg": view.sampled.primary_deg,
                "secondary_deg": view.sampled.secondary_deg,
                "roll_deg": view.sampled.roll_deg,
                "isocenter_mm": view.sampled.isocenter_mm.tolist(),
                "centered_on": view.sampled.centered_on,
                "displacement_mm": view.displacement_mm.ravel().tolist(),
                "landmark_mm": marks.ravel().tolist(),
            }


def write_shard(path: Path, seeds: list[int], spec: DatasetSpec) -> int:
    """Generate one shard and move it into place.

    Returns:
        Number of views.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row for seed in seeds for row in _rows(seed, spec)]
    temporary = path.with_suffix(f".{os.getpid()}.part")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), temporary, compression="none")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(rows)


def generate(folder: Path, spec: DatasetSpec, workers: int = 2, progress: bool = True) -> int:
    """Generate what is missing of a split.

    Args:
        folder: Folder of the data set; made if needed.
        spec: What to generate.
        workers: Processes.
        progress: Show a progress bar.

    Returns:
        Number of shards that were made now.

    Raises:
        ConfigurationError: The folder cannot be written.
    """
    from tqdm import tqdm

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_data_card(folder, spec)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror or error}") from error
    shards = spec.shards()
    missing = {folder / name: seeds for name, seeds in shards.items() if not (folder / name).exists()}
    bar = tqdm(total=len(shards), initial=len(shards) - len(missing), unit="shard", disable=not progress)
    if workers <= 1:
        for path, seeds in missing.items():
            write_shard(path, seeds, spec)
            bar.update()
    else:
        with ProcessPoolExecutor(workers) as pool:
            futures = [pool.submit(write_shard, path, seeds, spec) for path, seeds in missing.items()]
            for future in as_completed(futures):
                future.result()
                bar.update()
    bar.close()
    return len(missing)


def write_data_card(folder: Path, spec: DatasetSpec) -> None:
    """Write ``README.md`` (the data card) and ``SPLIT.json`` (the exact specification)."""
    (folder / f"{spec.split}.json").write_text(json.dumps(asdict(spec), indent=1) + "\n")
    card = files("carm_perception.data").joinpath("card.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
