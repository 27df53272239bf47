# SPDX-License-Identifier: Apache-2.0
"""Types of command line options, for ``argparse``."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """Read a whole number from 1.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return value
