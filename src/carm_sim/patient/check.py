# SPDX-License-Identifier: Apache-2.0
"""``carm patient check PATH``: what the importer makes of a CT, and a sheet of pictures of it; needs no graph."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.errors import ConfigurationError, PatientError
from carm_sim.patient.ct.source import laid_in_lps, shown
from carm_sim.patient.volume import Volume

if TYPE_CHECKING:
    from PIL import Image

    from carm_sim.patient.patient import Patient

_AXIS_WORDS = (("left", "right"), ("back", "front"), ("head", "feet"))
_LUNG_HU = (-950, -500)
_LUNG_GRID_MM = 4.0
_CHEST_LUNG_L = 0.5
_WINDOW_HU = (-1000, 1000)
_SOFT_WINDOW_HU = (-160, 240)
_SLICES = 6
_TILE_PX = 300
_LINE_PX = 15


@dataclass
class Report:
    """What the importer makes of a file or folder.

    Attributes:
        path: What was asked for.
        accepted: Whether it can be a patient.
        reason: Why not; empty when accepted.
        warnings: What the importer warned of.
        facts: Name of a fact to its value, for people.
        size: Voxels along each index.
        spacing_mm: Their distances, mm.
        orientation: Where the indices grow to, from the patient's point of view.
        hu: Lowest and highest value, HU, after padding became air.
        body_mm: Size of the body from left to right, front to back, head to feet, mm.
        lung_liters: Volume of air inside the body that looks like lung.
        landmarks: Number of landmarks in the ``landmarks.yaml`` beside it; None when there is none.
    """

    path: str
    accepted: bool = False
    reason: str = ""
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    size: list[int] = field(default_factory=list)
    spacing_mm: list[float] = field(default_factory=list)
    orientation: str = ""
    hu: list[int] = field(default_factory=list)
    body_mm: list[float] = field(default_factory=list)
    lung_liters: float = 0.0
    landmarks: int | None = None

    @property
    def region(self) -> str:
        """The body region: by the lungs, and as the DICOM header says."""
        seen = f"{self.lung_liters:.1f} l of lung" if self.lung_liters >= _CHEST_LUNG_L else "no lungs"
        kind = "chest" if self.lung_liters >= _CHEST_LUNG_L else "not the chest"
        stated = self.facts.get("body_part")
        return f"{kind} ({seen})" + (f"; the DICOM header says {stated}" if stated else "")

    def lines(self) -> list[tuple[str, str]]:
        """Return the report as pairs of name and text."""
        found = [(name, text) for name, text in self.facts.items() if text and name != "body_part"]
        if self.accepted:
            extent = np.array(self.size) * self.spacing_mm
            known = "none beside it: ground truth is unknown"
            found += [
                ("size", f"{' x '.join(map(str, self.size))} voxels, {shown(np.round(extent))} mm"),
                ("spacing", f"{shown(np.round(self.spacing_mm, 4))} mm"),
                ("orientation", self.orientation),
                ("values", f"{self.hu[0]} to {self.hu[1]} HU"),
                ("body", "{:.0f} x {:.0f} x {:.0f} mm (left-right, front-back, head-feet)".format(*self.body_mm)),
                ("region", self.region),
                ("landmarks", known if self.landmarks is None else f"{self.landmarks}, of this CT"),
            ]  # fmt: skip
        return found + [("warning", text) for text in self.warnings]


def examine(text: str) -> tuple[Report, Patient | None]:
    """Read a CT as the simulator does.

    Args:
        text: Path of a file or folder, with options behind ``?`` as in ``carm_sim.patient_loader.load_patient``.

    Returns:
        The report, and the patient unless it is refused.
    """
    from carm_sim.patient.ct.files import open_ct
    from carm_sim.patient_loader import path_and_options, patient_of, single_image

    report = Report(text)
    try:
        path, options = path_and_options(text)
        path = single_image(path, options.series)
        with _collected(report.warnings, path):
            source = open_ct(path, options.series)
            report.facts = dict(source.facts)
            patient = patient_of(source, options)
    except PatientError as error:
        report.reason = str(error)
        return report, None
    volume = patient.volume
    low, high = volume.body_box_mm()
    report.accepted = True
    report.size, report.spacing_mm = list(volume.shape), volume.spacing_mm.tolist()
    report.orientation = orientation(volume)
    report.hu = [int(volume.hu.min()), int(volume.hu.max())]
    report.body_mm = (high - low).tolist()
    report.lung_liters = lung_liters(volume)
    report.landmarks = len(patient.landmarks_mm) if patient.landmarks_known else None
    return report, patient


@contextmanager
def _collected(warnings: list[str], path: Path) -> Iterator[None]:
    """Collect what the importer warns of, each line once."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage().removeprefix(f"{path}: ")
            if text not in warnings:
                warnings.append(text)

    logger, handler = logging.getLogger("carm_sim"), Collector(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def orientation(volume: Volume) -> str:
    """Where each index grows to, and by how much the grid is turned against the patient's axes."""
    directions = volume.transform_voxel_to_lps[:3, :3] / volume.spacing_mm
    axes = np.abs(directions).argmax(0)
    words = [_AXIS_WORDS[axis][0 if directions[axis, index] > 0 else 1] for index, axis in enumerate(axes)]
    largest = np.degrees(np.arccos(np.clip(np.abs(directions[axes, range(3)]).min(), 0, 1)))
    turned = f", turned by up to {largest:.1f} deg" if largest > 0.5 else ""
    return f"columns to the {words[0]}, rows to the {words[1]}, slices to the {words[2]}{turned}"


def lung_liters(volume: Volume) -> float:
    """Return the volume of the large regions of lung-like air inside the body, in liters."""
    step = np.maximum(1, np.round(_LUNG_GRID_MM / volume.spacing_mm)).astype(int)
    hu = laid_in_lps(volume.hu[:: step[0], :: step[1], :: step[2]], volume.transform_voxel_to_lps)
    air = hu < _LUNG_HU[1]
    labels, _ = ndimage.label(air)
    sides = np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()])
    inside = air & ~np.isin(labels, np.unique(sides))
    lung = ndimage.binary_opening(inside & (hu > _LUNG_HU[0]))
    return float(lung.sum() * np.prod(volume.spacing_mm * step) / 1e6)


