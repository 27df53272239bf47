# SPDX-License-Identifier: Apache-2.0
"""``carm snapshot --gallery``: generated bodies beside the real chest CT, at the same views, on one sheet."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError, GoalError

if TYPE_CHECKING:
    from PIL import Image

    from carm_core.robot.kinematics import CArm
    from carm_sim.patient.patient import Patient

PHANTOMS = 8
TILE_PX = 256
_LABEL_PX = 22

VIEWS: tuple[tuple[str, int, float, float], ...] = (
    ("AP, carina", 11, 0.0, 0.0),
    ("AP, right hemidiaphragm", 12, 0.0, 0.0),
    ("LAO 40 CRAN 10, T12", 14, 40.0, 10.0),
    ("AP, left humeral head", 3, 0.0, 0.0),
)
"""Name, landmark in the center, primary and secondary angle in degrees."""


def snapshot(options: argparse.Namespace) -> int:
    """Save an exposure of the running graph, or with ``--gallery`` a sheet that needs no graph.

    Raises:
        ConfigurationError: The sheet cannot be written.
    """
    if not options.gallery:
        from carm_bringup.nodes.client import snapshot as of_the_graph

        return of_the_graph(options)
    path = Path(options.file)
    if path.suffix.lower() != ".png" or not path.absolute().parent.is_dir():
        print(f"carm snapshot: {path} must end in .png and lie in a folder that exists", file=sys.stderr)
        return 2
    patients = ["chest_ct", *(f"phantom:{options.seed + index}" for index in range(PHANTOMS))]
    try:
        sheet(patients, progress=True).save(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error
    print(f"{path}: {len(VIEWS)} views of {', '.join(patients)}")
    return 0


def sheet(patients: list[str], tile_px: int = TILE_PX, progress: bool = False) -> Image.Image:
    """Compose the sheet: a column for each patient, a row for each view.

    Args:
        patients: Names of patients.
        tile_px: Side of a tile, px.
        progress: Show a progress bar.
    """
    from PIL import Image, ImageDraw
    from tqdm import tqdm

    from carm_core.robot.kinematics import CArm
    from carm_sim.patient_loader import load_patient

    carm = CArm.from_config()
    picture = Image.new("L", (tile_px * len(patients), _LABEL_PX + tile_px * len(VIEWS)))
    pen = ImageDraw.Draw(picture)
    for column, name in enumerate(tqdm(patients, desc="gallery", unit="patient", disable=not progress)):
        pen.text((column * tile_px + 6, 4), name, fill=220)
        for row, image in enumerate(_tiles(load_patient(name), carm)):
            tile = Image.fromarray(image).resize((tile_px - 2, tile_px - 2), Image.Resampling.LANCZOS)
            picture.paste(tile, (column * tile_px + 1, _LABEL_PX + row * tile_px + 1))
            if column == 0:
                pen.text((6, _LABEL_PX + row * tile_px + 6), VIEWS[row][0], fill=255, stroke_width=2, stroke_fill=0)
    return picture


def _tiles(patient: Patient, carm: CArm) -> list[NDArray[np.uint8]]:
    """Return one display image for each view; black where the view is out of reach."""
    from carm_sim.xray import XraySystem

    system = XraySystem(patient, carm, seed=0)
    images = []
    for _, mark, primary, secondary in VIEWS:
        try:
            point_m = patient.landmarks_table_mm[mark] / 1000
            positions = carm.inverse(point_m, math.radians(primary), math.radians(secondary))[0]
        except (GoalError, KeyError):
            images.append(np.zeros((8, 8), np.uint8))
        else:
            images.append(system.expose(positions).display)
    return images
