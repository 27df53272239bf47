# SPDX-License-Identifier: Apache-2.0
"""How processes find each other, and how images leave the process that makes them: Fast DDS's profiles."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from carm_core.errors import ConfigurationError, quoted
from carm_ros.distribution import DISTRIBUTIONS, distribution

_LAST_DOMAIN = 232


def domain_id() -> int:
    """Return the DDS domain of this process: ``ROS_DOMAIN_ID``, 0 when it is not set.

    Raises:
        ConfigurationError: It is no domain.
    """
    text = os.environ.get("ROS_DOMAIN_ID", "")
    if text and not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= _LAST_DOMAIN):
        raise ConfigurationError(f"ROS_DOMAIN_ID={quoted(text)} is not a whole number from 0 to {_LAST_DOMAIN}")
    return int(text or "0")


def prepare_middleware(images: bool = False) -> None:
    """Choose Fast DDS's profile; to be called before ``rclpy.init``.

    Nothing changes where the user has a profile of their own, nor with another middleware.

    - Processes announce themselves twice a second. By default they do so every three seconds, and one that starts
      often misses the answers to its own announcement: half of all starts took two to three seconds longer.
    - A publisher's shared memory holds 0.5 MB by default. An image of 1024 x 1024 pixels does not fit: it goes in
      pieces, in turns with the reader, which takes several times as long.

    Args:
        images: Whether this process publishes images, and needs room for them.

    Raises:
        ConfigurationError: ``ROS_DOMAIN_ID`` is no domain.
    """
    domain_id()
    folder = Path(str(files("carm_ros"))) / "data"
    named = [os.environ.get(one.profile_variable, "") for one in DISTRIBUTIONS.values()]
    if all(not name or Path(name).parent == folder for name in named):  # a parent process may have chosen ours
        profile = folder / ("fastdds_images.xml" if images else "fastdds.xml")
        os.environ[distribution().profile_variable] = str(profile)
