# SPDX-License-Identifier: Apache-2.0
"""Gazebo's world and model: read by Gazebo's own parser where there is one, stepped by a physics engine."""

import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
import yaml

from carm_bringup.graph import gazebo
from carm_core.errors import CarmError
from carm_core.paths import config_file, share_dir
from carm_core.robot.inertia import Dynamics
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import RIGID_GROUP, RobotGeometry
from carm_core.robot.urdf import Variant, urdf

CARM = CArm.from_config()
GEOMETRY = RobotGeometry.from_config()
PARSERS = ("gz", "ign")
GAIN, DAMPING_RATIO = 2e5, 1.0
TABLE_TOP_M = CARM.table_height_m


def parse(file: Path, option: str = "-k") -> str:
    """Run Gazebo's SDF parser on a file; skip where it is not installed."""
    command = next((name for name in PARSERS if shutil.which(name)), None)
    if command is None:
        pytest.skip("no SDF parser (Debian: apt-get install ignition-tools libsdformat-dev)")
    done = subprocess.run([command, "sdf", option, str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Error" not in done.stderr, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def world_file() -> Path:
    return share_dir() / "worlds" / "carm.sdf"


def test_the_worlds_file_is_up_to_date() -> None:
    """If it fails: run scripts/make_robot.py."""
    assert world_file().read_text(encoding="utf-8") == gazebo.world(CARM, GEOMETRY)


def test_parser_takes_the_world() -> None:
    assert "Valid" in parse(world_file())


def test_parser_takes_the_robot(tmp_path: Path) -> None:
    file = tmp_path / "carm.urdf"
    file.write_text(urdf(CARM, Variant("gazebo", "file:///meshes", "/c.yaml")), encoding="utf-8")
    assert "Valid" in parse(file)
    model = ET.fromstring(parse(file, "-p")).find("model")
    assert model is not None
    moved = {joint.get("name"): joint for joint in model.findall("joint") if joint.get("type") != "fixed"}
    assert tuple(moved) == CARM.joint_names
    for joint in CARM.joints:
        limit = moved[joint.name].find("axis/limit")
        assert limit is not None
        assert float(limit.findtext("lower", "nan")) == pytest.approx(joint.lower)
        assert float(limit.findtext("upper", "nan")) == pytest.approx(joint.upper)
        assert float(limit.findtext("velocity", "nan")) == pytest.approx(joint.velocity)
    masses = Dynamics.from_config().masses_kg
    rigid = model.find("link[@name='isocenter']/inertial/mass")  # the parser merges links that are fixed to each other
    assert rigid is not None
    assert float(rigid.text or "nan") == pytest.approx(sum(masses[link] for link in RIGID_GROUP))
    collisions = [part for link in model.findall("link") for part in link.findall("collision")]
    assert len(collisions) == len(GEOMETRY.moving)


def test_parser_takes_the_patient(tmp_path: Path) -> None:
    file = tmp_path / "patient.sdf"
    file.write_text(gazebo.patient_model(tmp_path / "patient.stl", CARM), encoding="utf-8")
    assert "Valid" in parse(file)


def test_the_patient_lies_on_the_table(tmp_path: Path) -> None:
    model = gazebo.write_patient("phantom:7", tmp_path)
    uri = ET.parse(model).findtext("model/link/visual/geometry/mesh/uri", "")
    mesh = trimesh.load_mesh(Path(uri.removeprefix("file://")))
    low, high = mesh.bounds
    assert low[2] == pytest.approx(0.0, abs=0.02)
    assert 0.15 < high[2] < 0.45
    assert (high - low)[0] > (high - low)[1]
    pose = ET.parse(model).findtext("model/pose", "")
    assert [float(word) for word in pose.split()] == [0, 0, TABLE_TOP_M, 0, 0, 0]


def test_unknown_patients_end_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CarmError, match="chest_cd"):
        gazebo.write_patient("chest_cd", tmp_path)


def test_the_worlds_table_is_the_robots_table() -> None:
    root = ET.parse(world_file()).getroot()
    link = root.find("world/model[@name='table']/link")
    assert link is not None
    for shape in GEOMETRY.of_link("table"):
        part = link.find(f"collision[@name='{shape.id}_collision']")
        assert part is not None
        size = [float(word) for word in part.findtext("geometry/box/size", "").split()]
        assert size == pytest.approx(shape.size_m)
    pose = root.findtext("world/model[@name='table']/pose", "").split()
    assert float(pose[2]) == pytest.approx(TABLE_TOP_M)


def test_the_pedestal_is_out_of_the_chassis_way() -> None:
    reach = CARM.joints[0].lower - max(
        -float(shape.corners_m[:, 0].min()) for shape in GEOMETRY.of_link("cart_lateral_link")
    )
    assert gazebo.PEDESTAL_X_M + gazebo.PEDESTAL_M[0] / 2 < reach


def test_the_clock_crosses_the_bridge() -> None:
    (entry,) = yaml.safe_load(config_file("gazebo_bridge.yaml").read_text(encoding="utf-8"))
    assert entry["ros_topic_name"] == "/clock"
    assert entry["ros_type_name"] == "rosgraph_msgs/msg/Clock"
    assert entry["direction"] == "GZ_TO_ROS"


class Physics:
    """The robot description in MuJoCo, under gravity."""

    def __init__(self, controlled: bool) -> None:
        mujoco = pytest.importorskip("mujoco")
        robot = ET.fromstring(urdf(CARM))
        for link in robot.findall("link"):
            for visual in link.findall("visual"):
                link.remove(visual)
        spec = mujoco.MjSpec.from_string(ET.tostring(robot, encoding="unicode"))
        spec.option.timestep = gazebo.STEP_S
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONTACT)  # as Gazebo: no contact within a model
        if controlled:
            for joint in CARM.joints:
                motor = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
                motor.set_to_position(kp=GAIN, dampratio=DAMPING_RATIO)
                motor.forcerange = [-1, 1] * np.array(_effort(robot, joint.name))
                motor.forcelimited = True
        self.model: Any = spec.compile()
        self.data: Any = mujoco.MjData(self.model)
        self._step = mujoco.mj_step
        mujoco.mj_forward(self.model, self.data)
        self.names = [self.model.joint(index).name for index in range(self.model.njnt)]

    def start(self, positions: Any) -> None:
        self.data.qpos[:] = positions
        self.data.qvel[:] = 0

    def run(self, seconds: float, commands: Any = None) -> float:
        """Step; return the greatest speed, m/s or rad/s."""
        fastest = 0.0
        for index in range(round(seconds / gazebo.STEP_S)):
            if commands is not None:
                self.data.ctrl[:] = commands(index * gazebo.STEP_S)
            self._step(self.model, self.data)
            fastest = max(fastest, float(np.abs(self.data.qvel).max()))
        assert np.isfinite(self.data.qpos).all()
        return fastest


