# SPDX-License-Identifier: Apache-2.0
"""Fast DDS's profile: chosen unless the user has one, and large enough for every image."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree

import pytest

from carm_core.kinematics import CArm
from carm_sim.nodes.transport import PROFILE_VARIABLES, make_room_for_images


@pytest.fixture(autouse=True)
def no_profile(monkeypatch):
    for name in PROFILE_VARIABLES:
        monkeypatch.setenv(name, "")


def test_the_profile_has_room_for_two_raw_images_of_the_whole_detector():
    make_room_for_images()
    root = ElementTree.parse(os.environ[PROFILE_VARIABLES[0]]).getroot()
    sizes = [int(node.text) for node in root.iter() if node.tag.endswith("segment_size")]
    carm = CArm.from_config()
    detector = carm.view(carm.home, 1).detector
    assert sizes[0] >= 2 * (2 + 1) * detector.rows * detector.columns
    kinds = [node.text for node in root.iter() if node.tag.endswith("}type")]
    assert kinds == ["SHM", "UDPv4"]
    assert os.environ[PROFILE_VARIABLES[1]] == os.environ[PROFILE_VARIABLES[0]]


@pytest.mark.parametrize("name", PROFILE_VARIABLES)
def test_the_user_s_own_profile_stays(name):
    os.environ[name] = "/mine.xml"
    make_room_for_images()
    assert sorted(os.environ[each] for each in PROFILE_VARIABLES) == ["", "/mine.xml"]
