# SPDX-License-Identifier: Apache-2.0
"""Rendered cases on disk, so that every model is judged on the same images and the second one fast.

A file holds the cases of one patient. Its folder is named by suite, content of its CT, seed, version of the phantom
generator and a fingerprint of the sources that make the images: images of other code are never read, and are removed.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np

import carm_core
import carm_perception
import carm_sim
from carm_core.data_files import read_yaml
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import Detector, XrayView
from carm_core.paths import cache_dir, config_file
from carm_perception.evaluation.suites.cases import Case, patient_cases
from carm_perception.evaluation.suites.suites import Suite
from carm_sim.phantom.generator import GENERATOR_VERSION

_logger = logging.getLogger(__name__)
_GEOMETRY = 19
"""Numbers that a view is stored as."""


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """Return the hash of everything in the sources that the images depend on."""
    sim, core, perception = (Path(str(m.__file__)).parent for m in (carm_sim, carm_core, carm_perception))
    sources = [p for p in sim.rglob("*.py") if "nodes" not in p.parts]
    sources += [core / f"{name}.py" for name in ("imaging/projection", "robot/kinematics", "landmarks", "transforms")]
    sources += [perception / "datasets" / "views.py"]
    sources += [
        perception / "evaluation" / "suites" / f"{name}.py" for name in ("suites", "cases", "shifts", "falsification")
    ]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.name.encode() + path.read_bytes())
    arm = read_yaml(config_file("carm.yaml"))
    digest.update(repr({name: arm[name] for name in ("geometry", "detector", "joints")}).encode())
    return digest.hexdigest()[:12]


def folder(chosen: Suite, seed: int) -> Path:
    """Where the cases of a suite are kept."""
    own = re.sub(r"[^\w.-]+", "_", chosen.name) + (chosen.content and f"-{chosen.content}")
    name = f"{own}-seed{seed}-v{GENERATOR_VERSION}-{fingerprint()}"
    return cache_dir() / "evaluation" / name


def _file(chosen: Suite, number: int, seed: int) -> Path:
    patient = re.sub(r"[^\w.-]+", "_", chosen.patients[number])
    return folder(chosen, seed) / f"{number:04d}-{patient}-{chosen.shares[number]}.npz"


def cases(
    chosen: Suite, seed: int, workers: int = 1, progress: Callable[[int], None] = lambda views: None
) -> Iterator[Case]:
    """The cases of a suite, patient by patient, from the cache or rendered now.

    Args:
        chosen: The suite.
        seed: Seed of views and noise.
        workers: Processes that render; with more than one, everything is rendered before the first case comes.
        progress: Told the number of views just rendered.

    Raises:
        CarmError: A patient cannot be loaded or seen.
    """
    numbers = range(len(chosen.patients))
    if workers > 1:
        missing = [number for number in numbers if not _file(chosen, number, seed).exists()]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, max(1, len(missing))), mp_context=context) as pool:
            for done in as_completed([pool.submit(_ensure, chosen, number, seed) for number in missing]):
                progress(done.result())
    for number in numbers:
        yield from _load(chosen, number, seed)


def _ensure(chosen: Suite, number: int, seed: int) -> int:
    return len(_load(chosen, number, seed))


def _load(chosen: Suite, number: int, seed: int) -> list[Case]:
    path = _file(chosen, number, seed)
    found = _read(path, chosen.patients[number], chosen.ids)
    if found is None:
        found = patient_cases(chosen, number, seed)
        _write(path, found)
    return found


def _read(path: Path, patient: str, ids: tuple[int, ...]) -> list[Case] | None:
    try:
        with np.load(path, allow_pickle=False) as content:
            columns = [content[name] for name in ("images", "views", "frames", "truth", "centered", "fields", "kinds")]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _logger.warning("%s: unreadable cache file (%s), rendering again", path, type(error).__name__)
        return None
    found = []
    for image, view, frame, truth, centered, half_field, kind in zip(*columns, strict=True):
        geometry = _view_of(view) if np.isfinite(view).all() else None
        xray = XrayFrame(image, float(frame[0]), 0.0, float(frame[1]), float(frame[2]), geometry)
        half = float(half_field[0]), float(half_field[1])
        found.append(Case(patient, xray, truth, int(centered), half, str(kind), ids))
    return found


def _numbers_of(view: XrayView | None) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if view is None:
        return np.full(_GEOMETRY, np.nan)
    grid = view.detector
    distances = (view.source_detector_mm, view.source_isocenter_mm)
    center = view.center_px
    numbers = [*view.source_mm, *view.rotation.ravel(), grid.rows, grid.columns, grid.pitch_mm, *distances, *center]
    return np.array(numbers)


def _view_of(numbers: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> XrayView:
    rows, columns, pitch, detector, isocenter, column, row = (float(value) for value in numbers[12:19])
    grid = Detector(int(rows), int(columns), pitch)
    middle = None if (column, row) == ((columns - 1) / 2, (rows - 1) / 2) else (column, row)
    return XrayView(numbers[:3], numbers[3:12].reshape(3, 3), grid, detector, isocenter, middle)


def _write(path: Path, found: list[Case]) -> None:
    """Write to a temporary file and rename, so that no reader sees half a file."""
    frames = [(c.frame.mm_per_px_at_isocenter, c.frame.primary_rad, c.frame.secondary_rad) for c in found]
    temporary = None
    try:
        _remove_stale(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as stream:
            temporary = Path(stream.name)
            np.savez_compressed(
                stream,
                images=np.stack([c.frame.image for c in found]),
                views=np.stack([_numbers_of(c.frame.view) for c in found]),
                frames=np.array(frames),
                truth=np.stack([c.displacement_mm for c in found]),
                centered=np.array([c.centered_on for c in found]),
                fields=np.array([c.half_field_mm for c in found]),
                kinds=np.array([c.kind for c in found]),
            )
        os.replace(temporary, path)
    except OSError as error:
        _logger.warning("%s: the images are not cached (%s)", path, error.strerror)
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _remove_stale(current: Path) -> None:
    """Remove images of the same suite and seed that other code made."""
    if current.exists():
        return
    start = current.name.rsplit("-v", 1)[0]
    for other in current.parent.glob(f"{start}-v*"):
        shutil.rmtree(other, ignore_errors=True)
