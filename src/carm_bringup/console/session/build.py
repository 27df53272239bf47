# SPDX-License-Identifier: Apache-2.0
"""Makes the file of a session, in a process of its own: nothing of it holds up the console.

``python -m carm_bringup.console.session.build FOLDER FILE.zip``
"""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from carm_bringup.console.session.report import Shot, report
from carm_bringup.console.session.store import ABOUT, EXPOSURES, NOTES, ExposureRecord
from carm_bringup.dicom_export.dose_report import IrradiationEvent, dose_report
from carm_bringup.dicom_export.exposure import XrayExposure
from carm_bringup.dicom_export.study import Study, new_uid
from carm_bringup.dicom_export.xa_image import patient_orientation, xa_image
from carm_core.data_files import read_yaml
from carm_core.errors import CarmError
from carm_core.imaging.display import display_from_signal
from carm_core.imaging.projection import display_from_raw
from carm_core.paths import config_file
from carm_core.robot.kinematics import CArm

_NICE = 10
_BAG_FILES = (".mcap", ".yaml")
_MOST_BAG_BYTES = 2 * 10**9
_RUN_GAP_S = 2.0
_PICTURE_PX = 560
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}


@dataclass
class _Exposure:
    """A record with its geometry; ``exposure`` has no pixels, and is None where the geometry is unknown."""

    record: ExposureRecord
    exposure: XrayExposure | None


def build(folder: Path, file: Path | IO[bytes]) -> None:
    """Write the zip file of a session.

    Args:
        folder: As ``Session.snapshot`` leaves it.
        file: To be written.
    """
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    bag = Path(bag) if (bag := about.pop("bag", "")) else None
    notes = list(_lines(folder / NOTES))
    carm = CArm.from_config()
    exposures = [_read(carm, content) for content in _lines(folder / EXPOSURES)]
    name = f"session_{datetime.fromtimestamp(about['started']).astimezone():%Y-%m-%d_%H-%M-%S}"
    shots, events, listed = [], list[IrradiationEvent](), []
    known = [one.exposure for one in exposures if one.exposure is not None]
    study = Study(known[0].time if known else datetime.now(UTC), str(read_yaml(config_file("carm.yaml"))["model"]))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for run in _runs(exposures):
            listed += [_described(one) for one in run]
            frames = tuple(one.exposure for one in run if one.exposure is not None)
            image_uid, event_uid, number = "", new_uid(), len(events) + 1
            shot = Shot(tuple(one.record for one in run), _angles_deg(frames))
            pixels = _pixels(folder / run[0].record.pixels) if run[0].record.pixels and frames else None
            if pixels is not None:
                frame = replace(frames[0], pixels=display_from_raw(pixels))
                image = xa_image(study, (frame,), number, event_uid)
                image_uid, path = str(image.SOPInstanceUID), f"dicom/image_{number:04d}.dcm"
                out.writestr(zipfile.ZipInfo(f"{name}/{path}", _now()), _bytes(image))  # stored: it is compressed
                listed[-1]["dicom"] = path
                shot = replace(shot, picture=_picture(pixels), sides=_sides(frames[0]), file=path)
            shots.append(shot)
            if frames:
                events.append(IrradiationEvent(event_uid, image_uid, frames))
        if events:
            out.writestr(f"{name}/dicom/dose_report.dcm", _bytes(dose_report(study, events, datetime.now(UTC))))
        about["bag"] = "" if bag is None else _add_bag(out, f"{name}/bag", bag)
        session = {"format": 1, **about, "exposures": listed, "events": notes}
        out.writestr(f"{name}/session.json", json.dumps(session, indent=1))
        out.writestr(f"{name}/report.html", report(about, study.model_name, shots, notes))


