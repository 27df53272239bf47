# SPDX-License-Identifier: Apache-2.0
"""Score the outputs of other models from CSV files, as they were published.

Three kinds of output files are read:

- ``filename`` or ``file_path``, ``output`` (the answer, word for word), perhaps ``inference_time_sec`` and ``target``;
  the truth is in a file of targets, or in the column ``target``;
- ``pred``, ``target``: lists of ids, as classifiers write them; ids are compared as they are, whatever they number.

A file of targets names the same images and, in one column, the id of the closest landmark, a list of ids, closest first
(``11``, ``[11, 10, 12]``), or body parts (``<label_id>9,21</label_id>``). Of a column ``mode`` the rows ``test`` count.

Answers are parsed as strictly as our own models', and what is malformed is a miss; a name in a retrieval answer may be
any synonym of its landmark. ``as_published`` scores as the authors of the paper do: the first two numbers in an answer
count, and answers without any are left out.
"""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from carm_core.body_parts import BODY_PARTS
from carm_core.errors import AnswerError, ConfigurationError, UnknownNameError
from carm_core.landmarks import LANDMARKS, find_landmark, landmark
from carm_core.localization import NAN, Protocol
from carm_perception.evaluation.scoring.figures import (
    confusion,
    hit_figures,
    landmark_figures,
    latencies,
    left_right_gap,
    rate,
    retrieval_figures,
    with_interval,
)
from carm_perception.evaluation.scoring.records import ListRecord, Status
from carm_perception.protocols.parsing import (
    parse_body_parts,
    parse_localization,
    parse_reevaluation,
    parse_retrieval,
)

FILE_COLUMNS = ("filename", "file_path", "file_name", "SOPInstanceUID")
TARGET_COLUMNS = (
    *("top3_landmarks", "landmarks", "closest", "target", "targets", "landmark", "landmark_id", "label", "Target"),
)
OUTPUT_COLUMN, PREDICTION_COLUMN, TARGET_COLUMN, TIME_COLUMN = "output", "pred", "target", "inference_time_sec"
MODE_COLUMN, TEST_MODE = "mode", "test"


class Form(StrEnum):
    """What the outputs look like."""

    AUTO = "auto"
    LOCALIZATION = "localization"
    RETRIEVAL = "retrieval"
    REEVALUATION = "re-evaluation"
    BODY_PARTS = "body-parts"


_PROTOCOLS = {
    Form.LOCALIZATION: Protocol.LOCALIZATION,
    Form.RETRIEVAL: Protocol.RETRIEVAL,
    Form.REEVALUATION: Protocol.REEVALUATION,
    Form.BODY_PARTS: Protocol.LOCALIZATION,
}
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
_LABELS = re.compile(r"\s*<label_id>([\d, ]+)</label_id>\s*")
_LIST = re.compile(r"[\[\s]*(\d{1,6}(?:[,\s]+\d{1,6})*)[\]\s]*")
_FIRST_TWO = re.compile(r"\[?(\d{1,6}),\s*(\d{1,6})")


@dataclass(frozen=True)
class Targets:
    """What is true.

    Attributes:
        ids: Image file to its landmarks, closest first, or its body parts.
        body_parts: The ids are those of body parts.
        conflicting: Images that occur with different ids; they are not among ``ids``.
    """

    ids: Mapping[str, tuple[int, ...]]
    body_parts: bool = False
    conflicting: tuple[str, ...] = ()
    _by_ending: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set), repr=False)

    def __post_init__(self) -> None:
        """Note by which endings of their paths the images can be found."""
        for file in (*self.ids, *self.conflicting):
            for ending in _endings(file):
                self._by_ending[ending].add(file)

    def find(self, file: str) -> str:
        """Return the image whose path shares the longest ending with a file's, if it is the only one; else ""."""
        if file in self.ids:
            return file
        for ending in _endings(file):
            if found := self._by_ending.get(ending):
                return next(iter(found)) if len(found) == 1 else ""
        return ""


def _endings(file: str) -> list[str]:
    """Return a path without its first folders, the longest first."""
    parts = [part for part in re.split(r"[/\\]", file) if part]
    return ["/".join(parts[first:]) for first in range(len(parts))]


def read_targets(path: Path, column: str = "") -> Targets:
    """Read what is true.

    Args:
        path: CSV file.
        column: Column of the ids; empty: the one of ``TARGET_COLUMNS`` that is there.

    Raises:
        ConfigurationError: The file cannot be read, lacks a column, or a value is no id.
    """
    rows = _rows(path)
    chosen = column or _column(path, rows, TARGET_COLUMNS)
    if chosen not in rows[0]:
        raise ConfigurationError(f"{path}: no column {chosen!r}; there are {', '.join(rows[0])}")
    file_column = _column(path, rows, FILE_COLUMNS)
    used = [(number, row) for number, row in enumerate(rows, 2) if row.get(MODE_COLUMN, TEST_MODE) == TEST_MODE]
    if not used:
        raise ConfigurationError(f"{path}: no row has the mode {TEST_MODE!r}")
    return _targets((row[file_column], row[chosen], f"{path}, line {number}") for number, row in used)


