# SPDX-License-Identifier: Apache-2.0
"""Write what is derived from ``config/carm.yaml``: the files in ``urdf``, ``meshes``, ``worlds`` and ``moveit``.

.venv/bin/python scripts/make_robot.py                      # after each change of config/carm.yaml
.venv/bin/python scripts/make_robot.py --picture robot.png  # also a picture of the C-arm at three positions
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

import coal
import numpy as np
import trimesh
import yaml
from scipy.stats import qmc

from carm_bringup.graph.gazebo import world
from carm_core.paths import config_file
from carm_core.robot.kinematics import LINKS, CArm
from carm_core.robot.moveit import Pair, parameter_files, srdf
from carm_core.robot.shapes import RIGID_GROUP, RobotGeometry, Shape, link_poses
from carm_core.robot.urdf import COLORS, xacro
from carm_core.transforms import Array

ROOT = Path(__file__).resolve().parents[1]
BEVEL = 0.12
"""Bevel of an edge, as a share of the shortest side of its solid."""
ARC_STEP_DEG = 4.0
APART_M = 0.05
"""Links whose solids never come closer than this are not checked against each other by MoveIt."""
SAMPLES = 256
VIEWS = (
    ("AP", (0.0, 0.0, 0.17, 0.0, 0.0, 0.0)),
    ("LAO 45, lifted", (0.0, 0.1, 0.35, 0.0, 0.0, math.radians(45))),
    ("cranial 25", (0.2, 0.0, 0.17, 0.0, math.radians(25), 0.0)),
)


def solid_mesh(shape: Shape) -> trimesh.Trimesh:
    """Return a beveled solid, inside its shape, in the link's frame, m."""
    if shape.kind == "box":
        half = shape.half_extent_m
        inset = BEVEL * 2 * half.min()
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
        corners = np.vstack([signs * (half - inset * (np.arange(3) != axis)) for axis in range(3)])
        mesh = trimesh.convex.convex_hull(corners)
    else:
        mesh = trimesh.creation.cylinder(radius=shape.size_m[0], height=shape.size_m[1], sections=32)
    mesh.apply_transform(shape.transform_shape_to_link.matrix)
    return mesh


def arc_mesh(spec: dict[str, float]) -> trimesh.Trimesh:
    """Return the smooth part of a ring that ``arc`` of ``config/carm.yaml`` describes, in the link's frame, m."""
    low, high, wide = spec["inner_m"], spec["outer_m"], spec["width_m"] / 2
    inset = BEVEL * min(high - low, 2 * wide)
    profile = [(-wide, low + inset), (-wide, high - inset), (-wide + inset, high), (wide - inset, high)]
    profile += [(wide, high - inset), (wide, low + inset), (wide - inset, low), (-wide + inset, low)]
    count = math.ceil((spec["to_deg"] - spec["from_deg"]) / ARC_STEP_DEG)
    angles = np.radians(np.linspace(spec["from_deg"], spec["to_deg"], count + 1))
    vertices = [(x, r * math.cos(a), r * math.sin(a)) for a in angles for x, r in profile]
    faces: list[tuple[int, int, int]] = []
    n = len(profile)
    for step in range(count):
        for i in range(n):
            a, b = step * n + i, step * n + (i + 1) % n
            faces += [(a, b, a + n), (b, b + n, a + n)]
    last = count * n
    for i in range(1, n - 1):
        faces += [(0, i + 1, i), (last, last + i, last + i + 1)]
    mesh = trimesh.Trimesh(np.array(vertices), np.array(faces))
    mesh.fix_normals()
    return mesh


def link_mesh(link: str, geometry: RobotGeometry, specs: list[dict[str, Any]]) -> trimesh.Trimesh:
    """Return what a link looks like, in its own frame, m."""
    arcs = {spec["name"]: spec["arc"] for spec in specs if "arc" in spec}
    parts = [solid_mesh(shape) for shape in geometry.of_link(link) if shape.name not in arcs]
    parts += [arc_mesh({key: float(value) for key, value in arc.items()}) for arc in arcs.values()]
    return trimesh.util.concatenate(parts)


def meshes() -> dict[str, trimesh.Trimesh]:
    """Return the mesh of each link with shapes, by link."""
    geometry = RobotGeometry.from_config()
    specs = yaml.safe_load(config_file("carm.yaml").read_text(encoding="utf-8"))["shapes"]
    return {link: link_mesh(link, geometry, specs[link]) for link in LINKS if geometry.of_link(link)}


