# SPDX-License-Identifier: Apache-2.0
"""Start the graph without ``launch_ros``: one process per node, one prefix per line, one end for all of them."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO

from carm_bringup.graph import description as graph
from carm_bringup.graph.domain_lock import InstanceLock, domain_id
from carm_bringup.graph.readiness import EXIT_RUNNING_ALREADY
from carm_core.errors import CarmError
from carm_core.paths import config_file, executable, share_dir
from carm_ros.distribution import distribution
from carm_ros.entry import missing
from carm_ros.security import enclave_arguments

STOP_LADDER: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGTERM, 3.0), (signal.SIGKILL, 1.0))
"""Signals to end a process group with, and how long to wait after each, s; together under 5 s.

SIGTERM, not SIGINT: a Python that is still importing would answer the latter with a traceback.
"""
PR_SET_PDEATHSIG = 1
"""``prctl`` option: signal that a process gets when its parent dies (linux/prctl.h)."""
LAST_WORDS_S = 1.0
"""How long the output of an ended process may take to be shown before its end is reported, s."""
LIBC = ctypes.CDLL(None)
COLORS = (36, 33, 35, 32, 34)


class LaunchError(CarmError):
    """The graph cannot be started."""


@dataclass(frozen=True)
class Command:
    """A process to start.

    Attributes:
        name: Prefix of its output.
        words: Command line.
        ends_graph: The graph ends with it.
    """

    name: str
    words: tuple[str, ...]
    ends_graph: bool = True


def find_executable(name: str) -> str:
    """Return the path of a console script: that of this virtual environment or workspace, else on the PATH.

    Raises:
        LaunchError: It is nowhere.
    """
    path = executable(name)
    if path is None:
        raise LaunchError(f"{name} is not installed: run `make setup`")
    return str(path)


def node_command(spec: graph.NodeSpec, values: Mapping[str, graph.Value]) -> Command:
    """Return the command line of a node, with its namespace, parameters and remappings."""
    words = [find_executable(spec.executable), "--ros-args", "--log-level", "info"]
    words += ["-r", f"__node:={spec.name}", "-r", f"__ns:={graph.namespace(values)}"]
    for source, target in graph.remappings(spec, values):
        words += ["-r", f"{source}:={target}"]
    words += enclave_arguments(graph.namespace(values), spec.name)[1:]
    words += ["--params-file", str(config_file(spec.config))]
    for name, value in graph.parameters(spec, values).items():
        words += ["-p", f"{name}:={json.dumps(value)}"]
    return Command(spec.name, tuple(words), ends_graph=spec.vital)


def graph_commands(values: Mapping[str, graph.Value]) -> list[Command]:
    """Return every process of the graph.

    Raises:
        LaunchError: A program is not installed.
    """
    commands = [node_command(spec, values) for spec in graph.nodes(values)]
    if values["rviz"]:
        viewer = shutil.which("rviz2")
        if viewer is None:
            package = distribution().packages("rviz2")
            raise LaunchError(f"rviz:=true needs rviz2 ({package}); scene:=true publishes what Foxglove shows")
        remaps = (word for pair in graph.viewer_remappings(values) for word in ("-r", ":=".join(pair)))
        settings = ("-d", str(share_dir() / "rviz" / "carm.rviz"), *graph.viewer_words(values), "--ros-args", *remaps)
        commands.append(Command("rviz", (viewer, *settings), ends_graph=False))
    if values["record"]:
        words = (find_executable("carm"), *graph.record_words(values))
        commands.append(Command("record", words, ends_graph=False))
    return commands


def readiness_command(values: Mapping[str, graph.Value], start_s: float) -> Command:
    """Return the process that says when the graph is ready, how long after ``start_s``, and what to do next."""
    settings = ["--since", str(start_s), "--namespace", graph.namespace(values), "--patient", str(values["patient"])]
    settings += ["--localizer", str(values["localizer"])]
    if not graph.simulates_xray(values):
        settings.append("--no-exposure")
    return Command("carm", (sys.executable, "-P", "-m", "carm_bringup.graph.readiness", *settings), ends_graph=False)


class Supervisor:
    """Runs processes in groups of their own, shows their output line by line, and ends them together."""

    def __init__(self, write: Callable[[str], None] | None = None, color: bool | None = None) -> None:
        """Prepare; nothing is started yet.

        Args:
            write: Shows one line; standard output by default.
            color: Color the prefixes; by default when standard output is a terminal.
        """
        self._write = write or (lambda line: print(line, flush=True))
        self._color = sys.stdout.isatty() if color is None else color
        self._running: dict[str, tuple[Command, subprocess.Popen[str]]] = {}
        self._groups: list[int] = []
        self._events: queue.Queue[str] = queue.Queue()
        self._readers: list[threading.Thread] = []

    def start(self, commands: Sequence[Command]) -> None:
        """Start processes.

        Raises:
            OSError: One of them cannot be started.
        """
        width = max([len(command.name) for command in commands] + [0])
        for command in commands:
            process = subprocess.Popen(
                command.words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
            prefix = f"[{command.name}]".ljust(width + 3)
            if self._color:
                prefix = f"\x1b[{COLORS[len(self._running) % len(COLORS)]}m{prefix}\x1b[0m"
            self._running[command.name] = (command, process)
            self._groups.append(process.pid)
            assert process.stdout is not None
            reader = threading.Thread(target=self._read, args=(command.name, prefix, process.stdout), daemon=True)
            reader.start()
            self._readers.append(reader)
            threading.Thread(target=self._wait, args=(command.name, process, reader), daemon=True).start()

    def _read(self, name: str, prefix: str, stream: IO[str]) -> None:
        for line in stream:
            self._write(f"{prefix}{line.rstrip()}" if name != "carm" else line.rstrip())

    def _wait(self, name: str, process: subprocess.Popen[str], reader: threading.Thread) -> None:
        process.wait()
        reader.join(timeout=LAST_WORDS_S)
        self._events.put(name)

    def pids(self) -> dict[str, int]:
        """Return the process ids of what was started and has not ended for ``run`` yet, by name."""
        return {name: process.pid for name, (_, process) in self._running.items()}

    def interrupt(self) -> None:
        """Let ``run`` return, from a signal handler or another thread."""
        self._events.put("")

    def run(self) -> int:
        """Wait for the first process that ends the graph, or for ``interrupt``; return an exit code."""
        while True:
            name = self._events.get()
            if not name:
                return 0
            command, process = self._running.pop(name)
            code = process.returncode
            if command.ends_graph:
                self._write(f"{name} ended ({describe_exit(code)}): stopping the graph")
                return 2 if code == 2 else 1
            if code:
                self._write(f"{name} ended ({describe_exit(code)})")

    def stop(self) -> None:
        """End every process group: ask, then force. Returns within 5 s, with none left over."""
        groups = [group for group in self._groups if _group_alive(group)]
        for number, patience in STOP_LADDER:
            for group in groups:
                _signal_group(group, number)
            deadline = time.monotonic() + patience
            while any(map(_group_alive, groups)) and time.monotonic() < deadline:
                time.sleep(0.02)
            groups = [group for group in groups if _group_alive(group)]
            if not groups:
                break
        for reader in self._readers:
            reader.join(timeout=0.2)
        self._running.clear()
        self._groups.clear()


def _die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def describe_exit(code: int) -> str:
    """Return ``"exit code 3"`` or ``"killed by SIGKILL"``."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def launch(words: Sequence[str], kind: str = "sim") -> int:
    """Start a graph and stay until it ends.

    Args:
        words: Launch arguments, ``name:=value`` each.
        kind: Which graph: ``"sim"`` or ``"hardware"``.

    Returns:
        0 after Ctrl-C, 1 when a node failed, 2 on bad input or when a graph already runs in this domain.

    Raises:
        LaunchError: ROS 2, the project's messages or a program is not installed.
    """
    start_s = time.monotonic()
    values = graph.resolve(words, kind)
    argument, packages = graph.needs(values)
    if argument:
        print(f"{argument} needs a machine with ROS 2, `ros2 launch`, and {packages}", file=sys.stderr)
        return 2
    for name in ("rclpy", "carm_interfaces"):
        if importlib.util.find_spec(name) is None:
            raise LaunchError(missing(ModuleNotFoundError(name=name)))
    lock = claim_domain(values)
    if lock is None:
        return 2
    supervisor = Supervisor()

    def on_signal(number: int, frame: FrameType | None) -> None:
        supervisor.interrupt()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        supervisor.start([readiness_command(values, start_s), *graph_commands(values)])
        return supervisor.run()
    finally:
        print("stopping ...", flush=True)
        supervisor.stop()
        lock.release()


def launch_by_ros2(words: Sequence[str], kind: str = "sim") -> int:
    """Replace this process by ``ros2 launch`` of the same graph; return 2 if a graph already runs in this domain."""
    lock = claim_domain(graph.resolve(words, kind))
    if lock is not None:
        lock.keep_across_exec()
        command = ["ros2", "launch", graph.PACKAGE, f"{kind}.launch.py", *words]
        os.execvp(command[0], command)
    return 2


def claim_domain(values: Mapping[str, graph.Value]) -> InstanceLock | None:
    """Claim the domain and namespace for this graph; print one line and return None if another graph uses them."""
    lock = InstanceLock(domain_id(), graph.namespace(values))
    if lock.acquire():
        words = [
            sys.executable,
            "-P",
            "-m",
            "carm_bringup.graph.readiness",
            "--probe",
            "--namespace",
            graph.namespace(values),
        ]
        if subprocess.run(words, stdin=subprocess.DEVNULL).returncode != EXIT_RUNNING_ALREADY:
            return lock
        lock.release()
    print(f"a C-arm graph already runs in domain {domain_id()}: stop it, or set ROS_DOMAIN_ID", file=sys.stderr)
    return None
