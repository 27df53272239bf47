# SPDX-License-Identifier: Apache-2.0
"""Figures and pictures of the navigation bench."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_agent.navigation.task import NavigationCode
from carm_bringup.benchmarks.navigation.episode import TURN_DEG, Outcome, Step
from carm_core.imaging.projection import displacement_to_pixel_display
from carm_core.landmarks import landmark
from carm_perception.evaluation.scoring.figures import wilson_interval

SUCCESS_MM = (5, 10, 20, 30)
"""Distances at isocenter depth within which success is counted, mm."""
_GIF_MS = 1800
_TEXT_ROWS = 64
_SCALE = 2
_YELLOW, _GREEN, _WHITE = (255, 210, 0), (0, 220, 90), (255, 255, 255)


def metrics(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Summarize episodes.

    Returns:
        Rates as fractions of all episodes with their 95 % Wilson intervals (``..._ci95``), counts of violations, and
        medians. ``collisions`` counts trajectories that touch body, table or floor, as a judge sees it that shares
        nothing with the planner (``carm_bringup.benchmarks.navigation.collision_judge``); None if nobody looked.
    """
    count = len(outcomes)
    rates = {f"success_{mm}mm": sum(outcome.success(mm) for outcome in outcomes) for mm in SUCCESS_MM}
    rates["false_success"] = sum(outcome.false_success for outcome in outcomes)
    rates["aborted"] = sum(not outcome.result.success for outcome in outcomes)
    found: dict[str, Any] = {"episodes": count}
    for name, hits in rates.items():
        found[name] = hits / count if count else None
        found[f"{name}_ci95"] = list(wilson_interval(hits, count))
    reasons = Counter(outcome.result.error_code.name.lower() for outcome in outcomes if not outcome.result.success)
    latencies = [latency for outcome in outcomes for latency in outcome.latencies_s if math.isfinite(latency)]
    clearances = [gap for outcome in outcomes for gap in outcome.clearances_m]
    found |= {
        "exposures_median": _median([outcome.result.exposures for outcome in outcomes]),
        "dap_median": _median([outcome.result.dose_area_product_gym2 for outcome in outcomes]),
        "path_median_m": _median([outcome.result.path_length_m for outcome in outcomes]),
        "time_median_s": _median([outcome.result.duration_s for outcome in outcomes]),
        "distance_median_mm": _median([outcome.distance_mm for outcome in outcomes]),
        "turned_median_mm": _median([outcome.turned_mm for outcome in outcomes if outcome.result.success]),
        "start_distance_median_mm": _median([outcome.start_distance_mm for outcome in outcomes]),
        "localizer_latency_p50_s": _median(latencies),
        "collisions": sum(gap <= 0 for gap in clearances) if clearances else None,
        "clearance_smallest_m": min(clearances, default=None),
        "clearance_median_m": _median(clearances),
        "limit_violations": sum(outcome.limit_violations for outcome in outcomes),
        "aborted_reasons": dict(reasons.most_common()),
        "per_landmark": _per_landmark(outcomes),
    }
    return found


