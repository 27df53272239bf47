# SPDX-License-Identifier: Apache-2.0
"""Which parameters of the agent can be loosened while it runs: none that guards."""

from dataclasses import dataclass
from typing import Any

import pytest

from carm_agent.parameters import AgentParameters
from carm_core.parameters import updated_parameters


@dataclass
class Change:
    """Stands in for a parameter of rclpy."""

    name: str
    value: Any


STARTED = AgentParameters(wait_for_all=True, confirm_moves=True, staff_zones="-1 -2 -1 1 -1 1")


@pytest.mark.parametrize(
    ("name", "tighter", "looser"),
    [
        ("min_confidence", 0.5, 0.1),
        ("max_exposures", 5, 50),
        ("max_step_m", 0.1, 0.9),
        ("max_radius_m", 0.01, 0.1),
        ("joint_state_timeout_s", 0.5, 5.0),
        ("localizer_timeout_s", 10.0, 500.0),
        ("staff_zones", "-1 -2 -1 1 -1 1 2 2 0 3 3 1", ""),
    ],
)
def test_what_guards_is_tightened_but_not_loosened(name: str, tighter: Any, looser: Any) -> None:
    settings, reason = updated_parameters(STARTED, [Change(name, tighter)])
    assert reason == ""
    assert getattr(settings, name) == tighter
    settings, reason = updated_parameters(STARTED, [Change(name, looser)])
    assert name in reason
    assert settings is STARTED


@pytest.mark.parametrize("name", ["wait_for_all", "confirm_moves"])
def test_what_asks_back_is_not_switched_off(name: str) -> None:
    assert name in updated_parameters(STARTED, [Change(name, False)])[1]
    assert updated_parameters(AgentParameters(), [Change(name, True)])[1] == ""


def test_what_does_not_guard_changes_both_ways() -> None:
    for value in (0.2, 0.9):
        assert updated_parameters(STARTED, [Change("velocity_scaling", value)])[1] == ""
