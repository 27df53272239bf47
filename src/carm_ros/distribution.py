# SPDX-License-Identifier: Apache-2.0
"""What differs between the ROS 2 distributions that this project runs on. Imports nothing of ROS."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Distribution:
    """One ROS 2 distribution.

    Attributes:
        name: Name, such as ``"jazzy"``.
        gazebo: Release of Gazebo that its packages belong to.
        profile_variable: Environment variable that names Fast DDS's profile: of version 3; Jazzy has version 2.
    """

    name: str
    gazebo: str
    profile_variable: str = "FASTDDS_DEFAULT_PROFILES_FILE"

    def packages(self, *names: str) -> str:
        """Return Debian packages of this distribution, for people: ``"ros-jazzy-rviz2"`` of ``"rviz2"``."""
        return ", ".join(f"ros-{self.name}-{name}" for name in names)


DISTRIBUTIONS = {
    d.name: d
    for d in (
        Distribution("jazzy", "Harmonic", "FASTRTPS_DEFAULT_PROFILES_FILE"),
        Distribution("kilted", "Ionic"),
        Distribution("lyrical", "Jetty"),
    )
}
BAG_VERSION = 9
"""Version of a bag's ``metadata.yaml``, as Jazzy writes it; newer distributions read it too."""


def distribution() -> Distribution:
    """Return the distribution that ``ROS_DISTRO`` names; the oldest one where it names none of them."""
    return DISTRIBUTIONS.get(os.environ.get("ROS_DISTRO", ""), DISTRIBUTIONS["jazzy"])
