# SPDX-License-Identifier: Apache-2.0
"""A sample of the navigation bench's episodes once more, through the real graph: nodes, topics, actions, DDS.

The bench runs the navigator in one process for speed. Here the same episode, with the same start and the same seed of
the noise, goes through the processes that a lab runs; what the agent says step by step must be the same.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carm_core.errors import CarmError

if TYPE_CHECKING:
    import argparse

    import numpy as np
    from numpy.typing import NDArray

    from carm_agent.navigation.task import Progress
    from carm_bringup.benchmarks.navigation.episode import Episode
    from carm_bringup.benchmarks.navigation.suites import Contender

APART = 2.0
"""Numbers in what the agent says may differ by this: mm, degrees, per cent. The real arm stops within 0.5 mm."""

POLICIES = ("default", "pointing", "xml", "biplane", "regression", "oracle")
"""Policies that the agent node has; the others are baselines of the bench."""

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class GraphError(CarmError):
    """The graph did not come up."""


@dataclass(frozen=True)
class Comparison:
    """One episode in both.

    Attributes:
        patient: Name of the patient.
        target_id: Landmark to be centered.
        differences: Lines, ``-`` of the bench's process, ``+`` of the graph; empty when the decisions are the same.
        lines: That the agent said.
        apart: Largest difference of a number in them.
        same_lines: How many lines are the same before the first that differs. After a motion the arm stands a fraction
            of a millimeter elsewhere, which a network may answer otherwise.
        error_code: How the task ended in the graph.
        error_msg: Why it ended there; empty on success.
        duration_s: Of the task in the graph.
    """

    patient: str
    target_id: int
    differences: tuple[str, ...]
    lines: int
    apart: float
    same_lines: int
    error_code: int
    error_msg: str
    duration_s: float

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        return {
            "patient": self.patient,
            "target_id": self.target_id,
            "same_decisions": not self.differences,
            "differences": list(self.differences),
            "lines": self.lines,
            "largest_difference": self.apart,
            "same_lines": self.same_lines,
            "error_code": self.error_code,
            "error_msg": self.error_msg,
            "duration_s": self.duration_s,
        }


def compare(first: Sequence[str], second: Sequence[str]) -> tuple[tuple[str, ...], float]:
    """Compare the messages line by line.

    Returns:
        Lines that differ in a word, or in a number by more than ``APART``, and the largest difference of a number.
    """
    differences: list[str] = []
    largest = 0.0
    for index in range(max(len(first), len(second))):
        one, other = (lines[index] if index < len(lines) else "(nothing)" for lines in (first, second))
        numbers = [[float(number) for number in _NUMBER.findall(line)] for line in (one, other)]
        apart = math.inf
        if _NUMBER.sub("#", one) == _NUMBER.sub("#", other):
            apart = max((abs(a - b) for a, b in zip(*numbers, strict=True)), default=0.0)
        if apart > APART:
            differences += [f"- {one}", f"+ {other}"]
        else:
            largest = max(largest, apart)
    return tuple(differences), largest


def sample(episodes: Sequence[Episode], count: int) -> list[Episode]:
    """Return a few episodes, spread over all."""
    kept = min(count, len(episodes))
    return [episodes[index * len(episodes) // kept] for index in range(kept)]


def run(episodes: Sequence[Episode], contender: Contender, localizer: str, seed: int) -> list[Comparison]:
    """Run episodes in this process and through the graph.

    Args:
        episodes: Of patients without a shift.
        contender: Policy of the agent.
        localizer: name.
        seed: Of the localizer.

    Raises:
        CarmError: A part of it cannot be started.
    """
    from carm_bringup.benchmarks.navigation.episode import Room, run_episode
    from carm_bringup.benchmarks.navigation.suites import make_localizer
    from carm_core.robot.kinematics import CArm
    from carm_sim.patient_loader import load_patient

    carm, comparisons = CArm.from_config(), []
    for episode in episodes:
        said: list[Progress] = []
        own = make_localizer(localizer, episode.patient, seed)
        room = Room.of(load_patient(episode.patient), carm, {episode.target_id})
        run_episode(episode, room, own, policy=contender.policy, on_report=said.append)
        own.close()
        heard, result = _through_graph(episode, contender, localizer)
        differences, apart = compare([progress.reasoning for progress in said], heard)
        pairs = zip((progress.reasoning for progress in said), heard, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: not compare(pair[:1], pair[1:])[0], pairs))
        ended = (same, result.error_code, result.error_msg, result.duration_s)
        comparisons.append(Comparison(episode.patient, episode.target_id, differences, len(said), apart, *ended))
    return comparisons


def _through_graph(episode: Episode, contender: Contender, localizer: str) -> tuple[list[str], Any]:
    from carm_bringup.graph import description as graph
    from carm_bringup.graph import domain_lock, launcher
    from carm_bringup.nodes.client import navigate_when_ready

    os.environ.update(domain_lock.own_domain())
    words = [f"patient:={episode.patient}", f"localizer:={localizer}", "headless:=true"]
    values = graph.resolve([*words, "policy:=xml"] if contender.policy == "xml" else words)
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "carm.yaml"
        config.write_text(_config_from(episode.start), encoding="utf-8")
        commands = []
        for spec in graph.nodes(values):
            command = launcher.node_command(spec, values)
            extra = [f"carm_config:={config}"] if spec.name in ("motion_node", "xray_node") else []
            extra += [f"seed:={episode.seed}"] if spec.name == "xray_node" else []
            words = [word for pair in extra for word in ("-p", pair)]
            commands.append(replace(command, words=(*command.words, *words)))
        supervisor = launcher.Supervisor(said.append, color=False)
        try:
            supervisor.start(commands)
            return navigate_when_ready(graph.namespace(values), episode.target_id, contender.policy == "biplane")
        except CarmError as error:
            raise GraphError(f"{error}; the last message of the graph: {said[-1] if said else 'none'}") from error
        finally:
            supervisor.stop()


def _config_from(start: NDArray[np.float64]) -> str:
    """Return the arm's description, whose simulator starts elsewhere."""
    import yaml

    from carm_core.data_files import read_yaml
    from carm_core.paths import config_file
    from carm_core.robot.kinematics import CArm

    content = read_yaml(config_file("carm.yaml"))
    home = {}
    for joint, position in zip(CArm.from_config().joints, start, strict=True):
        prismatic = f"{joint.name}_m" in content["home"]
        home[f"{joint.name}_{'m' if prismatic else 'deg'}"] = float(position if prismatic else math.degrees(position))
    return yaml.safe_dump(content | {"home": home}, sort_keys=False)


def report(name: str, comparisons: Sequence[Comparison]) -> str:
    """Return the lines for the terminal."""
    same = sum(not one.differences for one in comparisons)
    apart = max((one.apart for one in comparisons), default=0.0)
    lines = [
        f"{name}, through the real graph: {same} of {len(comparisons)} episodes decide the same"
        f" ({sum(one.lines for one in comparisons)} lines; numbers in them differ by {apart:g} at most)"
    ]
    for one in comparisons:
        if one.differences:
            lines += [f"  {one.patient}, landmark {one.target_id}:", *(f"    {line}" for line in one.differences)]
            lines += [f"    ended in the graph after {one.duration_s:.1f} s: {one.error_msg or 'success'}"]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser, count: Any) -> None:
    """Add the option of the command."""
    parser.add_argument(
        "--graph",
        type=count,
        default=0,
        metavar="N",
        help="run N episodes of each suite without a shift again through the real graph; exit code 1 if the"
        " agent decides differently there",
    )
