# SPDX-License-Identifier: Apache-2.0
"""``carm doctor --controller``: does a FollowJointTrajectory server behave as the agent needs it?

All that is sent is tiny and slow: a few millimeters, or tenths of a degree, from where the arm stands and back. What a
sound controller must refuse is harmless where it is not refused: its positions are the present ones.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from carm_core.cli import results_file as figures
from carm_core.errors import CarmError, ConfigurationError, UnknownNameError
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array

if TYPE_CHECKING:
    from carm_bringup.nodes.controller_probe import Attempt, ControllerProbe

STEP = {"m": 0.003, "rad": math.radians(0.3), "": 0.003}
"""How far a joint moves, by its unit; a joint that config/carm.yaml does not know moves 3 mm or 0.17 deg."""
TOLERANCE = {"m": 0.001, "rad": math.radians(0.1), "": 0.001}
"""Goal tolerance that is sent, and what counts as the same place."""
HAIR = 1e-7
"""A path tolerance that no real drive keeps, m or rad."""
MOVE_S = 2.0
LISTEN_S = 2.0
HOLD_S = 1.0
MIN_RATE_HZ = 20.0
MAX_AGE_S = 0.5
_PATIENCE_S = 10.0
_REFUSAL_S = 3.0
_NAME = re.compile(r"[/~]?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: What was checked.
        passed: Whether the controller does it; None: not tried.
        detail: What was seen.
        figures: Numbers for the JSON file, by their names with units.
    """

    name: str
    passed: bool | None
    detail: str
    figures: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return one line of the table."""
        return f"{ {True: 'PASS', False: 'FAIL', None: '-   '}[self.passed] }  {self.name:<28} {self.detail}"


@dataclass(frozen=True, eq=False)
class Joints:
    """The joints under test, J of them.

    Attributes:
        names: Names.
        step: How far each moves, with its sign (J,), m or rad.
        same: Distance that counts as none (J,), m or rad.
    """

    names: tuple[str, ...]
    step: Array
    same: Array

    @classmethod
    def at(cls, names: Sequence[str], position: Array, carm: CArm) -> Joints:
        """Choose steps that lead away from the nearer limit of each joint.

        Args:
            names: Names.
            position: Where they are (J,), m or rad.
            carm: Its joints' limits and units are known; other joints are moved in the positive direction.
        """
        known = {joint.name: joint for joint in carm.joints}
        steps, same = [], []
        for name, here in zip(names, position, strict=True):
            joint = known.get(name)
            unit = joint.unit if joint else ""
            towards = 1.0 if joint is None or here <= (joint.lower + joint.upper) / 2 else -1.0
            steps.append(towards * STEP[unit])
            same.append(TOLERANCE[unit])
        return cls(tuple(names), np.array(steps), np.array(same))


def stop_time(times_s: Array, positions: Array, asked_s: float, band: Array) -> float:
    """Return how long after a request joints came to rest, s.

    Args:
        times_s: Times of the samples (N,), s; the arm rests in the last third.
        positions: (N, J), m or rad.
        asked_s: Time of the request, s.
        band: Distance from the place of rest that counts as rest (J,), m or rad; more where the encoders are noisy.
    """
    resting = positions[-max(1, len(positions) // 3) :]
    wide = np.maximum(band, 5 * resting.std(axis=0))
    outside = np.flatnonzero((np.abs(positions - np.median(resting, axis=0)) > wide).any(axis=1))
    return max(0.0, float(times_s[outside[-1]] - asked_s)) if len(outside) else 0.0


class Conformance:
    """The checks, in the order in which they are made."""

    def __init__(self, probe: ControllerProbe, joints: Joints, max_stop_s: float) -> None:
        """Prepare.

        Args:
            probe: Client of the controller.
            joints: The joints under test.
            max_stop_s: Longest stop, s.
        """
        self._probe, self._joints, self._max_stop_s = probe, joints, max_stop_s
        self._start = probe.position(joints.names)

    def checks(self) -> Iterator[Check]:
        """Run the checks one by one; at the end the arm is back at its start."""
        yield from self._valid_goal()
        yield from self._refusals()
        yield self._return("moves back")
        yield self._tolerance()
        yield self._preemption()
        yield from self._cancel()
        yield self._return("returns to the start")

    def _there(self, part: float) -> Array:
        return self._start + part * self._joints.step

    def _move(self, part: float, time_s: float = MOVE_S, **options: Any) -> Attempt:
        """Send a goal at a part of the step from the start."""
        names = self._joints.names
        tolerances = dict(zip(names, self._joints.same, strict=True))
        trajectory = self._probe.trajectory(names, [(time_s, self._there(part).tolist())])
        return self._probe.send(trajectory, **({"goal": tolerances} | options))

    def _away(self, target: Array) -> float:
        """Return the largest distance from a target, in parts of what counts as none."""
        return float(np.max(np.abs(self._probe.position(self._joints.names) - target) / self._joints.same))

    def _reached(self, attempt: Attempt, part: float) -> tuple[bool, str]:
        ended = self._probe.finish(attempt, _PATIENCE_S)
        self._probe.listen(0.2)
        away = self._away(self._there(part))
        good = ended and attempt.end == "succeeded, SUCCESSFUL" and away <= 1
        reason = f" ({attempt.message})" if attempt.message and not good else ""
        return good, f"{attempt.end}{reason}, {100 * away:.0f} % of the goal tolerance away"

    def _valid_goal(self) -> Iterator[Check]:
        attempt = self._move(1.0)
        good, detail = self._reached(attempt, 1.0)
        yield Check("valid goal, goal tolerance", good, detail)
        names = self._joints.names
        named = [e for e in attempt.errors if all(n in e and math.isfinite(e[n]) for n in names)]
        if not named:
            yield Check("feedback, path tracking", False, "no feedback with desired and actual positions of all joints")
            return
        errors = np.array([[abs(e[n]) for n in names] for e in named])
        largest = errors.max(axis=0)
        worst = int(np.argmax(largest / np.abs(self._joints.step)))
        part = float(largest[worst] / abs(self._joints.step[worst]))
        detail = f"{len(named)} messages, largest error {largest[worst]:.6f} of {names[worst]} ({100 * part:.0f} %)"
        yield Check("feedback, path tracking", part < 0.5, detail, {"path_error_of_step": part})

    def _refusals(self) -> Iterator[Check]:
        names, probe = self._joints.names, self._probe
        here = list(probe.position(names))
        broken = [math.nan, *here[1:]]
        cases: tuple[tuple[str, Any], ...] = (
            ("unknown joint", probe.trajectory((*names, "no_such_joint"), [(MOVE_S, [*here, 0.0])])),
            ("no joint names", probe.trajectory((), [(MOVE_S, [])])),
            ("no points", probe.trajectory(names, [])),
            ("NaN position", probe.trajectory(names, [(MOVE_S, broken)])),
            ("times out of order", probe.trajectory(names, [(MOVE_S, here), (MOVE_S / 2, here)])),
            ("too few positions", probe.trajectory(names, [(MOVE_S, here[1:])])),
        )
        for name, trajectory in cases:
            yield self._refusal(name, trajectory)

    def _refusal(self, name: str, trajectory: Any) -> Check:
        before = self._probe.position(self._joints.names)
        attempt = self._probe.send(trajectory)
        if not self._probe.finish(attempt, _REFUSAL_S):
            self._probe.cancel(attempt)
            self._probe.finish(attempt, _PATIENCE_S)
            return Check(f"refuses {name}", False, f"accepted, but not finished within {_REFUSAL_S:g} s: canceled")
        refused = not attempt.accepted or ("aborted" in attempt.end and attempt.code != 0)
        moved = self._away(before) > 1
        reason = f": {attempt.message}" if attempt.message else ""
        return Check(f"refuses {name}", refused and not moved, f"{attempt.end}{reason}" + (", moved" if moved else ""))

    def _tolerance(self) -> Check:
        """Return a path tolerance that cannot be kept ends the goal, unless the controller does keep it."""
        name = "path tolerance"
        attempt = self._move(1.0, path=dict.fromkeys(self._joints.names, HAIR))
        if not self._probe.finish(attempt, _PATIENCE_S):
            return Check(name, False, "no result")
        self._probe.listen(0.2)
        if attempt.end == "aborted, PATH_TOLERANCE_VIOLATED":
            return Check(name, True, f"{attempt.end}: {attempt.message}")
        errors = [abs(error) for e in attempt.errors for error in e.values()]
        kept = attempt.end == "succeeded, SUCCESSFUL" and bool(errors) and max(errors) <= HAIR
        return Check(
            name, kept, f"{attempt.end}, though {HAIR:g} m or rad were allowed" if not kept else "kept exactly"
        )

    def _preemption(self) -> Check:
        name = "preemption by a new goal"
        self._settle()
        first = self._move(1.0, 2 * MOVE_S)
        if not first.accepted or not self._begun():
            return Check(name, False, f"the first goal did not move: {first.end}")
        second = self._move(0.0)
        good, detail = self._reached(second, 0.0)
        ended = self._probe.finish(first, 1.0)
        given_up = ended and first.status is not None and "succeeded" not in first.end
        return Check(name, good and given_up, f"first: {first.end}; second: {detail}")

    def _begun(self) -> bool:
        distance = float(np.min(np.abs(self._joints.step))) / 4
        return self._probe.moved(self._joints.names, self._start, distance, 2 * MOVE_S)

    def _cancel(self) -> Iterator[Check]:
        name = "cancel stops and holds"
        self._settle()
        attempt = self._move(1.0, MOVE_S / 2)
        if not attempt.accepted or not self._begun():
            yield Check(name, False, f"the goal did not move: {attempt.end}")
            return
        before = self._probe.position(self._joints.names)
        asked_s = self._probe.heard[-1].arrived_s
        agreed = self._probe.cancel(attempt)
        ended = self._probe.finish(attempt, _PATIENCE_S)
        self._probe.listen(HOLD_S)
        samples = [h for h in self._probe.heard if h.arrived_s >= asked_s]
        times = np.array([h.arrived_s for h in samples])
        positions = np.array([[h.positions[n] for n in self._joints.names] for h in samples])
        rest = positions[-1]
        went = (rest - before) / self._joints.step
        holds = bool((np.abs(positions[times > times[-1] - HOLD_S / 2] - rest) < self._joints.same / 2).all())
        stopped = bool((went < 0.5).all() and (went > -0.1).all())
        good = agreed and ended and attempt.end.startswith("canceled") and holds and stopped
        answer = attempt.end if agreed else f"cancel refused, {attempt.end}"
        drift = "" if holds else ", does not hold"
        yield Check(name, good, f"{answer}, moved on by {100 * max(0.0, went.max()):.0f} % of the step{drift}")
        if not good:
            yield Check("stop time", None, "not measured, since cancel does not work")
            return
        duration_s = stop_time(times, positions, asked_s, np.abs(self._joints.step) * 0.01)
        text = f"{1000 * duration_s:.0f} ms from the cancel (at most {1000 * self._max_stop_s:.0f} ms)"
        yield Check("stop time", duration_s <= self._max_stop_s, text, {"stop_time_ms": 1000 * duration_s})

    def _return(self, name: str) -> Check:
        return Check(name, *self._reached(self._move(0.0), 0.0))

    def _settle(self) -> None:
        """Return to the start before a check."""
        if self._away(self._start) > 1:
            self._probe.finish(self._move(0.0), _PATIENCE_S)


def check_joint_states(probe: ControllerProbe) -> Check:
    """Check rate and time stamps of the joint states."""
    name = "joint states"
    heard = probe.listen(LISTEN_S)
    if len(heard) < 2:
        return Check(name, False, f"{len(heard)} messages in {LISTEN_S:g} s")
    rate = (len(heard) - 1) / (heard[-1].arrived_s - heard[0].arrived_s)
    stamps = np.array([h.stamp_s for h in heard])
    age_s = float(np.median([abs(h.age_s) for h in heard]))
    faults = []
    if rate < MIN_RATE_HZ:
        faults.append(f"below {MIN_RATE_HZ:g} Hz")
    if not (np.diff(stamps) > 0).all():
        faults.append("time stamps do not increase")
    if age_s > MAX_AGE_S:
        faults.append(f"stamps are {age_s:.1f} s off")
    if not all(math.isfinite(v) for h in heard for v in h.positions.values()):
        faults.append("positions that are not numbers")
    detail = f"{rate:.1f} Hz, stamps {1000 * age_s:.0f} ms old" + "".join(f"; {fault}" for fault in faults)
    return Check(name, not faults, detail, {"joint_states_hz": rate, "stamp_age_ms": 1000 * age_s})


def run(options: argparse.Namespace) -> int:
    """Check a controller; return 0 when it passes, else 1.

    Raises:
        ConfigurationError: The name is malformed or nobody answers to it, or nobody can confirm.
        CarmError: The controller stopped answering.
    """
    controller = options.controller.removesuffix("/follow_joint_trajectory")
    for name in (controller, options.joint_states):
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is not a ROS name, such as /carm/joint_trajectory_controller")
    figures.check_file(options.json)
    from carm_bringup.nodes.client import session
    from carm_bringup.nodes.controller_probe import ControllerProbe

    done: list[Check] = []
    with session(options.namespace) as graph:
        probe = ControllerProbe(graph, controller, options.joint_states)
        _show(done, check_joint_states(probe))
        if probe.heard:
            joints = _joints(probe, options.joints)
            confirm(joints, options.yes or probe.simulated)
            try:
                for check in Conformance(probe, joints, options.max_stop / 1000).checks():
                    _show(done, check)
            except CarmError as error:
                _show(done, Check("answers", False, str(error)))
            except KeyboardInterrupt:
                graph.pressed = False
                probe.abandon()
                raise
    failed = [check.name for check in done if check.passed is False]
    print(f"{len(failed)} of {len(done)} checks failed: {', '.join(failed)}" if failed else f"{controller} passes")
    if options.json is not None:
        content: dict[str, Any] = {c.name: {"passed": c.passed, "detail": c.detail, **c.figures} for c in done}
        command = f"carm doctor --controller {options.controller}"
        figures.write(options.json, figures.document(command, 0, {controller: content}))
    return 1 if failed else 0


def _show(done: list[Check], check: Check) -> None:
    done.append(check)
    print(check, flush=True)


def _joints(probe: ControllerProbe, wanted: str | None) -> Joints:
    known = tuple(probe.heard[-1].positions)
    names = tuple(wanted.split(",")) if wanted else known
    for name in names:
        if name not in known:
            raise UnknownNameError("joint", name)
    return Joints.at(names, probe.position(names), CArm.from_config())


def confirm(joints: Joints, agreed: bool, ask: Callable[[str], str] = input) -> None:
    """Ask before anything moves.

    Args:
        joints: What will move.
        agreed: Nobody needs to be asked.
        ask: Puts the question.

    Raises:
        ConfigurationError: The answer is no, or nobody is there to answer.
    """
    if agreed:
        return
    if ask is input and not sys.stdin.isatty():
        raise ConfigurationError("this moves the arm by a few mm and tenths of a degree: confirm it with --yes")
    moves = ", ".join(f"{name} {step:+.4f}" for name, step in zip(joints.names, joints.step, strict=True))
    if ask(f"will move and return (m or rad): {moves}\ncontinue? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ConfigurationError("not confirmed; nothing was moved")
