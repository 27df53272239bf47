# SPDX-License-Identifier: Apache-2.0
"""What is decided where an image leaves open where the target is."""

import numpy as np
import pytest

from carm_agent.navigation.recovery import (
    ASIDE_MM,
    MAX_SEARCH_MOTIONS,
    Doubt,
    History,
    Motion,
    Step,
    doubts_in_a_row,
    look_aside,
    may_search,
    next_step,
    ways_from_nowhere,
)

WRIST, CARINA = 9, 11
ANYWHERE = {step: np.ones(2) for step in Step}
AWAY = {step: np.ones(2) for step in (Step.GO_ON, Step.GO_BACK, Step.TO_TRUNK)}
UP = np.array([0.0, 120.0])


def steps(doubt: Doubt, count: int) -> list[Step]:
    """The steps out of one doubt after another, none of which helps."""
    history: History = ()
    for _ in range(count):
        history += (next_step(doubt, history),)
    return list(history)


def test_without_a_way_it_is_looked_again_then_moved_a_little_then_given_up() -> None:
    assert steps(Doubt({Step.CREEP: UP}), 3) == [Step.EXPOSE, Step.CREEP, Step.GIVE_UP]
    assert steps(Doubt({}), 2) == [Step.EXPOSE, Step.GIVE_UP]
    assert steps(Doubt({}, max_doubts=1), 1) == [Step.GIVE_UP]


def test_what_is_sure_in_between_ends_a_row_of_doubts() -> None:
    history = (Step.EXPOSE, Step.CREEP, Step.APPROACH, Step.EXPOSE)
    assert doubts_in_a_row(history) == 1
    assert next_step(Doubt({Step.CREEP: UP}), history) is Step.CREEP


def test_a_nearly_sure_target_is_looked_at_from_aside_and_from_another_angle_once_each() -> None:
    looks = {Step.ASIDE: UP, Step.TURN: np.zeros(2)}
    assert steps(Doubt(looks, acceptable=True), 4) == [Step.ASIDE, Step.TURN, Step.ACCEPT, Step.ACCEPT]


def test_the_way_is_gone_on_where_nothing_is_recognized_but_not_for_ever() -> None:
    doubt = Doubt({Step.GO_ON: UP})
    assert steps(doubt, 3) == [Step.GO_ON, Step.GO_ON, Step.EXPOSE]
    assert next_step(doubt, (Step.GO_ON, Step.GO_ON, Step.RECOGNIZE)) is Step.GO_ON
    assert next_step(doubt, (Step.GO_ON, Step.RECOGNIZE) * MAX_SEARCH_MOTIONS) is Step.EXPOSE


def test_ways_from_nowhere_are_tried_in_turn_and_half_back_not_after_the_trunk() -> None:
    expected = [Step.GO_ON, Step.GO_ON, Step.GO_BACK, Step.TO_TRUNK, Step.EXPOSE]
    assert steps(Doubt(AWAY), 5) == expected
    back = Doubt({Step.GO_BACK: UP})
    assert next_step(back, ()) is Step.GO_BACK
    assert next_step(back, (Step.TO_TRUNK,)) is Step.EXPOSE


def test_neighbors_come_first_and_not_for_ever() -> None:
    doubt = Doubt({Step.FOLLOW: UP, **AWAY})
    assert steps(doubt, MAX_SEARCH_MOTIONS + 1) == [Step.FOLLOW] * MAX_SEARCH_MOTIONS + [Step.GO_BACK]
    assert not may_search((Step.FOLLOW, Step.GO_ON) * (MAX_SEARCH_MOTIONS // 2))


def test_every_history_ends() -> None:
    assert Step.GIVE_UP in steps(Doubt(ANYWHERE), 20)


def test_ways_away_follow_the_last_long_motion() -> None:
    assert ways_from_nowhere(WRIST, Motion(), None, 400.0) == {}
    last = Motion().then(UP).then(np.array([1.0, 0.0]))  # which shows nothing new
    ways = ways_from_nowhere(WRIST, last, None, 400.0)
    np.testing.assert_allclose(ways[Step.GO_ON], [0.0, 80.0])
    np.testing.assert_allclose(ways[Step.GO_BACK], [0.0, -60.0])
    assert list(ways_from_nowhere(CARINA, last, None, 400.0)) == [Step.GO_BACK]
    assert ways_from_nowhere(CARINA, Motion().then(UP / 2), None, 400.0) == {}


@pytest.mark.parametrize(("trunk", "way"), [((20, 30), None), ((200, 30), (200, 30)), ((800, 0), (400, 0))])
def test_the_trunk_is_gone_to_unless_it_is_there(trunk: tuple[float, float], way: tuple[float, float] | None) -> None:
    ways = ways_from_nowhere(CARINA, Motion(), np.array(trunk, dtype=float), 400.0)
    assert (Step.TO_TRUNK in ways) == (way is not None)
    if way is not None:
        np.testing.assert_allclose(ways[Step.TO_TRUNK], way)


def test_the_look_from_aside_goes_back_the_way() -> None:
    np.testing.assert_allclose(look_aside(UP, Motion().then(np.array([0.0, -90.0]))), UP + np.array([0.0, ASIDE_MM]))
    np.testing.assert_allclose(look_aside(UP, Motion()), UP + np.array([0.0, ASIDE_MM]))
    np.testing.assert_allclose(look_aside(UP, Motion().then(UP)), UP - np.array([0.0, ASIDE_MM]))
