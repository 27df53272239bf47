# SPDX-License-Identifier: Apache-2.0
"""Slices of a DICOM series: what each says of its place, and whether together they make a volume."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import PatientError, quoted
from carm_sim.patient.ct.pixels import PixelReader
from carm_sim.patient.ct.source import FARTHEST_MM, MIN_VOXELS, SPACING_RANGE_MM

SLICE_TOLERANCE = 0.05

_UNKNOWN_BETWEEN_MM = 1.0
"""ITK writes this SpacingBetweenSlices into series of single slices."""
_GAP = 1.5
"""Slices this many times as far apart as they should be are not all there."""
_SAME_PLACE_MM = 0.01
_ASIDE_MM, _ASIDE_SHARE = 0.3, 1e-3
_UNIT_TOLERANCE = 1e-3
_HOUNSFIELD = ("", "HU", "US")
_PHASE_TAGS = (
    "AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime",
    "NominalPercentageOfCardiacPhase", "FrameAcquisitionNumber", "StackID",
)  # fmt: skip
_NOT_MORE_NAMES = 3
_LONGEST_SHOWN = 100

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Slice:
    """One image of a series: a file, or a frame of one.

    Attributes:
        file: Where it is.
        frame: Which frame of the file, from 0.
        uid: SOPInstanceUID.
        matrix: Rows and columns.
        position_mm: Center of the first pixel in LPS, shape (3,).
        axes: Directions in LPS along a row and along a column, shape (2, 3).
        pixel_mm: Distance of neighboring rows, of neighboring columns, shape (2,).
        rescale: Slope and intercept; None when the file gives neither.
        thickness_mm: SliceThickness; NaN when not given.
        between_mm: SpacingBetweenSlices; NaN when not given.
        number: InstanceNumber; NaN when not given.
        frame_of_reference: FrameOfReferenceUID.
        study: StudyInstanceUID.
        phase: What tells one phase of a series from another, as text.
        padding: Lowest and highest stored value that is no tissue, modulo 65536; None when not given.
    """

    file: Path
    frame: int
    uid: str
    matrix: tuple[int, int]
    position_mm: NDArray[np.float64]
    axes: NDArray[np.float64]
    pixel_mm: NDArray[np.float64]
    rescale: tuple[float, float] | None
    thickness_mm: float
    between_mm: float
    number: float
    frame_of_reference: str
    study: str
    phase: tuple[str, ...]
    padding: tuple[int, int] | None

    @property
    def name(self) -> str:
        """The file's name, with the frame where the file has several."""
        return self.file.name + (f" (frame {self.frame + 1})" if self.frame else "")


def slices_of(file: Path, dataset: Any) -> list[Slice]:
    """Return the slices in a file.

    Raises:
        PatientError: If one does not say where it lies, or a number is none.
    """
    frames = _Facts(file, dataset, []).numbers("NumberOfFrames", 1)
    count = 1 if frames is None else int(frames[0])
    if count < 1:
        raise PatientError(f"{file}: NumberOfFrames is {count}")
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if per_frame and len(per_frame) != count:
        raise PatientError(f"{file}: {count} frames, but {len(per_frame)} of them say where they lie")
    if count > 1 and not per_frame:
        raise PatientError(f"{file}: {count} frames in one file that do not say where each of them lies")
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    return [
        _slice(file, frame, _Facts(file, dataset, [*per_frame[frame : frame + 1], *shared])) for frame in range(count)
    ]


class _Facts:
    """Elements of one frame: its own functional groups first, then the shared ones, then the data set."""

    def __init__(self, file: Path, dataset: Any, groups: Sequence[Any]) -> None:
        inner = [item for group in groups for element in group if element.VR == "SQ" for item in element.value[:1]]
        self._sources = [*inner, dataset]
        self._file = file

    def text(self, keyword: str) -> str:
        for source in self._sources:
            if keyword in source:
                try:
                    value = source[keyword].value
                except Exception:  # garbage is shown as it is
                    value = _raw(source, keyword)
                if value is not None and str(value).strip():
                    return str(value).strip()
        return ""

    def numbers(self, keyword: str, count: int) -> NDArray[np.float64] | None:
        for source in self._sources:
            if keyword not in source:
                continue
            try:
                value = source[keyword].value
                if value is None or value == "":
                    continue
                numbers = np.atleast_1d(np.array(value, dtype=float))
            except Exception:  # pydicom refuses garbage in many ways
                numbers = np.full(count, np.nan)
            if numbers.shape != (count,) or not np.isfinite(numbers).all():
                raise PatientError(
                    f"{self._file}: {keyword} is {_raw(source, keyword)}, not {count} finite number{'s' * (count > 1)}"
                )
            return numbers
        return None

    def number_or_nan(self, keyword: str) -> float:
        try:
            value = self.numbers(keyword, 1)
        except PatientError:
            value = None
        return np.nan if value is None else float(value[0])


