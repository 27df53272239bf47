# SPDX-License-Identifier: Apache-2.0
"""Body of ``carm security init``."""

from __future__ import annotations

import argparse
from pathlib import Path

from carm_core.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm security init``."""
    parser.add_argument("keystore", type=Path, metavar="DIR", help="folder of the keystore; new enclaves are added")
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="NAME:=VALUE",
        help="as of carm hardware: namespace:=, controller:=, joint_states:=",
    )


def init(options: argparse.Namespace) -> int:
    """Make the keystore, the enclaves and their permissions.

    Raises:
        ConfigurationError: An argument is wrong, or the folder cannot be used.
    """
    from carm_bringup.graph import description as graph
    from carm_bringup.security import access, keystore

    try:
        values = graph.resolve(options.arguments, "hardware")
    except graph.ArgumentError as error:
        raise ConfigurationError(str(error)) from error
    folder = options.keystore.absolute()
    names = keystore.create(folder, access.enclaves(values))
    print(f"{folder}: {len(names)} enclaves ({', '.join(names)})")
    print(f"{folder}/private holds the keys with which enclaves are made: keep it off the machines that run them")
    print(f"export ROS_SECURITY_KEYSTORE={folder} ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce")
    return 0