def _add_bag(out: zipfile.ZipFile, name: str, bag: Path) -> str:
    """Copy a bag, to which the recorder may go on writing; return why not, or where it is."""
    files = [file for file in sorted(bag.iterdir()) if file.suffix in _BAG_FILES and file.is_file()]
    size = sum(file.stat().st_size for file in files)
    if size > _MOST_BAG_BYTES:
        return f"not copied: {size / 1e9:.1f} GB are too many"
    for file in files:
        if not file.is_symlink():
            out.write(file, f"{name}/{file.name}", zipfile.ZIP_STORED)
    return "bag/"


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):  # the last one may still be being written
                    yield json.loads(line)


def _read(carm: CArm, content: dict[str, Any]) -> _Exposure:
    values = {field.name: content[field.name] for field in fields(ExposureRecord)}
    tuples = {key: tuple(values[key]) for key in ("field_px", "positions", "size_px")}
    record = ExposureRecord(**{**values, **tuples})
    if not record.positions or not record.focal_px:
        return _Exposure(record, None)
    try:
        view = carm.view_of_image(record.positions, *record.size_px, record.focal_px)
    except CarmError:
        return _Exposure(record, None)
    primary, secondary = carm.angles(np.array(record.positions))
    exposure = XrayExposure(
        pixels=np.empty((0, 0), np.uint16),
        view=view,
        primary_rad=primary,
        secondary_rad=secondary,
        time=datetime.fromtimestamp(0, UTC) + timedelta(microseconds=record.stamp_ns // 1000),
        fluoroscopy=record.fluoroscopy,
        voltage_kv=record.voltage_kv,
        current_ma=record.current_ma,
        pulse_s=record.pulse_s,
        air_kerma_gy=record.air_kerma_gy,
        dose_area_product_gym2=record.dose_area_product_gym2,
        field_px=record.field_px,  # type: ignore[arg-type]
    )
    return _Exposure(record, exposure)


def _runs(exposures: list[_Exposure]) -> Iterator[list[_Exposure]]:
    """Return each single exposure by itself, and the frames of a pulsed series together."""
    run: list[_Exposure] = []
    for one in exposures:
        series = run and run[-1].record.fluoroscopy and one.record.fluoroscopy
        if run and not (series and 0 <= one.record.stamp_ns - run[-1].record.stamp_ns < _RUN_GAP_S * 1e9):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def _described(one: _Exposure) -> dict[str, Any]:
    content = {field.name: getattr(one.record, field.name) for field in fields(ExposureRecord)}
    del content["pixels"]
    exposure = one.exposure
    angles = _angles_deg(() if exposure is None else (exposure,))
    content |= {"primary_deg": angles[0], "secondary_deg": angles[1]} if angles else {}
    return content


def _angles_deg(frames: tuple[XrayExposure, ...]) -> tuple[float, float] | None:
    return (
        None if not frames else (float(np.degrees(frames[0].primary_rad)), float(np.degrees(frames[0].secondary_rad)))
    )


def _sides(exposure: XrayExposure) -> dict[str, str]:
    """Return which side of the patient is at each side of the picture, by DICOM's directions of rows and columns."""
    right, bottom = (direction[0] for direction in patient_orientation(exposure))
    return {"left": _OPPOSITE[right], "right": right, "top": _OPPOSITE[bottom], "bottom": bottom}


def _pixels(file: Path) -> NDArray[np.uint16] | None:
    try:
        return np.asarray(np.load(file, allow_pickle=False), np.uint16)
    except (OSError, ValueError):  # dropped, since newer ones have come
        return None


def _picture(raw: NDArray[np.uint16]) -> bytes:
    """Return a JPEG file for the report."""
    from PIL import Image

    picture = Image.fromarray(display_from_signal(raw))
    picture.thumbnail((_PICTURE_PX, _PICTURE_PX), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()


def _bytes(dataset: Any) -> bytes:
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _now() -> tuple[int, int, int, int, int, int]:
    now = datetime.now()
    return (now.year, now.month, now.day, now.hour, now.minute, now.second)


if __name__ == "__main__":
    os.nice(_NICE)
    build(Path(sys.argv[1]), Path(sys.argv[2]))
