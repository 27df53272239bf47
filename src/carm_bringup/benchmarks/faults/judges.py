# SPDX-License-Identifier: Apache-2.0
"""Judges of an episode. They see the true joint positions, the commands and what reached the arm's controller.

None of them uses what planner, supervisor or controller say of themselves; braking ramps, limits and distances are
computed here in ways of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from carm_bringup.benchmarks.faults.history import Event, History
from carm_bringup.benchmarks.faults.record import Record, ramp
from carm_bringup.benchmarks.faults.scenario import Fault
from carm_control.trajectory.limits import JointLimits
from carm_core.transforms import Array

JUDGES = ("unsafe_motion", "limit_violations", "collisions", "restarts_by_itself", "hung", "died")
"""What a violation can be of."""
PERMIT_TIMEOUT_S = 0.5
HEARTBEAT_TIMEOUT_S = 0.5
DEAF_S = 1.0
LONGEST_GAP_S = 0.05
LIMIT_TOLERANCE = 0.06
"""Velocity, acceleration and jerk may exceed their limits by this share: 5 % are allowed to trajectories."""
_REACTION_S = 0.04
_LAG_S = 0.03
_ALLOWANCE_S = 0.3
_SHORTEST_STEP_S, _LONGEST_STEP_S = 0.005, 0.015
_LEVERS_M = np.array([1.0, 1.0, 1.0, 1.7, 1.2, 1.0])
"""How far a point of the machine moves at most per m or rad of each joint, m."""
_SLACK_MM = 1.0
_BEFORE_LIMIT_M, _BEFORE_LIMIT_RAD = 0.001, 0.002
_RESTED_S, _STILL_S = 0.15, 0.25
_LOOK_M = 0.003
"""Distances are computed at least as often as a point of the machine moves so far, m."""


@dataclass(frozen=True)
class Violation:
    """Something that must not happen.

    Attributes:
        judge: One of ``JUDGES``.
        time_s: When, s.
        text: What, in one line.
    """

    judge: str
    time_s: float
    text: str


@dataclass
class Verdict:
    """What the judges say of an episode.

    Attributes:
        violations: All of them.
        motion_after_stop_mm: Farthest way beyond the braking ramp after a stop or a freeze, mm.
        unsupervised_motion_s: Time in motion without a valid permit, beyond time-out and ramp, s.
        stop_to_deceleration_s: Of each stop in a motion, s.
        smallest_clearance_m: True distance to anything at most 0.15 m.
    """

    violations: list[Violation] = field(default_factory=list)
    motion_after_stop_mm: float = 0.0
    unsupervised_motion_s: float = 0.0
    stop_to_deceleration_s: list[float] = field(default_factory=list)
    smallest_clearance_m: float = math.inf


class Judge:
    """Judges episodes of one arm."""

    def __init__(self, limits: JointLimits) -> None:
        """Judge by the limits of the joints."""
        self.limits = limits

    def judge(
        self,
        history: History,
        clearance: Callable[[Array], tuple[float, str]],
        faults: Sequence[Fault] = (),
        unfinished: Sequence[str] = (),
    ) -> Verdict:
        """Judge an episode.

        Args:
            history: What happened.
            clearance: True distance of the machine to everything, m, and to what, at joint positions (J,).
            faults: What was done to it: lagging drives and drives that brake by themselves need more time.
            unfinished: Goals and tasks that did not end.
        """
        verdict, record = Verdict(), Record(history, self.limits)
        for event in history.of("exception"):
            verdict.violations.append(Violation("died", event.time_s, f"{event.name}: {event.text}"))
        verdict.violations += [Violation("hung", history.now_s, what) for what in unfinished]
        if not len(record.times_s):
            return verdict
        lag_s = max([_LAG_S, *(0.3 * fault.value for fault in faults if fault.kind == "drive_lagging")])
        self._stops(record, verdict, lag_s)
        self._givers(record, verdict, lag_s)
        self._permits(record, verdict, lag_s)
        self._restarts(record, verdict, lag_s)
        self._commands(record, verdict, faults)
        self._setpoints(history, verdict)
        self._clearance(record, clearance, verdict)
        return verdict

    # Motion that must have ended

    def _deadline_s(self, record: Record, event_s: float, lag_s: float) -> float:
        """Return when the arm has to rest that was told to at a time, s."""
        ramp_s, _ = ramp(self.limits, *record.rates(event_s))
        end_s = event_s + _REACTION_S + 1.1 * ramp_s + 5 * lag_s + _ALLOWANCE_S
        return end_s + record.frozen_s(event_s, end_s + 20.0)

    def _must_rest(
        self, record: Record, verdict: Verdict, event_s: float, until_s: float, lag_s: float, why: str
    ) -> None:
        moved_s = record.moves(self._deadline_s(record, event_s, lag_s), until_s)
        if moved_s is not None:
            line = f"the arm moves {moved_s - event_s:.2f} s after {why}"
            verdict.violations.append(Violation("unsafe_motion", moved_s, line))

    def _stops(self, record: Record, verdict: Verdict, lag_s: float) -> None:
        history, last_s = record.history, float(record.times_s[-1]) + 1.0
        resets = [event.time_s for event in history.of("reset")]
        accepted = [event.time_s for event in history.of("accepted")]
        latched_until = -math.inf
        for event in history.of("stop"):
            if event.time_s < latched_until:
                continue
            latched_until = next((t for t in resets if t > event.time_s), last_s)
            self._must_rest(record, verdict, event.time_s, latched_until, lag_s, "stop")
            self._beyond(record, verdict, event.time_s, min(latched_until, event.time_s + 6.0), lag_s)
            self._first_deceleration(record, event, verdict)
        for event in history.of("cancel"):
            until = next((t for t in accepted if t > event.time_s), last_s)
            self._must_rest(record, verdict, event.time_s, until, lag_s, "a cancel")
        for begin_s, end_s in self._gaps(record):
            until = next((t for t in accepted if t > end_s), last_s)
            self._must_rest(record, verdict, end_s, until, lag_s, f"a control loop held up for {end_s - begin_s:.2f} s")
            self._beyond(record, verdict, end_s, min(until, end_s + 6.0), lag_s, begin_s)

    def _gaps(self, record: Record) -> list[tuple[float, float]]:
        """Return when the control loop was held up in a motion: begin and end, s."""
        found = []
        for (time_s, passed_s, _, _), (before_s, _, _, state) in zip(
            record.history.cycles[1:], record.history.cycles, strict=False
        ):
            if (
                passed_s > 1.02 * LONGEST_GAP_S
                and state == "MOVING"
                and np.abs(record.rates(before_s)[0]).max() > 0.002
            ):
                found.append((before_s, time_s))
        return found

    def _beyond(
        self,
        record: Record,
        verdict: Verdict,
        event_s: float,
        until_s: float,
        lag_s: float,
        rates_s: float | None = None,
    ) -> None:
        """Measure how far the machine goes beyond the braking ramp; drives are a lag behind what they are told."""
        velocity, acceleration = record.rates(event_s if rates_s is None else rates_s)
        told = np.sign(velocity) * np.minimum(np.abs(acceleration) + self.limits.jerk * lag_s, self.limits.acceleration)
        faster = velocity + told * lag_s
        _, way = ramp(self.limits, faster, told)
        way = way + np.abs(faster) * (lag_s + 0.025)
        inside = (record.times_s >= event_s - 1e-9) & (record.times_s <= until_s)
        if not inside.any():
            return
        start = record.true[max(0, int(np.searchsorted(record.times_s, event_s + 1e-9)) - 1)]
        travel = np.abs(record.true[inside] - start).max(axis=0)
        beyond_mm = 1000.0 * float((_LEVERS_M[: len(way)] * np.maximum(0.0, travel - 1.05 * way)).max()) - _SLACK_MM
        verdict.motion_after_stop_mm = max(verdict.motion_after_stop_mm, beyond_mm)
        if beyond_mm > 2.0:
            line = f"{beyond_mm:.1f} mm beyond the braking ramp"
            verdict.violations.append(Violation("unsafe_motion", event_s, line))

    def _first_deceleration(self, record: Record, event: Event, verdict: Verdict) -> None:
        """Measure the time from a stop's request to the first command that is slower than the one before."""
        sent = [e.time_s for e in record.history.of("stop_sent") if e.time_s <= event.time_s]
        since_s = sent[-1] if sent and event.name == "pressed" and event.time_s - sent[-1] < 0.05 else event.time_s
        cycles = [c for c in record.history.cycles if since_s - 0.05 < c[0] < event.time_s + 3.0]
        speeds = [
            (b[0], float(np.abs((b[2] - a[2]) / self.limits.velocity).max()) / max(b[1], 1e-3))
            for a, b in pairwise(cycles)
        ]
        before = [speed for time_s, speed in speeds if time_s <= event.time_s]
        if not before or before[-1] < 0.01 or record.frozen_s(event.time_s, event.time_s + 0.1):
            return
        last = before[-1]
        for time_s, speed in speeds:
            if time_s > event.time_s and speed < last - 1e-6:
                verdict.stop_to_deceleration_s.append(time_s - since_s)
                return
            last = max(last, speed) if time_s > event.time_s else last

    # Who gave the goal

    def _givers(self, record: Record, verdict: Verdict, lag_s: float) -> None:
        history, last_s = record.history, float(record.times_s[-1]) + 1.0
        keys = {event.name: event.text for event in history.of("given")}
        accepted = history.of("accepted")
        ends = {event.name: event.time_s for event in history.of("ended")}
        silent = [(e.time_s, math.inf if e.kind == "dead" else e.value, e.name) for e in history.of("dead", "frozen")]
        for place, event in enumerate(accepted):
            until_s = accepted[place + 1].time_s if place + 1 < len(accepted) else last_s
            giver = keys.get(event.name, "").split("_")[0]
            if giver not in ("agent", "console"):
                continue
            for begin_s, end_s, name in silent:
                if name != giver or end_s < event.time_s or begin_s > ends.get(event.name, last_s):
                    continue
                if not self._was_renewed(history, event.name, keys, begin_s):
                    continue
                since_s = max(begin_s, event.time_s) + HEARTBEAT_TIMEOUT_S + 0.15
                since_s += self._server_silent_s(history, max(begin_s, event.time_s), since_s)
                if end_s > since_s:
                    self._must_rest(record, verdict, since_s, min(end_s, until_s), lag_s, f"the {giver} fell silent")
        for begin_s, end_s, name in silent:
            if name == "goal_server" and end_s - begin_s > DEAF_S:
                until_s = next((e.time_s for e in accepted if e.time_s > begin_s + DEAF_S), last_s)
                self._must_rest(
                    record, verdict, begin_s + DEAF_S + 0.2, min(end_s, until_s), lag_s, "the goal server fell silent"
                )

    def _was_renewed(self, history: History, goal: str, keys: dict[str, str], begin_s: float) -> bool:
        """Return whether the goal server has heard of a goal's giver before it fell silent."""
        heard = [event.time_s for event in history.of("heard") if event.name == keys[goal]]
        return bool(heard)

    def _server_silent_s(self, history: History, begin_s: float, end_s: float) -> float:
        """Return how much longer it takes because the goal server is frozen itself, s."""
        frozen = [(e.time_s, e.value) for e in history.of("frozen") if e.name == "goal_server"]
        overlaps = [
            min(DEAF_S + 0.2, end - max(begin, begin_s))
            for begin, end in frozen
            if begin < end_s + 1.0 and end > begin_s
        ]
        return max([0.0, *overlaps])

    # Permits

    def _permits(self, record: Record, verdict: Verdict, lag_s: float) -> None:
        """Nothing moves without a permit that is young enough; a denied one ends the motion."""
        history = record.history
        permits = history.of("permit")
        times = np.array([event.time_s for event in permits])
        speeds = np.array([event.value for event in permits])
        given = times[speeds > 0] if len(times) else times
        begin_s: float | None = None
        marks: list[tuple[float, str]] = []
        for event, next_s in zip(permits, [*times[1:], math.inf], strict=False):
            if event.value <= 0:
                if begin_s is None:
                    begin_s = event.time_s
                    marks.append((event.time_s, "a denied permit"))
            else:
                begin_s = None
            if next_s - event.time_s > PERMIT_TIMEOUT_S:
                marks.append((event.time_s + PERMIT_TIMEOUT_S, "the last permit was void"))
        for mark_s, why in marks:
            renewed = given[given > mark_s]
            until_s = float(renewed[0]) if len(renewed) else float(record.times_s[-1]) + 1.0
            deadline_s = self._deadline_s(record, mark_s, lag_s)
            inside = (record.times_s > deadline_s) & (record.times_s < until_s) & record.moving
            if inside.any():
                verdict.unsupervised_motion_s += float(np.diff(record.times_s, prepend=record.times_s[0])[inside].sum())
                line = f"the arm moves {record.times_s[inside.argmax()] - mark_s:.2f} s after {why}"
                verdict.violations.append(Violation("unsafe_motion", float(record.times_s[inside.argmax()]), line))
        if not len(given) and record.moving.any():
            moved_s = float(record.times_s[record.moving.argmax()])
            verdict.violations.append(Violation("unsafe_motion", moved_s, "the arm moves and no permit ever came"))

    # Motion that begins

    def _begins_s(self, record: Record, ended_s: float, time_s: float, lag_s: float) -> float:
        """Return until when a motion that was told to end may go on, s: a freeze halts a ramp, whose rest follows."""
        frozen_s = record.frozen_s(ended_s, time_s)
        soon_s = ended_s + frozen_s + _STILL_S
        return max(soon_s, self._deadline_s(record, ended_s, lag_s)) if frozen_s else soon_s

    def _restarts(self, record: Record, verdict: Verdict, lag_s: float) -> None:
        """A motion begins after an acceptance only, and after what ended a goal only by another."""
        history = record.history
        accepted, own = history.of("accepted"), history.of("cancel", "ended")
        ends = [event.time_s for event in history.of("stop")]
        ends += [event.time_s for event in history.of("permit") if event.value <= 0]
        ends += [end_s for _, end_s in self._gaps(record)]
        resting_since: float | None = float(record.times_s[0])
        for place in range(1, len(record.times_s)):
            time_s = float(record.times_s[place])
            if not record.moving[place]:
                resting_since = time_s if resting_since is None else resting_since
                continue
            rested_s = 0.0 if resting_since is None else time_s - resting_since
            began_s, resting_since = resting_since, None
            if rested_s < _RESTED_S or began_s is None or self._settles(record, place):
                continue
            goal = next((event for event in reversed(accepted) if event.time_s <= time_s + 1e-9), None)
            if goal is None:
                verdict.violations.append(Violation("restarts_by_itself", time_s, "a motion that nobody asked for"))
                continue
            its_ends = sorted([*ends, *(event.time_s for event in own if event.name == goal.name)])
            latest_s = min(time_s - _REACTION_S - 5 * _LAG_S, began_s + 0.5)
            ended = [end_s for end_s in its_ends if goal.time_s + 1e-9 < end_s < latest_s]
            if ended and time_s > self._begins_s(record, ended[-1], time_s, lag_s):
                line = f"a motion begins {time_s - ended[-1]:.2f} s after its goal had ended"
                verdict.violations.append(Violation("restarts_by_itself", time_s, line))

    @staticmethod
    def _settles(record: Record, place: int) -> bool:
        """Return whether a drive only comes to its setpoint: less than the slack in the next half second."""
        soon = record.times_s[place:] <= record.times_s[place] + 0.5
        travel = np.abs(record.true[place:][soon] - record.true[place - 1]).max(axis=0)
        return 1000.0 * float((_LEVERS_M[: len(travel)] * travel).max()) < _SLACK_MM

    # Commands

    def _commands(self, record: Record, verdict: Verdict, faults: Sequence[Fault]) -> None:
        """Position, velocity, acceleration and jerk of the setpoints, from divided differences of the positions.

        Setpoints of a joint that was blocked or lags, or whose encoder lies, are taken from where the joint is when
        that is found out; velocity or acceleration has a step then. A stop right before a position limit brakes as
        hard as it has to.
        """
        limits = self.limits
        skip = {event.name for event in record.history.of("blocked")}
        lying = skip | {fault.target for fault in faults if fault.kind.startswith("encoder_")}
        if any(fault.kind == "drive_lagging" for fault in faults):
            lying = set(limits.names)
        for begin, end in self._pieces(record.history):
            cycles = record.history.cycles[begin:end]
            if len(cycles) < 4:
                continue
            q = np.array([cycle[2] for cycle in cycles])
            steps = np.clip([cycle[1] for cycle in cycles], 1e-4, _LONGEST_STEP_S)
            t = np.cumsum(steps)
            low, high = np.minimum(limits.lower, q[0]), np.maximum(limits.upper, q[0])
            outside = np.maximum(q - high, low - q).max(axis=0) / limits.by_unit(0.001, 0.002)
            velocity = np.diff(q, axis=0) / np.diff(t)[:, None]
            acceleration = 2 * np.diff(velocity, axis=0) / (t[2:] - t[:-2])[:, None]
            jerk = 3 * np.diff(acceleration, axis=0) / (t[3:] - t[:-3])[:, None]
            found = {
                "position": outside,
                "velocity": np.abs(velocity).max(axis=0) / limits.velocity / (1 + LIMIT_TOLERANCE),
                "acceleration": np.abs(acceleration).max(axis=0) / limits.acceleration / (1 + LIMIT_TOLERANCE),
                "jerk": np.abs(jerk).max(axis=0) / limits.jerk / (1 + LIMIT_TOLERANCE),
            }
            room = limits.by_unit(_BEFORE_LIMIT_M, _BEFORE_LIMIT_RAD)
            ending = ((q < limits.lower + room) | (q > limits.upper - room)).any(axis=0)
            ending &= any(cycle[3] == "STOPPING" for cycle in cycles)
            rows = {"velocity": velocity, "acceleration": acceleration, "jerk": jerk}
            for name, excess in found.items():
                exempt = set() if name == "position" else skip if name == "velocity" else lying
                excess = np.where([joint in exempt for joint in limits.names], 0.0, excess)
                if name in ("acceleration", "jerk"):
                    excess = np.where(ending, 0.0, excess)
                joint = int(excess.argmax())
                if excess[joint] <= 1.0:
                    continue
                place = (
                    int(np.abs(rows[name][:, joint]).argmax()) if name in rows else int(np.abs(q[:, joint]).argmax())
                )
                line = f"{name} of {limits.names[joint]} is {100 * excess[joint]:.0f} % of what is allowed"
                verdict.violations.append(Violation("limit_violations", cycles[place][0], line))

    def _setpoints(self, history: History, verdict: Verdict) -> None:
        """Velocity, acceleration and jerk of published setpoints, each from differences of what is published below it.

        Time stamps are too coarse for third differences of positions. Cycles that were held up are passed over.
        """
        if len(history.setpoints) < 2:
            return
        times, *published = (np.array(column) for column in zip(*history.setpoints, strict=True))
        steps = np.diff(times)
        kept = (steps >= _SHORTEST_STEP_S) & (steps <= _LONGEST_STEP_S)
        allowed = self.limits.velocity, self.limits.acceleration, self.limits.jerk
        for name, values, most in zip(("velocity", "acceleration", "jerk"), published, allowed, strict=True):
            rates = np.abs(np.diff(values, axis=0)[kept] / steps[kept][:, None])
            share = rates / most / (1 + LIMIT_TOLERANCE)
            if share.size and share.max() > 1.0:
                place, joint = np.unravel_index(int(share.argmax()), share.shape)
                line = f"{name} of {self.limits.names[joint]} is {100 * share[place, joint]:.0f} % of what is allowed"
                verdict.violations.append(Violation("limit_violations", float(times[1:][kept][place]), line))

    @staticmethod
    def _pieces(history: History) -> list[tuple[int, int]]:
        """Return stretches of cycles with continuous setpoints: a fault takes them to where the joints are."""
        cuts = [0]
        for place, (before, cycle) in enumerate(pairwise(history.cycles), start=1):
            fresh = cycle[3] in ("FAULT", "STARTING") or before[3] in ("FAULT", "STARTING")
            if fresh or cycle[1] > LONGEST_GAP_S:
                cuts.append(place)
        cuts.append(len(history.cycles))
        return list(pairwise(cuts))

    # Distances

    def _clearance(self, record: Record, clearance: Callable[[Array], tuple[float, str]], verdict: Verdict) -> None:
        """Look as often as the machine can have come near, up to the first contact."""
        place, count = 0, len(record.times_s)
        levers, allowed = _LEVERS_M[: record.true.shape[1]], 0.0
        while place < count:
            distance_m, what = clearance(record.true[place])
            verdict.smallest_clearance_m = min(verdict.smallest_clearance_m, distance_m)
            if distance_m <= 0:
                line = f"the machine touches {what} ({1000 * distance_m:.0f} mm)"
                verdict.violations.append(Violation("collisions", float(record.times_s[place]), line))
                return
            allowed = max(distance_m, _LOOK_M)
            travelled = np.abs(record.true[place + 1 :] - record.true[place]) @ levers
            beyond = np.flatnonzero(travelled >= allowed)
            if not len(beyond):
                if place == count - 1:
                    return
                place = count - 1
            else:
                place += 1 + max(0, int(beyond[0]) - 1)
