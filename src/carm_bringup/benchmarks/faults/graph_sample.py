# SPDX-License-Identifier: Apache-2.0
"""A sample of episodes through the real graph: motion node and supervisor, with real signals to their processes.

One graph per episode. The judges see what is published: ``joint_states``, and setpoints in ``controller_state``. The
body on the table is that of the first episodes in one process; the supervisor assumes one of unknown shape.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from carm_bringup.benchmarks.faults.campaign import Judged, Totals, write_trace
from carm_bringup.benchmarks.faults.episode import Workshop
from carm_bringup.benchmarks.faults.history import History
from carm_bringup.benchmarks.faults.judges import Judge
from carm_bringup.benchmarks.faults.scenario import Draw, Fault, Order, Scenario
from carm_control import JointLimits
from carm_core.errors import CarmError
from carm_core.robot.kinematics import CArm

KINDS = (
    "freeze core",
    "freeze goal_server",
    "freeze supervisor",
    "death goal_server",
    "death supervisor",
    "freeze console",
    "death console",
    "stop",
    "cancel",
)
_CLEAR_M = (0.12, 0.0, 0.04, 0.0, 0.0, 0.25)
"""A way from the home position that leads near nothing, m and rad."""


def scenario(seed: int, number: int, carm: CArm) -> Scenario:
    """Draw an episode: one motion, and something that happens in it or after it."""
    random = np.random.default_rng([seed, number, 41])
    kind, _, target = KINDS[number % len(KINDS)].partition(" ")
    sign = random.choice([-1.0, 1.0], 6)
    way = np.array(_CLEAR_M) * sign * random.uniform(0.5, 1.0, 6)
    goal = np.clip(carm.home + way, [j.lower for j in carm.joints], [j.upper for j in carm.joints])
    lasts_s = 1.3 * Draw(carm).shortest_s(goal - carm.home)
    order = Order("trajectory", 0.0, "console", (tuple(goal.tolist()),), (lasts_s,))
    begin_s = float(random.uniform(0.1, 1.0)) * lasts_s
    duration_s = float(np.exp(random.uniform(np.log(0.1), np.log(4.0))))
    return Scenario(
        seed, start=tuple(carm.home.tolist()), orders=(order,), faults=(Fault(kind, target, begin_s, duration_s),)
    )


def run(count: int, seed: int, traces: Path | None) -> dict[str, Any]:
    """Run episodes; return the figures.

    Args:
        count: How many.
        seed: Of the episodes.
        traces: Folder for traces of violations; None: none are kept.

    Raises:
        CarmError: The graph cannot be started.
    """
    from carm_bringup.graph import domain_lock

    if "ROS_DOMAIN_ID" not in os.environ:
        os.environ.update(domain_lock.own_domain())
    shop, totals = Workshop(), Totals()
    carm = shop.carm
    judge = Judge(JointLimits.of(carm.joints))
    for number in range(count):
        drawn = scenario(seed, number, carm)
        history, unfinished, decelerated_s = _through_graph(drawn, carm)
        verdict = judge.judge(history, shop.scene(drawn).clearance, drawn.faults, unfinished)
        verdict.stop_to_deceleration_s = [] if decelerated_s is None else [decelerated_s]
        moved = bool(len(history.true)) and float(np.ptp(np.array(history.true), axis=0).max()) > 1e-3
        judged = Judged(number, drawn, verdict, 0.0, moved)
        totals.add(judged)
        fault = drawn.faults[0]
        said = "; ".join(violation.text for violation in verdict.violations) or "no violation"
        print(f"graph episode {number}, {fault.name} at {fault.begin_s:.2f} s for {fault.duration_s:.2f} s: {said}")
        if verdict.violations and traces is not None:
            write_trace(traces, judged)
    return totals.metrics()


def _through_graph(drawn: Scenario, carm: CArm) -> tuple[History, list[str], float | None]:
    """Run one episode; return what happened, what did not end, and the time from a stop to deceleration, s."""
    from carm_bringup.graph import description as graph
    from carm_bringup.graph import launcher
    from carm_bringup.nodes.fault_probe import FaultProbe, children

    values = graph.resolve(["headless:=true"])
    wanted = ("motion_node", "supervisor_node")
    specs = [spec for spec in graph.nodes(values) if spec.name in wanted]
    commands = [replace(launcher.node_command(spec, values), ends_graph=False) for spec in specs]
    said: list[str] = []
    supervisor = launcher.Supervisor(said.append, color=False)
    try:
        supervisor.start(commands)
        pids = supervisor.pids()
        probe = FaultProbe(graph.namespace(values), carm)
        try:
            return *probe.run(drawn, pids), probe.deceleration_s()
        except CarmError as error:
            raise type(error)(f"{error}; the last line of the graph: {said[-1] if said else 'none'}") from error
        finally:
            probe.close()
            for parent in pids.values():
                for pid in (parent, *children(parent)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
    finally:
        supervisor.stop()