def contact_sheet(volume: Volume, report: Report) -> Image.Image:
    """Return the pictures of a CT as a radiologist hangs them: the patient's right on the left, front or head up.

    Args:
        volume: The CT.
        report: What is written below the pictures.
    """
    from PIL import Image, ImageDraw

    hu = laid_in_lps(volume.hu, volume.transform_voxel_to_lps)
    order = np.abs(volume.transform_voxel_to_lps[:3, :3]).argmax(1)
    x, y, z = volume.spacing_mm[order]
    tiles = [
        ("coronal projection", "R", "L", hu.max(1).T[::-1], z, x, _WINDOW_HU),
        ("coronal, middle", "R", "L", hu[:, hu.shape[1] // 2].T[::-1], z, x, _WINDOW_HU),
        ("sagittal, middle", "A", "P", hu[hu.shape[0] // 2].T[::-1], z, y, _WINDOW_HU),
    ]
    places = np.linspace(hu.shape[2] - 1, 0, _SLICES + 2)[1:-1].round().astype(int)
    tiles += [
        (f"axial, {k + 1} of {hu.shape[2]} from the feet", "R", "L", hu[:, :, k].T, y, x, _SOFT_WINDOW_HU)
        for k in places
    ]
    lines = [Path(report.path).name, *(f"{name:<12} {text}" for name, text in report.lines())]
    columns = 3
    rows = -(-len(tiles) // columns)
    width = columns * _TILE_PX
    lines = [line[at : at + width // 7] for line in lines for at in range(0, max(1, len(line)), width // 7)]
    sheet = Image.new("L", (width, rows * _TILE_PX + (len(lines) + 1) * _LINE_PX))
    pen = ImageDraw.Draw(sheet)
    for index, (title, left, right, plane, high_mm, wide_mm, window) in enumerate(tiles):
        corner = index % columns * _TILE_PX, index // columns * _TILE_PX
        sheet.paste(_tile(plane, high_mm, wide_mm, window), corner)
        for text, across, anchor in ((title, 6, "lt"), (left, 6, "lm"), (right, _TILE_PX - 8, "rm")):
            at = corner[0] + across, corner[1] + (5 if anchor == "lt" else _TILE_PX // 2)
            pen.text(at, text, fill=255, anchor=anchor, stroke_width=2, stroke_fill=0)
    for index, line in enumerate(lines):
        pen.text((6, rows * _TILE_PX + 6 + index * _LINE_PX), line, fill=220)
    return sheet


def _tile(plane: NDArray[np.int16], high_mm: float, wide_mm: float, window: tuple[int, int]) -> Image.Image:
    """Return a plane, shape (rows, columns), windowed and scaled to its true proportions, in the middle of a tile."""
    from PIL import Image

    low, high = window
    gray = np.clip((plane.astype(float) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    height, width = plane.shape[0] * high_mm, plane.shape[1] * wide_mm
    scale = (_TILE_PX - 4) / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tile = Image.new("L", (_TILE_PX, _TILE_PX))
    picture = Image.fromarray(gray).resize(size, Image.Resampling.BILINEAR)
    tile.paste(picture, ((_TILE_PX - size[0]) // 2, (_TILE_PX - size[1]) // 2))
    return tile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument(
        "path",
        help="CT file (NIfTI, NRRD, MetaImage), or a folder with a DICOM series in it or below; options as in"
        " patient:=, for example folder?series=UID",
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="PNG of slices and projections (NAME_check.png)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report, also of what is refused")


def run(options: argparse.Namespace) -> int:
    """Print the report, write sheet and JSON file.

    Returns:
        0 when the CT can be a patient, 2 when it is refused.

    Raises:
        ConfigurationError: A file cannot be written.
    """
    path = Path(options.path.partition("?")[0])
    sheet = options.sheet or Path(f"{path.resolve().name.partition('.')[0] or 'patient'}_check.png")
    for file, suffix in ((sheet, ".png"), (options.json, ".json")):
        if file is not None and (file.suffix.lower() != suffix or not file.absolute().parent.is_dir()):
            raise ConfigurationError(f"{file} must end in {suffix} and lie in a folder that exists")
    report, patient = examine(options.path)
    for name, text in report.lines():
        print(f"{name:<12} {text}")
    try:
        if options.json is not None:
            results: dict[str, Any] = {"patient": asdict(report) | {"region": report.region if patient else ""}}
            content = {"command": f"carm patient check {options.path}", "results": results}
            options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if patient is not None:
            contact_sheet(patient.volume, report).save(sheet)
            print(f"{'sheet':<12} {sheet}")
    except OSError as error:
        raise ConfigurationError(f"cannot write {error.filename or sheet}: {error.strerror or error}") from error
    if patient is None:
        print(f"carm patient check: {report.reason}", file=sys.stderr)
        return 2
    return 0
