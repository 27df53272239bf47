# SPDX-License-Identifier: Apache-2.0
"""Gazebo: the world around the C-arm, and the patient on its table.

``python -m carm_bringup.graph.gazebo patient --patient phantom:7`` writes the patient's model and prints its path.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from carm_core.errors import CarmError
from carm_core.paths import cache_dir
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import RobotGeometry, Shape

SDF_VERSION = "1.9"
"""Of the files written here; Gazebo Harmonic reads up to 1.11, Debian's parser up to 1.9."""
WORLD = "carm"
STEP_S = 0.001
PLUGINS = (
    ("gz-sim-physics-system", "gz::sim::systems::Physics"),
    ("gz-sim-user-commands-system", "gz::sim::systems::UserCommands"),
    ("gz-sim-scene-broadcaster-system", "gz::sim::systems::SceneBroadcaster"),
)
PEDESTAL_M = (0.18, 0.40)
"""Footprint of the table's pedestal, at the foot end, out of the chassis's way, m."""
PEDESTAL_X_M = -1.36
BEAM_M = (0.50, 0.30, 0.06)
"""Below the foot end of the table top, from the pedestal on, m."""


def world(carm: CArm, geometry: RobotGeometry) -> str:
    """Describe floor, light and table as an SDF world; the origin is on the floor below the table's center.

    Args:
        carm: Says how high the table is.
        geometry: Has the table's solids.

    Returns:
        The XML text.
    """
    sdf = ET.Element("sdf", version=SDF_VERSION)
    place = ET.SubElement(sdf, "world", name=WORLD)
    physics = ET.SubElement(place, "physics", name="1ms", type="ignored")
    ET.SubElement(physics, "max_step_size").text = str(STEP_S)
    ET.SubElement(physics, "real_time_factor").text = "1.0"
    for filename, name in PLUGINS:
        ET.SubElement(place, "plugin", filename=filename, name=name)
    ET.SubElement(place, "gravity").text = "0 0 -9.81"
    scene = ET.SubElement(place, "scene")
    ET.SubElement(scene, "ambient").text = "0.5 0.5 0.5 1"
    ET.SubElement(scene, "background").text = "0.75 0.8 0.85 1"
    light = ET.SubElement(place, "light", name="ceiling", type="directional")
    ET.SubElement(light, "pose").text = "0 0 4 0 0 0"
    ET.SubElement(light, "diffuse").text = "0.8 0.8 0.8 1"
    ET.SubElement(light, "direction").text = "-0.3 -0.2 -0.9"
    floor = _solid(_static(place, "floor"), "floor", "0 0 0 0 0 0", "0.55 0.58 0.55 1")
    for geometry_element in floor:
        plane = ET.SubElement(geometry_element, "plane")
        ET.SubElement(plane, "normal").text = "0 0 1"
        ET.SubElement(plane, "size").text = "8 8"
    link = _static(place, "table", f"0 0 {carm.table_height_m!r} 0 0 0")
    underside = 0.0
    for shape in geometry.of_link("table"):
        _shape(link, shape, "0.25 0.27 0.30 1")
        underside = min(underside, float(shape.corners_m[:, 2].min()))
    beam_x = PEDESTAL_X_M - PEDESTAL_M[0] / 2 + BEAM_M[0] / 2
    for geometry_element in _solid(
        link, "beam", f"{beam_x:.6g} 0 {underside - BEAM_M[2] / 2:.6g} 0 0 0", "0.6 0.62 0.65 1"
    ):
        _box(geometry_element, BEAM_M)
    underside -= BEAM_M[2]
    height = carm.table_height_m + underside
    pedestal = _solid(link, "pedestal", f"{PEDESTAL_X_M} 0 {underside - height / 2:.6g} 0 0 0", "0.6 0.62 0.65 1")
    for geometry_element in pedestal:
        _box(geometry_element, (*PEDESTAL_M, height))
    ET.indent(sdf)
    return '<?xml version="1.0"?>\n' + ET.tostring(sdf, encoding="unicode") + "\n"


