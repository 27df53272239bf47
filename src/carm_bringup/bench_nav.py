# SPDX-License-Identifier: Apache-2.0
"""`carm bench nav`: the whole loop, headless and in one process, over seeded suites of episodes."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carm_bringup import figures
from carm_core.errors import ConfigurationError

if TYPE_CHECKING:
    from carm_bringup.nav_episode import Outcome
    from carm_core.kinematics import CArm
    from carm_core.localization import Localizer
    from carm_sim.patient import Patient

FIRST_PHANTOM_SEED = 950_000
"""First seed of the suite `phantoms`; nothing is trained, calibrated or tuned on phantoms from here on."""


@dataclass(frozen=True)
class Suite:
    """A set of patients to navigate in.

    Attributes:
        patients: default number of patients.
        episodes: default number of episodes.
        description: one line.
    """

    patients: int
    episodes: int
    description: str

    def names(self, name: str, count: int) -> list[str]:
        """Return the names of the first `count` patients."""
        if name == "chest_ct":
            return ["chest_ct"]
        return [f"phantom:{FIRST_PHANTOM_SEED + index}" for index in range(count)]


SUITES = {
    "phantoms": Suite(
        50, 700, "phantoms never seen in training, random starts over the upper body, all reachable targets"
    ),
    "chest_ct": Suite(1, 50, "the real chest CT with the landmarks that it covers"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    described = "; ".join(f"{name}: {suite.description}" for name, suite in SUITES.items())
    parser.add_argument(
        "--suite", action="append", choices=sorted(SUITES), help=f"{described}; repeat for several (both)"
    )
    parser.add_argument(
        "--localizer",
        default="fused",
        help="fused, compact, regression, oracle, a Hugging Face id or folder (fused)",
    )
    parser.add_argument("--episodes", type=_count, help="episodes of each suite (700 on phantoms, 50 on the chest CT)")
    parser.add_argument("--patients", type=_count, help="phantoms (50)")
    parser.add_argument("--seed", type=int, default=0, help="of starts, order of targets and noise (0)")
    parser.add_argument("--workers", type=_count, default=1, help="processes, each with a patient of its own (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and every episode to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot (PNG, PDF or SVG) to FILE")
    parser.add_argument(
        "--trace", type=Path, metavar="DIR", help="write a PNG of each exposure and a GIF per episode to DIR"
    )


def _count(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 100000")
    return value


def run(args: argparse.Namespace) -> int:
    """Run the bench.

    Returns:
        Exit code 0.

    Raises:
        CarmError: bad input; nothing was run.
    """
    from carm_bringup import nav_report

    for file in (args.json, args.plot):
        figures.check_file(file)
    if args.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError("--plot needs matplotlib: pip install matplotlib")
    _make_trace_folder(args.trace)
    outcomes: dict[str, list[Outcome]] = {}
    for name in dict.fromkeys(args.suite or SUITES):
        suite = SUITES[name]
        episodes = args.episodes or suite.episodes
        patients = min(args.patients or suite.patients, episodes)
        outcomes[name] = list(_run_suite(name, suite.names(name, patients), episodes, args))
        print(nav_report.table(name, nav_report.metrics(outcomes[name])), flush=True)
    if args.json is not None:
        figures.write(args.json, _document(outcomes, args))
    if args.plot is not None:
        try:
            nav_report.plot(outcomes, args.plot)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot write the plot {args.plot}: {error}") from error
    return 0


def _make_trace_folder(folder: Path | None) -> None:
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
        patient: name of the patient.
        index: of the patient in its suite.
        episodes: how many.
        localizer: name.
        seed: of the bench.
        trace: folder for pictures; None: no pictures.
    """

    patient: str
    index: int
    episodes: int
    localizer: str
    seed: int
    trace: Path | None


