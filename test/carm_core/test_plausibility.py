# SPDX-License-Identifier: Apache-2.0
"""Checks of what comes in: which values pass, what is said about those that do not, and gaps in time."""

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core import plausibility
from carm_core.plausibility import FreezeWatch, ImplausibleError, Refusals, at_most, named_once, number, numbers


@given(st.floats())
def test_a_number_passes_exactly_when_it_is_in_its_range(value: float) -> None:
    if -1.0 <= value <= 2.5:
        assert number("x", value, -1.0, 2.5) == value
    else:
        with pytest.raises(ImplausibleError):
            number("x", value, -1.0, 2.5)


def test_a_refusal_names_quantity_value_and_bounds() -> None:
    with pytest.raises(ImplausibleError, match=r"^lift = inf is outside \[0, 0.45\] m$"):
        number("lift", math.inf, 0.0, 0.45, "m")
    with pytest.raises(ImplausibleError, match=r"^q = 1e\+308 is outside \[-1, 1\]$"):
        numbers("q", [0.0, 1e308, math.nan], -1.0, 1.0)
    with pytest.raises(ImplausibleError, match="q has 2 values, not 3"):
        numbers("q", [0.0, 1.0], -1.0, 1.0, count=3)
    with pytest.raises(ImplausibleError, match="name has 5 characters; at most 4"):
        at_most("name", "abcde", 4)
    with pytest.raises(ImplausibleError, match="name lists 'tilt' twice"):
        named_once("name", ["lift", "tilt", "tilt"])


def test_what_is_not_known_passes_where_it_may_be_so() -> None:
    assert math.isnan(number("radius", math.nan, 0.0, 1.0, unknown=True))
    with pytest.raises(ImplausibleError):
        number("radius", math.inf, 0.0, 1.0, unknown=True)
    assert numbers("q", np.zeros(3), 0.0, 0.0).tolist() == [0.0, 0.0, 0.0]


def test_refusals_are_counted_and_reported_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(plausibility.time, "monotonic", lambda: now_s)
    refusals = Refusals()
    assert [refusals.note("a") for _ in range(3)] == [True, False, False]
    assert refusals.note("b")
    now_s += plausibility.REPORT_EVERY_S
    assert refusals.note("a")
    assert refusals.values() == {"refused from a": "4", "refused from b": "1"}


def test_a_process_that_stood_still_knows_it_before_its_watch_does() -> None:
    watch = FreezeWatch(0.2, beat_s=30.0)  # its thread sleeps: as if the process had stood still
    began_s = time.monotonic()
    assert watch.stood_still_s(began_s) == 0.0
    threading.Event().wait(0.25)
    assert 0.2 < watch.stood_still_s(began_s) < 5.0
    assert watch.stood_still_s(time.monotonic()) == 0.0
    watch.close()
