# SPDX-License-Identifier: Apache-2.0
"""The console says when a level of dose is reached, once, and how fast the dose grows."""

import math

import pytest

from carm_bringup.console.dose import DoseWatch


def test_each_level_is_told_once() -> None:
    watch = DoseWatch(3000.0)
    told = [watch.heard(kerma, 0.0) for kerma in (10.0, 2999.9, 3000.0, 3001.0, 3999.0, 4000.0, 6500.0, 6600.0)]
    assert told == ["", "", "air kerma has reached 3000 mGy", "", "", "air kerma has reached 4000 mGy",
                    "air kerma has reached 6000 mGy", ""]  # fmt: skip
    assert watch.level_mgy(6600.0) == 6000.0
    assert watch.level_mgy(2999.0) == 0.0


def test_an_x_ray_system_that_begins_anew_is_told_of_again() -> None:
    watch = DoseWatch(3.0)
    assert watch.heard(3.5, 0.0)
    assert watch.heard(0.1, 1.0) == ""
    assert watch.heard(3.1, 2.0) == "air kerma has reached 3 mGy"


def test_no_level_and_no_number_tell_nothing() -> None:
    assert DoseWatch(0.0).heard(1e6, 0.0) == ""
    watch = DoseWatch(1.0)
    for value in (math.nan, math.inf, -math.inf):
        assert watch.heard(value, 0.0) == ""
        assert watch.level_mgy(value) == 0.0
    assert watch.rate_mgy_min(5.0) == 0.0


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    watch = DoseWatch(0.0)
    for second in range(60):
        watch.heard(0.5 * second, float(second))
    assert watch.rate_mgy_min(59.0) == pytest.approx(30.0)
    assert watch.rate_mgy_min(64.0) == pytest.approx(15.0)
    assert watch.rate_mgy_min(80.0) == 0.0