class Runner:
    """Runs jobs one after another with one localizer; each process of a bench has its own."""

    def __init__(self) -> None:
        """Start without a localizer: the first job makes it."""
        self._localizer: Localizer | None = None

    def outcomes(self, job: Job) -> Iterator[Outcome]:
        """Run a job, episode by episode."""
        import numpy as np

        from carm_bringup.nav_episode import draw_episodes
        from carm_core.kinematics import CArm
        from carm_sim.patient import load_patient

        carm = CArm.from_config()
        patient = load_patient(job.patient)
        if self._localizer is None or job.localizer == "oracle":
            self.close()
            self._localizer = make_localizer(job.localizer, job.patient, job.seed)
        drawn = draw_episodes(patient, carm, job.episodes, np.random.default_rng([job.seed, job.index]))
        yield from _run_patient(patient, carm, self._localizer, drawn, job.trace)

    def close(self) -> None:
        """Free the localizer."""
        if self._localizer is not None:
            self._localizer.close()
            self._localizer = None


_runner = Runner()


def _run_job(job: Job) -> list[Outcome]:
    """Run a job in a worker process, which keeps its localizer for the next one."""
    return list(_runner.outcomes(job))


def _run_suite(name: str, patients: list[str], episodes: int, args: argparse.Namespace) -> Iterator[Outcome]:
    """Run a suite, patient by patient; the order of the outcomes is the same for any number of workers."""
    from tqdm import tqdm

    shares = [episodes // len(patients) + (index < episodes % len(patients)) for index in range(len(patients))]
    jobs = [
        Job(patient, index, count, args.localizer, args.seed, args.trace)
        for index, (patient, count) in enumerate(zip(patients, shares, strict=True))
    ]
    with tqdm(total=episodes, desc=name, unit="episode", file=sys.stderr) as bar:
        for outcome in _in_workers(jobs, args.workers) if args.workers > 1 and len(jobs) > 1 else _in_turn(jobs):
            bar.update()
            yield outcome


def _in_turn(jobs: list[Job]) -> Iterator[Outcome]:
    runner = Runner()
    for job in jobs:
        yield from runner.outcomes(job)
    runner.close()


def _in_workers(jobs: list[Job], workers: int) -> Iterator[Outcome]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        for outcomes in pool.map(_run_job, jobs):
            yield from outcomes


def _run_patient(
    patient: Patient, carm: CArm, localizer: Localizer, episodes: list[Any], trace: Path | None
) -> Iterator[Outcome]:
    from carm_bringup import nav_report
    from carm_bringup.nav_episode import Step, run_episode
    from carm_core.landmarks import landmark
    from carm_sim.xray import XraySystem

    for number, episode in enumerate(episodes, start=1):
        system = XraySystem(patient, carm, seed=episode.seed)
        steps: list[Step] = []
        outcome = run_episode(episode, patient, system, localizer, steps.append if trace is not None else None)
        if trace is not None:
            target = landmark(episode.target_id).name.lower().replace(" ", "_")
            title = f"{patient.name.replace(':', '_')}_{number:03d}_{target}"
            nav_report.write_trace(steps, episode.target_id, trace, title)
        yield outcome


def make_localizer(name: str, patient: str, seed: int) -> Localizer:
    """Return a localizer by name; `oracle` knows the patient's true landmarks.

    Raises:
        CarmError: there is none of this name, or it cannot be loaded.
    """
    from carm_perception import registry

    return registry.make_localizer(name, registry.LocalizerOptions(patient=patient, seed=seed, threads=1))


def _document(outcomes: dict[str, list[Outcome]], args: argparse.Namespace) -> dict[str, Any]:
    from carm_bringup import nav_report

    words = [f"--suite {name}" for name in outcomes] + [f"--localizer {args.localizer}", f"--seed {args.seed}"]
    for name in ("episodes", "patients"):
        if getattr(args, name) is not None:
            words.append(f"--{name} {getattr(args, name)}")
    results = {name: nav_report.metrics(own) for name, own in outcomes.items()}
    document = figures.document(f"carm bench nav {' '.join(words)}", args.seed, results)
    document["localizer"] = args.localizer
    document["episodes"] = {name: [nav_report.episode_record(one) for one in own] for name, own in outcomes.items()}
    return document
