# SPDX-License-Identifier: Apache-2.0
"""What the page is told of the room, without a graph."""

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trimesh

from carm_bringup.console.archive import Archive
from carm_core.paths import share_dir
from carm_core.robot.kinematics import LINKS, CArm

pytest.importorskip("rclpy")
CARM = CArm.from_config()


def read(data: bytes) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """As room.js does."""
    (count,) = struct.unpack_from("<I", data)
    vertices = np.frombuffer(data, "<f4", 3 * count, 4).reshape(-1, 3)
    return vertices, np.frombuffer(data, "<u4", offset=4 + 12 * count).reshape(-1, 3)


@pytest.mark.parametrize("link", ["isocenter", "table"])
def test_meshes_are_those_of_the_robot_description(link: str) -> None:
    from carm_bringup.nodes.console_room import stl_mesh

    file = share_dir() / f"meshes/{link}.stl"
    vertices, triangles = read(stl_mesh(file))
    mesh = trimesh.load_mesh(file)
    np.testing.assert_allclose([vertices.min(0), vertices.max(0)], mesh.bounds, atol=1e-6)
    assert trimesh.Trimesh(vertices, triangles).area == pytest.approx(mesh.area, rel=1e-4)


def room() -> Any:
    from carm_bringup.nodes.console_room import Room

    made: Any = SimpleNamespace(_carm=CARM, _parts=Archive(32))
    made._poses_at = lambda positions: Room._poses_at(made, positions)
    return made


def test_every_link_with_a_mesh_is_described() -> None:
    from carm_bringup.nodes.console_room import Room

    made = room()
    about = Room._described(made)
    assert [link["name"] for link in about["links"]] == list(LINKS)
    meshes = {link["name"] for link in about["links"] if link["mesh"]}
    assert meshes == {file.stem for file in (share_dir() / "meshes").glob("*.stl")}
    assert all(made._parts.get(name) is not None for name in meshes)
    assert about["library"] == (made._parts.get("three.module.js") is not None)
    assert about["detector"][0] == pytest.approx(1e-3 * CARM.detector.columns * CARM.detector.pitch_mm)


def test_the_path_of_a_plan_ends_where_it_ends() -> None:
    from carm_bringup.nodes.console_room import Room

    names = list(reversed(CARM.joint_names))  # another order than ours
    goal = CARM.home + np.array([0.1, 0.05, 0.02, 0.0, 0.1, 0.5])
    steps = [CARM.home + share * (goal - CARM.home) for share in np.linspace(0, 1, 200)]
    points = [SimpleNamespace(positions=step[::-1].tolist()) for step in steps]
    ghost = Room.ghost(room(), SimpleNamespace(joint_names=names, points=points))
    assert ghost is not None
    center, source, _ = (np.array(path) for path in ghost["paths"])
    np.testing.assert_allclose(center[[0, -1]], [CARM.isocenter(CARM.home), CARM.isocenter(goal)], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(source - center, axis=1), CARM.source_isocenter_m, atol=5e-4)
    assert len(center) <= 48
    assert len(ghost["machine"]) == 4
    last = np.array(ghost["machine"][-1])
    np.testing.assert_allclose(last[:, :3], CARM.link_frames(goal)[1], atol=1e-4)
    assert Room.ghost(room(), SimpleNamespace(joint_names=["lift"], points=points)) is None
    assert Room.ghost(room(), SimpleNamespace(joint_names=names, points=[])) is None


def test_an_arm_that_trembles_is_not_drawn_anew() -> None:
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import JointState

    from carm_bringup.nodes.console_room import Room
    from carm_core.robot.joint_check import JointStateCheck

    made = room()
    vars(made).update({"_joints": b"", "_poses": None, "_positions": CARM.home, "_zones": [], "_surfaces": 0})
    made._clearance = lambda: None
    made._check = JointStateCheck(CARM.joints)
    refused: list[str] = []
    made._node = SimpleNamespace(refuse=lambda source, error: refused.append(source))

    def shown(off: float) -> Any:
        positions = (CARM.home + off).tolist()
        message = JointState(name=list(CARM.joint_names), position=positions, velocity=[0.0] * 6)
        return Room.shown(made, serialize_message(message))["links"]

    first = shown(0.0)
    assert np.shape(first) == (len(LINKS), 7)
    assert shown(2e-4) is first
    assert shown(3e-4) is first  # a drift adds up
    assert shown(7e-4) != first
    assert Room.shown(made, b"no joint state")["links"] is made._poses
    assert refused == ["joint_states"]


def test_a_clearance_is_drawn_as_long_as_it_is_fresh_and_moves_with_the_arm_or_its_length_only() -> None:
    import time

    from geometry_msgs.msg import Point
    from visualization_msgs.msg import Marker

    from carm_bringup.nodes.console_room import Room

    made: Any = SimpleNamespace(_line=None, _line_s=0.0, _line_shown=None, _poses=[1])

    def shown(end: float, aside: float = 0.0, **changes: Any) -> Any:
        marker = Marker(type=Marker.LINE_LIST, points=[Point(x=aside, z=0.6), Point(x=aside, z=end)], **changes)
        marker.color.r = 1.0
        Room._on_line(made, marker)
        return Room._clearance(made)

    assert Room._clearance(made) is None
    first = shown(0.4)
    assert (first["line"], first["mm"], first["near"]) == ([0.0, 0.0, 0.6, 0.0, 0.0, 0.4], 200, True)
    assert shown(0.4, aside=0.1) is first  # its ends jumped, the arm did not move
    made._poses = [2]
    assert shown(0.4, aside=0.1)["line"][0] == 0.1
    assert shown(0.3)["mm"] == 300
    assert shown(0.3, action=Marker.DELETE) is None
    assert shown(float("nan")) is None
    assert shown(0.3) is not None
    made._line_s = time.monotonic() - 1.0
    assert Room._clearance(made) is None
