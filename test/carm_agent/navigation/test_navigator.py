# SPDX-License-Identifier: Apache-2.0
"""The navigation policy against localizers of every character, interrupted at every stage."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from carm_agent.errors import CanceledError, ImagingError, MotionError, NotAtRestError, StoppedError
from carm_agent.navigation.biplane import biplane_primaries_deg
from carm_agent.navigation.landmark_tracker import Evidence
from carm_agent.navigation.navigator import Navigator
from carm_agent.navigation.task import (
    EXACT_WITH_CT_MM,
    Doubt,
    NavigationCode,
    NavigationGoal,
    NavigationResult,
    NavigatorConfig,
    Policy,
    Progress,
    Stage,
)
from carm_agent.planning.planner import Planner
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, StaffZone, Surface
from carm_core.errors import GoalError
from carm_core.localization import POINT_ID, Localization, Protocol, Query
from carm_core.robot.trajectory import Trajectory

from ..fakes import World, about_another, answer, hesitant, malformed, noisy, not_a_number, right, silent

CARINA = NavigationGoal(target_id=11)
POINT = (
    120.0,
    45.0,
    160.0,
)  # towards the head, the patient's right, and above the isocenter at home (120 mm)


def navigate(
    world: World, goal: NavigationGoal = CARINA, config: NavigatorConfig | None = None
) -> tuple[NavigationResult, list[Progress]]:
    steps: list[Progress] = []
    navigator = Navigator(
        Planner(world.carm), world.imager, world.localizer, world.arm, world.clock, world.interrupt, config
    )
    return navigator.run(goal, steps.append), steps


def test_right_localizer_leads_to_the_target() -> None:
    world = World(right, POINT)
    result, steps = navigate(world)
    assert result.success
    assert world.true_distance_mm() < 10.0
    assert result.exposures == world.imager.count <= 4
    assert result.steps == len(world.arm.executed) >= 1
    assert result.dose_area_product_gym2 == pytest.approx(result.exposures * 1e-6)
    assert result.path_length_m == pytest.approx(0.128, abs=0.03)
    assert result.duration_s == pytest.approx(world.clock.time_s)
    assert result.final_distance_m < 0.010
    stages = [step.stage for step in steps]
    assert stages[:4] == [Stage.ACQUIRING, Stage.LOCALIZING, Stage.MOVING, Stage.VERIFYING]
    assert stages[-1] == Stage.VERIFYING


WITH_CT = NavigatorConfig(exact_mm=EXACT_WITH_CT_MM)


def exact(displacement: NDArray, query: Query, count: int) -> Localization:
    return answer(query, displacement, std_mm=1.5)


def test_exact_answers_that_agree_are_followed_to_the_end_without_a_further_image() -> None:
    by_std = {}
    for reply in (exact, right):
        world = World(reply, POINT)
        result, _ = navigate(world, config=WITH_CT)
        assert result.success
        by_std[reply] = world.true_distance_mm(), result
    distance_mm, result = by_std[exact]
    assert distance_mm < 2.0 < by_std[right][0]
    assert result.exposures == 2
    assert result.steps == 2
    assert "were moved after that image" in result.summary
    assert result.final_distance_m < 0.005


def test_without_a_ct_every_motion_is_verified() -> None:
    results = []
    for reply in (exact, right):
        world = World(reply, POINT)
        result, _ = navigate(world)
        results.append((result.exposures, result.steps, world.true_distance_mm() > 2.0))
    assert results[0] == results[1]
    assert results[0][2]


@pytest.mark.parametrize(("std_mm", "confirms"), [(1.5, True), (8.0, True), (25.0, False)])
def test_vague_answers_confirm_no_exact_one(std_mm: float, confirms: bool) -> None:
    world = World(exact, POINT)
    view = world.carm.view(world.arm.positions)
    for config, agreeing in ((NavigatorConfig(), 2), (WITH_CT, 1 + confirms)):
        evidence = Evidence(config)
        for std in (1.5, std_mm):
            assert evidence.weigh(view, answer(Query(target_id=11), np.array([4.0, 0.0]), std).estimates[0]) == ""
        assert evidence.agreeing == agreeing


def test_an_exact_answer_alone_is_verified_first() -> None:
    world = World(exact, (0.0, 6.0, 160.0))
    result, steps = navigate(world, config=WITH_CT)
    assert result.success
    assert result.exposures == 2
    assert [step.stage for step in steps].index(Stage.MOVING) > [step.exposures for step in steps].index(2)


def test_the_last_way_may_be_out_of_reach() -> None:
    world = World(exact, POINT)
    result, _ = navigate(world, config=replace(WITH_CT, max_steps=1))
    usual, _ = navigate(World(right, POINT), config=NavigatorConfig(max_steps=1))
    assert result.error_code is usual.error_code


def test_reasoning_is_told_in_the_words_of_anatomy() -> None:
    world = World(right, POINT)
    result, steps = navigate(world)
    line = next(step.reasoning for step in steps if step.stage == Stage.MOVING)
    displacement = world.localizer.views[0].displacement_mm(np.array(POINT))
    assert line.startswith(
        f"The carina is {-displacement[0]:.0f} mm towards the patient's right and {displacement[1]:.0f} mm"
        " towards the head of the image center (±"
    )
    assert line.endswith("; moving there.")
    assert "carina" in result.summary
    assert all("\n" not in step.reasoning for step in steps)


def test_angles_are_kept_and_the_shift_lies_in_the_image_plane() -> None:
    world = World(right, POINT)
    start = Planner(world.carm).to_view(world.carm.home, [0.0, 0.0, 0.15], (0.4, -0.2)).goal
    world.arm.positions = start.copy()
    result, _ = navigate(world)
    assert result.success
    assert world.carm.angles(world.arm.positions) == pytest.approx(world.carm.angles(start), abs=1e-9)
    shift = world.carm.isocenter(world.arm.positions) - world.carm.isocenter(start)
    assert abs(shift @ world.carm.view(start).forward) < 1e-6


@pytest.mark.parametrize("times", [1, 100])
def test_an_answer_about_an_image_is_dropped_when_the_arm_has_moved_since(times: int) -> None:
    world = World(right, POINT)
    away = [0.03, 0.0, 0.0, 0.0, 0.0, 0.0]

    def move_away() -> None:
        if world.localizer.count < times:
            world.arm.positions = world.arm.positions + np.array(away) * (-1) ** world.localizer.count

    world.localizer.before = move_away
    result, steps = navigate(world)
    dropped = [step for step in steps if "The arm has moved since the image was taken, by 30 mm" in step.reasoning]
    if times == 1:
        assert len(dropped) == 1
        assert result.success
        assert world.true_distance_mm() < 10.0
    else:  # somebody moves it whenever an answer comes
        assert result.error_code is NavigationCode.BUDGET
        assert not world.arm.executed


@pytest.mark.parametrize("angles", [(1.4, 0.0), (0.0, 0.6)])
def test_views_that_localizers_do_not_know_are_left_first(angles: tuple[float, float]) -> None:
    world = World(right, POINT)
    world.arm.positions = Planner(world.carm).to_view(world.carm.home, [0.0, 0.0, 0.15], angles).goal
    isocenter = world.carm.isocenter(world.arm.positions)
    result, steps = navigate(world)
    assert result.success
    assert steps[0].stage == Stage.MOVING
    assert "turning to AP first" in steps[0].reasoning
    first = world.arm.executed[0].positions[-1]
    assert world.carm.angles(first) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert world.carm.isocenter(first) == pytest.approx(isocenter, abs=1e-9)
    assert all(abs(a) < 1e-6 for a in world.carm.angles(world.arm.positions))


def test_where_the_turn_to_ap_is_blocked_the_arm_goes_around() -> None:
    world = World(right, POINT)
    world.arm.positions = Planner(world.carm).to_view(world.carm.home, [0.0, -0.1, 0.15], (1.45, 0.0)).goal
    isocenter = world.carm.isocenter(world.arm.positions)
    detector = isocenter + world.carm.view(world.arm.positions).forward * 0.45
    low, high = detector + np.array([-0.05, -0.03, 0.25]), detector + np.array([0.05, 0.03, 0.40])
    model = CollisionModel(world.carm, Obstacles(None, False, (StaffZone(low, high),)))
    planner = Planner(world.carm, collision=model, detour_s=20.0)
    with pytest.raises(GoalError):
        planner.to_view(world.arm.positions, None, (0.0, 0.0))
    steps: list[Progress] = []
    navigator = Navigator(planner, world.imager, world.localizer, world.arm, world.clock, world.interrupt)
    result = navigator.run(CARINA, steps.append)
    assert result.success, result.error_msg
    assert "turning to AP first" in steps[0].reasoning
    assert world.carm.isocenter(world.arm.executed[0].positions[-1]) == pytest.approx(isocenter, abs=1e-6)


def test_images_that_only_verify_are_collimated_to_what_they_need() -> None:
    world = World(right, POINT)
    assert navigate(world)[0].success
    view = world.localizer.views[-1]
    whole = view.detector.rows * view.mm_per_px_at_isocenter
    first, *rest = world.imager.fields_mm
    assert first == 0.0
    assert all(100.0 <= field < whole for field in rest)


def test_after_a_doubtful_answer_the_whole_field_is_shown() -> None:
    def lost_at_third(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return hesitant(displacement, query, count) if count == 2 else right(displacement, query, count)

    world = World(lost_at_third, POINT)
    assert navigate(world)[0].success
    assert world.imager.fields_mm[1] > 0.0
    assert world.imager.fields_mm[2] == 0.0


def test_collimation_can_be_switched_off() -> None:
    world = World(right, POINT)
    assert navigate(world, config=NavigatorConfig(collimation_margin_mm=0.0))[0].success
    assert not any(world.imager.fields_mm)


@pytest.mark.parametrize(
    ("policy", "protocol"), [(Policy.POINTING, Protocol.POINTING), (Policy.XML, Protocol.NAVIGATION)]
)
def test_policies_ask_in_their_own_protocol(policy: Policy, protocol: Protocol) -> None:
    world = World(right, POINT)
    assert navigate(world, config=NavigatorConfig(policy=policy))[0].success
    assert {query.protocol for query in world.localizer.queries} == {protocol}


def test_success_is_verified_by_a_further_image_even_without_a_motion() -> None:
    world = World(right, (0.0, 0.0, 120.0))
    result, _ = navigate(world)
    assert result.success
    assert world.imager.count == 2
    assert not world.arm.executed


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_averaged_out(seed: int) -> None:
    world = World(noisy(seed, 8.0), (250.0, -150.0, 80.0))
    result, _ = navigate(world)
    assert result.success
    assert world.true_distance_mm() < 25.0


@pytest.mark.parametrize("reply", [silent, hesitant])
def test_doubt_ends_with_a_reason_after_a_further_look(reply: object) -> None:
    world = World(reply, POINT)  # type: ignore[arg-type]
    result, steps = navigate(world)
    assert result.error_code == NavigationCode.LOST_CONFIDENCE
    assert 2 <= world.imager.count <= 3
    assert "not sure" in result.error_msg
    assert any(step.warning for step in steps)
    moved = np.linalg.norm(world.carm.isocenter(world.arm.positions) - world.carm.isocenter(world.carm.home))
    assert moved <= 0.0601


@pytest.mark.parametrize("reply", [malformed, about_another, not_a_number])
def test_unusable_answers_end_as_the_localizers_failure(reply: object) -> None:
    world = World(reply, POINT)  # type: ignore[arg-type]
    result, _ = navigate(world)
    assert result.error_code == NavigationCode.LOCALIZER
    assert world.imager.count == 2
    assert not world.arm.executed
    assert math.isnan(result.final_distance_m)


def test_one_malformed_answer_is_forgiven() -> None:
    def reply(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return malformed(displacement, query, count) if count == 2 else answer(query, displacement)

    assert navigate(World(reply, POINT))[0].success


def test_one_jump_is_not_followed() -> None:
    """A mirror swap in the second image leads to another exposure, not to a motion."""

    def reply(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return answer(query, displacement + (300.0 if count == 2 else 0.0))

    world = World(reply, POINT)
    result, steps = navigate(world)
    assert result.success
    assert world.true_distance_mm() < 10.0
    assert any(step.warning and "earlier images" in step.reasoning for step in steps)
    assert result.path_length_m < 0.2


def test_first_answer_that_two_later_ones_contradict_is_dropped() -> None:
    def reply(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return answer(query, displacement + (np.array([-200.0, 0.0]) if count == 1 else 0.0))

    world = World(reply, POINT)
    result, _ = navigate(world)
    assert result.success
    assert world.true_distance_mm() < 10.0


def test_lies_that_contradict_each_other_end_without_success() -> None:
    generator = np.random.default_rng(0)

    def reply(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return answer(query, generator.uniform(-250.0, 250.0, 2), std_mm=3.0)

    world = World(reply, POINT)
    result, _ = navigate(world)
    assert result.error_code in (
        NavigationCode.LOST_CONFIDENCE,
        NavigationCode.BUDGET,
        NavigationCode.UNREACHABLE,
    )


@pytest.mark.parametrize("magnitude", [1e4, 1e300])
def test_absurd_displacement_moves_nothing(magnitude: float) -> None:
    def reply(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return answer(query, np.array([magnitude, 0.0]))

    world = World(reply, POINT)
    result, _ = navigate(world)
    assert result.error_code == NavigationCode.LOST_CONFIDENCE
    assert not world.arm.executed


def test_uncertain_long_way_is_covered_in_part() -> None:
    def reply(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return answer(query, displacement, std_mm=80.0 if count == 1 else 5.0)

    world = World(reply, (300.0, 0.0, 120.0))
    result, steps = navigate(world)
    first = next(step for step in steps if step.stage == Stage.MOVING)
    assert "% of the way" in first.reasoning
    covered = world.arm.executed[0].positions[-1][0] - world.carm.home[0]
    assert 0.15 <= covered < 0.29
    assert result.success


def test_target_out_of_reach_is_refused_with_joint_and_limit() -> None:
    world = World(right, (1300.0, 0.0, 120.0))
    result, _ = navigate(world)
    assert result.error_code == NavigationCode.UNREACHABLE
    assert "cart_longitudinal" in result.error_msg
    assert "950 mm" in result.error_msg
    assert "at rest" in result.summary


def test_doubtful_target_out_of_reach_is_approached_then_refused() -> None:
    def reply(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return answer(query, displacement, std_mm=60.0 if count == 1 else 4.0)

    world = World(reply, (0.0, 0.0, 120.0))
    world.localizer.points_mm[11] = np.array([0.0, 420.0, 120.0])
    result, steps = navigate(world)
    assert result.error_code == NavigationCode.UNREACHABLE
    assert "cart_lateral" in result.error_msg
    assert any("as far as possible" in step.reasoning for step in steps)
    assert world.arm.positions[1] == pytest.approx(0.30, abs=0.002)


@pytest.mark.parametrize(
    ("goal", "config", "words"),
    [
        (NavigationGoal(11, max_exposures=1), None, "exposures"),
        (NavigationGoal(11, max_duration_s=1.0), None, "s"),
        (CARINA, NavigatorConfig(max_steps=0), "motions"),
    ],
)
def test_budget_ends_the_task(goal: NavigationGoal, config: NavigatorConfig | None, words: str) -> None:
    world = World(right, POINT)
    result, _ = navigate(world, goal, config)
    assert result.error_code == NavigationCode.BUDGET
    assert words in result.error_msg
    assert world.imager.count <= 1 or goal.max_exposures == 0


def test_budget_says_that_the_last_motion_is_not_verified() -> None:
    result, _ = navigate(World(right, POINT), NavigationGoal(11, max_exposures=1))
    assert "not verified" in result.error_msg


def test_never_more_exposures_than_asked_for() -> None:
    for limit in range(1, 5):
        world = World(noisy(limit, 30.0), (300.0, 100.0, 200.0))
        navigate(world, NavigationGoal(11, max_exposures=limit))
        assert world.imager.count <= limit


@pytest.mark.parametrize("interruption", ["cancel", "stop"])
@pytest.mark.parametrize("stage", list(Stage))
def test_interrupted_at_every_stage(stage: Stage, interruption: str) -> None:
    world = World(right, POINT)
    code = NavigationCode.CANCELED if interruption == "cancel" else NavigationCode.STOPPED
    moved_after: list[int] = []

    def report(step: Progress) -> None:
        if step.stage == stage and not world.interrupt.tripped:
            getattr(world.interrupt, interruption)()
            moved_after.append(len(world.arm.executed))

    world.arm.before = world.imager.before = world.localizer.before = world.interrupt.check
    if stage is Stage.DECIDING:  # said only when there is something besides a motion to decide
        world.localizer.points_mm[11] = np.array([0.0, 0.0, 120.0])
    navigator = Navigator(Planner(world.carm), world.imager, world.localizer, world.arm, world.clock, world.interrupt)
    result = navigator.run(CARINA, report)
    assert result.error_code == code
    assert moved_after == [len(world.arm.executed)]
    assert "at rest" in result.summary


def test_interrupted_while_the_localizer_thinks_moves_nothing() -> None:
    world = World(right, POINT)
    world.localizer.before = world.interrupt.cancel
    result, _ = navigate(world)
    assert result.error_code == NavigationCode.CANCELED
    assert not world.arm.executed


def test_stop_outranks_cancel() -> None:
    world = World(right, POINT)
    world.interrupt.cancel()
    world.interrupt.stop()
    world.interrupt.cancel()
    assert navigate(world)[0].error_code == NavigationCode.STOPPED


@pytest.mark.parametrize(
    ("part", "error", "code"),
    [
        ("imager", ImagingError("no X-ray image in 5 s"), NavigationCode.NO_IMAGE),
        ("arm", MotionError("path tolerance violated at lift"), NavigationCode.MOTION),
        ("arm", StoppedError("stop was pressed"), NavigationCode.STOPPED),
        ("arm", CanceledError("canceled"), NavigationCode.CANCELED),
    ],
)
def test_failing_ports_end_the_task_with_their_words(part: str, error: Exception, code: NavigationCode) -> None:
    world = World(right, POINT)

    def fail() -> None:
        raise error

    getattr(world, part).before = fail
    result, _ = navigate(world)
    assert result.error_code == code
    assert str(error) in result.error_msg


def test_the_arm_is_not_said_to_be_at_rest_when_nobody_knows() -> None:
    world = World(right, POINT)

    def fail() -> None:
        raise NotAtRestError("nothing says that the arm came to rest")

    world.arm.before = fail
    result, _ = navigate(world)
    assert result.error_code == NavigationCode.MOTION
    assert "the arm is at rest" not in result.summary
    assert "make sure" in result.summary


def test_path_of_a_motion_that_is_broken_off_counts_as_far_as_it_came() -> None:
    world = World(right, POINT)

    def break_off() -> None:
        world.arm.positions[0] += 0.05
        raise MotionError("drive fault")

    world.arm.before = break_off
    assert navigate(world)[0].path_length_m == pytest.approx(0.05)


def test_unknown_target_is_refused_with_a_suggestion() -> None:
    world = World(right, POINT)
    result, _ = navigate(world, NavigationGoal(target_name="carena"))
    assert result.error_code == NavigationCode.UNKNOWN_TARGET
    assert "Carina" in result.error_msg
    assert world.imager.count == 0
    assert navigate(world, NavigationGoal(target_id=99))[0].error_code == NavigationCode.UNKNOWN_TARGET
    assert navigate(world, NavigationGoal())[0].error_code == NavigationCode.UNKNOWN_TARGET


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_absurd_tolerance_is_refused(tolerance: float) -> None:
    result, _ = navigate(World(right, POINT), NavigationGoal(11, tolerance_mm=tolerance))
    assert result.error_code == NavigationCode.INVALID_GOAL


def test_synonym_names_the_target() -> None:
    assert navigate(World(right, POINT), NavigationGoal(target_name="tracheal bifurcation"))[0].success


def test_trajectories_start_where_the_arm_stands_and_end_at_rest() -> None:
    world = World(noisy(3, 15.0), (300.0, -200.0, 60.0))
    navigate(world)
    for trajectory in world.arm.executed:
        assert isinstance(trajectory, Trajectory)
        assert trajectory.velocities is not None
        assert np.abs(trajectory.velocities[[0, -1]]).max() < 1e-9


def rotated_distance_mm(world: World, primary_deg: float) -> float:
    turned = Planner(world.carm).to_view(world.arm.positions, None, (math.radians(primary_deg), 0.0)).goal
    return float(np.linalg.norm(world.carm.view(turned).displacement_mm(np.array(POINT))))


def test_a_correction_is_reconsidered_with_the_clinicians_words_first() -> None:
    world = World(right, POINT)
    result, steps = navigate(world, NavigationGoal(target_id=11, hint="that is the diaphragm", doubt=Doubt.DENIED))
    assert result.success
    first, *others = world.localizer.queries
    assert first == Query(Protocol.REEVALUATION, 11, "that is the diaphragm", "[11]")
    assert {query.protocol for query in others} == {Protocol.POINTING}
    assert any("with your words in mind" in step.reasoning for step in steps)


def test_a_second_look_that_does_not_name_the_target_is_followed_by_pointing() -> None:
    def reconsiders(displacement: np.ndarray, query: Query, count: int) -> Localization:
        if query.protocol is Protocol.REEVALUATION:
            return about_another(displacement, query, count)
        return right(displacement, query, count)

    world = World(reconsiders, POINT)
    result, _ = navigate(world, NavigationGoal(target_id=11, hint="look again", doubt=Doubt.LOOK_AGAIN))
    assert result.success
    assert [query.protocol for query in world.localizer.queries[:2]] == [Protocol.REEVALUATION, Protocol.POINTING]


@pytest.mark.parametrize(("doubt", "believed"), [(Doubt.NONE, True), (Doubt.LOOK_AGAIN, True), (Doubt.DENIED, False)])
def test_what_the_clinician_denies_is_not_claimed_again(doubt: Doubt, believed: bool) -> None:
    def in_the_center(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return answer(query, np.array([3.0, 2.0]))

    result, _ = navigate(World(in_the_center, POINT), NavigationGoal(target_id=11, hint="wrong", doubt=doubt))
    assert result.success == believed
    if not believed:
        assert result.error_code == NavigationCode.LOST_CONFIDENCE
        assert "it seems to be where you say that it is not" in result.error_msg


def test_two_views_put_the_isocenter_on_the_target() -> None:
    plain, biplane = World(right, POINT), World(right, POINT)
    assert navigate(plain)[0].success
    result, steps = navigate(biplane, NavigationGoal(target_id=11, biplane=True))
    assert result.success
    assert "fix its depth to ±" in result.summary
    assert np.linalg.norm(1000.0 * biplane.carm.isocenter(biplane.arm.positions) - POINT) < 8.0
    assert biplane.carm.angles(biplane.arm.positions) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert rotated_distance_mm(biplane, 45.0) < 10.0 < 20.0 < rotated_distance_mm(plain, 45.0)
    assert any("Two views 40° apart show the carina" in step.reasoning for step in steps)
    assert result.exposures == biplane.imager.count


def knowing_depth(world: World, depth_std_mm: float) -> None:
    """Let the localizer know the CT: it states the target's depth, too."""

    def reply(displacement: np.ndarray, query: Query, count: int) -> Localization:
        view = world.localizer.views[-1]
        depth_mm = float((world.localizer.points_mm[query.target_id or POINT_ID] - view.isocenter_mm) @ view.forward)
        found = right(displacement, query, count)
        known = tuple(replace(e, depth_mm=depth_mm, depth_std_mm=depth_std_mm) for e in found.estimates)
        return replace(found, estimates=known)

    world.localizer.reply = reply


