# SPDX-License-Identifier: Apache-2.0
"""Verbs that come before the graph is ready wait, and say for what; without any graph they end soon."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from carm_bringup.graph.domain_lock import InstanceLock

CARM = (sys.executable, "-c", "from carm_bringup.cli.app import main; main()")
AGENT = Path(__file__).parents[1] / "fakes" / "slow_agent.py"
PATIENCE_S = 90
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def starting(ros_domain: int) -> Iterator[InstanceLock]:
    """The lock of a graph that is being started."""
    lock = InstanceLock(ros_domain, "/carm")
    assert not lock.held
    assert lock.acquire()
    yield lock
    lock.release()


def test_a_lock_is_seen_and_not_taken(starting: InstanceLock, ros_domain: int) -> None:
    other = InstanceLock(ros_domain, "/carm")
    assert other.held
    starting.release()
    assert not other.held
    assert other.acquire()
    other.release()


@pytest.mark.integration
@pytest.mark.parametrize("words", [("navigate", "carina"), ("say", "hello"), ("view", "spider")], ids=lambda w: w[0])
def test_without_a_graph_nothing_waits(words: tuple[str, ...], spawn: Spawn) -> None:
    process = spawn([*CARM, *words, "--wait", "3600"])
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert output.startswith(f"carm {words[0]}: no a")
    assert len(output.splitlines()) == 1


@pytest.mark.integration
def test_navigate_waits_for_a_graph_that_starts(spawn: Spawn, starting: InstanceLock) -> None:
    process = spawn([*CARM, "navigate", "carina", "--wait", "80"])
    assert process.stdout is not None
    assert process.stdout.readline().startswith("waiting for action navigate: the graph is still starting")
    spawn([sys.executable, AGENT])
    output, _ = process.communicate(timeout=PATIENCE_S)
    lines = output.splitlines()
    assert lines[0] == "waiting for the graph (at most 80 s): not ready, nothing moves: not heard from yet: localize"
    assert lines[1] == "centered"
    assert process.returncode == 0


@pytest.mark.integration
def test_navigate_gives_up_in_one_line(spawn: Spawn, starting: InstanceLock) -> None:
    process = spawn([*CARM, "navigate", "carina", "--wait", "5.5"])
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert output.splitlines()[-1].startswith("carm navigate: no action navigate within ")
    assert len(output.splitlines()) == 2
    assert process.returncode == 1


@pytest.mark.integration
def test_points_names_and_previews_of_a_ct(spawn: Spawn, tmp_path: Path) -> None:
    spawn([sys.executable, AGENT.with_name("ct_graph.py")])

    def carm(*words: str | Path) -> tuple[int, list[str]]:
        process = spawn([*CARM, *words])
        output, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output.splitlines()

    code, lines = carm("navigate", "rib", "left", "4", "--wait", "60")
    assert (code, lines[0]) == (0, "0 'rib_left_4' True (-0.012, 0.03, -0.41)")
    code, lines = carm("navigate", "--point", "-1,2.5,-3")
    assert (code, lines[0]) == (0, "0 '' True (-0.001, 0.0025, -0.003)")
    assert carm("navigate", "rib_left_5") == (2, ["carm navigate: did you mean 'rib_left_4'?"])
    picture = tmp_path / "p.png"
    code, lines = carm("view", "spider", "--preview", picture)
    assert (code, lines[-2:]) == (0, [str(picture), str(tmp_path / "p_xray.png")])
    assert (picture.read_bytes(), (tmp_path / "p_xray.png").read_bytes()) == (b"path", b"lift 0.5")
    code, lines = carm("view", "spider", "--preview", picture)
    assert (code, lines[-1]) == (
        0,
        "no preview of the X-ray: the CT is not registered: there was no image yet",
    )


@pytest.mark.integration
def test_say_waits_but_for_a_stop_and_for_status(spawn: Spawn) -> None:
    spawn([sys.executable, AGENT])
    lines = []
    for words in ("please stop", "status?", "hello", "wrong"):
        process = spawn([*CARM, "say", words])
        output, _ = process.communicate(timeout=PATIENCE_S)
        lines.append((process.returncode, output.splitlines()))
    assert lines == [
        (0, ["ready: False"]),
        (0, ["ready: False"]),
        (0, ["waiting for the graph (at most 120 s): missing: localize", "ready: True"]),
        (1, ["ready: True"]),
    ]
