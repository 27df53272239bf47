# SPDX-License-Identifier: Apache-2.0
"""The first and the last moment of a node's process. Imports nothing that takes time."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import NoReturn

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a node: Ctrl-C, and what launchers send."""

_ROS = ("ament_index_python", "launch", "launch_ros", "rclpy", "rpyutils")


def run(module: str) -> NoReturn:
    """Be the node of a module.

    Its imports take seconds. A signal during them ends the process at once and without a word: by default, not by a
    handler in Python, which would wait for the library that is being loaded.

    Args:
        module: Has a ``main`` that returns an exit code.
    """
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        node = import_module(module)
    except ModuleNotFoundError as error:
        print(f"{module.rpartition('.')[2]}: {missing(error)}", file=sys.stderr)
        leave(1)
    leave(node.main())


def missing(error: ModuleNotFoundError) -> str:
    """Return one line that says what is not installed, and what to do."""
    name = str(error.name).partition(".")[0]
    if name in _ROS or name.endswith(("_msgs", "_interfaces")):
        return (
            f"{name} is not installed here; this needs ROS 2 and the project's messages: run `make setup` in a"
            " checkout, or source a workspace that has built it"
        )
    return f"{name} is not installed here: run `make setup` in a checkout, or install it with pip"


def leave(code: int) -> NoReturn:
    """End the process now: neither threads that still compute nor destructors of libraries hold it up.

    Args:
        code: Exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