def patient_model(mesh: Path, carm: CArm) -> str:
    """Describe the patient's surface as a static SDF model on the table.

    Args:
        mesh: STL file, frame ``table``, m.
        carm: Says how high the table is.

    Returns:
        The XML text.
    """
    sdf = ET.Element("sdf", version=SDF_VERSION)
    link = _static(sdf, "patient", f"0 0 {carm.table_height_m!r} 0 0 0")
    for geometry_element in _solid(link, "surface", "0 0 0 0 0 0", "0.87 0.72 0.62 1"):
        ET.SubElement(ET.SubElement(geometry_element, "mesh"), "uri").text = mesh.resolve().as_uri()
    ET.indent(sdf)
    return '<?xml version="1.0"?>\n' + ET.tostring(sdf, encoding="unicode") + "\n"


def write_patient(name: str, folder: Path | None = None) -> Path:
    """Write a patient's surface (STL) and its model.

    Args:
        name: ``chest_ct``, ``phantom:SEED`` or a path, as everywhere.
        folder: Where to; None: the cache.

    Returns:
        Path of the model, ``patient.sdf``.

    Raises:
        CarmError: There is no such patient.
    """
    import trimesh

    from carm_sim.patient.surface import patient_surface
    from carm_sim.patient_loader import load_patient

    folder = folder or cache_dir() / "gazebo" / hashlib.sha256(name.encode()).hexdigest()[:16]
    surface = patient_surface(load_patient(name))
    folder.mkdir(parents=True, exist_ok=True)
    mesh = folder / "patient.stl"
    trimesh.Trimesh(np.asarray(surface.vertices_m), np.asarray(surface.triangles), process=False).export(mesh)
    model = folder / "patient.sdf"
    model.write_text(patient_model(mesh, CArm.from_config()), encoding="utf-8")
    return model


def _static(parent: ET.Element, name: str, pose: str = "0 0 0 0 0 0") -> ET.Element:
    model = ET.SubElement(parent, "model", name=name)
    ET.SubElement(model, "static").text = "true"
    ET.SubElement(model, "pose").text = pose
    return ET.SubElement(model, "link", name=name)


def _solid(link: ET.Element, name: str, pose: str, color: str) -> list[ET.Element]:
    """Add a visual and a collision; return the two elements that want a geometry."""
    out = []
    for tag in ("visual", "collision"):
        part = ET.SubElement(link, tag, name=f"{name}_{tag}")
        ET.SubElement(part, "pose").text = pose
        out.append(ET.SubElement(part, "geometry"))
        if tag == "visual":
            material = ET.SubElement(part, "material")
            for kind in ("ambient", "diffuse"):
                ET.SubElement(material, kind).text = color
    return out


def _shape(link: ET.Element, shape: Shape, color: str) -> None:
    where = (*shape.transform_shape_to_link.translation, *shape.rpy_rad)
    pose = " ".join(f"{float(value):.9g}" for value in where)
    for element in _solid(link, shape.id, pose, color):
        if shape.kind == "box":
            _box(element, shape.size_m)
        else:
            cylinder = ET.SubElement(element, "cylinder")
            ET.SubElement(cylinder, "radius").text = repr(shape.size_m[0])
            ET.SubElement(cylinder, "length").text = repr(shape.size_m[1])


def _box(element: ET.Element, size_m: tuple[float, ...]) -> None:
    ET.SubElement(ET.SubElement(element, "box"), "size").text = " ".join(f"{value:.9g}" for value in size_m)


def main() -> int:
    """Write what is asked for; return an exit code."""
    parser = argparse.ArgumentParser(prog="carm_bringup.graph.gazebo", description="write a patient's model for Gazebo")
    parser.add_argument("what", choices=("patient",))
    parser.add_argument("--patient", required=True, help="chest_ct, phantom:SEED or a path")
    parser.add_argument("--output", type=Path, default=None, help="folder; default: in the cache")
    options = parser.parse_args()
    try:
        print(write_patient(options.patient, options.output))
    except CarmError as error:
        print(f"carm_bringup.graph.gazebo: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
