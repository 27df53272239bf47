# SPDX-License-Identifier: Apache-2.0
import pytest
from rosbags.typesys import Stores

from carm_bringup.graph import description as graph
from carm_ros.distribution import DISTRIBUTIONS


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jazzy", "Gazebo Harmonic and ros-jazzy-ros-gz, ros-jazzy-gz-ros2-control"),
        ("lyrical", "Gazebo Jetty and ros-lyrical-ros-gz, ros-lyrical-gz-ros2-control"),
        ("", "Gazebo Harmonic and ros-jazzy-ros-gz, ros-jazzy-gz-ros2-control"),
    ],
)
def test_what_a_graph_needs_is_named_as_in_the_distribution(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", name)
    assert graph.needs(graph.resolve(["simulator:=gazebo"])) == ("simulator:=gazebo", said)


def test_the_message_types_of_every_distribution_are_known() -> None:
    assert {f"ROS2_{name.upper()}" for name in DISTRIBUTIONS} <= set(Stores.__members__)
