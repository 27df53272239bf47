# SPDX-License-Identifier: Apache-2.0
"""``carm bench stop``: how long a stop takes until the arm decelerates, while others flood the graph.

Motion and agent node run as real processes. The time is that from the request to the stamp of the ``state`` that
says STOPPING: the control cycle in which the arm begins to decelerate.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from carm_core.cli import results_file
from carm_core.cli.arguments import output_file, whole
from carm_core.errors import CarmError

if TYPE_CHECKING:
    from carm_bringup.nodes.stop_probe import StopProbe

START_S = 90.0
ANSWER_S = 5.0
WAYS = ("service", "word")
FLOODS = {"none": 0.0, "sentences": 200.0, "goals": 50.0, "resets": 100.0}
"""What is sent while a stop is asked for, and how many a second."""
_NODES = ("motion_node", "agent_node")
_LOOP = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
"""Ends with the bench, also where that is killed."""


class StopError(CarmError):
    """The arm does not move, or does not stop."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--stops", type=whole(1, 1000), default=20, metavar="N", help="for each flood and way (20)")
    parser.add_argument("--flood", action="append", choices=FLOODS, help="repeat for several (all)")
    parser.add_argument("--busy", type=whole(0, 64), default=0, metavar="N", help="busy loops beside the graph (0)")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all figures to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the bench.

    Returns:
        Exit code 0.

    Raises:
        CarmError: Bad input, or the arm does not move or does not stop.
    """
    from carm_bringup.nodes.stop_probe import StopProbe, wait_for

    results_file.check_file(args.json)
    results: dict[str, dict[str, Any]] = {}
    with _graph(), _busy(args.busy):
        probe = StopProbe()
        try:
            if not wait_for(lambda: probe.ready, START_S):
                raise StopError("motion and agent node are not there")
            for kind in args.flood or FLOODS:
                for way in WAYS:
                    times_ms = [_stopped_ms(probe, kind, way) for _ in range(args.stops)]
                    p50, p99 = (float(np.percentile(times_ms, share)) for share in (50, 99))
                    results[f"{kind}, {way}"] = {"stops": args.stops, "p50_ms": p50, "p99_ms": p99}
                    print(f"{kind:10s} {way:8s} p50 {p50:4.0f} ms, p99 {p99:4.0f} ms", flush=True)
        finally:
            probe.close()
    if args.json is not None:
        floods = "".join(f" --flood {kind}" for kind in args.flood or ())
        command = f"carm bench stop --stops {args.stops} --busy {args.busy}{floods}"
        results_file.write(args.json, results_file.document(command, 0, results))
    return 0


def _stopped_ms(probe: StopProbe, kind: str, way: str) -> float:
    """Return the time from a request to stop until the arm decelerates, ms."""
    from carm_bringup.nodes.stop_probe import wait_for

    again_s = 0.0

    def cruising() -> bool:
        nonlocal again_s
        if not probe.cruising and time.monotonic() > again_s:
            again_s = time.monotonic() + 0.5
            probe.ask("reset")
        return probe.cruising

    if not wait_for(cruising, START_S):
        raise StopError("the arm does not move")
    ends = threading.Event()
    flood = threading.Thread(target=probe.flood, args=(kind, FLOODS[kind], ends), daemon=True)
    flood.start()
    try:
        if not wait_for(lambda: probe.sent >= 0.5 * FLOODS[kind], ANSWER_S):
            raise StopError(f"no {kind} can be sent")
        asked_s = time.time()
        if way == "word":
            probe.say("stop")
        else:
            probe.ask("stop")
        if not wait_for(lambda: probe.stopping_after(asked_s) is not None, ANSWER_S):
            raise StopError(f"the arm does not decelerate within {ANSWER_S:g} s ({kind}, {way})")
        took_ms = 1e3 * max(0.0, (probe.stopping_after(asked_s) or asked_s) - asked_s)
        if not wait_for(lambda: not probe.cruising, ANSWER_S):
            raise StopError(f"the arm goes on at the same speed ({kind}, {way})")
        return took_ms
    finally:
        ends.set()
        flood.join()


@contextmanager
def _graph() -> Iterator[None]:
    """Run the nodes in a domain of their own."""
    from carm_bringup.graph import description as graph
    from carm_bringup.graph import domain_lock, launcher

    os.environ.update(domain_lock.own_domain())
    values = graph.resolve(["headless:=true"])
    commands = [launcher.node_command(spec, values) for spec in graph.nodes(values) if spec.name in _NODES]
    extra = {"motion_node": ("-p", "supervised:=false")}
    commands = [replace(one, words=(*one.words, *extra.get(one.name, ()))) for one in commands]
    supervisor = launcher.Supervisor(lambda line: None, color=False)
    try:
        supervisor.start(commands)
        yield
    finally:
        supervisor.stop()


@contextmanager
def _busy(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", _LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