def test_a_localizer_that_knows_the_depth_spares_the_two_views() -> None:
    blind, knowing, vague = World(right, POINT), World(right, POINT), World(right, POINT)
    knowing_depth(knowing, 2.0)
    knowing_depth(vague, 20.0)
    goal = NavigationGoal(target_id=11, biplane=True)
    result, steps = navigate(knowing, goal)
    assert result.success
    assert "The CT tells its depth to ±" in result.summary
    assert np.linalg.norm(1000.0 * knowing.carm.isocenter(knowing.arm.positions) - POINT) < 2.0
    assert result.exposures == knowing.imager.count == 2
    assert sum("putting the isocenter there" in step.reasoning for step in steps) == result.steps == 1
    two_views = [navigate(world, goal)[0] for world in (blind, vague)]
    assert all("Two views fix its depth" in one.summary for one in two_views)
    assert min(one.exposures for one in two_views) >= 6


def test_a_target_that_is_centered_already_is_put_into_the_isocenter_in_depth() -> None:
    world = World(right, POINT)
    knowing_depth(world, 2.0)
    assert navigate(world)[0].success
    assert abs(1000.0 * world.carm.isocenter(world.arm.positions)[2] - POINT[2]) > 20.0
    assert navigate(world, NavigationGoal(target_id=11, biplane=True))[0].success
    assert np.linalg.norm(1000.0 * world.carm.isocenter(world.arm.positions) - POINT) < 2.0


