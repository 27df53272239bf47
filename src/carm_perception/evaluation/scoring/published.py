# SPDX-License-Identifier: Apache-2.0
"""Score the outputs of other models from CSV files.

An output file has the columns ``filename`` or ``file_path``, ``output`` (the answer, word for word), and may have
``inference_time_sec``. A target file names the same images and, in one column, the id of the closest landmark or a list
of ids, closest first: ``11`` or ``[11, 10, 12]``. Answers are parsed as strictly as our own models'; a name in a
retrieval answer may be any synonym of its landmark.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carm_core.errors import AnswerError, ConfigurationError, UnknownNameError
from carm_core.landmarks import LANDMARKS, find_landmark, landmark
from carm_core.localization import NAN, Protocol
from carm_perception.evaluation.scoring.figures import (
    confusion,
    hit_figures,
    landmark_figures,
    latencies,
    left_right_gap,
    retrieval_figures,
    with_interval,
)
from carm_perception.evaluation.scoring.records import ListRecord, Status
from carm_perception.protocols.parsing import parse_localization, parse_reevaluation, parse_retrieval

FILE_COLUMNS = ("filename", "file_path", "file_name")
TARGET_COLUMNS = ("top3_landmarks", "landmarks", "closest", "target", "targets", "landmark", "landmark_id", "label")
OUTPUT_COLUMN, TIME_COLUMN = "output", "inference_time_sec"

_FURTHER_NAMES = {
    1: ("cranial vault",),
    2: ("head of right humerus",),
    3: ("head of left humerus",),
    4: ("lower tip of right scapula",),
    5: ("lower tip of left scapula",),
    10: ("t1 vertebral body", "upper thoracic vertebra"),
    11: ("tracheal carina",),
    12: ("right diaphragmatic crus",),
    13: ("left diaphragmatic crus",),
    14: ("t12 vertebral body", "lower thoracic vertebra"),
}
"""Names that published prompts use beside our synonyms."""

_PAIR = re.compile(r"([1-9]\d{0,5}): ([^,\[\]]+)")


def read_targets(path: Path, column: str = "") -> dict[str, tuple[int, ...]]:
    """Read what is true.

    Args:
        path: CSV file.
        column: Column of the landmarks; empty: the one of ``TARGET_COLUMNS`` that is there.

    Returns:
        Image file to its closest landmarks, closest first.

    Raises:
        ConfigurationError: The file cannot be read, lacks a column, or a value is no landmark.
    """
    rows = _rows(path)
    chosen = column or _column(path, rows, TARGET_COLUMNS)
    if chosen not in rows[0]:
        raise ConfigurationError(f"{path}: no column {chosen!r}; there are {', '.join(rows[0])}")
    file_column = _column(path, rows, FILE_COLUMNS)
    targets: dict[str, tuple[int, ...]] = {}
    for number, row in enumerate(rows, 2):
        file = row[file_column]
        if file in targets:
            raise ConfigurationError(f"{path}, line {number}: {file} appears twice")
        targets[file] = _ids(row[chosen], f"{path}, line {number}")
    return targets


def _ids(text: str, where: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.strip().strip("[]").split(",")]
    try:
        ids = tuple(landmark(int(part)).id for part in parts)
    except (ValueError, UnknownNameError):
        raise ConfigurationError(
            f"{where}: {text!r} is neither a landmark id from 1 to {len(LANDMARKS)} nor a list of ids"
        ) from None
    if len(set(ids)) != len(ids):
        raise ConfigurationError(f"{where}: {text!r} names a landmark twice")
    return ids


def score(path: Path, targets: Mapping[str, tuple[int, ...]], protocol: Protocol) -> dict[str, Any]:
    """Score one file of outputs.

    Args:
        path: CSV file.
        targets: From ``read_targets``; files are matched by their whole path, else by their name.
        protocol: Form of the outputs: localization, retrieval or re-evaluation.

    Returns:
        Figures by their names in reports. ``missing`` counts targets without an output, ``unmatched`` outputs without
        a target; neither enters the rates.

    Raises:
        ConfigurationError: The file cannot be read, lacks a column, names an image twice, or matches no target.
    """
    rows = _rows(path)
    file_column = _column(path, rows, FILE_COLUMNS)
    output_column = _column(path, rows, (OUTPUT_COLUMN,))
    by_name = _by_name(targets)
    records: list[ListRecord] = []
    seen: set[str] = set()
    unmatched = 0
    for number, row in enumerate(rows, 2):
        file = row[file_column]
        key = file if file in targets else by_name.get(_name(file), "")
        if not key:
            unmatched += 1
            continue
        if key in seen:
            raise ConfigurationError(f"{path}, line {number}: {file} appears twice")
        seen.add(key)
        status, answer = _answer(row[output_column] or "", protocol)
        seconds = _seconds(row.get(TIME_COLUMN) or "", f"{path}, line {number}")
        records.append(ListRecord(number, protocol, status, targets[key], answer, seconds))
    if not records:
        raise ConfigurationError(f"{path}: none of its {len(rows)} files is among the {len(targets)} targets")
    return _figures(records) | {"missing": len(targets) - len(seen), "unmatched": unmatched}


def _figures(records: list[ListRecord]) -> dict[str, Any]:
    figures: dict[str, Any] = {"n": len(records), **hit_figures(records)}
    if records[0].protocol is Protocol.RETRIEVAL:
        figures |= retrieval_figures(records)
    figures |= with_interval("malformed", [r.status is Status.MALFORMED for r in records])
    figures["per_landmark"] = {mark.name: landmark_figures(records, (), mark.id) for mark in LANDMARKS}
    figures |= left_right_gap(figures["per_landmark"]) | {"confusion": confusion(records)}
    return figures | latencies([r.latency_s for r in records])


def _answer(text: str, protocol: Protocol) -> tuple[Status, tuple[int, ...]]:
    try:
        if protocol is Protocol.RETRIEVAL:
            return Status.ANSWERED, parse_retrieval(_PAIR.sub(_standard_name, text)).landmark_ids
        if protocol is Protocol.REEVALUATION:
            return Status.ANSWERED, parse_reevaluation(text).landmark_ids
        return Status.ANSWERED, parse_localization(text).landmark_ids
    except AnswerError:
        return Status.MALFORMED, ()


def _standard_name(match: re.Match[str]) -> str:
    """Return an entry ``id: name`` with the standard name, if the name is a synonym of that landmark; else as it is."""
    identifier, name = int(match.group(1)), match.group(2).strip()
    try:
        fits = name.lower() in _FURTHER_NAMES.get(identifier, ()) or find_landmark(name).id == identifier
        return f"{identifier}: {landmark(identifier).name}" if fits else match.group(0)
    except UnknownNameError:
        return match.group(0)


def _seconds(text: str, where: str) -> float:
    if not text.strip():
        return NAN
    try:
        value = float(text)
    except ValueError:
        value = NAN
    if not 0 <= value < math.inf:
        raise ConfigurationError(f"{where}: {TIME_COLUMN} {text!r} is not a time")
    return value


def _name(file: str) -> str:
    return re.split(r"[/\\]", file)[-1]


def _by_name(targets: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the file name to target, for names that are there once."""
    count = Counter(_name(file) for file in targets)
    return {_name(file): file for file in targets if count[_name(file)] == 1}


def _column(path: Path, rows: list[dict[str, str]], names: tuple[str, ...]) -> str:
    for name in names:
        if name in rows[0]:
            return name
    raise ConfigurationError(f"{path}: needs a column {' or '.join(names)}; there are {', '.join(rows[0])}")


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream, restkey="", restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"cannot read {path}: {reason}") from error
    if not rows:
        raise ConfigurationError(f"{path}: holds no rows")
    return rows
