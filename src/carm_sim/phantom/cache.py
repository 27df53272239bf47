# SPDX-License-Identifier: Apache-2.0
"""Generated bodies on disk, by seed, style, spacing and generator version."""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from carm_core.paths import cache_dir
from carm_sim.phantom.generator import GENERATOR_VERSION, PhantomBody, generate_phantom
from carm_sim.volume import Volume

_logger = logging.getLogger(__name__)


def cached_phantom(seed: int, spacing_mm: float = 2.0, style: str = "standard") -> PhantomBody:
    """The body of a seed, from the cache if it is there.

    A cache file that cannot be read is replaced. Without write permission the body is made anew each time.
    """
    path = cache_dir() / "phantoms" / f"v{GENERATOR_VERSION}-{style}-{seed}-{spacing_mm:g}mm.npz"
    body = _read(path, seed, style)
    if body is None:
        body = generate_phantom(seed, spacing_mm, style)
        _write(path, body)
    return body


def _read(path: Path, seed: int, style: str) -> PhantomBody | None:
    try:
        with np.load(path, allow_pickle=False) as content:
            volume = Volume(content["hu"], content["affine"])
            ids, positions = content["ids"], content["positions_mm"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _logger.warning("%s: unreadable cache file (%s), generating the phantom again", path, type(error).__name__)
        return None
    landmarks = {int(key): np.asarray(point, float) for key, point in zip(ids, positions, strict=True)}
    inside = {key: point for key, point in landmarks.items() if bool(volume.contains(point))}
    return PhantomBody(seed, style, volume, inside, landmarks)


def _write(path: Path, body: PhantomBody) -> None:
    """Write to a temporary file and rename, so that no reader sees half a file."""
    marks = body.anatomical_landmarks_mm
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
            )
        os.replace(temporary, path)
    except OSError as error:
        _logger.warning("%s: the phantom is not cached (%s)", path, error.strerror)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
