# SPDX-License-Identifier: Apache-2.0
"""The search for what is out of sight by way of its neighbors."""

import numpy as np
import pytest

from carm_agent.navigation.neighbor_search import LIMB_MM, NEIGHBORS, Search, SearchConfig
from carm_agent.navigation.task import NavigationCode, NavigationGoal
from carm_core.landmarks import ALL_LANDMARKS
from carm_core.localization import LandmarkEstimate, Localization, Query

from ..fakes import World, answer
from .test_navigator import navigate

ELBOW, SHOULDER, T1, WRIST = 6, 2, 10, 8


def estimate(landmark_id: int, offset: tuple[float, float], confidence: float) -> LandmarkEstimate:
    return LandmarkEstimate(landmark_id, offset, 20.0, confidence=confidence)


def test_neighbors_are_other_landmarks_of_the_same_side() -> None:
    sides = {mark.id: mark.name.split()[0] for mark in ALL_LANDMARKS}
    for target, chain in NEIGHBORS.items():
        assert target not in chain
        assert len(set(chain)) == len(chain)
        for guide in chain:
            if sides[guide] in ("Left", "Right") and sides[target] in ("Left", "Right"):
                assert sides[guide] == sides[target]


def test_nearest_sure_neighbor_leads() -> None:
    known = {ELBOW: estimate(ELBOW, (5, 200), 0.1), SHOULDER: estimate(SHOULDER, (-100, 80), 0.9)}
    lead = Search(WRIST).lead(None, known.get)
    assert lead is not None
    assert (lead.guide_id, lead.sure) == (SHOULDER, True)
    assert lead.offset_mm == pytest.approx([-100, 80])


def test_from_a_reached_neighbor_the_next_is_tried() -> None:
    known = {ELBOW: estimate(ELBOW, (0, -300), 0.1), SHOULDER: estimate(SHOULDER, (3, 4), 0.9)}
    lead = Search(WRIST).lead(None, known.get)
    assert lead is not None
    assert (lead.guide_id, lead.sure) == (ELBOW, False)
    assert lead.offset_mm == pytest.approx([0, -SearchConfig().step_mm])


def test_from_the_last_neighbor_the_target_itself_is_tried() -> None:
    known = {ELBOW: estimate(ELBOW, (10, 0), 0.8)}
    lead = Search(WRIST).lead(estimate(WRIST, (-60, 0), 0.1), known.get)
    assert lead is not None
    assert (lead.guide_id, lead.sure) == (WRIST, False)
    assert lead.offset_mm == pytest.approx([-60 * SearchConfig().overshoot, 0])


@pytest.mark.parametrize("target", [estimate(WRIST, (3.0, 4.0), 0.1), None])
def test_nothing_is_tried_that_would_show_nothing_new(target: LandmarkEstimate | None) -> None:
    known = {ELBOW: estimate(ELBOW, (10, 0), 0.8)}
    assert Search(WRIST).lead(target, known.get) is None


def test_from_the_middle_of_a_limb_it_goes_on_away_from_the_neighbor() -> None:
    search = Search(WRIST)
    known = {ELBOW: estimate(ELBOW, (100, 0), 0.8)}
    first = search.lead(None, known.get)
    assert first is not None
    assert (first.guide_id, first.sure) == (ELBOW, True)
    known[ELBOW] = estimate(ELBOW, (0, 20), 0.8)
    assert search.lead(None, known.get) is None
    known[ELBOW] = estimate(ELBOW, (0, 130), 0.8)
    search.lead(estimate(WRIST, (2.0, 1.0), 0.1), known.get)
    lead = search.lead(estimate(WRIST, (2.0, 1.0), 0.1), known.get)
    assert lead is not None
    assert (lead.guide_id, lead.sure) == (WRIST, False)
    assert lead.offset_mm == pytest.approx([0, 130 - LIMB_MM[WRIST]])


def test_landmarks_of_the_trunk_are_not_guessed_after() -> None:
    assert Search(11).lead(estimate(11, (100, 0), 0.1), lambda _: estimate(T1, (50, 50), 0.1)) is None
    lead = Search(11).lead(estimate(11, (100, 0), 0.1), lambda _: estimate(T1, (50, 50), 0.9))
    assert lead is not None
    assert (lead.guide_id, lead.sure) == (T1, True)


def in_sight(reach_mm: float) -> object:
    """Answers surely about what lies within ``reach_mm``, wildly and unsurely about the rest."""

    def reply(displacement: np.ndarray, query: Query, count: int) -> Localization:
        seen = np.linalg.norm(displacement) < reach_mm
        return answer(query, displacement if seen else np.array([0.0, 250.0]), 5.0, 0.9 if seen else 0.1)

    return reply


def test_wrist_out_of_sight_is_found_by_way_of_shoulder_and_elbow() -> None:
    arm = {SHOULDER: (150.0, 150.0, 130.0), ELBOW: (-50.0, 240.0, 120.0), WRIST: (-240.0, 190.0, 140.0)}
    points = {key: np.array(point) for key, point in arm.items()}
    world = World(in_sight(225.0), arm[WRIST])  # type: ignore[arg-type]
    world.localizer.points_mm |= points
    result, steps = navigate(world, NavigationGoal(target_id=WRIST))
    assert result.success, result.error_msg
    assert world.true_distance_mm() < 10.0
    told = " ".join(step.reasoning for step in steps)
    assert "right humeral head leads there" in told
    assert "right elbow leads there" in told


def test_search_in_vain_ends_with_a_reason() -> None:
    world = World(in_sight(0.0), (-300.0, 200.0, 140.0))  # type: ignore[arg-type]
    result, _ = navigate(world, NavigationGoal(target_id=WRIST))
    assert result.error_code in (NavigationCode.LOST_CONFIDENCE, NavigationCode.UNREACHABLE)
    assert world.arm.at_rest
