# SPDX-License-Identifier: Apache-2.0
"""Fast DDS's profiles: chosen unless the user has one, and large enough for every image."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree

import pytest

from carm_core.robot.kinematics import CArm
from carm_ros.distribution import DISTRIBUTIONS, distribution
from carm_ros.middleware import prepare_middleware

PROFILE_VARIABLES = sorted({one.profile_variable for one in DISTRIBUTIONS.values()})


@pytest.fixture(autouse=True)
def no_profile(monkeypatch):
    for name in PROFILE_VARIABLES:
        monkeypatch.setenv(name, "")


def chosen():
    """The profile that Fast DDS would read."""
    return ElementTree.parse(os.environ[distribution().profile_variable]).getroot()


def numbers(root, name):
    return [int(node.text) for node in root.iter() if node.tag.endswith("}" + name)]


def test_the_profile_has_room_for_two_raw_images_of_the_whole_detector():
    prepare_middleware(images=True)
    root = chosen()
    carm = CArm.from_config()
    detector = carm.view(carm.home, 1).detector
    assert numbers(root, "segment_size")[0] >= 2 * (2 + 1) * detector.rows * detector.columns
    kinds = [node.text for node in root.iter() if node.tag.endswith("}type")]
    assert kinds == ["SHM", "UDPv4"]


@pytest.mark.parametrize("images", [False, True])
def test_processes_announce_themselves_twice_a_second(images):
    prepare_middleware(images)
    root = chosen()
    assert any(node.tag.endswith("}leaseAnnouncement") for node in root.iter())
    assert (numbers(root, "sec"), numbers(root, "nanosec")) == ([0], [500_000_000])


def test_a_child_process_that_publishes_images_replaces_the_profile_of_its_parent():
    prepare_middleware()
    assert not numbers(chosen(), "segment_size")
    prepare_middleware(images=True)
    assert numbers(chosen(), "segment_size")


@pytest.mark.parametrize("name", PROFILE_VARIABLES)
def test_the_user_s_own_profile_stays(name):
    os.environ[name] = "/mine.xml"
    prepare_middleware(images=True)
    assert sorted(os.environ[each] for each in PROFILE_VARIABLES) == ["", "/mine.xml"]


@pytest.mark.parametrize(("name", "version"), [("jazzy", "RTPS"), ("kilted", "DDS"), ("lyrical", "DDS")])
def test_only_the_distribution_s_own_variable_is_set(monkeypatch, name, version):
    """Version 3 takes the older one too, with a warning in every process."""
    monkeypatch.setenv("ROS_DISTRO", name)
    prepare_middleware()
    assert [each for each in PROFILE_VARIABLES if os.environ[each]] == [f"FAST{version}_DEFAULT_PROFILES_FILE"]
