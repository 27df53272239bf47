# SPDX-License-Identifier: Apache-2.0
"""The report of a session: one HTML page that needs nothing else, and asks no server for anything."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Any

from carm_bringup.console.session.store import ExposureRecord
from carm_bringup.dicom_export.study import RESEARCH_NOTE

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #14202b; max-width: 1080px; margin: 24px auto; padding: 0 16px; }
h1 { margin-bottom: 0; } h2 { margin-top: 32px; border-bottom: 2px solid #b6c1cc; }
.note { color: #8a4b00; font-weight: 600; }
.numbers { display: flex; flex-wrap: wrap; gap: 8px 32px; margin: 12px 0; }
.numbers dt { color: #4b5c6b; font-size: 13px; } .numbers dd { margin: 0; font-size: 20px; font-weight: 600; }
.shots { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 16px; }
figure { margin: 0; border: 1px solid #b6c1cc; border-radius: 6px; overflow: hidden; break-inside: avoid; }
.picture { position: relative; background: #000; } .picture img { display: block; width: 100%; }
.picture b { position: absolute; color: #fff; font-size: 22px; text-shadow: 0 0 4px #000, 0 0 4px #000; }
.left { left: 8px; top: 46%; } .right { right: 8px; top: 46%; }
.top { top: 4px; left: 48%; } .bottom { bottom: 4px; left: 48%; }
.none { color: #b6c1cc; padding: 40px; text-align: center; }
figcaption { padding: 8px 12px; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; color: #4b5c6b; }
td, th { padding: 4px 12px 4px 0; border-bottom: 1px solid #dde3e9; vertical-align: top; overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; font-variant-numeric: tabular-nums; } small { color: #4b5c6b; display: block; }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Shot:
    """A single exposure, or a pulsed series.

    Attributes:
        records: One, or the frames of the series.
        angles_deg: Primary and secondary angle, LAO and cranial positive; None when unknown.
        picture: JPEG file; empty when there is none.
        sides: Letter of the patient's side at each side of the picture.
        file: Its DICOM file, beside the report; empty when there is none.
    """

    records: tuple[ExposureRecord, ...]
    angles_deg: tuple[float, float] | None
    picture: bytes = b""
    sides: dict[str, str] = field(default_factory=dict)
    file: str = ""

    def total(self, name: str) -> float:
        """Return the sum of a field over the frames."""
        return float(sum(getattr(one, name) for one in self.records))


def report(about: dict[str, Any], arm: str, shots: Sequence[Shot], notes: Sequence[dict[str, Any]]) -> str:
    """Return the page.

    Args:
        about: As ``Session.snapshot`` writes it.
        arm: Name of the C-arm.
        shots: In order of time.
        notes: What was said, asked for and done, as the pages were told it; with ``time``, s since 1970.
    """
    started, ended = (datetime.fromtimestamp(about[key]).astimezone() for key in ("started", "exported"))
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>C-arm session {started:%Y-%m-%d %H:%M}</title><style>{_STYLE}</style></head><body>",
        f"<h1>C-arm session, {started:%Y-%m-%d}</h1>",
        f"<p>{started:%H:%M:%S} to {ended:%H:%M:%S} ({escape(started.tzname() or '')}), {escape(arm)},"
        f" software {escape(str(about['version']))}. <span class=note>{RESEARCH_NOTE}.</span></p>",
        *_remarks(about),
        "<h2>Dose</h2>",
        *_dose(shots),
        "<h2>Exposures</h2>",
        '<div class="shots">' if shots else "<p>None.</p>",
        *(_figure(number, shot) for number, shot in enumerate(shots, 1)),
        "</div>" if shots else "",
        "<h2>Commands, dialogue, decisions</h2>",
        "<table><tr><th>Time</th><th>Who</th><th>What</th></tr>",
        *map(_row, notes),
        "</table></body></html>",
    ]
    return "\n".join(lines) + "\n"


def _remarks(about: dict[str, Any]) -> list[str]:
    remarks = []
    if about["recording"]:
        copy = f"; copy as far as it went: {about['bag']}" if about["bag"] else ""
        remarks.append(f"Recorded in the folder {about['recording']}{copy}.")
    for key, what in (("notes_left_out", "lines"), ("exposures_left_out", "exposures")):
        if about[key]:
            remarks.append(f"The session was too long: {about[key]} {what} at its end are not in this report.")
    if about["trouble"]:
        remarks.append(f"Not everything could be kept: {about['trouble']}.")
    return [f"<p>{escape(remark)}</p>" for remark in remarks]


def _dose(shots: Sequence[Shot]) -> list[str]:
    single = [shot for shot in shots if not shot.records[0].fluoroscopy]
    frames = sum(len(shot.records) for shot in shots if shot.records[0].fluoroscopy)
    newest = shots[-1].records[-1] if shots else None
    numbers = {
        "Air kerma": _kerma(sum(shot.total("air_kerma_gy") for shot in shots)),
        "Dose-area product": _product(sum(shot.total("dose_area_product_gym2") for shot in shots)),
        "Single exposures": str(len(single)),
        "Frames of fluoroscopy": str(frames),
    }
    if newest is not None:
        total = f"{_kerma(newest.cumulative_air_kerma_gy)}, {_product(newest.cumulative_dose_area_product_gym2)}"
        numbers["Since the X-ray system started"] = total
    rows = [f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in numbers.items()]
    return ['<dl class="numbers">', *rows, "</dl>"]


def _kerma(value_gy: float) -> str:
    return f"{1e3 * value_gy:.3f} mGy"


def _product(value_gym2: float) -> str:
    return f"{1e6 * value_gym2:.2f} µGy·m²"


def angle(degrees: float, positive: str, negative: str) -> str:
    """Return an angle as clinicians write it, such as ``LAO 30.0°``."""
    rounded = round(degrees, 1)
    return f"{positive if rounded > 0 else negative} {abs(rounded):.1f}°" if rounded else "0.0°"


def _figure(number: int, shot: Shot) -> str:
    first = shot.records[0]
    view = "view unknown"
    if shot.angles_deg is not None:
        primary, secondary = shot.angles_deg
        view = f"Primary {angle(primary, 'LAO', 'RAO')}, secondary {angle(secondary, 'CRAN', 'CAUD')}"
    name = f"Fluoroscopy, {len(shot.records)} frames" if first.fluoroscopy else "Exposure"
    picture = '<div class="none">no picture kept</div>'
    if shot.picture:
        data = base64.b64encode(shot.picture).decode()
        letters = "".join(f'<b class="{side}">{escape(letter)}</b>' for side, letter in shot.sides.items())
        picture = f'<img alt="X-ray {number}" src="data:image/jpeg;base64,{data}">{letters}'
    caption = [
        f"<b>{number}. {name}</b> {_clock(first.time)}",
        view,
        f"{first.voltage_kv:.0f} kV, {first.current_ma:.1f} mA, {1e3 * first.pulse_s:.1f} ms",
        f"{_kerma(shot.total('air_kerma_gy'))}, {_product(shot.total('dose_area_product_gym2'))}",
        f"so far {_kerma(shot.records[-1].cumulative_air_kerma_gy)}",
        f"<small>{escape(shot.file)}</small>" if shot.file else "",
    ]
    return f'<figure><div class="picture">{picture}</div><figcaption>{"<br>".join(caption)}</figcaption></figure>'


def _row(note: dict[str, Any]) -> str:
    kind = str(note.get("type", ""))
    who, text, small = "", str(note.get("text", "")), ""
    if kind == "asked":
        who = str(note.get("who", ""))
    elif kind == "said":
        who = f"agent ({note.get('kind', '')})"
        reply = note.get("reply_to")
        small = " · ".join(str(part) for part in (note.get("reason"), reply and f"to “{reply}”") if part)
    elif kind == "result":
        who = "done" if note.get("ok") else "failed"
    shown = escape(text) + (f"<small>{escape(small)}</small>" if small else "")
    return f"<tr><td>{_clock(float(note['time']))}</td><td>{escape(who)}</td><td>{shown}</td></tr>"


def _clock(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s):%H:%M:%S}"
