# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page about the navigation bench: figures side by side, plots, how episodes ended."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from carm_bringup.benchmarks.navigation import report as nav_report
from carm_bringup.benchmarks.navigation.episode import Outcome
from carm_core.errors import ConfigurationError

FILE = "nav.html"
_STYLE = """body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;font-size:12.5px}td,th{border:1px solid #ccc;padding:3px 8px}
td,th{text-align:right}th{background:#f3f3f3}td:first-child,th:first-child{text-align:left}
img{max-width:100%}small{color:#666}.scroll{overflow-x:auto}"""
_RATES = (
    ("success_10mm", "10 mm"),
    ("success_20mm", "20 mm"),
    ("success_30mm", "30 mm"),
    ("false_success", "false success"),
    ("aborted", "no success claimed"),
)
_MEDIANS = (
    ("exposures_median", "exposures", 1.0, ".0f"),
    ("dap_median", "DAP, µGy·m²", 1e6, ".2f"),
    ("path_median_m", "path, m", 1.0, ".2f"),
    ("time_median_s", "time, s", 1.0, ".0f"),
    ("localizer_latency_p50_s", "answer, ms", 1e3, ".0f"),
    ("clearance_smallest_m", "smallest clearance, mm", 1e3, ".0f"),
)


def write(folder: Path, outcomes: Mapping[str, Sequence[Outcome]], document: Mapping[str, Any]) -> Path:
    """Write the page.

    Args:
        folder: Where; exists.
        outcomes: Episodes of each suite.
        document: The figures as written to JSON.

    Returns:
        The page.

    Raises:
        ConfigurationError: It cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory() as scratch:
            picture = Path(scratch) / "nav.png"
            nav_report.plot(outcomes, picture)
            plot = base64.b64encode(picture.read_bytes()).decode()
        (folder / FILE).write_text(_page(document, plot), encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror}") from error
    return folder / FILE


def _page(document: Mapping[str, Any], plot: str) -> str:
    results: Mapping[str, Mapping[str, Any]] = document["results"]
    landmarks = dict.fromkeys(name for found in results.values() for name in found["per_landmark"])
    reasons = dict.fromkeys(name for found in results.values() for name in found["aborted_reasons"])
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Navigation</title><style>{_STYLE}</style>",
        f"<h1>Navigation</h1><p><small><code>{escape(str(document['command']))}</code></small></p>",
        "<p>Success: the agent claims it, and the landmark truly lies within the distance of the image center, at"
        " isocenter depth. False success: claimed, but beyond 30 mm. In brackets: 95 % Wilson intervals.</p>",
        _table("suite", ["episodes", *(t for _, t in _RATES)], {k: _rates(found) for k, found in results.items()}),
        _table(
            "suite: medians",
            [*(title for _, title, _, _ in _MEDIANS), "collisions", "limit violations"],
            {key: _medians(found) for key, found in results.items()},
        ),
        f'<img alt="success over distance and per landmark" src="data:image/png;base64,{plot}">',
        "<h2>Success within 20 mm by landmark</h2>",
        _table(
            "landmark", list(results), {name: [_own(found, name) for found in results.values()] for name in landmarks}
        ),
    ]
    if reasons:
        rows = {name: [str(found["aborted_reasons"].get(name, 0)) for found in results.values()] for name in reasons}
        parts += ["<h2>Episodes that ended without a claim</h2>", _table("reason", list(results), rows)]
    return "\n".join([*parts, "</html>\n"])


def _rates(found: Mapping[str, Any]) -> list[str]:
    cells = [str(found["episodes"])]
    for key, _ in _RATES:
        if found[key] is None:
            cells.append("-")
            continue
        low, high = found[f"{key}_ci95"]
        cells.append(f"{100 * found[key]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
    return cells


def _medians(found: Mapping[str, Any]) -> list[str]:
    cells = ["-" if found[key] is None else format(found[key] * scale, form) for key, _, scale, form in _MEDIANS]
    collisions = found["collisions"]
    return [*cells, "not checked" if collisions is None else str(collisions), str(found["limit_violations"])]


def _own(found: Mapping[str, Any], name: str) -> str:
    own = found["per_landmark"].get(name)
    if own is None:
        return "-"
    low, high = own["success_20mm_ci95"]
    return f"{100 * own['success_20mm']:.0f} % of {own['episodes']} [{100 * low:.0f}, {100 * high:.0f}]"


def _table(corner: str, head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    heads = "".join(f"<th>{escape(text)}</th>" for text in (corner, *head))
    lines = [
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in (key, *cells)) + "</tr>" for key, cells in rows.items()
    ]
    return f'<div class="scroll"><table><tr>{heads}</tr>{"".join(lines)}</table></div>'