def _raw(source: Any, keyword: str) -> str:
    element = source.get_item(keyword)
    value = element.value if element is not None else ""
    if isinstance(value, bytes):
        value = value.decode("latin-1").strip()
    text = str(value) if isinstance(value, str) or not hasattr(value, "__iter__") else "\\".join(map(str, value))
    return text if text.isprintable() and len(text) <= _LONGEST_SHOWN else quoted(text)


def _slice(file: Path, frame: int, facts: _Facts) -> Slice:
    position, axes = facts.numbers("ImagePositionPatient", 3), facts.numbers("ImageOrientationPatient", 6)
    if position is None or axes is None:
        raise PatientError(
            f"{file}: the slice does not say where it lies (ImagePositionPatient, ImageOrientationPatient),"
            " so left and right, head and feet are unknown"
        )
    if np.abs(position).max() > FARTHEST_MM:
        raise PatientError(f"{file}: absurd ImagePositionPatient {_backslashed(position)} mm")
    axes = axes.reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > _UNIT_TOLERANCE:
        raise PatientError(
            f"{file}: ImageOrientationPatient {_backslashed(axes.ravel())} is not two directions at right angles"
        )
    pixel = facts.numbers("PixelSpacing", 2)
    if pixel is None:
        raise PatientError(
            f"{file}: the slice does not say how large its pixels are (PixelSpacing is missing or empty)"
        )
    low, high = SPACING_RANGE_MM
    if not ((pixel >= low) & (pixel <= high)).all():
        raise PatientError(
            f"{file}: absurd voxel spacing: PixelSpacing {_backslashed(pixel)} mm is not within {low:g} to {high:g} mm"
        )
    kind = facts.text("RescaleType").upper()
    if kind not in _HOUNSFIELD:
        raise PatientError(f"{file}: the pixels are no Hounsfield units (RescaleType {kind})")
    padding = facts.number_or_nan("PixelPaddingValue")
    limit = facts.number_or_nan("PixelPaddingRangeLimit")
    ends = None if np.isnan(padding) else sorted(int(value) % 65536 for value in (padding, limit) if np.isfinite(value))
    return Slice(
        file, frame, facts.text("SOPInstanceUID"), (int(facts.text("Rows") or 0), int(facts.text("Columns") or 0)),
        position, axes, pixel, _rescale(file, facts),
        facts.number_or_nan("SliceThickness"), facts.number_or_nan("SpacingBetweenSlices"),
        facts.number_or_nan("InstanceNumber"), facts.text("FrameOfReferenceUID"), facts.text("StudyInstanceUID"),
        tuple(facts.text(tag) for tag in _PHASE_TAGS), (ends[0], ends[-1]) if ends else None,
    )  # fmt: skip


def _rescale(file: Path, facts: _Facts) -> tuple[float, float] | None:
    """Rescale slope and intercept."""
    try:
        slope, intercept = facts.numbers("RescaleSlope", 1), facts.numbers("RescaleIntercept", 1)
    except PatientError as error:
        raise PatientError(f"{error} (rescale slope or intercept)") from error
    if slope is None and intercept is None:
        return None
    values = (1.0 if slope is None else float(slope[0])), (0.0 if intercept is None else float(intercept[0]))
    if not 0 < values[0] < 1e4 or abs(values[1]) > 1e5:
        raise PatientError(f"{file}: absurd rescale slope {values[0]:g}, intercept {values[1]:g}")
    return values


def arranged(path: Path, slices: Sequence[Slice], reader: PixelReader) -> tuple[list[Slice], NDArray[np.float64]]:
    """Order slices along their normal and check that they make one volume.

    Slices that are there twice, the same in every way, are dropped with a warning.

    Args:
        path: For messages.
        slices: In any order.
        reader: Reads pixels, to tell copies from other images.

    Returns:
        The slices, and the (4, 4) affine from voxel indices (column, row, slice) to LPS in mm.

    Raises:
        PatientError: If they do not make one volume; names the file and the value that do not fit.
    """
    _check_alike(path, slices)
    normal = np.cross(*slices[0].axes)
    normal /= np.linalg.norm(normal)
    ordered = sorted(slices, key=lambda one: (float(one.position_mm @ normal), str(one.file), one.frame))
    _check_phases(path, ordered, normal)
    ordered = _without_copies(path, ordered, normal, reader)
    if len(ordered) < MIN_VOXELS:
        raise PatientError(f"{path}: the series has only {len(ordered)} slices, at least {MIN_VOXELS} are needed")
    step = _check_steps(path, ordered, normal)
    _check_every_slice(path, step, ordered)
    first = ordered[0]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = first.axes[0] * first.pixel_mm[1], first.axes[1] * first.pixel_mm[0]
    affine[:3, 2], affine[:3, 3] = normal * step, first.position_mm
    return ordered, affine


