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


def run(module: str) -> NoReturn:
    """Be the node of a module.

    Its imports take seconds. A signal during them ends the process at once and without a word: by default, not by a
    handler in Python, which would wait for the library that is being loaded.

    Args:
        module: Has a ``main`` that returns an exit code.
    """
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    leave(import_module(module).main())


def leave(code: int) -> NoReturn:
    """End the process now: neither threads that still compute nor destructors of libraries hold it up.

    Args:
        code: Exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
