# SPDX-License-Identifier: Apache-2.0
"""Parameters that guard people: tightened while the node runs, loosened only at its start."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from carm_core.parameters import guard_changes, parameter, updated_parameters


@dataclass(frozen=True)
class _Settings:
    timeout_s: float = parameter(0.5, "silence that ends a motion", unit="s", lower=0.1, guard="lower_is_tighter")
    margin_m: float = parameter(0.02, "kept clear", unit="m", lower=0.0, guard="higher_is_tighter")
    confirm: bool = parameter(True, "ask first", guard="true_is_tighter")
    beam: bool = parameter(False, "may expose", guard="false_is_tighter")
    zones: str = parameter("a", "letters kept clear", guard=lambda old, new: not set(old) <= set(new))
    free: float = parameter(1.0, "guards nothing")


def _set(settings: _Settings, **changes: object) -> tuple[_Settings, str]:
    return updated_parameters(settings, [SimpleNamespace(name=name, value=value) for name, value in changes.items()])


@pytest.mark.parametrize(
    ("name", "tighter", "looser"),
    [("timeout_s", 0.3, 0.6), ("margin_m", 0.03, 0.01), ("zones", "ab", "b")],
)
def test_a_guard_is_tightened_but_not_loosened(name: str, tighter: object, looser: object) -> None:
    start = _Settings()
    tight, reason = _set(start, **{name: tighter})
    assert not reason
    assert getattr(tight, name) == tighter
    assert guard_changes(start, tight) == [f"{name} is now {tighter!r}, was {getattr(start, name)!r}"]
    for value in (looser, getattr(start, name)):
        unchanged, reason = _set(tight, **{name: value})
        assert unchanged is tight
        assert reason.startswith(f"{name} = {value!r} is looser than {tighter!r}")


def test_switches_that_guard() -> None:
    start = _Settings()
    assert "looser" in _set(start, confirm=False)[1]
    assert "looser" in _set(start, beam=True)[1]
    tight, reason = _set(_Settings(confirm=False, beam=True), confirm=True, beam=False)
    assert not reason
    assert (tight.confirm, tight.beam) == (True, False)


def test_one_looser_value_refuses_all_and_others_are_free() -> None:
    start = _Settings()
    assert _set(start, margin_m=0.05, timeout_s=0.9)[0] is start
    free, reason = _set(start, free=7.0)
    assert not reason
    assert free.free == 7.0
    assert guard_changes(start, free) == []