def _check_alike(path: Path, slices: Sequence[Slice]) -> None:
    def vector(values: NDArray[np.float64]) -> str:
        return _backslashed(values.ravel())

    checks: list[tuple[str, Callable[[Slice], Any], float]] = [
        ("Rows\\Columns", lambda s: np.array(s.matrix, float), 0.0),
        ("ImageOrientationPatient", lambda s: s.axes, _UNIT_TOLERANCE),
        ("PixelSpacing", lambda s: s.pixel_mm, 1e-4),
    ]
    for what, value, tolerance in checks:
        values = [value(one) for one in slices]
        usual = np.array(Counter(tuple(np.round(v, 3).ravel()) for v in values).most_common(1)[0][0])
        usual = next(v for v in values if np.abs(v.ravel() - usual).max() <= 1e-3)
        others = [one for one, v in zip(slices, values, strict=True) if np.abs(v - usual).max() > tolerance]
        if others:
            hint = " (a localizer image among the slices?)" if what == "ImageOrientationPatient" else ""
            raise PatientError(
                f"{path}: the slices of the series differ in {_spoken(what)}: {what} is {vector(value(others[0]))} in"
                f" {_names(others)}, {vector(usual)} in the other {len(slices) - len(others)}{hint}"
            )
    for what, text in (("FrameOfReferenceUID", "frame_of_reference"), ("StudyInstanceUID", "study")):
        found = Counter(getattr(one, text) for one in slices)
        if len([name for name in found if name]) > 1:
            usual = found.most_common(1)[0][0]
            others = [one for one in slices if getattr(one, text) not in (usual, "")]
            raise PatientError(
                f"{path}: the slices of the series differ in {what}: {_names(others)} {_have(others)} another one"
            )
    without = [one for one in slices if one.rescale is None]
    if without and len(without) < len(slices):
        raise PatientError(
            f"{path}: {_names(without)} {_have(without)} no rescale slope and intercept, the other slices have"
        )


def _spoken(keyword: str) -> str:
    return {"ImageOrientationPatient": "orientation", "PixelSpacing": "pixel spacing"}.get(keyword, "size")


def _have(slices: Sequence[Slice]) -> str:
    return "has" if len(slices) == 1 else "have"


def _names(slices: Sequence[Slice]) -> str:
    names = [one.name for one in slices[:_NOT_MORE_NAMES]]
    more = len(slices) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _backslashed(values: NDArray[np.float64]) -> str:
    return "\\".join(f"{value:g}" for value in values)