def _effort(robot: ET.Element, name: str) -> float:
    limit = robot.find(f"joint[@name='{name}']/limit")
    assert limit is not None
    return float(limit.get("effort", "nan"))


def test_gravity_lowers_what_nobody_holds_down_to_the_limits() -> None:
    physics = Physics(controlled=False)
    assert tuple(physics.names) == CARM.joint_names
    physics.start(CARM.home)
    physics.run(0.1)
    fallen = CARM.home[2] - physics.data.qpos[2]
    assert fallen == pytest.approx(0.5 * 9.81 * 0.1**2, rel=0.05)
    fastest = physics.run(3.0)
    assert fastest < 10
    for joint, position in zip(CARM.joints, physics.data.qpos, strict=True):
        slack = 0.02 * (joint.upper - joint.lower)  # limits of a physics engine are soft
        assert joint.lower - slack <= position <= joint.upper + slack, joint.name
    assert physics.data.qpos[2] == pytest.approx(CARM.joints[2].lower, abs=0.01)


@pytest.mark.parametrize("positions", [CARM.home, [0.3, 0.1, 0.4, 0.1, 0.8, -0.5], [0, 0, 0.1, -0.1, 0, 1.2]])
def test_controllers_hold_the_arm_against_gravity(positions: Any) -> None:
    physics = Physics(controlled=True)
    physics.start(positions)
    fastest = physics.run(1.5, lambda _: positions)
    assert fastest < 0.2
    assert physics.data.qpos == pytest.approx(np.array(positions), abs=0.012)
    assert np.abs(physics.data.qvel).max() < 1e-3


def test_controllers_follow_a_motion_within_the_drives_efforts() -> None:
    physics = Physics(controlled=True)
    goal = CARM.home + np.array([0.1, -0.05, 0.03, 0.1, 0.3, 0.3])
    duration_s = 3.0

    def commands(time_s: float) -> Any:
        share = min(1.0, time_s / duration_s)
        return CARM.home + (goal - CARM.home) * share**3 * (10 - 15 * share + 6 * share**2)

    physics.start(CARM.home)
    physics.run(0.5, lambda _: CARM.home)
    fastest = physics.run(duration_s + 0.7, commands)
    assert fastest < 0.4
    assert physics.data.qpos == pytest.approx(goal, abs=0.012)
