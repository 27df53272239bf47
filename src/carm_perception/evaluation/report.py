# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page about localizers on suites, side by side."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from carm_core.errors import ConfigurationError
from carm_core.landmarks import ALL_LANDMARKS
from carm_perception.evaluation import plots
from carm_perception.evaluation.scoring.judge import Evaluation

FILE = "localize.html"
_NONE = "-"
COLUMNS = (
    ("n", "views"),
    ("hit_1", "Hit@1"),
    ("hit_2", "Hit@2"),
    ("p_at_1", "P@1"),
    ("p_at_2", "P@2"),
    ("p_at_3", "P@3"),
    ("r_at_3", "R@3"),
    ("ap_at_3", "AP@3"),
    ("error_mean_mm", "mean error, mm"),
    ("error_median_mm", "median"),
    ("error_p95_mm", "p95"),
    ("mirror_swap", "mirror swaps"),
    ("left_right_gap", "left/right gap"),
    ("coverage_90", "coverage 90"),
    ("coverage_95", "95"),
    ("coverage_97", "97"),
    ("abstained", "abstained"),
    ("malformed", "malformed"),
    ("latency_first_ms", "first call, ms"),
    ("latency_p50_ms", "p50"),
    ("latency_p99_ms", "p99"),
)
"""Figures of the table, by name and heading."""

_STYLE = """body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1280px;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;font-size:12.5px}td,th{border:1px solid #ccc;padding:3px 7px}
td,th{text-align:right}
th{background:#f3f3f3}td:first-child,th:first-child{text-align:left}img{max-width:100%;margin:.5em 0}
.row{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start}small{color:#666;white-space:nowrap}td:first-child{white-space:nowrap}.scroll{overflow-x:auto}"""


def write_report(folder: Path, evaluations: Sequence[Evaluation], document: Mapping[str, Any]) -> Path:
    """Write the page.

    Args:
        folder: Where; made if needed.
        evaluations: What to show.
        document: The figures as written to JSON: command, seed, versions, results.

    Returns:
        The page.

    Raises:
        ConfigurationError: The folder cannot be written, or matplotlib is missing.
    """
    page = html_page(evaluations, document)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror}") from error
    return folder / FILE


def html_page(evaluations: Sequence[Evaluation], document: Mapping[str, Any]) -> str:
    """Return the page as text; images are inside.

    Raises:
        ConfigurationError: Matplotlib is missing.
    """
    results: Mapping[str, Mapping[str, Any]] = document["results"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    origin = f"{document['command']} (seed {document['seed']}, commit {document['commit'] or 'unknown'}; {versions})"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Localization</title>",
        f"<style>{_STYLE}</style><h1>Localization of landmarks</h1><p><code>{escape(origin)}</code></p>",
        "<p>Hits, errors and mirror swaps are taken on views centered near a landmark, precision (P), recall (R) and"
        " average precision (AP) on random views. An abstention or a malformed answer is a miss. Small: 95 % Wilson"
        " interval. Errors are at isocenter depth, of landmarks in view.</p>",
        _summary(results),
        _suites(evaluations),
        _differences(results),
        _falsification(results),
        "<h2>Hit@2 by landmark</h2>",
        _per_landmark(results, "hit_2", "{:.3f}"),
        "<h2>Mean error by landmark, mm</h2>",
        _per_landmark(results, "error_mean_mm", "{:.1f}"),
        "<h2>Errors and calibration</h2><div class='row'>",
    ]
    anatomical = [e for e in evaluations if "per_landmark" in results[e.name]]
    if anatomical:
        parts += [_image(plots.error_png(anatomical)), _image(plots.coverage_png(anatomical))]
    parts.append("</div>")
    for evaluation in evaluations:
        parts.append(f"<h2>{escape(evaluation.name)}</h2><p>{escape(evaluation.suite.description)}</p>")
        if evaluation in anatomical:
            confusion = plots.confusion_png(results[evaluation.name]["confusion"], f"{evaluation.name}: first answer")
            images = _image(confusion) + _image(plots.landmark_error_png(evaluation))
            parts.append(f"<div class='row'>{images}</div>")
        if evaluation.worst:
            parts += ["<h3>Worst answers</h3>", _image(plots.worst_png(evaluation.worst))]
            parts.append("<p><small>Green: truth, by landmark id. Red: the answer.</small></p>")
    return "\n".join([*parts, "</html>"])


def _image(png: bytes) -> str:
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"


def _cell(figures: Mapping[str, Any], name: str) -> str:
    value = figures.get(name)
    if value is None:
        return _NONE
    if isinstance(value, int):
        return str(value)
    text = f"{value:.1f}" if name.endswith(("_mm", "_ms")) else f"{value:.3f}"
    interval = figures.get(f"{name}_ci95")
    return text if interval is None else f"{text}<br><small>{interval[0]:.2f} to {interval[1]:.2f}</small>"


def _summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [[escape(name), *(_cell(f, key) for key, _ in COLUMNS)] for name, f in results.items()]
    return _table(["localizer/suite", *(title for _, title in COLUMNS)], rows)


def _suites(evaluations: Sequence[Evaluation]) -> str:
    suites = {e.suite.name: e.suite for e in evaluations}
    rows = [[escape(s.name), str(len(s.patients)), str(s.views), escape(s.description)] for s in suites.values()]
    return _table(["suite", "patients", "views", "what it is"], rows)


def _differences(results: Mapping[str, Mapping[str, Any]]) -> str:
    chosen = {name: f["to_nominal"] for name, f in results.items() if "to_nominal" in f}
    if not chosen:
        return ""
    titles = dict(COLUMNS)

    def cell(name: str, value: float | None) -> str:
        return _NONE if value is None else f"{value:+.1f}" if name.endswith("_mm") else f"{100 * value:+.1f}"

    rows = [[escape(name), *(cell(key, value) for key, value in f.items())] for name, f in chosen.items()]
    heading = ["", *(titles[key] for key in next(iter(chosen.values())))]
    return "<h2>Difference to the nominal suite (rates in points)</h2>" + _table(heading, rows)


def _falsification(results: Mapping[str, Mapping[str, Any]]) -> str:
    chosen = {name: f for name, f in results.items() if "false_answers" in f}
    if not chosen:
        return ""
    keys = [key for key in next(iter(chosen.values())) if key.startswith("abstained") and not key.endswith("_ci95")]
    rows = [[escape(name), *(_cell(f, key) for key in keys)] for name, f in chosen.items()]
    heading = [key.removeprefix("abstained_") for key in keys]
    return "<h2>Images without landmarks: fraction of abstentions</h2>" + _table(["", *heading], rows)


def _per_landmark(results: Mapping[str, Mapping[str, Any]], key: str, form: str) -> str:
    chosen = {name: f["per_landmark"] for name, f in results.items() if "per_landmark" in f}
    if not chosen:
        return ""

    def cell(figures: Mapping[str, Any]) -> str:
        return _NONE if figures[key] is None else form.format(figures[key])

    rows = [
        [mark.name, *(cell(marks.get(mark.name)) for marks in chosen.values())]
        for mark in ALL_LANDMARKS
        if any(mark.name in own for own in chosen.values())
    ]
    return _table(["landmark", *chosen], rows)