def _check_phases(path: Path, ordered: Sequence[Slice], normal: NDArray[np.float64]) -> None:
    """Refuse several scans of the same region in one series, also where their slices lie between each other."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for one in ordered:
        groups.setdefault(one.phase, []).append(float(one.position_mm @ normal))
    spans = [(min(at), max(at)) for at in groups.values() if len(at) >= MIN_VOXELS]
    spans.sort()
    for (low, high), (next_low, next_high) in itertools.pairwise(spans):
        overlap = min(high, next_high) - next_low
        if overlap > 0.5 * min(high - low, next_high - next_low):
            examples = [next(one for one in ordered if one.phase == phase) for phase in list(groups)[:2]]
            said = " and ".join(f"{one.name} ({_phase(one, examples)})" for one in examples)
            raise PatientError(
                f"{path}: the series holds several phases (scans of the same region), not one CT: {said}; leave one"
            )


def _phase(one: Slice, among: Sequence[Slice]) -> str:
    differing = [
        f"{tag} {value or 'none'}"
        for tag, value, *others in zip(_PHASE_TAGS, one.phase, *(other.phase for other in among), strict=True)
        if len(set(others)) > 1
    ]
    return ", ".join(differing)


def _without_copies(
    path: Path, ordered: Sequence[Slice], normal: NDArray[np.float64], reader: PixelReader
) -> list[Slice]:
    """Drop slices that are the same as another one; refuse different ones at the same position."""
    kept: list[Slice] = []
    copies: list[Slice] = []
    clashes: list[tuple[Slice, Slice]] = []
    for one in ordered:
        before = kept[-1] if kept else None
        if before is None or abs((one.position_mm - before.position_mm) @ normal) > _SAME_PLACE_MM:
            kept.append(one)
        elif _is_copy(before, one, reader):
            copies.append(one)
        else:
            clashes.append((before, one))
    if clashes and len(kept) == 1:
        raise PatientError(f"{path}: the slices of the series have the same position")
    if clashes:
        first, second = clashes[0]
        several = len(clashes) > len(kept) // 2
        what = "several phases or reconstructions in one series: " if several else ""
        raise PatientError(
            f"{path}: {what}different slices at the same position ({len(clashes)} of {len(kept)}), for example"
            f" {first.name} and {second.name}"
        )
    if copies:
        what = (
            "a slice is there twice; the copy is"
            if len(copies) == 1
            else f"{len(copies)} slices are there twice; the copies are"
        )
        _logger.warning("%s: %s left out (%s)", path, what, _names(copies))
    return kept


def _is_copy(one: Slice, other: Slice, reader: PixelReader) -> bool:
    if (
        one.phase != other.phase
        or one.rescale != other.rescale
        or not np.array_equal(one.position_mm, other.position_mm)
    ):
        return False
    if one.frame == other.frame == 0 and one.file.read_bytes() == other.file.read_bytes():
        return True
    return np.array_equal(reader.stored(one.file, one.frame), reader.stored(other.file, other.frame))


def _check_steps(path: Path, ordered: Sequence[Slice], normal: NDArray[np.float64]) -> float:
    """Check that the slices lie evenly along their normal; returns their distance, mm."""
    positions = np.array([one.position_mm for one in ordered])
    along = np.diff(positions @ normal)
    step = float(np.median(along))
    if step < SPACING_RANGE_MM[0]:
        raise PatientError(f"{path}: the slices of the series have the same position")
    aside = positions - positions[0] - np.outer((positions - positions[0]) @ normal, normal)
    shift = np.linalg.norm(aside, axis=1)
    length = float(along.sum())
    allowed = max(_ASIDE_MM, _ASIDE_SHARE * length)
    if shift.max() > allowed:
        middle = float(np.median(np.linalg.norm(np.diff(aside, axis=0), axis=1)))
        angle = np.degrees(np.arctan2(middle, step))
        if shift[-1] > allowed and angle > 0.01:
            raise PatientError(
                f"{path}: the series was taken with a tilted gantry ({angle:.1f} deg); resample it first"
            )
        worst = ordered[int(shift.argmax())]
        raise PatientError(
            f"{path}: {worst.name} lies {shift.max():.2f} mm aside of the other slices"
            f" (ImagePositionPatient {_backslashed(worst.position_mm)})"
        )
    worst_step = int(np.abs(along - step).argmax())
    if abs(along[worst_step] - step) > max(SLICE_TOLERANCE * step, 0.02):
        before, after = ordered[worst_step], ordered[worst_step + 1]
        raise PatientError(
            f"{path}: slices are missing or unevenly spaced ({along[worst_step]:.2f} mm from {before.name} to"
            f" {after.name}, elsewhere {step:.2f} mm)"
        )
    return length / len(along)


def _check_every_slice(path: Path, step_mm: float, ordered: Sequence[Slice]) -> None:
    """Look for slices that are missing evenly, which positions alone do not tell.

    Raises:
        PatientError: SpacingBetweenSlices says that the slices were closer, or their numbers have gaps and there is
            room between them.
    """
    said = np.array([(one.thickness_mm, one.between_mm, one.number) for one in ordered])
    thickness, between = (float(np.nanmedian(column)) if np.isfinite(column).any() else 0.0 for column in said.T[:2])
    unknown = between == _UNKNOWN_BETWEEN_MM < thickness
    if abs(between) > 0 and not unknown and step_mm > _GAP * abs(between):
        raise PatientError(
            f"{path}: slices are missing: they lie {step_mm:.2f} mm apart, but were made every {abs(between):.2f} mm"
            " (SpacingBetweenSlices)"
        )
    if abs(between) > 0 and not unknown and step_mm * _GAP < abs(between):
        _logger.warning(
            "%s: the slices lie %.2f mm apart, SpacingBetweenSlices says %.2f mm; their positions are taken",
            path, step_mm, abs(between),
        )  # fmt: skip
    if not (thickness > 0 and step_mm > _GAP * thickness):
        return
    strides = np.abs(np.diff(said[:, 2]))
    if np.isfinite(strides).all() and strides.min() >= 2:
        raise PatientError(
            f"{path}: slices are missing: they lie {step_mm:.2f} mm apart, are {thickness:.2f} mm thick, and their"
            f" numbers go up by {np.median(strides):.0f} (InstanceNumber)"
        )
    _logger.warning(
        "%s: the slices are %.2f mm thick but lie %.2f mm apart; what is between them is interpolated",
        path, thickness, step_mm,
    )  # fmt: skip
