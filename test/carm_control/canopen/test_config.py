# SPDX-License-Identifier: Apache-2.0
"""What ``config/drives.yaml`` and ``config/drive_node.yaml`` may say."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("canopen", reason="needs the extra can")
from carm_control.canopen.config import load_drives
from carm_control.canopen.parameters import DriveParameters
from carm_core.errors import ConfigurationError
from carm_core.parameters import parameter_defaults
from carm_core.paths import config_file
from carm_core.robot.kinematics import CArm

JOINTS = CArm.from_config().joints
SHIPPED: dict[str, Any] = yaml.safe_load(config_file("drives.yaml").read_text(encoding="utf-8"))
HOMING = {"method": 17, "position_m": -0.01, "fast_m_s": 0.02, "slow_m_s": 0.005}


def written(folder: Path, joint: str = "lift", **entries: Any) -> Path:
    content = copy.deepcopy(SHIPPED)
    content["drives"].setdefault(joint, {}).update(entries)
    path = folder / "drives.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_the_node_parameters_are_those_of_the_shipped_file() -> None:
    shipped = yaml.safe_load(config_file("drive_node.yaml").read_text(encoding="utf-8"))
    assert shipped["/**"]["ros__parameters"] == parameter_defaults(DriveParameters) | {"supervised": True}


def test_counts_per_unit_are_in_the_joint_s_unit() -> None:
    drives = {drive.joint: drive for drive in load_drives(JOINTS)}
    assert drives["lift"].counts_per_unit == 65536 * 5 / 0.02
    assert drives["orbital"].counts_per_unit == pytest.approx(65536 * 120 / (2 * math.pi))
    assert drives["orbital"].offset == pytest.approx(math.radians(20))
    assert drives["orbital"].homing is None


def test_homing_is_in_the_joint_s_unit(tmp_path: Path) -> None:
    path = written(tmp_path, homing=HOMING | {"park_m": 0.1, "timeout_s": 30})
    homing = load_drives(JOINTS, path)[2].homing
    assert homing is not None
    assert (homing.method, homing.position, homing.park, homing.timeout_s) == (17, -0.01, 0.1, 30.0)


@given(st.sampled_from(range(len(JOINTS))), st.floats(0, 1))
def test_positions_survive_the_encoder(index: int, part: float) -> None:
    drive, joint = load_drives(JOINTS)[index], JOINTS[index]
    position = joint.lower + part * (joint.upper - joint.lower)
    assert drive.position(drive.counts(position)) == pytest.approx(position, abs=1 / drive.counts_per_unit)


@pytest.mark.parametrize(
    ("joint", "entries", "words"),
    [
        ("elbow", {"node_id": 9}, "unknown joint 'elbow'"),
        ("lift", {"node_id": 1}, "cart_longitudinal and lift have the same node_id 1"),
        ("lift", {"node_id": 128}, "node_id is 128"),
        ("lift", {"node_id": 2.5}, "node_id is 2.5"),
        ("lift", {"direction": 0}, "direction is 0"),
        ("lift", {"gear": 0}, "gear is 0, not above 0"),
        ("lift", {"gear": "ten"}, "gear is 'ten', not a number"),
        ("lift", {"counts_per_turn": float("nan")}, "counts_per_turn is nan"),
        ("lift", {"counts_per_turn": 1e12}, "which exceeds 32 bits"),
        ("lift", {"following_error_deg": 1}, "unknown entry 'following_error_deg'"),
        ("lift", {"negative_switch": "yes"}, "negative_switch is 'yes'"),
        ("lift", {"homing": 17}, "homing: is 17"),
        ("lift", {"homing": {"method": 17}}, "homing: position_m is missing"),
        ("lift", {"homing": HOMING | {"park_m": 0.9}}, "park position 0.9000 m is outside [0.0000, 0.4500] m"),
        ("lift", {"homing": HOMING | {"method": 0}}, "homing: method 0 means no homing"),
        ("lift", {"homing": HOMING | {"color": 1}}, "homing: unknown entry 'color'"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, joint: str, entries: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_drives(JOINTS, written(tmp_path, joint, **entries))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[", "drives: 3", "drives: {}", "drives: {lift: {node_id: 3}}"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "drives.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"drives.yaml"):
        load_drives(JOINTS, path)


PAGE = Path(__file__).resolve().parents[3] / "docs" / "motors.md"


def test_the_example_of_the_page_is_a_description_of_drives(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (tmp_path / "drives.yaml").write_text(text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    drives = load_drives(JOINTS, tmp_path / "drives.yaml")
    assert {d.joint: d.counts_per_unit for d in drives} == {d.joint: d.counts_per_unit for d in load_drives(JOINTS)}
    assert [d.joint for d in drives if d.homing] == ["lift"]
    for name in ("fast", "slow", "park", "timeout_s", *SHIPPED["drives"]["lift"]):
        assert name.removesuffix("_m").removesuffix("_m_s2") in text
