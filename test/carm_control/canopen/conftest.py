# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the drive tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def make() -> Iterator[Callable[..., Any]]:
    """Makes rigs of simulated drives, see ``drive_rig.py``."""
    from .drive_rig import Rig

    rigs: list[Rig] = []

    def build(*arguments: Any, **options: Any) -> Rig:
        rigs.append(Rig(*arguments, **options))
        return rigs[-1]

    yield build
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make: Callable[..., Any]) -> Any:
    """Six drives that are ready."""
    return make()