def test_a_point_of_the_ct_is_a_target_like_any_other() -> None:
    world = World(right, POINT)
    world.localizer.points_mm = {POINT_ID: np.array(POINT)}  # asked about a neighbor, the fake would fail
    goal = NavigationGoal(point_mm=(-12.0, 30.0, -410.0))
    result, _ = navigate(world, goal)
    assert result.success
    assert world.true_distance_mm(POINT_ID) < 10.0
    assert result.summary.startswith("The point (-12, 30, -410) mm of the CT is ")
    assert {query.point_mm for query in world.localizer.queries} == {goal.point_mm}
    named, _ = navigate(World(silent, POINT), replace(goal, target_name="vertebrae_L3"))
    assert named.error_code is NavigationCode.LOST_CONFIDENCE
    assert "I am not sure where the vertebrae L3 is" in named.error_msg


def test_depth_needs_a_localizer_that_sees_the_target_from_both_sides() -> None:
    def sees_from_the_front_only(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return right(displacement, query, count) if count <= 3 else hesitant(displacement, query, count)

    world = World(sees_from_the_front_only, POINT)
    result, _ = navigate(world, NavigationGoal(target_id=11, biplane=True))
    assert result.error_code == NavigationCode.LOST_CONFIDENCE
    assert "I am not sure where the carina is at LAO 20°" in result.error_msg
    assert "the arm is at rest" in result.summary


def test_a_depth_that_is_hardly_known_is_no_success() -> None:
    def vague_from_aside(displacement: np.ndarray, query: Query, count: int) -> Localization:
        found = right(displacement, query, count)
        if count <= 2:
            return found
        return replace(found, estimates=tuple(replace(e, radius_90_mm=60.0) for e in found.estimates))

    result, _ = navigate(World(vague_from_aside, POINT), NavigationGoal(target_id=11, biplane=True))
    assert result.error_code == NavigationCode.LOST_CONFIDENCE
    assert re.search(r"two views tell it to ±\d+ mm only, and ±50 mm are needed", result.error_msg)


@pytest.mark.parametrize(
    ("primary_deg", "expected"),
    [(0.0, (-20.0, 20.0)), (3.0, (-17.0, 23.0)), (-28.0, (-25.0, 15.0)), (12.0, (25.0, -15.0))],
)
def test_views_of_the_depth_are_apart_and_known(primary_deg: float, expected: tuple[float, float]) -> None:
    assert biplane_primaries_deg(primary_deg, 25.0) == pytest.approx(expected)


def test_what_is_nearly_sure_is_looked_at_from_aside_before_success_is_claimed() -> None:
    def vague_twice(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return answer(query, displacement, std_mm=18.0 if count <= 3 else 5.0)

    world = World(vague_twice, POINT)
    result, steps = navigate(world)
    assert result.success
    assert sum("looking from aside" in step.reasoning for step in steps) == 1
    assert result.steps >= 3
    never = World(lambda displacement, query, count: answer(query, displacement, std_mm=30.0), POINT)
    assert navigate(never)[0].error_code in (NavigationCode.LOST_CONFIDENCE, NavigationCode.BUDGET)


def test_what_stays_vague_is_looked_at_from_another_angle_and_the_angle_comes_back() -> None:
    def vague(displacement: np.ndarray, query: Query, count: int) -> Localization:
        return answer(query, displacement, std_mm=20.0 if count <= 6 else 5.0)

    world = World(vague, POINT)
    start = world.carm.angles(world.arm.positions)
    result, steps = navigate(world)
    assert result.success
    told = [step.reasoning for step in steps if "looking from another angle" in step.reasoning]
    assert len(told) == 1
    assert "18°" in told[0]
    assert world.carm.angles(world.arm.positions) == pytest.approx(start, abs=1e-6)
    assert world.true_distance_mm() < 10.0


@pytest.mark.parametrize("most", [2, 3, 4, 5, 12])
def test_a_look_from_another_angle_keeps_to_the_budget_of_motions(most: int) -> None:
    world = World(lambda displacement, query, count: answer(query, displacement, std_mm=20.0), POINT)
    result, steps = navigate(world, config=NavigatorConfig(max_steps=most))
    assert result.steps <= most
    assert result.steps == len(world.arm.executed)
    turned = sum("looking from another angle" in step.reasoning for step in steps)
    assert turned == sum("Turning back" in step.reasoning for step in steps) == (most > 4)


def test_a_long_way_that_ends_beside_the_body_is_gone_half_back() -> None:
    def overshoots(displacement: np.ndarray, query: Query, count: int) -> Localization:
        if count == 1:
            return answer(query, displacement + np.array([260.0, 0.0]), std_mm=30.0)
        if np.linalg.norm(displacement) > 200.0:
            return replace(answer(query, displacement), abstained=True, estimates=(), message="nothing known")
        return answer(query, displacement)

    world = World(overshoots, POINT)
    result, steps = navigate(world)
    assert result.success, result.error_msg
    assert sum("going back half the way" in step.reasoning for step in steps) == 1


def sheet(low: tuple[float, float], high: tuple[float, float]) -> Surface:
    """A level surface between two corners (x, y), m, of small triangles."""
    x, y = (np.linspace(a, b, 21) for a, b in zip(low, high, strict=True))
    vertices = np.array([(a, b, 0.02) for a in x for b in y])
    rows = [(21 * i + j, 21 * i + j + 1, 21 * i + j + 21) for i in range(20) for j in range(20)]
    return Surface(vertices, np.array(rows))


def test_the_middle_of_the_trunk_is_found_from_the_surface() -> None:
    assert sheet((-0.9, -0.2), (0.5, 0.2)).trunk_m == pytest.approx([0.1, 0.0])
    assert sheet((0.1, -0.1), (0.4, 0.3)).trunk_m == pytest.approx([0.25, 0.1])


def test_from_where_nothing_is_recognized_the_arm_goes_to_the_trunk_once() -> None:
    def knows_the_trunk(displacement: np.ndarray, query: Query, count: int) -> Localization:
        if np.linalg.norm(displacement) > 150.0:
            return replace(answer(query, displacement), abstained=True, estimates=(), message="nothing known")
        return answer(query, displacement)

    def run(top_m: float) -> tuple[World, NavigationResult, list[Progress]]:
        world = World(knows_the_trunk, (300.0, 20.0, 140.0))
        model = CollisionModel(world.carm, Obstacles(sheet((top_m - 1.0, -0.2), (top_m, 0.2)), assume_patient=False))
        steps: list[Progress] = []
        planner = Planner(world.carm, collision=model, detour_s=20.0)
        navigator = Navigator(planner, world.imager, world.localizer, world.arm, world.clock, world.interrupt)
        return world, navigator.run(CARINA, steps.append), steps

    world, result, steps = run(0.7)
    assert result.success, result.error_msg
    assert world.true_distance_mm() < 10.0
    assert sum("going to the middle of the trunk" in step.reasoning for step in steps) == 1
    world, result, steps = run(0.4)  # the middle is where the arm stands
    assert result.error_code == NavigationCode.LOST_CONFIDENCE
    assert not any("trunk" in step.reasoning for step in steps)
    assert not world.arm.executed


def test_a_place_that_is_known_is_imaged_again_before_the_arm_goes_elsewhere() -> None:
    def once_nothing(displacement: np.ndarray, query: Query, count: int) -> Localization:
        reply = answer(query, displacement)
        return replace(reply, abstained=True, estimates=(), message="nothing known") if count == 2 else reply

    world = World(once_nothing, (-60.0, 40.0, 60.0))
    result, steps = navigate(world, NavigationGoal(target_id=8))
    assert result.success, result.error_msg
    told = " ".join(step.reasoning for step in steps)
    assert "taking another exposure" in told
    assert "going on" not in told
    assert "going back" not in told
