# SPDX-License-Identifier: Apache-2.0
"""The generated interfaces, and the wire compatibility of the underlay with ROS 2 Jazzy."""

import json
from pathlib import Path

import pytest

JAZZY_HASHES = {
    "control_msgs/action/FollowJointTrajectory": "738ebcb7a2d7cfa42f9f1001cc99ce3a4383d1cfe508015d9be8485e4b1c66f6",
    "control_msgs/action/FollowJointTrajectory_Goal": (
        "8a9060704b269608f5a340934cc26e66869dd14bdac29e2e7fd9ec8b9882d205"
    ),
    "control_msgs/action/FollowJointTrajectory_Result": (
        "8002e99ed2c14c6faa522f2a93c26d744c5982f254f9e98ff9c6f19789bdb220"
    ),
    "control_msgs/action/FollowJointTrajectory_Feedback": (
        "3fd0aaecf71725121ae1ff7f01098a5e0da581e672be18a6b2c286cb43d96b49"
    ),
    "control_msgs/msg/JointTolerance": "c254f9cece0f3b733017b6990fd46d1326e25242d6b8844398c97d9a88e7d648",
    "control_msgs/msg/JointComponentTolerance": "739ea7566931944d33830fa10f1bf5e7a7fbdc3172bce7a7eaac642bd6e3ffa4",
    "control_msgs/msg/JointTrajectoryControllerState": (
        "51d8dd89cc624cbe9daaeeb4d80d6de9b86168ffdc3be41fefc0953e3c26e480"
    ),
    "control_msgs/msg/SpeedScalingFactor": "0c240f349f2b74e33e8741f83e0f196ddeb6585923663876ed3c1f51f0566037",
    "control_msgs/srv/QueryTrajectoryState": "4a0935dffef18bc5b9e101c9d03d84e681ecd4cebd724b8f11fde008751a325a",
    "tf2_msgs/msg/TFMessage": "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
}
"""Type hashes (REP-2011, version 1) of the packages that ROS 2 Jazzy ships, from code generated on such machines;
those of the controller's state, speed scaling and query from the definitions of control_msgs 5.8.0."""


def shares(package: str) -> Path:
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory(package))


@pytest.mark.parametrize("name", JAZZY_HASHES)
def test_type_hash_is_that_of_jazzy(name: str) -> None:
    package, kind, type_name = name.split("/")
    file = shares(package) / kind / f"{type_name.split('_')[0]}.json"
    hashes = {
        entry["type_name"]: entry["hash_string"]
        for entry in json.loads(file.read_text(encoding="utf-8"))["type_hashes"]
    }
    assert hashes[name] == f"RIHS01_{JAZZY_HASHES[name]}"


@pytest.mark.parametrize("kind", ["msg", "srv", "action"])
def test_every_definition_is_generated(kind: str) -> None:
    import importlib

    module = importlib.import_module(f"carm_interfaces.{kind}")
    folder = Path(__file__).resolve().parents[2] / "interfaces/carm_interfaces" / kind
    for file in folder.iterdir():
        assert hasattr(module, file.stem)


def test_constants_are_unique_within_a_definition() -> None:
    from carm_interfaces.action import Localize, MoveCArm, Navigate

    for result in (Localize.Result, MoveCArm.Result, Navigate.Result):
        names = [n for n in dir(result) if n.startswith("ERROR_")]
        assert names
        assert len({getattr(result, n) for n in names}) == len(names)
        assert result.ERROR_NONE == 0
