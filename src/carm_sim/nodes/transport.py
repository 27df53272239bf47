# SPDX-License-Identifier: Apache-2.0
"""How images leave the process that makes them."""

from __future__ import annotations

import os
from importlib.resources import files

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Environment variables that name Fast DDS's profile: of version 2, of version 3."""


def make_room_for_images() -> None:
    """Have Fast DDS hand whole images over in shared memory; to be called before ``rclpy.init``.

    A publisher's shared memory holds 0.5 MB by default. An image of 1024 x 1024 pixels does not fit: it goes in
    pieces, in turns with the reader, which takes several times as long. Nothing changes where the user has a profile
    of their own, nor with another middleware.
    """
    if not any(os.environ.get(name) for name in PROFILE_VARIABLES):
        profile = str(files("carm_sim").joinpath("data", "fastdds.xml"))
        os.environ.update(dict.fromkeys(PROFILE_VARIABLES, profile))
