# SPDX-License-Identifier: Apache-2.0
"""The folder of the UNIFESP X-ray Body Part Classifier competition, as it is downloaded.

Images are DICOM files or pictures, anywhere under the folder, named by their SOPInstanceUID (or ``UID-anything``). One
or more CSV files say what they show: columns ``SOPInstanceUID`` and ``Target``, ids separated by spaces (``9 21``) or
as the paper writes them (``<label_id>9,21</label_id>``); perhaps ``mode``, ``train`` or ``test``. Nothing is guessed:
what does not fit is left out and reported, in a line each.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carm_core.body_parts import BODY_PARTS
from carm_core.errors import ConfigurationError, ImageError
from carm_perception.images.reader import image_files, read_images

FILE_COLUMNS = ("SOPInstanceUID", "filename", "file_name", "file_path")
TARGET_COLUMN, MODE_COLUMN = "Target", "mode"
SPLITS = ("train", "test")
_TAGGED = re.compile(r"<label_id>([\d, ]+)</label_id>")
_IDS = re.compile(r"\d{1,4}(?:[\s,]+\d{1,4})*")
_LARGEST_CSV_BYTES = 64 << 20


@dataclass(frozen=True)
class LabeledImage:
    """One image.

    Attributes:
        name: Its SOPInstanceUID, or what the CSV file calls it.
        path: The file.
        part_ids: Ids of ``carm_core.body_parts``, ascending.
    """

    name: str
    path: Path
    part_ids: tuple[int, ...]


@dataclass(frozen=True)
class Competition:
    """What a folder holds of one split.

    Attributes:
        images: Images with labels.
        problems: What was left out, and why, a line each.
    """

    images: tuple[LabeledImage, ...]
    problems: tuple[str, ...]


def is_competition(folder: Path) -> bool:
    """Return whether a folder, or one directly in it, holds a CSV file with labels of body parts."""
    return any(_header(path) is not None for path in _tables(folder))


def read_competition(folder: Path, split: str = "") -> Competition:
    """Read the labels of a folder and find their images.

    Args:
        folder: The folder.
        split: ``train`` or ``test``; empty: everything. A row belongs to the split in its column ``mode``, else to the
            one that its CSV file is named after, else to the one that a folder over its image is named after.

    Returns:
        The images, in order of their names.

    Raises:
        ConfigurationError: There is no such folder, no image, or no CSV file with labels.
    """
    if split and split not in SPLITS:
        raise ConfigurationError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such folder")
    tables = [path for path in _tables(folder) if _header(path) is not None]
    if not tables:
        raise ConfigurationError(f"{folder}: needs a CSV file with columns SOPInstanceUID and Target")
    try:
        files = image_files(folder)
    except ImageError as error:
        raise ConfigurationError(str(error)) from error
    found, problems = _Files(folder, files), []
    images: dict[str, LabeledImage] = {}
    contradicted: set[str] = set()
    for table in tables:
        for where, name, text, mode in _rows(table):
            ids = _ids(text)
            if isinstance(ids, str):
                problems.append(f"{where}: {name}: {ids}")
                continue
            if name in images or name in contradicted:
                same = name in images and images[name].part_ids == ids
                problems.append(f"{where}: {name}: named again{'' if same else ' with another label; left out'}")
                if not same:
                    images.pop(name, None)
                    contradicted.add(name)
                continue
            path = found.one(name)
            if isinstance(path, str):
                problems.append(f"{where}: {name}: {path}")
            elif not split or _split(mode, table, path, folder) in (split, ""):
                images[name] = LabeledImage(name, path, ids)
    unlabeled = sum(not found.used(path) for path in files)
    if unlabeled:
        problems.append(f"{folder}: {unlabeled} images have no label")
    return Competition(tuple(images[name] for name in sorted(images)), tuple(problems))


def read_gray(images: Sequence[LabeledImage]) -> Iterator[tuple[LabeledImage, NDArray[np.uint8] | str]]:
    """Yield each image with its display image (rows, columns), bones bright, or in a line why there is none.

    Of a file with several frames the first counts.
    """
    for image in images:
        try:
            yield image, next(iter(read_images(image.path))).frame.image
        except ImageError as error:
            yield image, str(error)


def _tables(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.csv"), *folder.glob("*/*.csv")]) if folder.is_dir() else []


def _header(path: Path) -> str | None:
    """Return the name of the column of files where a CSV file has labels of body parts."""
    try:
        if path.stat().st_size > _LARGEST_CSV_BYTES:
            return None
        with path.open(newline="", encoding="utf-8-sig") as stream:
            columns = next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    return next((name for name in FILE_COLUMNS if name in columns and TARGET_COLUMN in columns), None)


def _rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield file and line, name, target and mode of each row."""
    column = _header(path) or FILE_COLUMNS[0]
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            for number, row in enumerate(csv.DictReader(stream, restkey="", restval=""), 2):
                where = f"{path.name}, line {number}"
                yield where, row[column].strip(), row[TARGET_COLUMN].strip(), (row.get(MODE_COLUMN) or "").strip()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def _ids(text: str) -> tuple[int, ...] | str:
    """Return the ids of a target, or why there are none."""
    match = _TAGGED.fullmatch(text)
    inner = (match.group(1) if match else text).strip()
    if not inner:
        return "no label"
    if not _IDS.fullmatch(inner):
        return f"{text[:40]!r} is no list of ids"
    ids = [int(part) for part in re.split(r"[\s,]+", inner)]
    unknown = next((part for part in ids if part >= len(BODY_PARTS)), None)
    if unknown is not None:
        return f"body part {unknown} is not in 0 to {len(BODY_PARTS) - 1}"
    return "a body part is named twice" if len(set(ids)) < len(ids) else tuple(sorted(ids))


def _split(mode: str, table: Path, path: Path, folder: Path) -> str:
    """Return the split that a row belongs to; empty: nothing says it."""
    if mode:
        return mode
    for name in (table.stem.lower(), *(part.lower() for part in path.relative_to(folder).parts[:-1])):
        for split in SPLITS:
            if re.match(rf"{split}(?![a-z])", name):
                return split
    return ""


class _Files:
    """Images by what CSV files may call them: the name without its ending, up to a hyphen, or with its folders."""

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self._by_name: dict[str, list[Path]] = {}
        self._used: set[Path] = set()
        for path in files:
            whole = path.name if path.suffix.lower() not in _ENDINGS else path.stem
            names = {whole, path.name, whole.split("-")[0], path.relative_to(folder).as_posix()}
            for name in names:
                self._by_name.setdefault(name, []).append(path)

    def one(self, name: str) -> Path | str:
        """Return the image of a name, or why there is none."""
        known = self._by_name.get(name) or self._by_name.get(Path(name).name) or []
        self._used.update(known)
        if not name:
            return "no name"
        if len(known) != 1:
            return "no image of this name" if not known else f"{len(known)} images of this name"
        return known[0]

    def used(self, path: Path) -> bool:
        """Return whether an image was asked for."""
        return path in self._used


_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
