# SPDX-License-Identifier: Apache-2.0
"""The machine's solids lie where the robot description puts their links, and enclose what they stand for."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.paths import config_file
from carm_core.robot.kinematics import LINKS, CArm
from carm_core.robot.shapes import RobotGeometry, link_poses
from carm_core.robot.urdf import urdf
from carm_core.transforms import rotation_about

CARM = CArm.from_config()
GEOMETRY = RobotGeometry.from_config()
LOWER = np.array([joint.lower for joint in CARM.joints])
UPPER = np.array([joint.upper for joint in CARM.joints])
positions = st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6).map(lambda s: LOWER + np.array(s) * (UPPER - LOWER))


@settings(max_examples=20, deadline=None)
@given(positions)
def test_links_are_where_the_robot_description_puts_them(q: NDArray) -> None:
    pin = pytest.importorskip("pinocchio")
    model = pin.buildModelFromXML(urdf(CARM))
    data = model.createData()
    pin.framesForwardKinematics(model, data, q)
    poses = link_poses(CARM, q)
    assert tuple(poses) == LINKS
    for link, pose in poses.items():
        frame = data.oMf[model.getFrameId(link)]
        assert pose.translation == pytest.approx(frame.translation, abs=1e-9)
        assert pose.rotation == pytest.approx(frame.rotation, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(-0.5, 0.5))
def test_pieces_enclose_the_arc(along: float, radial: float, across: float) -> None:
    spec = next(s for s in yaml.safe_load(config_file("carm.yaml").read_text())["shapes"]["isocenter"] if "arc" in s)
    arc = spec["arc"]
    angle = math.radians(arc["from_deg"] + along * (arc["to_deg"] - arc["from_deg"]))
    radius = arc["inner_m"] + radial * (arc["outer_m"] - arc["inner_m"])
    point = np.array([across * arc["width_m"], radius * math.cos(angle), radius * math.sin(angle)])
    pieces = [shape for shape in GEOMETRY.shapes if shape.name == spec["name"]]
    assert len(pieces) == arc["pieces"]
    inside = [
        bool((np.abs(s.transform_shape_to_link.inverse().apply(point)) <= s.half_extent_m + 1e-9).all()) for s in pieces
    ]
    assert any(inside)


def test_orientation_in_fixed_axis_angles() -> None:
    for shape in GEOMETRY.shapes:
        roll, pitch, yaw = shape.rpy_rad
        matrix = rotation_about("z", yaw) @ rotation_about("y", pitch) @ rotation_about("x", roll)
        assert matrix == pytest.approx(shape.transform_shape_to_link.rotation, abs=1e-9)


def test_beam_is_free_of_solids() -> None:
    """From the collimator to the detector, the machine itself must not stand in the beam."""
    half = CARM.detector.rows * CARM.detector.pitch_mm / 2000 / CARM.source_detector_m
    poses = link_poses(CARM, CARM.home)
    to_carm = poses["isocenter"].inverse()
    depth = np.linspace(0.17, CARM.source_detector_m - 0.03, 40)
    slopes = np.linspace(-half, half, 5)[np.indices((5, 5)).reshape(2, -1).T]
    across = slopes[:, None] * depth[:, None]
    beam = np.dstack([across, np.broadcast_to(depth - CARM.source_isocenter_m, across.shape[:2])]).reshape(-1, 3)
    for shape in GEOMETRY.moving:
        transform = to_carm @ poses[shape.link] @ shape.transform_shape_to_link
        local = np.abs(transform.inverse().apply(beam))
        assert not (local <= shape.half_extent_m).all(axis=1).any(), shape.id


def test_identifiers_are_unique_and_watched_pairs_of_different_links() -> None:
    assert len({shape.id for shape in GEOMETRY.shapes}) == len(GEOMETRY.shapes)
    pairs = list(GEOMETRY.self_pairs())
    assert pairs
    assert all(a.link != b.link for a, b in pairs)
    assert not any({a.name, b.name} == {"c_arc", "arc_holder"} for a, b in pairs)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  isocenter:    ", "  isocentre:    "),
        ("box_m: [0.60, 1.00, 0.10]", "box_m: [0.60, 1.00]"),
        ("box_m: [0.60, 1.00, 0.10]", "box_m: [0.60, -1.00, 0.10]"),
        ("[c_arc, arc_holder]", "[c_arc, arc_folder]"),
        ("name: column", "name: cabinet"),
        ("inner_m: 0.66", "inner_m: 0.99"),
    ],
)
def test_malformed_shapes_are_refused(tmp_path: Path, old: str, new: str) -> None:
    text = config_file("carm.yaml").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "carm.yaml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="carm.yaml"):
        RobotGeometry.from_config(file)