def _targets(entries: Iterable[tuple[str, str, str]]) -> Targets:
    """Collect files, their targets as text, and where these stand."""
    ids: dict[str, tuple[int, ...]] = {}
    conflicting: dict[str, None] = {}
    kinds = set()
    for file, text, where in entries:
        labels = _LABELS.fullmatch(text)
        kinds.add(labels is not None)
        found = _part_ids(labels.group(1), where) if labels else _landmark_ids(text, where)
        if ids.setdefault(file, found) != found:
            conflicting[file] = None
    if len(kinds) > 1:
        raise ConfigurationError("the targets are landmarks in some rows and body parts in others")
    known = {file: found for file, found in ids.items() if file not in conflicting}
    return Targets(known, kinds == {True}, tuple(conflicting))


def _landmark_ids(text: str, where: str) -> tuple[int, ...]:
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


def _part_ids(text: str, where: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part[:6]) < len(BODY_PARTS) for part in parts):
        raise ConfigurationError(f"{where}: {text!r} is no list of body parts from 0 to {len(BODY_PARTS) - 1}")
    return tuple(dict.fromkeys(map(int, parts)))


def score(path: Path, targets: Targets | None, form: Form | str = Form.AUTO) -> dict[str, Any]:
    """Score one file of outputs.

    Args:
        path: CSV file.
        targets: From ``read_targets``; files are matched by the longest ending of their paths. None: the file itself
            holds them.
        form: Of the outputs; ``auto``: as they look.

    Returns:
        Figures by their names in reports. ``missing`` counts targets without an output, ``unmatched`` outputs without
        a target, ``repeated`` further outputs for an image, of which the first counts, ``conflicting`` images whose
        targets contradict each other; none of these enters the rates.

    Raises:
        ConfigurationError: The file cannot be read, lacks a column, or matches no target.
    """
    rows = _rows(path)
    if PREDICTION_COLUMN in rows[0] and OUTPUT_COLUMN not in rows[0]:
        return _table_figures(path, rows)
    file_column = _column(path, rows, FILE_COLUMNS)
    output_column = _column(path, rows, (OUTPUT_COLUMN,))
    if targets is None:
        if TARGET_COLUMN not in rows[0]:
            raise ConfigurationError(f"{path}: has no column {TARGET_COLUMN!r}: give a file of --targets")
        lines = enumerate(rows, 2)
        targets = _targets((row[file_column], row[TARGET_COLUMN], f"{path}, line {number}") for number, row in lines)
    outputs = [row[output_column] or "" for row in rows]
    form = _form(outputs, targets) if form == Form.AUTO else Form(form)
    if (form is Form.BODY_PARTS) != targets.body_parts:
        what = "body parts" if targets.body_parts else "landmarks"
        raise ConfigurationError(f"{path}: the targets are {what}, the outputs are to be {form}")
    records: list[ListRecord] = []
    used: list[str] = []
    seen: dict[str, None] = {}
    unmatched = repeated = 0
    for number, (row, output) in enumerate(zip(rows, outputs, strict=True), 2):
        key = targets.find(row[file_column])
        if not key:
            unmatched += 1
        elif key in seen:
            repeated += 1
        else:
            seen[key] = None
            if key in targets.ids:
                status, answer = _answer(output, form)
                seconds = _seconds(row.get(TIME_COLUMN) or "", f"{path}, line {number}")
                records.append(ListRecord(number, _PROTOCOLS[form], status, targets.ids[key], answer, seconds))
                used.append(output)
    if not records:
        raise ConfigurationError(f"{path}: none of its {len(rows)} files is among the {len(targets.ids)} targets")
    figures = _part_figures(records) if targets.body_parts else landmark_figures_of(records)
    if form is not Form.RETRIEVAL:
        figures["as_published"] = _as_published(used, records, targets.body_parts)
    missing = sum(file not in seen for file in targets.ids)
    counted = {"missing": missing, "unmatched": unmatched, "repeated": repeated}
    return figures | counted | {"conflicting": len(targets.conflicting)}


def _form(outputs: Sequence[str], targets: Targets) -> Form:
    """Return the form that the first outputs have."""
    text = "\n".join(outputs[:20])
    if targets.body_parts:
        return Form.BODY_PARTS
    if "<response>" in text:
        return Form.REEVALUATION
    return Form.RETRIEVAL if _PAIR.search(text) else Form.LOCALIZATION


