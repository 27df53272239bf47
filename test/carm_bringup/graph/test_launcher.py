# SPDX-License-Identifier: Apache-2.0
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from carm_bringup.graph import description as graph
from carm_bringup.graph import launcher
from carm_bringup.graph.domain_lock import InstanceLock
from carm_bringup.graph.launcher import Command, Supervisor, describe_exit

STOP_S = 5.0
FAKE = Path(__file__).parents[1] / "fakes/fake_node.py"


class Output:
    """Lines that a supervisor shows, and a way to wait for one."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()

    def wait_for(self, pattern: str, count: int = 1, timeout_s: float = 10.0) -> list[str]:
        """Return the lines that match, as soon as there are enough."""

        def found() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, timeout_s), self.lines
            return found()


@pytest.fixture
def output() -> Output:
    return Output()


@pytest.fixture
def supervisor(output: Output) -> Iterator[Supervisor]:
    supervisor = Supervisor(write=output, color=False)
    yield supervisor
    supervisor.stop()


def fake(name: str, behavior: str, ends_graph: bool = True) -> Command:
    return Command(name, (sys.executable, str(FAKE), behavior), ends_graph)


def process_ids(output: Output, count: int) -> list[int]:
    return [int(line.rsplit(" ", 1)[1]) for line in output.wait_for(r"up \d+$", count)]


def alive(ids: list[int]) -> list[int]:
    return [i for i in ids if psutil.pid_exists(i) and psutil.Process(i).status() != psutil.STATUS_ZOMBIE]


def test_output_is_prefixed_with_the_nodes_name(supervisor: Supervisor, output: Output) -> None:
    supervisor.start([fake("motion_node", "polite"), fake("xray", "polite")])
    output.wait_for("up", 2)
    assert {line.split("up")[0] for line in output.lines} == {"[motion_node] ", "[xray]        "}


def test_polite_processes_end_on_the_first_signal(supervisor: Supervisor, output: Output) -> None:
    supervisor.start([fake("a", "polite"), fake("b", "polite")])
    ids = process_ids(output, 2)
    start = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - start < launcher.STOP_LADDER[0][1]
    assert not alive(ids)


def test_deaf_processes_and_grandchildren_end_within_five_seconds(supervisor: Supervisor, output: Output) -> None:
    supervisor.start([fake("deaf", "deaf"), fake("parent", "parent")])
    ids = process_ids(output, 3)
    start = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - start < 5.0
    assert not alive(ids)


@pytest.mark.parametrize(("behavior", "code"), [("exit3", 1), ("exit2", 2), ("exit0", 1)])
def test_one_dead_node_stops_the_graph_in_one_line(
    supervisor: Supervisor, output: Output, behavior: str, code: int
) -> None:
    supervisor.start([fake("a", "polite"), fake("b", behavior)])
    assert supervisor.run() == code
    reports = output.wait_for("ended")
    assert reports == [f"b ended (exit code {behavior[-1]}): stopping the graph"]


def test_a_helper_may_end(supervisor: Supervisor, output: Output) -> None:
    supervisor.start([fake("a", "polite"), fake("helper", "exit0", ends_graph=False)])
    output.wait_for("up", 2)
    threading.Timer(0.3, supervisor.interrupt).start()
    assert supervisor.run() == 0


def test_nodes_end_when_the_launcher_is_killed() -> None:
    code = (
        "import sys; from carm_bringup.graph.launcher import Command, Supervisor; s = Supervisor();"
        f"s.start([Command('a', (sys.executable, {str(FAKE)!r}, 'polite'))]); s.run()"
    )
    launching = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert launching.stdout is not None
    node = psutil.Process(int(launching.stdout.readline().split()[-1]))
    launching.kill()
    launching.communicate()
    node.wait(timeout=STOP_S)


def test_signals_are_named() -> None:
    assert describe_exit(-signal.SIGKILL) == "killed by SIGKILL"
    assert describe_exit(3) == "exit code 3"


def test_ladder_ends_within_five_seconds() -> None:
    assert sum(patience for _, patience in launcher.STOP_LADDER) < 5.0
    assert launcher.STOP_LADDER[-1][0] is signal.SIGKILL


def test_lock_is_exclusive_per_domain_and_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    first, second = InstanceLock(7, "/carm"), InstanceLock(7, "/carm")
    assert first.acquire()
    assert not second.acquire()
    assert InstanceLock(8, "/carm").acquire()
    assert InstanceLock(7, "/other").acquire()
    first.release()
    assert second.acquire()


def test_second_graph_in_a_domain_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("ROS_DOMAIN_ID", "55")
    held = InstanceLock(55, "/carm")
    assert held.acquire()
    assert launcher.launch([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["a C-arm graph already runs in domain 55: stop it, or set ROS_DOMAIN_ID"]


def test_node_command_carries_namespace_parameters_and_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "find_executable", lambda name: f"/bin/{name}")
    monkeypatch.setattr(launcher, "config_file", lambda name: Path("/config") / name)
    spec = graph.NodeSpec("eye", "xray_node", "xray.yaml", {"patient": "patient", "rate_hz": "rate"}, (("a", "b"),))
    words = launcher.node_command(spec, graph.resolve(["patient:=phantom:7", "namespace:=arm", "rate:=3"])).words
    text = " ".join(words)
    assert words[:2] == ("/bin/xray_node", "--ros-args")
    assert "-r __node:=eye -r __ns:=/arm -r a:=b --params-file /config/xray.yaml" in text
    assert '-p patient:="phantom:7" -p rate_hz:=3.0' in text


def test_recording_is_a_process_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "find_executable", lambda name: f"/bin/{name}")
    values = graph.resolve(["record:=true", "namespace:=lab"])
    *nodes, recorder = launcher.graph_commands(values)
    assert {command.name for command in nodes} == {spec.name for spec in graph.nodes(values)}
    assert recorder.words[:5] == ("/bin/carm", "record", "--namespace", "/lab", "--output")
    assert recorder.words[5].startswith("recordings/")
    assert not recorder.ends_graph
