# SPDX-License-Identifier: Apache-2.0
"""SROS2 as the environment asks for it: which enclave a process runs in."""

from __future__ import annotations

import os
from pathlib import Path

from carm_core.errors import ConfigurationError, quoted

ENABLE, KEYSTORE, STRATEGY = "ROS_SECURITY_ENABLE", "ROS_SECURITY_KEYSTORE", "ROS_SECURITY_STRATEGY"


def enabled() -> bool:
    """Whether this environment asks for SROS2 (``ROS_SECURITY_ENABLE=true``)."""
    return os.environ.get(ENABLE, "") == "true"


def enclave_arguments(namespace: str, name: str) -> list[str]:
    """Return the ROS arguments of a process that runs in an enclave; none without SROS2.

    Args:
        namespace: Of the graph.
        name: Name of the enclave below it.

    Raises:
        ConfigurationError: The keystore has no such enclave.
    """
    if not enabled():
        return []
    enclave = f"/{namespace.strip('/')}/{name}"
    folder = os.environ.get(KEYSTORE, "")
    if not folder:
        raise ConfigurationError(f"{ENABLE} is true, but {KEYSTORE} is not set")
    if not (Path(folder) / "enclaves" / enclave.strip("/")).is_dir():
        raise ConfigurationError(f"the keystore {quoted(folder)} has no enclave {enclave}: run carm security init")
    return ["--ros-args", "--enclave", enclave]
