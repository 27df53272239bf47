# SPDX-License-Identifier: Apache-2.0
"""Many episodes: run, judge, shrink what was found, sum up."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from carm_bringup.benchmarks.faults import scenario as scenarios
from carm_bringup.benchmarks.faults.episode import Episode, Workshop
from carm_bringup.benchmarks.faults.judges import JUDGES, Judge, Verdict, Violation
from carm_bringup.benchmarks.faults.scenario import Scenario
from carm_control import JointLimits
from carm_perception.evaluation.scoring.figures import wilson_interval

NO_FAULT = "no fault"


@dataclass(frozen=True)
class Job:
    """Some episodes.

    Attributes:
        seed: Of the campaign.
        first: Number of the first.
        count: How many.
    """

    seed: int
    first: int
    count: int


@dataclass(frozen=True)
class Judged:
    """An episode and what the judges say of it.

    Attributes:
        number: Of the episode.
        scenario: What happened.
        verdict: Of the judges.
        cpu_s: Processor time, s.
        moved: Whether the arm moved at all.
    """

    number: int
    scenario: Scenario
    verdict: Verdict
    cpu_s: float
    moved: bool


class Runner:
    """Runs episodes one after another; each process has its own."""

    def __init__(self) -> None:
        """Load what episodes share."""
        self.shop = Workshop()
        self._judge = Judge(JointLimits.of(self.shop.carm.joints))

    def judged(self, scenario: Scenario, number: int = 0) -> Judged:
        """Run and judge an episode.

        Args:
            scenario: What happens.
            number: Of the episode.
        """
        begin_s = time.process_time()
        episode = Episode(scenario, self.shop)
        with np.errstate(all="ignore"):
            history = episode.run()
        clearance = self.shop.scene(scenario).clearance
        unfinished = [one.what for one in episode.unfinished()]
        verdict = self._judge.judge(history, clearance, scenario.faults, unfinished)
        moved = bool(len(history.true)) and bool(np.ptp(np.array(history.true), axis=0).max() > 1e-3)
        return Judged(number, scenario, verdict, time.process_time() - begin_s, moved)

    def run(self, job: Job) -> Iterable[Judged]:
        """Run the episodes of a job."""
        for number in range(job.first, job.first + job.count):
            yield self.judged(self.shop.draw.episode(job.seed, number), number)

    def shrunk(self, judged: Judged) -> Judged:
        """Return the smallest episode that shows a violation of the same kinds.

        Faults and orders are removed one after another as long as a violation of the first kind stays.
        """
        kind, smallest = judged.verdict.violations[0].judge, judged
        for fewer in (_without_fault, _without_order):
            place = 0
            while (candidate := fewer(smallest.scenario, place)) is not None:
                tried = self.judged(candidate, judged.number)
                if any(one.judge == kind for one in tried.verdict.violations):
                    smallest = tried
                else:
                    place += 1
        return smallest


def _without_fault(scenario: Scenario, place: int) -> Scenario | None:
    kept = scenario.faults
    return None if place >= len(kept) else replace(scenario, faults=(*kept[:place], *kept[place + 1 :]))


def _without_order(scenario: Scenario, place: int) -> Scenario | None:
    kept = scenario.orders
    if place >= len(kept) or len(kept) == 1:
        return None
    return replace(scenario, orders=(*kept[:place], *kept[place + 1 :]))


_runners: list[Runner] = []


def run_job(job: Job) -> list[Judged]:
    """Run a job in a worker process."""
    if not _runners:
        _runners.append(Runner())
    return list(_runners[0].run(job))


def jobs(seed: int, episodes: int, size: int) -> list[Job]:
    """Split a campaign into jobs."""
    return [Job(seed, first, min(size, episodes - first)) for first in range(0, episodes, size)]


class Totals:
    """Figures of a campaign, filled episode by episode."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.episodes = self.moved = 0
        self.cpu_s = 0.0
        self.counts = dict.fromkeys(JUDGES, 0)
        self.bad = dict.fromkeys(JUDGES, 0)
        self.by_fault: dict[str, dict[str, int]] = {}
        self.motion_after_stop_mm = self.unsupervised_motion_s = 0.0
        self.smallest_clearance_m = float("inf")
        self.stops_s: list[float] = []

    def add(self, judged: Judged) -> None:
        """Add an episode."""
        verdict = judged.verdict
        self.episodes += 1
        self.moved += judged.moved
        self.cpu_s += judged.cpu_s
        kinds = {violation.judge for violation in verdict.violations}
        for violation in verdict.violations:
            self.counts[violation.judge] += 1
        for kind in kinds:
            self.bad[kind] += 1
        for name in {fault.name for fault in judged.scenario.faults} or {NO_FAULT}:
            row = self.by_fault.setdefault(name, dict.fromkeys(("episodes", *JUDGES), 0))
            row["episodes"] += 1
            for kind in kinds:
                row[kind] += 1
        self.motion_after_stop_mm = max(self.motion_after_stop_mm, verdict.motion_after_stop_mm)
        self.unsupervised_motion_s += verdict.unsupervised_motion_s
        self.smallest_clearance_m = min(self.smallest_clearance_m, verdict.smallest_clearance_m)
        self.stops_s += verdict.stop_to_deceleration_s

    def metrics(self) -> dict[str, Any]:
        """Return the figures under the names of the ``--json`` file."""
        found: dict[str, Any] = {"episodes": self.episodes, "moved": self.moved}
        for kind in JUDGES:
            found[kind] = self.counts[kind]
            low, high = wilson_interval(self.bad[kind], self.episodes) if self.episodes else (0.0, 1.0)
            found[f"{kind}_episodes"] = self.bad[kind]
            found[f"{kind}_ci95"] = [round(low, 6), round(high, 6)]
        found["motion_after_stop_mm"] = round(self.motion_after_stop_mm, 2)
        found["stops_in_motion"] = len(self.stops_s)
        p99 = 1000 * float(np.percentile(self.stops_s, 99)) if self.stops_s else None
        found["stop_to_deceleration_p99_ms"] = None if p99 is None else round(p99, 1)
        found["unsupervised_motion_s"] = round(self.unsupervised_motion_s, 3)
        found["smallest_clearance_mm"] = round(1000 * self.smallest_clearance_m, 1) if self.episodes else None
        found["cpu_s_per_episode"] = round(self.cpu_s / max(1, self.episodes), 3)
        found["by_fault"] = {name: self.by_fault[name] for name in sorted(self.by_fault)}
        return found


def write_trace(folder: Path, judged: Judged) -> Path:
    """Write a trace of an episode with violations; return its file."""
    kind = judged.verdict.violations[0].judge if judged.verdict.violations else "clean"
    file = folder / f"{kind}_{judged.number:06d}.json"
    scenarios.save(file, judged.scenario, [as_dict(one) for one in judged.verdict.violations])
    return file


def as_dict(violation: Violation) -> dict[str, Any]:
    """Return a violation as plain data."""
    return {"judge": violation.judge, "time_s": round(violation.time_s, 3), "text": violation.text}