def links_apart(carm: CArm, geometry: RobotGeometry) -> dict[Pair, str]:
    """Return the pairs of links that need no collision check, and why, in MoveIt's words.

    Links that a joint joins, and those of the rigid C, are adjacent. Parts that touch by construction
    (``ignored_pairs``) say nothing about their links; links of which nothing else comes near, at the limits of the
    joints and at :data:`SAMPLES` positions between them, never meet.
    """
    links = [link for link in LINKS if geometry.of_link(link)]
    apart: dict[Pair, str] = {}
    watched: dict[Pair, list[tuple[Shape, Shape]]] = {}
    for pair in itertools.combinations(links, 2):
        met = itertools.product(*map(geometry.of_link, pair))
        watched[pair] = [(a, b) for a, b in met if frozenset((a.name, b.name)) not in geometry.ignored_pairs]
        if set(pair) <= set(RIGID_GROUP):
            apart[pair] = "Adjacent"
        elif not watched[pair]:
            linked = LINKS.index(pair[1]) - LINKS.index(pair[0]) == 1
            apart[pair] = "Adjacent" if linked else "User"
    solids = {s.id: coal.Box(*s.size_m) if s.kind == "box" else coal.Cylinder(*s.size_m) for s in geometry.shapes}
    lower, upper = (np.array([getattr(joint, side) for joint in carm.joints]) for side in ("lower", "upper"))
    between = lower + qmc.Sobol(len(lower), seed=0).random(SAMPLES) * (upper - lower)
    open_pairs = {pair: parts for pair, parts in watched.items() if pair not in apart}
    for positions in (*itertools.product(*zip(lower, upper, strict=True)), *between):
        poses = link_poses(carm, positions)
        places = {}
        for shape in geometry.shapes:
            place = poses[shape.link] @ shape.transform_shape_to_link
            places[shape.id] = coal.Transform3s(place.rotation, place.translation)
        for pair, parts in list(open_pairs.items()):
            for a, b in parts:
                request, result = coal.DistanceRequest(), coal.DistanceResult()
                if coal.distance(solids[a.id], places[a.id], solids[b.id], places[b.id], request, result) < APART_M:
                    del open_pairs[pair]
                    break
    apart |= dict.fromkeys(open_pairs, "Never")
    return {pair: apart[pair] for pair in watched if pair in apart}


def moveit_files() -> dict[str, str]:
    """Return the files of MoveIt's configuration by name."""
    carm = CArm.from_config()
    head = "# Written by scripts/make_robot.py from config/carm.yaml. m, rad, s.\n"
    files = {name: head + yaml.safe_dump(data, sort_keys=False) for name, data in parameter_files(carm).items()}
    return {"carm.srdf": srdf(carm, links_apart(carm, RobotGeometry.from_config())), **files}


def draw(file: Path) -> None:
    """Draw the C-arm at :data:`VIEWS`, shaded by the light from above."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    carm = CArm.from_config()
    light = np.array([-0.4, -0.5, 0.77])
    figure = plt.figure(figsize=(12, 4))
    for index, (title, positions) in enumerate(VIEWS, start=1):
        axes: Any = figure.add_subplot(1, len(VIEWS), index, projection="3d")
        poses = link_poses(carm, positions)
        for link, mesh in meshes().items():
            color = np.array([float(word) for word in COLORS[link].split()[:3]])
            corners: Array = poses[link].apply(mesh.vertices)[mesh.faces]
            normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
            shade = 0.55 + 0.45 * np.clip(normals @ light, 0, 1)
            faces = Poly3DCollection(corners, facecolors=np.clip(color * shade[:, None], 0, 1))
            axes.add_collection3d(faces)
        axes.set(xlim=(-1.1, 1.1), ylim=(-0.7, 1.5), zlim=(-0.95, 0.85))
        axes.set_title(title, y=0.02)
        axes.set_box_aspect((2.2, 2.2, 1.8), zoom=1.45)
        axes.view_init(elev=18, azim=-35)
        axes.set_axis_off()
    figure.tight_layout()
    figure.savefig(file, dpi=90)


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="PNG to draw")
    options = parser.parse_args()
    for folder in ("urdf", "meshes", "worlds", "moveit"):
        (ROOT / folder).mkdir(exist_ok=True)
    carm = CArm.from_config()
    (ROOT / "urdf/carm.urdf.xacro").write_text(xacro(carm), encoding="utf-8")
    (ROOT / "worlds/carm.sdf").write_text(world(carm, RobotGeometry.from_config()), encoding="utf-8")
    for name, text in moveit_files().items():
        (ROOT / "moveit" / name).write_text(text, encoding="utf-8")
    for link, mesh in meshes().items():
        mesh.export(ROOT / "meshes" / f"{link}.stl")
    if options.picture:
        draw(options.picture)


if __name__ == "__main__":
    main()
