# SPDX-License-Identifier: Apache-2.0
"""Names that stand in two places are the same in both."""

from dataclasses import fields

import pytest
import yaml
from carm_interfaces.action import MoveCArm, Navigate

from carm_agent.navigation.task import NavigationCode, NavigatorConfig
from carm_agent.parameters import AgentParameters
from carm_agent.planning.move import MoveCode, MoveGoal, Mover
from carm_agent.planning.planner import Planner
from carm_core.parameters import check_parameter, parameter_defaults
from carm_core.paths import config_file
from carm_core.robot.kinematics import CArm

from .fakes import FakeArm, FakeClock


def test_parameter_file_has_the_parameters_and_their_defaults() -> None:
    content = yaml.safe_load(config_file("agent.yaml").read_text(encoding="utf-8"))
    assert content["/**"]["ros__parameters"] == parameter_defaults(AgentParameters)


def test_defaults_are_allowed_and_those_of_the_policy() -> None:
    parameters = AgentParameters()
    assert all(not check_parameter(AgentParameters, f.name, getattr(parameters, f.name)) for f in fields(parameters))
    assert parameters.navigator_config() == NavigatorConfig()


@pytest.mark.parametrize(("codes", "action"), [(NavigationCode, Navigate), (MoveCode, MoveCArm)])
def test_codes_are_those_of_the_actions(codes: type[NavigationCode], action: type) -> None:
    declared = {
        name.removeprefix("ERROR_"): getattr(action.Result, name)  # type: ignore[attr-defined]
        for name in dir(type(action.Result))  # type: ignore[attr-defined]
        if name.startswith("ERROR_")
    }
    assert declared == {code.name: code.value for code in codes}


@pytest.mark.parametrize(
    ("goal", "code"),
    [
        (MoveGoal(["lift"], [0.2]), MoveCode.NONE),
        (MoveGoal(["lift"], [0.2], plan_only=True), MoveCode.NONE),
        (MoveGoal(is_view=True, angles_rad=(0.2, 0.1)), MoveCode.NONE),
        (MoveGoal(["lift"], [2.0]), MoveCode.JOINT_LIMIT),
        (MoveGoal(["lift", "lift"], [0.1, 0.2]), MoveCode.INVALID_GOAL),
        (MoveGoal(["lift"], [0.1, 0.2]), MoveCode.INVALID_GOAL),
        (MoveGoal(["lift"], [float("nan")]), MoveCode.INVALID_GOAL),
        (MoveGoal(), MoveCode.INVALID_GOAL),
        (MoveGoal(is_view=True, isocenter_m=(3.0, 3.0, 3.0)), MoveCode.UNREACHABLE),
    ],
)
def test_moves_and_their_refusals(goal: MoveGoal, code: MoveCode) -> None:
    arm = FakeArm(CArm.from_config(), FakeClock())
    result = Mover(Planner(arm.carm), arm).run(goal)
    assert result.error_code == code
    assert bool(result.error_msg) == (code != MoveCode.NONE)
    assert bool(arm.executed) == (code == MoveCode.NONE and not goal.plan_only)
