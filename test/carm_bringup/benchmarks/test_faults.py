# SPDX-License-Identifier: Apache-2.0
"""Faulted episodes: every judge can fail, nothing happens in a short campaign, what is found is shrunk and replayed."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from carm_bringup.benchmarks.faults.campaign import Job, Runner, Totals, write_trace
from carm_bringup.benchmarks.faults.command import table
from carm_bringup.benchmarks.faults.garbage import garble
from carm_bringup.benchmarks.faults.history import History
from carm_bringup.benchmarks.faults.judges import Judge, Verdict
from carm_bringup.benchmarks.faults.kernel import Link, Part, World
from carm_bringup.benchmarks.faults.record import ramp
from carm_bringup.benchmarks.faults.scenario import FAULTS, PARTS, Fault, Order, Scenario, load
from carm_bringup.benchmarks.faults.scene import Body, Scene
from carm_bringup.cli.app import run
from carm_control import JointLimits, Permit, TrajectoryController
from carm_control.supervision.permit_judge import Judgment, PermitJudge
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()
LIMITS = JointLimits.of(CARM.joints)
JUDGE = Judge(LIMITS)
EPISODES = 12
RUN_S, STEP_S = 6.0, 0.01
MOTION = Scenario(
    seed=3,
    start=tuple(CARM.home.tolist()),
    orders=(Order("trajectory", 0.5, "console", ((0.15, 0.0, 0.2, 0.0, 0.0, 0.3),), (4.0,)),),
)

TRACES = Path(__file__).resolve().parents[2] / "data/faults"


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner()


def far(positions: np.ndarray) -> tuple[float, str]:
    return 0.15, ""


def history(speed: Callable[[float], float], permits: bool = True) -> History:
    """A cart that moves at a speed over time; permits come all the time, a goal is accepted at once."""
    made, place = History(), CARM.home.copy()
    for step in range(int(RUN_S / STEP_S)):
        made.now_s = step * STEP_S
        if step % 4 == 0 and permits:
            made.note("permit", "", 1.0)
        if step == 1:
            made.note("accepted", "1")
        place = place + np.array([speed(made.now_s) * STEP_S, 0, 0, 0, 0, 0])
        made.sample(made.now_s, place)
        made.cycles.append((made.now_s, STEP_S, place.copy(), "MOVING"))
    return made


def ends(at_s: float, top: float = 0.05) -> Callable[[float], float]:
    """A speed that rises and falls within the limits of acceleration and jerk: at rest at a time."""
    times = np.arange(0.0, RUN_S + STEP_S, STEP_S)
    rise, fall = np.clip((times - 0.2) / 0.6, 0, 1), np.clip((at_s - times) / 0.6, 0, 1)
    smooth = [part**2 * (3 - 2 * part) for part in (rise, fall)]
    return lambda time_s: top * float(np.interp(time_s, times, np.minimum(*smooth)))


def kinds(verdict: Verdict) -> set[str]:
    return {violation.judge for violation in verdict.violations}


def texts(verdict: Verdict) -> str:
    return "; ".join(violation.text for violation in verdict.violations)


def test_an_orderly_motion_is_no_violation() -> None:
    made = history(ends(4.0))
    made.note("ended", "1", time_s=4.2)
    verdict = JUDGE.judge(made, far)
    assert not verdict.violations, texts(verdict)
    assert verdict.motion_after_stop_mm == 0.0
    assert verdict.unsupervised_motion_s == 0.0


def test_motion_after_stop_is_found_and_measured() -> None:
    made = history(ends(5.5))
    made.note("stop", "pressed", time_s=2.0)
    verdict = JUDGE.judge(made, far)
    assert "after stop" in texts(verdict)
    assert verdict.motion_after_stop_mm == pytest.approx(150.0, abs=25.0)


def test_a_stop_that_brakes_at_once_is_timed() -> None:
    made = history(ends(2.65))
    made.note("stop_sent", time_s=2.03)
    made.note("stop", "pressed", time_s=2.04)
    verdict = JUDGE.judge(made, far)
    assert not verdict.violations, texts(verdict)
    assert verdict.stop_to_deceleration_s == [pytest.approx(0.03, abs=0.011)]


def test_motion_without_a_permit_is_found_and_timed() -> None:
    made = history(ends(5.5), permits=False)
    for step in range(10):
        made.note("permit", "", 1.0, time_s=step * 0.04)
    verdict = JUDGE.judge(made, far)
    assert kinds(verdict) == {"unsafe_motion"}
    assert 2.0 < verdict.unsupervised_motion_s < 5.0


def test_motion_without_any_permit_is_found() -> None:
    assert "no permit ever came" in texts(JUDGE.judge(history(ends(3.0), permits=False), far))


def test_motion_against_a_denied_permit_is_found() -> None:
    made = history(ends(5.5))
    made.events = [event for event in made.events if event.kind != "permit" or event.time_s < 2.0]
    for step in range(80):
        made.note("permit", "", 0.0, time_s=2.0 + step * 0.04)
    assert "denied permit" in texts(JUDGE.judge(made, far))


@pytest.mark.parametrize(
    ("what", "who", "why"),
    [("dead", "console", "console fell silent"), ("frozen", "goal_server", "goal server fell silent")],
)
def test_motion_for_nobody_is_found(what: str, who: str, why: str) -> None:
    made = history(ends(5.8))
    made.note("given", "1", text="console_1", time_s=0.01)
    made.note("heard", "console_1", time_s=0.1)
    made.note(what, who, 9.0, time_s=1.0)
    assert why in texts(JUDGE.judge(made, far))


def test_motion_after_a_held_up_control_loop_is_found() -> None:
    made = history(ends(5.8))
    made.cycles = [cycle for cycle in made.cycles if not 1.0 < cycle[0] < 2.0]
    before, after = (next(k for k, c in enumerate(made.cycles) if c[0] >= t) for t in (1.0, 2.0))
    time_s, _, place, state = made.cycles[after]
    made.cycles[after] = (time_s, time_s - made.cycles[before][0], place, state)
    assert "held up for" in texts(JUDGE.judge(made, far))


def test_motion_that_begins_by_itself_is_found() -> None:
    first, second = ends(2.0), ends(3.0)
    made = history(lambda time_s: first(time_s) + second(time_s - 2.5))
    made.note("ended", "1", time_s=2.1)
    assert kinds(JUDGE.judge(made, far)) == {"restarts_by_itself"}


def test_a_goal_that_replaces_another_does_not_begin_by_itself() -> None:
    first, second = ends(2.0), ends(3.0)
    made = history(lambda time_s: first(time_s) + second(time_s - 2.5))
    made.note("accepted", "2", time_s=2.05)
    made.note("ended", "1", text="preempted", time_s=2.06)
    verdict = JUDGE.judge(made, far)
    assert not verdict.violations, texts(verdict)


def test_motion_that_nobody_asked_for_is_found() -> None:
    made = history(ends(3.0))
    made.events = [event for event in made.events if event.kind != "accepted"]
    assert "restarts_by_itself" in kinds(JUDGE.judge(made, far))


@pytest.mark.parametrize(
    ("speed", "name"),
    [
        (ends(5.0, 1.4 * float(LIMITS.velocity[0])), "velocity"),
        (lambda time_s: 0.05 if 1.0 < time_s < 3.0 else 0.0, "acceleration"),
        (lambda time_s: min(0.09, max(0.0, 0.19 * (time_s - 1.0))), "jerk"),
        (lambda time_s: 0.0 if time_s < 0.5 else 0.1 + 0.1 * np.tanh(time_s), "position"),
    ],
)
def test_commands_beyond_a_limit_are_found(speed: Callable[[float], float], name: str) -> None:
    made = history(speed)
    verdict = JUDGE.judge(made, far)
    assert "limit_violations" in kinds(verdict)
    assert f"{name} of cart_longitudinal" in texts(verdict)


@pytest.mark.parametrize(("name", "too_fast"), [("velocity", 0), ("acceleration", 1), ("jerk", 2), ("", None)])
def test_published_setpoints_beyond_a_limit_are_found(name: str, too_fast: int | None) -> None:
    made = history(ends(4.0))
    rates = [0.9 * most for most in (LIMITS.velocity, LIMITS.acceleration, LIMITS.jerk)]
    if too_fast is not None:
        rates[too_fast] = rates[too_fast] * 1.2
    times = np.array([0.0, 0.01, 0.02, 0.2])  # the last cycle was held up: its difference tells nothing
    made.setpoints = [(float(t), *(rate * t for rate in rates)) for t in times[:3]]
    made.setpoints.append((0.2, *(rate * 9.0 for rate in rates)))
    verdict = JUDGE.judge(made, far)
    assert kinds(verdict) == ({"limit_violations"} if name else set())
    assert f"{name} of" in texts(verdict) or not name


def test_contact_is_found_at_its_time() -> None:
    made = history(ends(5.0))
    verdict = JUDGE.judge(made, lambda place: (CARM.home[0] + 0.1 - place[0], "patient"))
    found = next(one for one in verdict.violations if one.judge == "collisions")
    reached = next(t for t, place in zip(made.times_s, made.true, strict=True) if place[0] >= CARM.home[0] + 0.1)
    assert found.time_s == pytest.approx(reached, abs=0.05)
    assert "patient" in found.text


def test_exceptions_and_what_does_not_end_are_found() -> None:
    made = history(ends(3.0))
    made.note("exception", "supervisor", text="ValueError: no", time_s=1.0)
    assert kinds(JUDGE.judge(made, far, (), ["goal console_0"])) == {"died", "hung"}


def test_ramp_is_what_a_stop_takes() -> None:
    from carm_control import State, StopProfile

    generator = np.random.default_rng(0)
    for _ in range(20):
        velocity = LIMITS.velocity * generator.uniform(-1, 1, 6)
        start = State(CARM.home, velocity, np.zeros(6))
        profile = StopProfile(LIMITS, start)
        time_s, way = ramp(LIMITS, velocity, np.zeros(6))
        assert profile.duration_s <= time_s * 1.001
        gone = np.abs(profile.sample(profile.duration_s).position - CARM.home)
        assert (gone <= way * 1.001 + 1e-9).all()


def test_true_distances_agree_with_the_supervisors_but_for_its_margins() -> None:
    scene, body = Scene(CARM, Body()), Body()
    model = CollisionModel(CARM, Obstacles(body.surface()))
    generator = np.random.default_rng(1)
    touched = 0
    for _ in range(40):
        place = CARM.home + generator.uniform(-1, 1, 6) * [0.3, 0.2, 0.15, 0.2, 1.0, 0.8]
        place = np.clip(place, LIMITS.lower, LIMITS.upper)
        seen, planned = scene.clearance(place)[0], model.clearance(place).distance_m
        assert seen <= 0 or planned <= seen + 0.012 or planned > 0.15
        touched += seen <= 0
    assert 3 < touched < 37


@pytest.mark.parametrize(("kind", "count"), [("drop", 0), ("delay", 20), ("duplicate", 40), ("garbage", 20)])
def test_a_link_drops_delays_doubles_and_garbles(kind: str, count: int) -> None:
    world = World(0, [Fault(kind, "permit", 0.0, 10.0, 1.0)], History())
    came: list[tuple[float, Permit]] = []
    link = Link(world, "permit", Part(world, "core"), 10, garble)

    def take(permit: Permit) -> None:
        came.append((world.now_s, permit))

    for _ in range(20):
        link.send(Permit(1.0), take)
    world.run(20.0)
    assert len(came) == count
    if kind == "delay":
        assert came[0][0] >= 3.0
    if kind == "garbage":
        assert any(not 0 <= permit.speed <= 1 for _, permit in came)


@pytest.mark.parametrize(
    ("fault", "expected"), [(Fault("freeze", "core", 1.0, 2.0), [0, 1, 5]), (Fault("death", "core", 1.0), [0, 1])]
)
def test_a_frozen_part_hears_the_newest_when_it_wakes_and_a_dead_one_nothing(fault: Fault, expected: list[int]) -> None:
    world, heard = World(0, [fault], History()), list[int]()
    part = Part(world, "core")
    for number in range(6):
        hear = partial(heard.append, number)
        world.at(0.5 + 0.3 * number, partial(part.receive, "permit", hear, 1))
    world.run(5.0)
    assert heard == expected


def test_an_exception_in_a_part_ends_it_and_is_told() -> None:
    world = World(0, [], History())
    part = Part(world, "core")
    part.do(lambda: [][1])
    assert part.dead
    assert [event.kind for event in world.history.events] == ["exception", "dead"]


def test_a_short_campaign_finds_nothing(runner: Runner) -> None:
    totals = Totals()
    for judged in runner.run(Job(0, 0, EPISODES)):
        totals.add(judged)
        assert not judged.verdict.violations, f"episode {judged.number}: {texts(judged.verdict)}"
    metrics = totals.metrics()
    assert metrics["moved"] > EPISODES / 2
    assert metrics["episodes"] == EPISODES
    assert metrics["motion_after_stop_mm"] <= 0.0
    assert "unsafe_motion" in table(metrics)


@pytest.mark.parametrize("part", PARTS)
def test_an_episode_ends_whoever_is_dead_from_the_start(runner: Runner, part: str) -> None:
    judged = runner.judged(replace(MOTION, faults=(Fault("death", part),)))
    assert not judged.verdict.violations, texts(judged.verdict)
    assert judged.moved == (part not in ("core", "goal_server", "supervisor", "console"))


def test_an_episode_is_the_same_again(runner: Runner) -> None:
    drawn = runner.shop.draw.episode(5, 2)
    first, second = (runner.judged(drawn).verdict for _ in range(2))
    assert first.smallest_clearance_m == second.smallest_clearance_m
    assert first.stop_to_deceleration_s == second.stop_to_deceleration_s


def test_every_kind_of_fault_is_drawn(runner: Runner) -> None:
    generator = np.random.default_rng(0)
    drives = (MOTION, replace(MOTION, drives="cia402"))
    drawn = {runner.shop.draw.fault(drives[number % 2], generator).kind for number in range(2000)}
    assert drawn == set(FAULTS)


def test_a_broken_stop_is_found_shrunk_and_replayed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = Fault("stop", "", 1.8, 1.0, 0.1)
    faults = (Fault("localizer_abstains", "", 1.0, 9.0), stop, Fault("freeze", "xray", 1.0, 1.0))
    whole = replace(MOTION, faults=faults)
    assert not runner.judged(whole).verdict.violations
    monkeypatch.setattr(TrajectoryController, "stop", lambda self, reason="": None)
    found = runner.judged(whole)
    assert kinds(found.verdict) == {"unsafe_motion"}
    small = runner.shrunk(found)
    assert small.scenario.faults == (stop,)
    file = write_trace(tmp_path, small)
    assert load(file) == small.scenario
    assert run(["bench", "faults", "--replay", str(file)]) == 1
    assert "after stop" in capsys.readouterr().out
    monkeypatch.undo()
    assert run(["bench", "faults", "--replay", str(file)]) == 0


def test_a_supervisor_that_permits_everything_is_found(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    goal = CARM.home + np.array([0.0, 0.3, -0.17, 0.0, 0.0, 0.8])
    scene = runner.shop.scene(MOTION)
    assert scene.clearance(goal)[0] <= 0
    into = replace(MOTION, orders=(Order("trajectory", 0.5, "foreign", (tuple(goal.tolist()),), (9.0,)),))
    assert not runner.judged(into).verdict.violations
    allowed = runner.judged(MOTION)
    assert not allowed.verdict.violations
    monkeypatch.setattr(PermitJudge, "judge", lambda self, motion, now_s: Judgment(1.0, share=1.0))
    assert kinds(runner.judged(into).verdict) == {"collisions"}


@pytest.mark.parametrize(
    "content", [None, "no JSON", "[]", '{"episode": {}}', json.dumps({"episode": {"seed": 1, "faults": "x"}})]
)
def test_bad_traces_are_refused(content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trace.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    assert run(["bench", "faults", "--replay", str(file)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_unknown_fault_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    data = replace(MOTION, faults=(Fault("earthquake"),)).as_dict()
    file.write_text(json.dumps({"episode": data}), encoding="utf-8")
    assert run(["bench", "faults", "--replay", str(file)]) == 2


@pytest.mark.parametrize(
    "words", [["--episodes", "-1"], ["--episodes", "0"], ["--seed", "x"], ["--json", "/no/folder/f.json"]]
)
def test_bad_arguments_are_refused(words: list[str]) -> None:
    try:
        code = run(["bench", "faults", *words])
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    assert code == 2


@pytest.mark.parametrize("file", sorted(TRACES.glob("*.json")), ids=lambda file: file.stem)
def test_what_the_campaign_has_found_stays_mended(file: Path) -> None:
    """Each trace is an episode with a violation that is no more."""
    assert run(["bench", "faults", "--replay", str(file)]) == 0
