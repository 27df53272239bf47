# SPDX-License-Identifier: Apache-2.0
"""``carm bench faults``: what the arm does when parts of its graph fail, over seeded episodes with a judge."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carm_core.cli import results_file
from carm_core.cli.arguments import output_file, output_folder, seed, whole
from carm_core.errors import ConfigurationError

if TYPE_CHECKING:
    from carm_bringup.benchmarks.faults.campaign import Judged, Totals

EPISODES = 500
_JOB = 10
_MOST_TRACES = 50
"""Of each kind of violation; the first ones of a campaign show what is wrong."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--episodes", type=whole(0, 10_000_000), help=f"episodes in one process ({EPISODES}; with --graph: 0)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the episodes (0)")
    parser.add_argument("--workers", type=whole(1, 1000), default=1, help="processes (1)")
    parser.add_argument(
        "--graph",
        type=whole(0, 10_000),
        default=0,
        metavar="N",
        help="N episodes through the real nodes, with signals to their processes (0)",
    )
    parser.add_argument("--traces", type=output_folder, metavar="DIR", help="write a trace of each violation to DIR")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run the episode of a trace again, and only that")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all figures to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the bench.

    Returns:
        Exit code 0; 1 when something happened that must not.

    Raises:
        CarmError: Bad input; nothing was run.
    """
    results_file.check_file(args.json)
    if args.replay is not None:
        return _replay(args)
    if args.traces is not None:
        try:
            args.traces.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot make the folder {args.traces}: {error.strerror}") from error
    episodes = args.episodes if args.episodes is not None else (0 if args.graph else EPISODES)
    if not episodes and not args.graph:
        raise ConfigurationError("--episodes 0 without --graph leaves nothing to run")
    results: dict[str, Any] = {}
    bad = 0
    if episodes:
        totals = _campaign(args, episodes)
        results["faults"] = totals.metrics()
        bad += sum(totals.bad.values())
        print(table(results["faults"]), flush=True)
    if args.graph:
        from carm_bringup.benchmarks.faults import graph_sample

        results["graph"] = graph_sample.run(args.graph, args.seed, args.traces)
        bad += sum(results["graph"][f"{kind}_episodes"] for kind in _judges())
        print(table(results["graph"], "through the real graph"), flush=True)
    if args.json is not None:
        command = f"carm bench faults --episodes {episodes} --graph {args.graph} --seed {args.seed}"
        results_file.write(args.json, results_file.document(command, args.seed, results))
    return int(bool(bad))


def _judges() -> tuple[str, ...]:
    from carm_bringup.benchmarks.faults.judges import JUDGES

    return JUDGES


def _campaign(args: argparse.Namespace, episodes: int) -> Totals:
    from tqdm import tqdm

    from carm_bringup.benchmarks.faults import campaign
    from carm_perception.datasets.parallel import LOCAL
    from carm_perception.datasets.parallel import run as run_tasks

    totals, found = campaign.Totals(), list[Any]()
    kept = dict.fromkeys(_judges(), 0)
    work = campaign.jobs(args.seed, episodes, _JOB)
    with tqdm(total=episodes, desc="faults", unit="episode", file=sys.stderr) as bar:
        for judged in run_tasks(LOCAL, campaign.run_job, work, args.workers):
            for one in judged:
                totals.add(one)
                if one.verdict.violations:
                    found.append(one)
                    bar.write(_line(one), file=sys.stderr)
                    if args.traces is not None:
                        campaign.write_trace(args.traces, one)
            bar.update(len(judged))
    found.sort(key=lambda one: int(one.number))
    if args.traces is not None and found:
        runner = campaign.Runner()
        for one in found:
            kind = one.verdict.violations[0].judge
            kept[kind] += 1
            if kept[kind] <= _MOST_TRACES:
                file = campaign.write_trace(args.traces, runner.shrunk(one))
                print(f"{_line(one)}: carm bench faults --replay {file}", flush=True)
    else:
        for one in found[:_MOST_TRACES]:
            print(_line(one), flush=True)
    return totals


def _line(judged: Judged) -> str:
    violation = judged.verdict.violations[0]
    return f"episode {judged.number}: {violation.judge} at {violation.time_s:.2f} s, {violation.text}"


def _replay(args: argparse.Namespace) -> int:
    from carm_bringup.benchmarks.faults import campaign, scenario

    judged = campaign.Runner().judged(scenario.load(args.replay))
    for order in judged.scenario.orders:
        print(f"{order.begin_s:7.2f} s  {order.client} asks for a {order.kind}")
    for fault in judged.scenario.faults:
        print(f"{fault.begin_s:7.2f} s  {fault.name}, {fault.duration_s:.2f} s, value {fault.value:.2f}")
    for violation in judged.verdict.violations:
        print(f"{violation.time_s:7.2f} s  {violation.judge}: {violation.text}")
    if not judged.verdict.violations:
        print("no violation")
    if args.json is not None:
        found = [campaign.as_dict(violation) for violation in judged.verdict.violations]
        results_file.write(
            args.json, results_file.document("carm bench faults --replay", judged.scenario.seed, {"violations": found})
        )
    return int(bool(judged.verdict.violations))


def table(metrics: dict[str, Any], title: str = "in one process") -> str:
    """Return the figures for the terminal."""
    judges = _judges()
    lines = [f"{metrics['episodes']} episodes {title}, the arm moved in {metrics['moved']}"]
    for kind in judges:
        low, high = metrics[f"{kind}_ci95"]
        lines.append(
            f"  {kind:22} {metrics[kind]:6d} in {metrics[f'{kind}_episodes']} episodes"
            f" (95 %: {100 * low:.3f} to {100 * high:.3f} % of episodes)"
        )
    p99 = metrics["stop_to_deceleration_p99_ms"]
    lines += [
        f"  motion_after_stop_mm   {metrics['motion_after_stop_mm']:6.1f}",
        f"  stop_to_deceleration_p99_ms {'-' if p99 is None else f'{p99:.1f}'} ({metrics['stops_in_motion']} stops)",
        f"  unsupervised_motion_s  {metrics['unsupervised_motion_s']:6.2f}",
    ]
    bad = {name: row for name, row in metrics["by_fault"].items() if any(row[kind] for kind in judges)}
    lines.append(f"faults: {len(metrics['by_fault'])} kinds, {len(bad)} of them in episodes with violations")
    for name, row in bad.items():
        words = ", ".join(f"{row[kind]} {kind}" for kind in judges if row[kind])
        lines.append(f"  {name:26} {row['episodes']:5d} episodes: {words}")
    return "\n".join(lines)