def _per_landmark(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    table = {}
    for key in sorted({outcome.episode.target_id for outcome in outcomes}):
        own = [outcome for outcome in outcomes if outcome.episode.target_id == key]
        table[landmark(key).name] = {
            "episodes": len(own),
            **{f"success_{mm}mm": sum(outcome.success(mm) for outcome in own) / len(own) for mm in SUCCESS_MM},
            "success_20mm_ci95": list(wilson_interval(sum(outcome.success(20.0) for outcome in own), len(own))),
            "false_success": sum(outcome.false_success for outcome in own) / len(own),
            "aborted": sum(not outcome.result.success for outcome in own) / len(own),
            "distance_median_mm": _median([outcome.distance_mm for outcome in own]),
        }
    return table


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def table(suite: str, found: dict[str, Any]) -> str:
    """Return the figures of a suite as lines for a terminal."""
    if not found["episodes"]:
        return f"{suite}: no episodes"

    def percent(name: str) -> str:
        low, high = found[f"{name}_ci95"]
        return f"{100 * found[name]:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"

    lines = [f"{suite}: {found['episodes']} episodes, start {found['start_distance_median_mm']:.0f} mm away (median)"]
    lines += [f"  success within {mm:2d} mm   {percent(f'success_{mm}mm')}" for mm in SUCCESS_MM]
    lines += [
        f"  false success          {percent('false_success')}   (claims success, is beyond 30 mm)",
        f"  ended without success  {percent('aborted')}   {_counts(found['aborted_reasons'])}",
        f"  medians: {found['exposures_median']:.0f} exposures, {1e6 * found['dap_median']:.2f} µGy·m²,"
        f" path {found['path_median_m']:.2f} m, {found['time_median_s']:.0f} s",
        f"  limit violations {found['limit_violations']}, {_gaps(found)}",
    ]
    if found["turned_median_mm"] is not None:
        lines.append(
            f"  after a turn of {TURN_DEG:.0f}° about the isocenter: {found['turned_median_mm']:.0f} mm (median)"
        )
    for name, own in found["per_landmark"].items():
        lines.append(
            f"    {name:<30} {own['episodes']:3d}  20 mm {100 * own['success_20mm']:5.1f} %"
            f" [{', '.join(f'{100 * end:.0f}' for end in own['success_20mm_ci95'])}]"
            f"  median {own['distance_median_mm']:6.1f} mm"
        )
    return "\n".join(lines)


def _gaps(found: dict[str, Any]) -> str:
    if found["collisions"] is None:
        return "collisions not checked"
    return f"collisions {found['collisions']} (smallest clearance {1000 * found['clearance_smallest_m']:z.0f} mm)"


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in reasons.items())


def episode_record(outcome: Outcome) -> dict[str, Any]:
    """Return one episode as a JSON object."""
    return {
        "patient": outcome.episode.patient,
        "target": landmark(outcome.episode.target_id).name,
        "ended": NavigationCode(outcome.result.error_code).name.lower(),
        "reason": outcome.result.error_msg,
        "start_distance_mm": round(outcome.start_distance_mm, 2),
        "distance_mm": round(outcome.distance_mm, 2),
        "exposures": outcome.result.exposures,
        "dose_area_product_gym2": outcome.result.dose_area_product_gym2,
        "clearance_m": round(min(outcome.clearances_m), 4) if outcome.clearances_m else None,
        "path_m": round(outcome.result.path_length_m, 4),
        "time_s": round(outcome.result.duration_s, 3),
    }


