# SPDX-License-Identifier: Apache-2.0
"""Generated bodies on disk, by seed, style, spacing and generator version."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_core.paths import cache_dir
from carm_sim.patient.volume import Volume
from carm_sim.phantom.generator import GENERATOR_VERSION, PhantomBody, generate_phantom
from carm_sim.phantom.record import BodyRecord

_logger = logging.getLogger(__name__)


def cached_phantom(
    seed: int, spacing_mm: float = 2.0, style: str = "standard", whole_body: bool = False
) -> PhantomBody:
    """Return the body of a seed, from the cache if it is there.

    A cache file that cannot be read is replaced. Without write permission the body is made anew each time.
    """
    extent = "-whole" if whole_body else ""
    path = cache_dir() / "phantoms" / f"v{GENERATOR_VERSION}-{style}-{seed}-{spacing_mm:g}mm{extent}.npz"
    body = _read(path, seed, style)
    if body is None:
        body = generate_phantom(seed, spacing_mm, style, whole_body=whole_body)
        _write(path, body)
    return body


def _read(path: Path, seed: int, style: str) -> PhantomBody | None:
    try:
        with np.load(path, allow_pickle=False) as content:
            volume = Volume(content["hu"], content["affine"])
            landmarks = _points(content["ids"], content["positions_mm"])
            extra = _points(content["extra_ids"], content["extra_positions_mm"])
            record = BodyRecord.from_dict(json.loads(str(content["record"])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        _logger.warning("%s: unreadable cache file (%s), generating the phantom again", path, type(error).__name__)
        return None
    inside = {key: point for key, point in landmarks.items() if bool(volume.contains(point))}
    return PhantomBody(seed, style, volume, inside, landmarks, extra, record)


def _points(ids: NDArray[np.int64], positions: NDArray[np.float64]) -> dict[int, NDArray[np.float64]]:
    return {int(key): np.asarray(point, float) for key, point in zip(ids, positions, strict=True)}


def _write(path: Path, body: PhantomBody) -> None:
    """Write to a temporary file and rename, so that no reader sees half a file."""
    marks, extra = body.anatomical_landmarks_mm, body.extra_landmarks_mm
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as stream:
            temporary = Path(stream.name)
            np.savez_compressed(
                stream,
                hu=body.volume.hu,
                affine=body.volume.transform_voxel_to_lps,
                ids=np.array(list(marks)),
                positions_mm=np.array(list(marks.values())),
                extra_ids=np.array(list(extra)),
                extra_positions_mm=np.array(list(extra.values())),
                record=json.dumps(body.record.as_dict()),
            )
        os.replace(temporary, path)
    except OSError as error:
        _logger.warning("%s: the phantom is not cached (%s)", path, error.strerror)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
