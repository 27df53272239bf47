# SPDX-License-Identifier: Apache-2.0
"""CTs of real patients for the data set: which there are, and to which split each belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from carm_core.errors import ConfigurationError
from carm_sim.patient.ct.files import LANDMARK_FILE, ct_checksum, has_checksum, open_ct, read_landmarks
from carm_sim.patient_loader import CHEST_CT, path_and_options, single_image, with_landmarks

SHARE = 0.2
"""Share of the views of a split that are rendered from its CTs."""
MOST_VIEWS = 1000
"""Views of one CT where no share is asked for: more of them show little that is new."""
_SPLITS = (("train", 0.8), ("validation", 0.9), ("test", 1.0))


@dataclass(frozen=True)
class KnownCt:
    """A CT with landmarks.

    Attributes:
        path: As for ``carm_sim.patient_loader.load_patient``.
        checksum: Of its voxels, as in ``landmarks.yaml``: the file may be moved and renamed.
    """

    path: str
    checksum: str

    @property
    def split(self) -> str:
        """The split that it belongs to, whatever other CTs there are: by its checksum."""
        place = int(self.checksum[:8], 16) / 2**32
        return next(split for split, end in _SPLITS if place < end)

    @property
    def name(self) -> str:
        """Name in the data set: nothing of the file's name, which may be the patient's."""
        return f"ct:{self.checksum[:12]}"

    @property
    def seed(self) -> int:
        """Seed of its scans and views."""
        return int(self.checksum[:12], 16)


def find_cts(paths: Sequence[str]) -> list[KnownCt]:
    """Return the CTs of paths, each once.

    Args:
        paths: Each a CT, or a folder of folders with one CT each.

    Raises:
        PatientError: A CT cannot be read.
        ConfigurationError: It has no landmarks, or is the chest CT, which models are tested on.
    """
    found = {ct.checksum: ct for path in paths for one in _each(path) for ct in [_known(one)]}
    return list(found.values())


def _each(path: str) -> list[str]:
    folder = Path(path).expanduser()
    if not folder.is_dir() or (folder / LANDMARK_FILE).exists():
        return [path]
    inner = sorted(inner for inner in folder.iterdir() if inner.is_dir())
    return [str(one) for one in inner] if any((one / LANDMARK_FILE).exists() for one in inner) else [path]


def _known(text: str) -> KnownCt:
    refused = ConfigurationError(f"{text} is the chest CT that models are tested on: it is never trained on")
    if text == CHEST_CT:
        raise refused
    path, options = path_and_options(text)
    if not path.exists():
        raise ConfigurationError(f"{text}: no such file or folder; --ct takes the path of a CT")
    path = single_image(path, options.series)
    ours = files("carm_sim").joinpath("data", CHEST_CT, LANDMARK_FILE)
    if has_checksum(open_ct(path, options.series), read_landmarks(Path(str(ours))).ct_sha256):
        raise refused
    with_landmarks(text)
    return KnownCt(text, ct_checksum(path, options.series))
