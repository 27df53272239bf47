# SPDX-License-Identifier: Apache-2.0
"""Plots of an evaluation, as PNG bytes. Needs matplotlib (extra ``train``)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.landmarks import ALL_LANDMARKS, landmark
from carm_perception.evaluation.scoring.judge import Evaluation, Worst
from carm_perception.evaluation.scoring.records import LEVELS, PointRecord, round_normal_radius

SHARES = np.linspace(0.05, 0.99, 40)
"""Stated probabilities at which coverage is drawn."""
_ERROR_LIMIT_MM = 100.0
_TILE_PX = 300
_GREEN, _RED, _GRAY = (60, 220, 90), (255, 80, 70), (190, 190, 190)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigurationError("a report needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    _pyplot().close(figure)
    return buffer.getvalue()


def _answered(evaluation: Evaluation) -> list[PointRecord]:
    return [r for r in evaluation.records if isinstance(r, PointRecord) and np.isfinite(r.error_mm)]


def confusion_png(confusion: Mapping[str, Any], title: str) -> bytes:
    """True closest landmark against the first of the answer; counts, colored by the fraction of the row."""
    counts = np.array(confusion["counts"])
    figure, axes = _pyplot().subplots(figsize=(8.4, 7.0))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            dark, wrong = share[row, column] > 0.5, "firebrick" if row != column else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color="white" if dark else wrong)
    axes.set_xticks(range(len(confusion["columns"])), confusion["columns"], rotation=90, fontsize=8)
    axes.set_yticks(range(len(confusion["rows"])), confusion["rows"], fontsize=8)
    axes.set(xlabel="answered first", ylabel="truly closest to the image center", title=title)
    return _png(figure)


def coverage_png(evaluations: Sequence[Evaluation]) -> bytes:
    """Return the fraction of landmarks within the stated radius against the stated probability.

    Lines: radii of a round normal distribution of the stated standard deviation; crosses: calibrated radii.
    """
    figure, axes = _pyplot().subplots(figsize=(6.4, 5.4))
    axes.plot([0, 1], [0, 1], color="gray", linewidth=1)
    for evaluation in evaluations:
        records = [r for r in _answered(evaluation) if np.isfinite(r.std_mm)]
        line = None
        if records:
            error = np.array([r.error_mm for r in records])
            std = np.array([r.std_mm for r in records])
            reached = [float(np.mean(error <= round_normal_radius(1.0, share) * std)) for share in SHARES]
            (line,) = axes.plot(SHARES, reached, linewidth=1.3, label=evaluation.name)
        for level in LEVELS:
            stated = [(r.error_mm, r.radii_mm[level]) for r in _answered(evaluation) if level in r.radii_mm]
            if stated:
                color = line.get_color() if line is not None else "black"
                axes.plot(level / 100, np.mean([e <= r for e, r in stated]), "x", color=color, markersize=9)
    axes.set(xlabel="stated probability", ylabel="fraction within the stated radius", xlim=(0, 1), ylim=(0, 1.01))
    axes.set_title("calibration of the stated uncertainty")
    _legend(axes)
    return _png(figure)


def error_png(evaluations: Sequence[Evaluation]) -> bytes:
    """Return the cumulative distribution of the error of landmarks in view."""
    figure, axes = _pyplot().subplots(figsize=(6.4, 5.4))
    for evaluation in evaluations:
        errors = np.sort([r.error_mm for r in _answered(evaluation)])
        if len(errors):
            axes.step(errors, np.arange(1, len(errors) + 1) / len(errors), where="post", label=evaluation.name)
    axes.set(xlabel="error at isocenter depth, mm", ylabel="fraction of landmarks in view", ylim=(0, 1.01))
    axes.set_xlim(0, _ERROR_LIMIT_MM)
    axes.set_title("pointing error")
    axes.grid(alpha=0.3)
    _legend(axes)
    return _png(figure)


def landmark_error_png(evaluation: Evaluation) -> bytes:
    """Return the error by landmark: quartiles, whiskers at 5 and 95 per cent."""
    marks = [landmark(key) for key in evaluation.suite.ids]
    groups = [[r.error_mm for r in _answered(evaluation) if r.target == mark.id] for mark in marks]
    figure, axes = _pyplot().subplots(figsize=(7.4, 4.6))
    axes.boxplot(groups, orientation="horizontal", whis=(5, 95), showfliers=False)
    axes.set_yticks(range(1, len(groups) + 1), [mark.name for mark in marks], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="error at isocenter depth, mm", title=f"{evaluation.name}: error in view by landmark")
    axes.grid(alpha=0.3, axis="x")
    return _png(figure)


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7, loc="lower right")


def worst_png(worst: Sequence[Worst], columns: int = 4) -> bytes:
    """Return the worst answers on their images: true landmarks green, the answer red."""
    tiles = [_tile(one) for one in worst]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    _, data = cv2.imencode(".png", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    return bytes(data)


def _tile(worst: Worst) -> NDArray[np.uint8]:
    """Return one image with truth, answer and two lines of text below (rows, columns, 3)."""
    frame = worst.case.frame
    scale_px = _TILE_PX / frame.image.shape[1]
    shown = cv2.resize(frame.image, None, fx=scale_px, fy=scale_px, interpolation=cv2.INTER_AREA)
    image = cv2.cvtColor(shown, cv2.COLOR_GRAY2RGB)
    per_mm = scale_px / frame.mm_per_px_at_isocenter
    middle = np.array([image.shape[1], image.shape[0]]) / 2

    def pixel(place_mm: Sequence[float]) -> tuple[int, int]:
        column, row = middle + per_mm * np.array([place_mm[0], -place_mm[1]])
        return round(column), round(row)

    for mark, place in zip(ALL_LANDMARKS, worst.case.displacement_mm, strict=True):
        if np.isfinite(place).all():
            wanted = mark.id == worst.target
            cv2.circle(image, pixel(place), 7 if wanted else 5, _GREEN, 2 if wanted else 1, cv2.LINE_AA)
            right_down = pixel(place)
            cv2.putText(image, str(mark.id), (right_down[0] + 6, right_down[1]), 0, 0.4, _GREEN, 1, cv2.LINE_AA)
    if worst.answer_mm is not None:
        cv2.drawMarker(image, pixel(worst.answer_mm), _RED, cv2.MARKER_TILTED_CROSS, 14, 2)
    strip = np.full((48, image.shape[1], 3), 24, np.uint8)
    for row, (text, color) in enumerate(_caption(worst)):
        cv2.putText(strip, text, (4, 18 + 20 * row), 0, 0.4, color, 1, cv2.LINE_AA)
    return np.asarray(np.vstack([image, strip]), np.uint8)


def _caption(worst: Worst) -> list[tuple[str, tuple[int, int, int]]]:
    first = landmark(worst.answer_ids[0]).name if worst.answer_ids else "nothing"
    if worst.case.kind:
        return [
            (f"{worst.case.kind}: no landmark in the image", _GREEN),
            (f"answered {first} ({worst.protocol})", _RED),
        ]
    patient = worst.case.patient.split("+")[0]
    if worst.target:
        return [(f"{first}, {patient}", _GREEN), (f"pointed {worst.badness_mm:.0f} mm off", _RED)]
    distance = np.linalg.norm(worst.case.displacement_mm, axis=1)
    closest = ALL_LANDMARKS[int(np.nanargmin(distance))].name
    return [(f"{closest}, {patient}", _GREEN), (f"answered {first}", _RED)]
