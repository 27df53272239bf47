# SPDX-License-Identifier: Apache-2.0
"""MoveIt's configuration: up to date, read by pinocchio's SRDF parser, and no collision is lost by it."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from carm_core.robot.kinematics import LINKS, CArm
from carm_core.robot.moveit import GROUP, move_group_parameters, named_states
from carm_core.robot.shapes import RobotGeometry
from carm_core.robot.urdf import urdf

ROOT = Path(__file__).resolve().parents[3]
CARM = CArm.from_config()
GEOMETRY = RobotGeometry.from_config()
LOWER = np.array([joint.lower for joint in CARM.joints])
UPPER = np.array([joint.upper for joint in CARM.joints])
SRDF = ROOT / "moveit/carm.srdf"


@pytest.fixture(scope="module")
def make_robot() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_robot", ROOT / "scripts/make_robot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_committed_files_are_up_to_date(make_robot: ModuleType) -> None:
    """If it fails: run scripts/make_robot.py."""
    made = make_robot.moveit_files()
    assert {path.name for path in (ROOT / "moveit").iterdir()} == set(made)
    for name, text in made.items():
        assert (ROOT / "moveit" / name).read_text(encoding="utf-8") == text


def test_srdf_is_about_links_and_joints_that_exist() -> None:
    robot, model = ET.parse(SRDF).getroot(), ET.fromstring(urdf(CARM))
    assert robot.get("name") == model.get("name")
    links = {link.get("name") for link in model.findall("link")}
    chain = robot.find(f"group[@name='{GROUP}']/chain")
    assert chain is not None
    assert {chain.get("base_link"), chain.get("tip_link")} <= links
    for pair in robot.findall("disable_collisions"):
        assert {pair.get("link1"), pair.get("link2")} <= links
    for state in robot.findall("group_state"):
        assert [joint.get("name") for joint in state.findall("joint")] == list(CARM.joint_names)


@pytest.mark.parametrize("name", ["home", "lateral"])
def test_named_states_are_within_the_limits(name: str) -> None:
    positions = np.array(list(named_states(CARM)[name].values()))
    assert ((positions >= LOWER) & (positions <= UPPER)).all()


def test_no_collision_is_lost_and_none_is_made_up() -> None:
    """Pinocchio with the SRDF's pairs against the pairs of parts that the planner watches, on the same solids."""
    pin = pytest.importorskip("pinocchio")
    text = urdf(CARM)
    model = pin.buildModelFromXML(text)
    solids = pin.buildGeomFromUrdfString(model, text, pin.GeometryType.COLLISION)
    solids.addAllCollisionPairs()
    links = [model.frames[part.parentFrame].name for part in solids.geometryObjects]
    of_link = {link: iter(GEOMETRY.of_link(link)) for link in LINKS}  # pinocchio's order of links is its own
    parts = [next(of_link[link]).name for link in links]
    assert len(parts) == len(GEOMETRY.shapes)
    data, every = model.createData(), solids.createData()
    watched = {
        index
        for index, pair in enumerate(solids.collisionPairs)
        if links[pair.first] != links[pair.second]
        and not {links[pair.first], links[pair.second]} <= set(LINKS[-3:])
        and frozenset((parts[pair.first], parts[pair.second])) not in GEOMETRY.ignored_pairs
    }
    kept_model = solids.copy()
    pin.removeCollisionPairsFromXML(model, kept_model, SRDF.read_text(encoding="utf-8"))
    kept = kept_model.createData()
    assert 0 < len(kept_model.collisionPairs) < len(watched)
    outcomes = set()
    for positions in np.random.default_rng(5).uniform(LOWER, UPPER, (300, 6)):
        pin.computeCollisions(model, data, solids, every, positions, False)
        pin.computeCollisions(model, data, kept_model, kept, positions, False)
        expected = any(every.collisionResults[index].isCollision() for index in watched)
        assert any(result.isCollision() for result in kept.collisionResults) is expected
        outcomes.add(expected)
    assert outcomes == {True, False}
    pin.loadReferenceConfigurationsFromXML(model, SRDF.read_text(encoding="utf-8"))
    assert model.referenceConfigurations["home"] == pytest.approx(np.array(CARM.home))
    for name in named_states(CARM):
        assert not pin.computeCollisions(model, data, kept_model, kept, model.referenceConfigurations[name], True), name


def test_limits_and_controller_are_the_arms() -> None:
    limits = yaml.safe_load((ROOT / "moveit/joint_limits.yaml").read_text(encoding="utf-8"))["joint_limits"]
    assert tuple(limits) == CARM.joint_names
    for joint in CARM.joints:
        assert limits[joint.name]["max_velocity"] == pytest.approx(joint.velocity)
        assert limits[joint.name]["max_acceleration"] == pytest.approx(joint.acceleration)
        assert limits[joint.name]["max_jerk"] == pytest.approx(joint.jerk)
    controllers = yaml.safe_load((ROOT / "config/controllers.yaml").read_text(encoding="utf-8"))
    manager = move_group_parameters(CARM)["moveit_simple_controller_manager"]
    (name,) = manager["controller_names"]
    assert f"/**/{name}" in controllers
    assert manager[name]["joints"] == controllers[f"/**/{name}"]["ros__parameters"]["joints"]
    assert manager[name]["type"] == "FollowJointTrajectory"


def test_no_parameter_of_move_group_is_empty() -> None:
    """Launch files cannot pass empty dictionaries or lists."""

    def leaves(value: object) -> list[object]:
        return [leaf for child in value.values() for leaf in leaves(child)] if isinstance(value, dict) else [value]

    parameters = move_group_parameters(CARM)
    assert all(leaf not in ([], {}, None, "") for leaf in leaves(parameters))
    assert parameters["robot_description_semantic"].startswith("<?xml")
