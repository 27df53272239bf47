# SPDX-License-Identifier: Apache-2.0
"""The whole graph as a user starts it, driven as a second terminal would."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from carm_bringup.graph import description as graph

CARM = [sys.executable, "-c", "from carm_bringup.cli.app import main; main()"]
READY_S = 90.0
"""The graph is to be ready within 20 s on an idle machine; a test machine may be busy."""
STOP_S = 5.0
ATTEMPTS = 3
STOOD_STILL = r"held up for|no valid joint states for"
"""The arm stops, rightly, where the machine runs none of a node's threads for a while."""

pytestmark = pytest.mark.integration


class Terminal:
    """A running command, its lines as they come."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._new.put(line.rstrip())
        self._new.put(None)

    def wait_for(self, pattern: str, timeout_s: float) -> str:
        """Return the first line that matches; fails when the command ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._new.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no line {pattern!r} within {timeout_s} s:\n" + "\n".join(self.lines))
            if line is None:
                pytest.fail(f"ended without a line {pattern!r}:\n" + "\n".join(self.lines))
            self.lines.append(line)
            if re.search(pattern, line):
                return line


Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def sim(spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Terminal]:
    """Start ``carm sim`` with launch arguments, ready for use."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def start(*arguments: str) -> Terminal:
        terminal = Terminal(spawn([*CARM, "sim", *arguments]))
        terminal.wait_for(r"^Ready in ", READY_S)
        return terminal

    return start


def carm(*words: str, timeout_s: float = 120.0) -> "subprocess.CompletedProcess[str]":
    """Run a verb to its end."""
    return subprocess.run(
        [*CARM, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False
    )


def test_main_job_with_the_oracle(sim: Callable[..., Terminal], tmp_path: Path) -> None:
    """Start, look, navigate, stop, refuse, reset, refuse a second graph, and leave nothing behind."""
    terminal = sim("localizer:=oracle")
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    assert len({c.pid for c in children}) >= len(graph.NODES)
    assert sum(c.memory_info().rss for c in children) < 3e9

    picture = tmp_path / "view.png"
    assert carm("snapshot", str(picture)).returncode == 0
    assert picture.stat().st_size > 10_000

    for _ in range(ATTEMPTS):
        done = carm("navigate", "carina")
        if not re.search(STOOD_STILL, done.stdout):
            break
        carm("reset")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[moving]" in done.stdout

    assert carm("view", "--primary", "20").returncode == 0
    refused = carm("view", "--isocenter", "5", "0", "0.2")
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1

    assert carm("stop").returncode == 0
    stopped = carm("navigate", "T1")
    assert stopped.returncode == 1
    assert "stop" in stopped.stderr.lower()
    assert carm("reset").returncode == 0

    second = carm("sim", "localizer:=oracle")
    assert second.returncode == 2
    assert f"already runs in domain {os.environ['ROS_DOMAIN_ID']}" in second.stderr

    start = time.monotonic()
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(timeout=2 * STOP_S) == 0
    assert time.monotonic() - start < STOP_S
    assert [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE] == []


def test_a_dead_node_ends_the_graph(sim: Callable[..., Terminal]) -> None:
    terminal = sim("localizer:=oracle")
    children = psutil.Process(terminal.process.pid).children(recursive=True)
    victim = next(c for c in children if any("motion_node" in word for word in c.cmdline()[:3]))
    victim.kill()
    terminal.wait_for(r"^motion_node ended \(killed by SIGKILL\): stopping the graph$", 10.0)
    assert terminal.process.wait(timeout=2 * STOP_S) == 1
    assert [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(
    ("argument", "reason"),
    [("patient:=chest_cd", "chest_cd"), ("localizer:=orakle", "orakle")],
    ids=["patient", "localizer"],
)
def test_unknown_names_end_in_one_line_and_code_2(
    spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, reason: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    process = spawn([*CARM, "sim", "localizer:=oracle", argument])
    output, _ = process.communicate(timeout=READY_S)
    assert process.returncode == 2, output
    assert "Traceback" not in output
    assert any(reason in line for line in output.splitlines())