def landmark_figures_of(records: list[ListRecord]) -> dict[str, Any]:
    """Return the figures of answers that name landmarks."""
    figures: dict[str, Any] = {"n": len(records), **hit_figures(records)}
    if records[0].protocol is Protocol.RETRIEVAL:
        figures |= retrieval_figures(records)
    figures |= with_interval("malformed", [r.status is Status.MALFORMED for r in records])
    figures["per_landmark"] = {mark.name: landmark_figures(records, (), mark.id) for mark in LANDMARKS}
    figures |= left_right_gap(figures["per_landmark"]) | {"confusion": confusion(records)}
    return figures | latencies([r.latency_s for r in records])


def _part_figures(records: list[ListRecord]) -> dict[str, Any]:
    """Return the figures of answers that name body parts: any of an image's parts is right."""
    figures: dict[str, Any] = {"n": len(records)}
    for k in (1, 2):
        figures |= with_interval(f"hit_{k}", [_hit(r.truth_ids, r.answer_ids, k) for r in records])
    figures |= with_interval("malformed", [r.status is Status.MALFORMED for r in records])
    figures["per_body_part"] = {
        name: {"n": len(own), "hit_2": rate(_hit(r.truth_ids, r.answer_ids, 2) for r in own)}
        for number, name in enumerate(BODY_PARTS)
        if (own := [r for r in records if number in r.truth_ids])
    }
    return figures | latencies([r.latency_s for r in records])


def _as_published(outputs: Sequence[str], records: Sequence[ListRecord], body_parts: bool) -> dict[str, Any]:
    """Score by the first two numbers of each answer; answers without two numbers are left out."""
    found = [(match, r.truth_ids) for text, r in zip(outputs, records, strict=True) if (match := first_two(text))]
    truths: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        (pair, ids if body_parts else ids[:1]) for pair, ids in found
    ]
    return {"n": len(found)} | {f"hit_{k}": rate(_hit(ids, pair, k) for pair, ids in truths) for k in (1, 2)}


def first_two(text: str) -> tuple[int, int] | None:
    """Return the first two numbers in an answer, as the authors of the paper read it; None: there are none."""
    inner = re.search(r"<landmarks>(.*?)</landmarks>", text, re.DOTALL)
    match = _FIRST_TWO.search(inner.group(1) if inner else text)
    return (int(match.group(1)), int(match.group(2))) if match else None


def _table_figures(path: Path, rows: list[dict[str, str]]) -> dict[str, Any]:
    """Score a table of ``pred`` and ``target``.

    Right is any id of the target, or its first where all are lists as long as the predictions, closest first.
    """
    _column(path, rows, (TARGET_COLUMN,))
    records = []
    for number, row in enumerate(rows, 2):
        where = f"{path}, line {number}"
        seconds = _seconds(row.get(TIME_COLUMN) or "", where)
        lists = [_numbers(row[name], where) for name in (TARGET_COLUMN, PREDICTION_COLUMN)]
        records.append(ListRecord(number, Protocol.RETRIEVAL, Status.ANSWERED, lists[0], lists[1], seconds))
    ordered = all(len(r.truth_ids) == len(r.answer_ids) > 1 for r in records)
    figures: dict[str, Any] = {"n": len(records)}
    for k in (1, 2):
        right = [_hit(r.truth_ids[:1] if ordered else r.truth_ids, r.answer_ids, k) for r in records]
        figures |= with_interval(f"hit_{k}", right)
    if ordered:
        figures |= retrieval_figures(records)
    return figures | {"malformed": 0.0} | latencies([r.latency_s for r in records])


def _numbers(text: str, where: str) -> tuple[int, ...]:
    match = _LIST.fullmatch(text or "")
    if match is None:
        raise ConfigurationError(f"{where}: {text!r} is no list of ids")
    return tuple(map(int, re.split(r"[,\s]+", match.group(1))))


def _hit(truth: Sequence[int], answer: Sequence[int], k: int) -> bool:
    return bool(set(truth) & set(answer[:k]))


def _answer(text: str, form: Form) -> tuple[Status, tuple[int, ...]]:
    parsers: dict[Form, Callable[[str], tuple[int, ...]]] = {
        Form.RETRIEVAL: lambda text: parse_retrieval(_PAIR.sub(_standard_name, text)).landmark_ids,
        Form.REEVALUATION: lambda text: parse_reevaluation(text).landmark_ids,
        Form.BODY_PARTS: lambda text: parse_body_parts(text).part_ids,
        Form.LOCALIZATION: lambda text: parse_localization(text).landmark_ids,
    }
    try:
        return Status.ANSWERED, parsers[form](text)
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