def plot(suites: Mapping[str, Sequence[Outcome]], file: Path) -> None:
    """Plot success over distance, and success per landmark, of each suite.

    Raises:
        OSError: The file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    distances = np.arange(0.0, 61.0)
    targets = sorted({outcome.episode.target_id for outcomes in suites.values() for outcome in outcomes})
    names = [landmark(key).name for key in targets]
    for index, (suite, outcomes) in enumerate(suites.items()):
        if not outcomes:
            continue
        shares = [np.mean([outcome.success(mm) for outcome in outcomes]) for mm in distances]
        left.plot(distances, 100 * np.array(shares), label=f"{suite} (n = {len(outcomes)})", color=f"C{index}")
        rows = metrics(outcomes)["per_landmark"]
        offset = (index - (len(suites) - 1) / 2) * 0.8 / len(suites)
        places = [names.index(name) + offset for name in rows]
        widths = [100 * own["success_20mm"] for own in rows.values()]
        right.barh(places, widths, height=0.8 / len(suites), color=f"C{index}")
    for mm in SUCCESS_MM:
        left.axvline(mm, color="0.8", linewidth=0.8, zorder=0)
    left.set(xlabel="true distance from the image center [mm]", ylabel="claimed successes [% of episodes]")
    left.set(xlim=(0, 60), ylim=(0, 100))
    left.legend(loc="lower right", frameon=False)
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.set(xlabel="success within 20 mm [% of episodes]", xlim=(0, 100))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def draw_step(step: Step, target_id: int) -> NDArray[np.uint8]:
    """Draw one exposure: the image, the answer with its uncertainty, the truth, and the reasoning below.

    Returns:
        RGB, shape (rows, columns, 3).
    """
    assert step.frame.view is not None
    gray = cv2.resize(step.frame.image, None, fx=_SCALE, fy=_SCALE, interpolation=cv2.INTER_AREA)
    size = max(gray.shape)
    if size > 768:
        gray = cv2.resize(gray, None, fx=768 / size, fy=768 / size, interpolation=cv2.INTER_AREA)
    scale = gray.shape[1] / step.frame.image.shape[1]
    picture = np.repeat(gray[:, :, None], 3, axis=2)
    rows, columns = gray.shape
    cv2.drawMarker(picture, (columns // 2, rows // 2), _WHITE, cv2.MARKER_CROSS, 28, 1, cv2.LINE_AA)
    pixels_per_mm = scale / step.frame.mm_per_px_at_isocenter
    _mark(picture, step, step.truth_mm, scale, _GREEN, cv2.MARKER_TILTED_CROSS)
    estimate = step.localization.estimate(target_id)
    if estimate is not None and np.isfinite(estimate.displacement_mm).all():
        center = _mark(picture, step, np.array(estimate.displacement_mm), scale, _YELLOW, cv2.MARKER_CROSS)
        if math.isfinite(estimate.radius_90_mm):
            radius = max(1, min(4000, round(estimate.radius_90_mm * pixels_per_mm)))
            cv2.circle(picture, center, radius, _YELLOW, 1, cv2.LINE_AA)
    band = np.full((_TEXT_ROWS, columns, 3), 18, dtype=np.uint8)
    for line, text in enumerate(_wrapped(_ascii(step.reasoning), columns // 7)[:3]):
        cv2.putText(band, text, (10, 20 + 19 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.46, _WHITE, 1, cv2.LINE_AA)
    return np.vstack([picture, band]).astype(np.uint8)


def _mark(
    picture: NDArray[np.uint8],
    step: Step,
    displacement_mm: NDArray[np.float64],
    scale: float,
    color: tuple[int, int, int],
    marker: int,
) -> tuple[int, int]:
    assert step.frame.view is not None
    column, row = (displacement_to_pixel_display(displacement_mm, step.frame.view) + 0.5) * scale
    center = (round(float(np.clip(column, -9999, 9999))), round(float(np.clip(row, -9999, 9999))))
    rows, columns = picture.shape[:2]
    if 0 <= center[0] < columns and 0 <= center[1] < rows:
        cv2.drawMarker(picture, center, color, marker, 22, 2, cv2.LINE_AA)
    else:
        middle = np.array([columns / 2, rows / 2])
        way = np.array(center) - middle
        tip = middle + way * min(columns / 2 - 8, rows / 2 - 8) / np.abs(way).max()
        base = middle + (tip - middle) * 0.85
        cv2.arrowedLine(picture, tuple(base.round().astype(int)), tuple(tip.round().astype(int)), color, 2, cv2.LINE_AA)
    return center


def _ascii(text: str) -> str:
    return text.replace("±", "+/-").replace("°", " deg").encode("ascii", "replace").decode()


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


def write_trace(steps: Sequence[Step], target_id: int, folder: Path, name: str) -> None:
    """Write a PNG of each exposure and one GIF of all.

    Args:
        steps: Of one episode.
        target_id: The target.
        folder: Must exist.
        name: Start of each file name.

    Raises:
        OSError: A file cannot be written.
    """
    from PIL import Image

    pictures = [Image.fromarray(draw_step(step, target_id)) for step in steps]
    for index, picture in enumerate(pictures, start=1):
        picture.save(folder / f"{name}_{index:02d}.png")
    if pictures:
        pictures[0].save(
            folder / f"{name}.gif", save_all=True, append_images=pictures[1:], duration=_GIF_MS, loop=0, optimize=True
        )
