# SPDX-License-Identifier: Apache-2.0
"""``carm bench nav``: closed-loop navigation, headless and in one process, over seeded suites of episodes."""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carm_agent.navigation.task import EXACT_WITH_CT_MM
from carm_bringup.benchmarks.navigation import graph_check
from carm_bringup.benchmarks.navigation.suites import ALIASES, POLICIES, SUITES, NavigationSuite, make_localizer, suite
from carm_core.cli import results_file
from carm_core.cli.arguments import output_file, output_folder, seed, whole
from carm_core.errors import ConfigurationError
from carm_perception.datasets.parallel import ENGINES, LOCAL
from carm_perception.datasets.parallel import run as run_tasks
from carm_perception.localizers import registry
from carm_perception.localizers.registry import LocalizerOptions

if TYPE_CHECKING:
    from carm_bringup.benchmarks.navigation.episode import Outcome, Room
    from carm_core.localization import Localizer

STANDARD = ("upper-body", "chest-ct")
"""Suites that run when none is named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    described = "; ".join(f"{name}: {suite.description}" for name, suite in SUITES.items()).replace("%", "%%")
    parser.add_argument(
        "--suite",
        action="append",
        choices=[*SUITES, *ALIASES],
        metavar="NAME",
        help=f"{described}; repeat for several ({', '.join(STANDARD)})",
    )
    parser.add_argument(
        "--ct",
        action="append",
        metavar="PATH",
        help="a patient whose CT is known, as patient:= takes it, with landmarks.yaml: suite chest-ct on this patient,"
        " by the policies default and registered; repeat for several. The body that is imaged breathes, carries devices"
        " and lies otherwise than in the CT",
    )
    parser.add_argument(
        "--policy",
        action="append",
        choices=list(POLICIES),
        metavar="NAME",
        help="; ".join(f"{name}: {one.description}" for name, one in POLICIES.items())
        + "; repeat for several, on the same episodes (default)",
    )
    parser.add_argument(
        "--localizer", help="localizer instead of that of the policy: a name, Hugging Face id or folder"
    )
    parser.add_argument("--episodes", type=whole(1, 100_000), help="episodes of each suite (as the suite says)")
    parser.add_argument("--patients", type=whole(1, 100_000), help="phantoms of each suite (50)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of starts, order of targets and noise (0)")
    parser.add_argument("--workers", type=whole(1, 100_000), default=1, help="processes, each with its own patient (1)")
    parser.add_argument(
        "--engine", choices=ENGINES, default=LOCAL, help="where the processes run: here, or a Ray cluster"
    )
    graph_check.add_arguments(parser, whole(1, 100_000))
    registry.add_arguments(parser)
    parser.add_argument(
        "--json", type=output_file(), metavar="FILE", help="write all figures and every episode to FILE"
    )
    parser.add_argument(
        "--plot",
        type=output_file(".png", ".pdf", ".svg"),
        metavar="FILE",
        help="write a plot (PNG, PDF or SVG) to FILE",
    )
    parser.add_argument("--report", type=output_folder, metavar="DIR", help="write a page with tables and plots to DIR")
    parser.add_argument(
        "--trace", type=output_folder, metavar="DIR", help="write a PNG of each exposure and a GIF per episode to DIR"
    )


def run(args: argparse.Namespace) -> int:
    """Run the bench.

    Returns:
        Exit code 0; 1 when the agent decides otherwise in the real graph.

    Raises:
        CarmError: Bad input; nothing was run.
    """
    from carm_bringup.benchmarks.navigation import html_page
    from carm_bringup.benchmarks.navigation import report as nav_report

    for file in (args.json, args.plot):
        results_file.check_file(file)
    if (args.plot or args.report) and importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError("--plot and --report need matplotlib: pip install matplotlib")
    if args.localizer is not None:
        registry.check_name(args.localizer)
    for folder in (args.trace, args.report):
        _make_folder(folder)
    outcomes: dict[str, list[Outcome]] = {}
    compared: dict[str, list[graph_check.Comparison]] = {}
    chosen_suites = _suites(args)
    policies = list(dict.fromkeys(args.policy or _policies(args)))
    _check_policies(chosen_suites.values(), policies, args.localizer)
    for name, chosen in chosen_suites.items():
        for policy in policies:
            key = name if len(policies) == 1 else f"{name}/{policy}"
            outcomes[key] = list(_run_suite(chosen, policy, args))
            print(nav_report.table(key, nav_report.metrics(outcomes[key])), flush=True)
            if args.graph and (chosen.shift or chosen.ct or policy not in graph_check.POLICIES):
                print(f"{key}: the graph has no shifts, --ct or baselines; --graph skips them", flush=True)
            elif args.graph:
                compared[key] = _through_graph(outcomes[key], policy, args)
                print(graph_check.report(key, compared[key]), flush=True)
    if args.json is not None:
        document = _document(outcomes, args)
        document["graph"] = {key: [one.as_dict() for one in own] for key, own in compared.items()}
        results_file.write(args.json, document)
    if args.plot is not None:
        try:
            nav_report.plot(outcomes, args.plot)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot write the plot {args.plot}: {error}") from error
    if args.report is not None:
        print(f"report in {html_page.write(args.report, outcomes, _document(outcomes, args))}")
    return int(any(one.differences for own in compared.values() for one in own))


def _suites(args: argparse.Namespace) -> dict[str, NavigationSuite]:
    """Return what is to be run, by the names of the results.

    Raises:
        CarmError: A CT cannot be used.
    """
    named = {name: suite(name) for name in args.suite or (() if args.ct else STANDARD)}
    if not args.ct:
        return named
    from carm_perception.evaluation.suites.known_ct import by_name

    for name, one in named.items():
        if args.ct != [one.patient]:
            raise ConfigurationError(f"--ct is the CT of the patient: of suite {name} it would be --ct {one.patient}")
        named[name] = replace(one, ct=one.patient)
    return named or {name: replace(suite("chest-ct"), patient=ct, ct=ct) for name, ct in by_name(args.ct).items()}


def _policies(args: argparse.Namespace) -> tuple[str, ...]:
    if not args.ct:
        return ("default",)
    return ("registered",) if args.suite else ("default", "registered")


def _check_policies(suites: Iterable[NavigationSuite], policies: list[str], localizer: str | None) -> None:
    """Check that what a policy has to know can be known."""
    for policy in policies:
        contender = POLICIES[policy]
        asked = localizer or contender.localizer
        if any(not one.ct for one in suites) and contender.knows_ct:
            raise ConfigurationError(f"policy {policy} needs the patient's CT: --ct PATH")
        if contender.knows_ct:
            registry.refuse_unused(asked, LocalizerOptions(ct="known"))
        elif asked == registry.REGISTERED:
            raise ConfigurationError("localizer registered needs the patient's CT: --policy registered --ct PATH")
        if any(one.ct for one in suites) and registry.ORACLE in (asked, contender.localizer):
            raise ConfigurationError(f"policy {policy} knows the landmarks of the CT, not of the body that breathes")


def _through_graph(outcomes: list[Outcome], policy: str, args: argparse.Namespace) -> list[graph_check.Comparison]:
    contender = POLICIES[policy]
    episodes = graph_check.sample([outcome.episode for outcome in outcomes], args.graph)
    return graph_check.run(episodes, contender, args.localizer or contender.localizer, args.seed)


def _make_folder(folder: Path | None) -> None:
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder {folder}: {error.strerror}") from error


@dataclass(frozen=True)
class Job:
    """The episodes of one patient; they depend on nothing else.

    Attributes:
        patient: Name of the patient.
        index: Of the patient in its suite.
        episodes: How many.
        localizer: name.
        seed: Of the bench.
        trace: Folder for pictures; None: no pictures.
        suite: Name of the suite.
        policy: Of the agent, or a baseline.
        options: Of a localizer of the user's.
        varied: Whether another body than that of the CT is imaged, which the index numbers.
        knows_ct: Whether the localizer is given the patient's CT.
    """

    patient: str
    index: int
    episodes: int
    localizer: str
    seed: int
    trace: Path | None
    suite: str = "upper-body"
    policy: str = "pointing"
    options: LocalizerOptions = field(default_factory=LocalizerOptions)
    varied: bool = False
    knows_ct: bool = False


class Runner:
    """Runs jobs one after another with one localizer; each process of a bench has its own."""

    def __init__(self) -> None:
        """Start without a localizer: the first job makes it."""
        self._localizer: Localizer | None = None

    def outcomes(self, job: Job) -> Iterator[Outcome]:
        """Run a job, episode by episode."""
        import numpy as np

        from carm_bringup.benchmarks.navigation.episode import Room, draw_episodes
        from carm_bringup.benchmarks.navigation.varied_body import varied_body
        from carm_core.robot.kinematics import CArm
        from carm_perception.evaluation.suites.known_ct import another_scan, asked_of
        from carm_sim.patient_loader import load_patient

        carm = CArm.from_config()
        chosen = suite(job.suite)
        if chosen.shift:
            room = Room.shifted(job.patient, job.index, chosen.shift, carm, job.seed)
        elif job.varied:
            body = varied_body(job.patient, job.index, job.seed)
            room = Room.of(body, carm, asked_of(body))
        else:
            room = Room.of(load_patient(job.patient), carm, chosen.ids)
        if self._localizer is None or job.localizer == "oracle":
            self.close()
            options = job.options
            if job.knows_ct:
                options = replace(options, ct=another_scan(load_patient(job.patient), job.seed))
            self._localizer = make_localizer(job.localizer, job.patient, job.seed, options)
        generator = np.random.default_rng([job.seed, job.index])
        drawn = draw_episodes(room, job.episodes, generator, chosen.starts)
        yield from _run_room(room, self._localizer, drawn, job)

    def close(self) -> None:
        """Free the localizer."""
        if self._localizer is not None:
            self._localizer.close()
            self._localizer = None


_runner = Runner()


def _run_job(job: Job) -> tuple[int, list[Outcome]]:
    """Run a job in a worker process, which keeps its localizer for the next one; with its index."""
    return job.index, list(_runner.outcomes(job))


def _run_suite(chosen: NavigationSuite, policy: str, args: argparse.Namespace) -> Iterator[Outcome]:
    """Run a suite, patient by patient; the order of the outcomes is the same for any number of workers."""
    from tqdm import tqdm

    episodes = args.episodes or chosen.episodes
    patients = chosen.names(min(args.patients or chosen.patients, episodes))
    if chosen.ct:  # one body after the other
        from carm_bringup.benchmarks.navigation.varied_body import EPISODES

        patients = patients * math.ceil(episodes / EPISODES)
    contender, options = POLICIES[policy], registry.with_arguments(LocalizerOptions(), args)
    localizer = args.localizer or contender.localizer
    shares = [episodes // len(patients) + (index < episodes % len(patients)) for index in range(len(patients))]
    fixed = (chosen.name, contender.policy, options, bool(chosen.ct), contender.knows_ct)
    jobs = [
        Job(patient, index, count, localizer, args.seed, args.trace, *fixed)
        for index, (patient, count) in enumerate(zip(patients, shares, strict=True))
    ]
    if args.engine == LOCAL and (args.workers == 1 or len(jobs) == 1):
        finished = _in_turn(jobs)
    else:
        workers = 0 if args.engine != LOCAL and args.workers == 1 else args.workers
        finished = _in_workers(jobs, args.engine, workers)
    with tqdm(total=episodes, desc=f"{chosen.name} {policy}", unit="episode", file=sys.stderr) as bar:
        for outcome in finished:
            bar.update()
            yield outcome


def _in_turn(jobs: list[Job]) -> Iterator[Outcome]:
    runner = Runner()
    for job in jobs:
        yield from runner.outcomes(job)
    runner.close()


def _in_workers(jobs: list[Job], engine: str, workers: int) -> Iterator[Outcome]:
    """Run jobs in processes, here or on a Ray cluster; outcomes come in the order of the jobs."""
    ready: dict[int, list[Outcome]] = {}
    waiting = iter(jobs)
    due = next(waiting, None)
    for index, outcomes in run_tasks(engine, _run_job, jobs, workers):
        ready[index] = outcomes
        while due is not None and due.index in ready:
            yield from ready.pop(due.index)
            due = next(waiting, None)


def _run_room(room: Room, localizer: Localizer, episodes: list[Any], job: Job) -> Iterator[Outcome]:
    from carm_bringup.benchmarks.navigation import report as nav_report
    from carm_bringup.benchmarks.navigation.episode import Step, run_episode
    from carm_core.landmarks import landmark

    for number, episode in enumerate(episodes, start=1):
        steps: list[Step] = []
        watch = steps.append if job.trace is not None else None
        exact_mm = EXACT_WITH_CT_MM if job.knows_ct else 0.0
        outcome = run_episode(episode, room, localizer, watch, job.policy, exact_mm=exact_mm)
        if job.trace is not None:
            target = landmark(episode.target_id).name.lower().replace(" ", "_")
            title = f"{re.sub(r'[^A-Za-z0-9]+', '_', room.name).strip('_')}_{number:03d}_{target}"
            nav_report.write_trace(steps, episode.target_id, job.trace, title)
        yield outcome


def _document(outcomes: dict[str, list[Outcome]], args: argparse.Namespace) -> dict[str, Any]:
    from carm_bringup.benchmarks.navigation import report as nav_report

    suites = args.suite or (() if args.ct else STANDARD)
    words = [f"--suite {name}" for name in dict.fromkeys(suites)] + [f"--ct {path}" for path in args.ct or ()]
    words += [f"--policy {name}" for name in args.policy or []] + [f"--seed {args.seed}"]
    for name in ("localizer", "episodes", "patients"):
        if getattr(args, name) is not None:
            words.append(f"--{name} {getattr(args, name)}")
    results = {name: nav_report.metrics(own) for name, own in outcomes.items()}
    document = results_file.document(f"carm bench nav {' '.join(words)}", args.seed, results)
    document["episodes"] = {name: [nav_report.episode_record(one) for one in own] for name, own in outcomes.items()}
    return document
