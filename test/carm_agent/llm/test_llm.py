# SPDX-License-Identifier: Apache-2.0
"""The larger language model as head: a real server process with a scripted model, well-behaved or not."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_agent.llm import Budget, ChatServer, HeadCode, HeadHands, HeadOptions, HeadResult, Session, Transcript
from carm_agent.llm.tools import TOOLS, ToolError, checked_arguments
from carm_agent.ports import Interrupt
from carm_core.errors import ConfigurationError, GoalError

SERVER = Path(__file__).parents[1] / "scripted_server.py"
Serve = Callable[[str], str]


class FakeHands(HeadHands):
    """Notes the calls; the landmark is at a fixed place until the view is moved onto it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.place = [60.0, -40.0]
        self.refuses = False

    def expose(self) -> dict[str, Any]:
        self.calls.append(("expose",))
        return {"taken": True}

    def localize(self, target_id: int) -> dict[str, Any]:
        self.calls.append(("localize", target_id))
        return {"found": True, "dx_mm": self.place[0], "dy_mm": self.place[1]}

    def move_view(self, dx_mm: float, dy_mm: float) -> dict[str, Any]:
        self.calls.append(("move_view", dx_mm, dy_mm))
        if self.refuses:
            raise GoalError("the cart does not reach that far")
        self.place = [self.place[0] - dx_mm, self.place[1] - dy_mm]
        return {"moved": True}

    def show_view(self, view: str) -> dict[str, Any]:
        self.calls.append(("show_view", view))
        return {"moved": True}

    def set_angles(self, primary_deg: float, secondary_deg: float) -> dict[str, Any]:
        self.calls.append(("set_angles", primary_deg, secondary_deg))
        return {"moved": True}

    def ask(self, question: str) -> dict[str, Any]:
        self.calls.append(("ask", question))
        return {"answer": "left"}

    def stop(self, reason: str) -> dict[str, Any]:
        self.calls.append(("stop", reason))
        return {"stopped": True}


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts scripted servers; returns the address of the API."""
    processes: list[subprocess.Popen[str]] = []

    def start(script: str) -> str:
        process = subprocess.Popen([sys.executable, SERVER, script], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{int(process.stdout.readline())}/v1"

    yield start
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Desk:
    """Runs sessions."""

    def __init__(self, serve: Serve, folder: Path) -> None:
        self.serve, self.folder = serve, folder
        self.hands, self.interrupt = FakeHands(), Interrupt()
        self.transcript: Transcript | None = None

    def run(self, script: str, timeout_s: float = 10.0, **budget: Any) -> HeadResult:
        server = ChatServer(HeadOptions(self.serve(script), timeout_s=timeout_s))
        self.transcript = Transcript(self.folder)
        return Session(server, self.hands, self.interrupt, self.transcript, Budget(**budget)).run("show me the carina")

    def events(self) -> list[dict[str, Any]]:
        assert self.transcript is not None
        assert self.transcript.path is not None
        return [json.loads(line) for line in self.transcript.path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def desk(serve: Serve, tmp_path: Path) -> Desk:
    return Desk(serve, tmp_path / "transcripts")


def test_a_good_model_centers_the_landmark_and_all_is_written_down(desk: Desk) -> None:
    result = desk.run("good")
    assert (result.code, result.success) == (HeadCode.REPORTED, True)
    names = [call[0] for call in desk.hands.calls]
    assert names == ["expose", "localize", "move_view", "expose", "localize"]
    assert result.steps == 6
    events = desk.events()
    assert [e["role"] for e in events[:3]] == ["system", "user", "assistant"]
    assert sum(e.get("role") == "tool" for e in events) == 6
    assert events[-1]["event"] == "end"
    assert events[-1]["tokens"] == result.tokens > 0


def test_a_model_that_talks_nonsense_is_given_up(desk: Desk) -> None:
    result = desk.run("nonsense")
    assert result.code is HeadCode.NONSENSE
    assert not result.success
    assert result.steps == 3
    assert desk.hands.calls == []


def test_forbidden_tools_and_arguments_do_nothing(desk: Desk) -> None:
    result = desk.run("forbidden")
    assert {call[0] for call in desk.hands.calls} == {"expose", "localize"}
    assert result.code is HeadCode.NONSENSE
    refused = [json.loads(e["content"]) for e in desk.events() if e.get("role") == "tool" and "error" in e["content"]]
    assert len(refused) == 7
    assert "there is no tool 'disable_supervisor'" in refused[0]["error"]
    assert "5000" in refused[1]["error"]


def test_a_flood_of_calls_is_refused_as_a_whole(desk: Desk) -> None:
    result = desk.run("flood")
    assert result.code is HeadCode.NONSENSE
    assert desk.hands.calls == []
    assert result.tokens > 10_000


@pytest.mark.parametrize(
    ("script", "budget", "code", "calls"),
    [
        ("endless", {"steps": 4}, HeadCode.STEPS, 4),
        ("hungry", {"tokens": 20_000}, HeadCode.TOKENS, 2),
        ("endless", {"duration_s": 0.0}, HeadCode.TIME, 0),
        ("endless", {"steps": 5, "exposures": 2}, HeadCode.NONSENSE, 2),
    ],
)
def test_budgets_end_a_session(desk: Desk, script: str, budget: dict[str, Any], code: HeadCode, calls: int) -> None:
    result = desk.run(script, **budget)
    assert result.code is code
    assert 0 < len(desk.hands.calls) <= calls or len(desk.hands.calls) == calls == 0
    assert not result.success


@pytest.mark.parametrize("script", ["broken", "huge", "halves", "refusing", "silent", "dripping"])
def test_servers_that_do_not_help_end_a_session(desk: Desk, script: str) -> None:
    started = time.monotonic()
    result = desk.run(script, timeout_s=0.5 if script in ("silent", "dripping") else 10.0)
    assert result.code is HeadCode.SERVER
    assert desk.hands.calls == []
    assert "\n" not in result.text
    assert time.monotonic() - started < 5.0


def test_a_server_that_is_not_there_ends_a_session(tmp_path: Path) -> None:
    server = ChatServer(HeadOptions("http://127.0.0.1:9/v1"))
    result = Session(server, FakeHands(), Interrupt(), Transcript(tmp_path)).run("carina")
    assert result.code is HeadCode.SERVER


@pytest.mark.parametrize(("kind", "code"), [("stop", HeadCode.STOPPED), ("cancel", HeadCode.CANCELED)])
def test_an_interrupt_ends_the_wait_for_a_silent_server_at_once(desk: Desk, kind: str, code: HeadCode) -> None:
    timer = threading.Timer(0.3, getattr(desk.interrupt, kind), args=("the clinician said so",))
    timer.start()
    started = time.monotonic()
    result = desk.run("silent", timeout_s=30.0)
    assert result.code is code
    assert time.monotonic() - started < 2.0
    timer.join()


def test_a_stop_by_the_model_ends_the_session_before_later_calls(desk: Desk) -> None:
    result = desk.run("stopping")
    assert result.code is HeadCode.STOPPED
    assert [call[0] for call in desk.hands.calls] == ["expose", "stop"]


def test_questions_reach_the_clinician(desk: Desk) -> None:
    assert desk.run("asking").text == "You said left."


def test_a_refused_motion_is_told_to_the_model(desk: Desk) -> None:
    desk.hands.refuses = True
    result = desk.run("good")
    assert not result.success
    assert any("does not reach" in e.get("content", "") for e in desk.events() if e.get("role") == "tool")


@given(st.sampled_from([*TOOLS, "eval", ""]), st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.dictionaries(st.sampled_from(["dx_mm", "dy_mm", "target", "text", "x"]), inner, max_size=3),
    max_leaves=6,
))  # fmt: skip
def test_whatever_passes_the_check_meets_the_schema(name: str, content: Any) -> None:
    with contextlib.suppress(ToolError):
        given = checked_arguments(name, json.dumps(content))
        assert set(given) == set(TOOLS[name].properties)
        for value in given.values():
            assert not isinstance(value, float) or abs(value) <= 200


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("move_view", '{"dx_mm": Infinity, "dy_mm": 0}'),
        ("move_view", '{"dx_mm": true, "dy_mm": 0}'),
        ("move_view", '{"dx_mm": 1e400, "dy_mm": 0}'),
        ("localize", '{"target": 15}'),
        ("localize", '{"target": 11.5}'),
        ("ask", '{"question": ""}'),
        ("ask", json.dumps({"question": "x" * 501})),
        ("expose", '{"kv": 150}'),
        ("expose", "[" * 1500),
        ("expose", " " * 3000 + "{}"),
        ("report", '{"success": 1, "text": "done"}'),
        ("report", "null"),
        ("report", r'{"success": true, "text": "\ud800"}'),
        ("ask", r'{"question": "left \udc00?"}'),
        ("move_view", '{"dx_mm": 10, "dy_mm": 0, "dx_mm": 200}'),
        ("move_view", '{"dx_mm": "10", "dy_mm": 0}'),
        ("move_view", '{"dx_mm": 1' + "0" * 1500 + ', "dy_mm": 0}'),
        ("move_view", '{"dx_mm": 10, "dy_mm": 0, "velocity_scaling": 5}'),
        ("set_angles", '{"primary_deg": 95.1, "secondary_deg": 0}'),
        ("expose ", "{}"),
        ("reset", "{}"),
    ],
)
def test_arguments_that_are_refused(name: str, text: str) -> None:
    with pytest.raises(ToolError):
        checked_arguments(name, text)


def test_a_whole_number_is_an_integer() -> None:
    assert repr(checked_arguments("localize", '{"target": 11.0}')) == "{'target': 11}"


@pytest.mark.parametrize("url", ["", "ftp://x/v1", "localhost:8000", "http://user:pass@host/v1", "http://[::1/v1"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigurationError):
        ChatServer(HeadOptions(url))


def test_the_whitelist() -> None:
    assert set(TOOLS) == {"expose", "localize", "move_view", "set_angles", "show_view", "ask", "stop", "report"}
    for tool in TOOLS.values():
        declared = tool.declaration()["function"]
        assert declared["name"] == tool.name
        assert declared["parameters"]["additionalProperties"] is False
