# SPDX-License-Identifier: Apache-2.0
"""Fluoroscopy that is held: it lasts as long as it is renewed."""

import pytest

from carm_sim.nodes.held_series import HeldSeries
from carm_sim.xray import Request

HOLD_S = 0.5
WIDE, NARROW = Request(), Request(field_m=(0.05, 0.05))


class Time:
    now_s = 10.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def held(time: Time) -> HeldSeries:
    return HeldSeries(HOLD_S, time)


def test_it_lasts_as_long_as_it_is_renewed(held: HeldSeries, time: Time) -> None:
    assert held.request is None
    assert held.renew(WIDE, time.now_s)
    for _ in range(10):
        time.now_s += 0.4
        assert held.request == WIDE
        assert not held.renew(WIDE, time.now_s)
    time.now_s += HOLD_S + 0.01
    assert held.request is None
    assert held.renew(WIDE, time.now_s)


def test_it_ends_when_it_is_released(held: HeldSeries, time: Time) -> None:
    held.renew(WIDE, time.now_s)
    assert held.end()
    assert held.request is None
    assert not held.end()


def test_the_newest_request_counts(held: HeldSeries, time: Time) -> None:
    held.renew(WIDE, time.now_s)
    held.renew(NARROW, time.now_s)
    assert held.request == NARROW


def test_a_renewal_that_was_under_way_for_too_long_begins_nothing(held: HeldSeries, time: Time) -> None:
    assert not held.renew(WIDE, time.now_s - HOLD_S - 0.01)
    assert held.request is None
    held.renew(WIDE, time.now_s - 0.3)  # the hold counts from when it was sent
    time.now_s += 0.25
    assert held.request is None
