# SPDX-License-Identifier: Apache-2.0
"""Fixtures of every test: a DDS domain of its own for each integration test, and an end to what it starts."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same inputs in each run: new ones are looked for by scripts/fuzz.py, or with --hypothesis-profile=explore.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("carm", parent=settings.get_profile("explore"), derandomize=True)
settings.load_profile("carm")

ROOT = Path(__file__).resolve().parents[1]
DOMAINS = range(40, 100)
"""Domains of the tests: their ports end below those that Linux hands out (32768)."""
_TURNS = itertools.count()
STOP_PATIENCE_S = 5.0
START_PATIENCE_S = 120.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the fast tests first, and those that measure times last."""
    items.sort(key=lambda item: [item.get_closest_marker(name) is not None for name in ("serial", "integration")])


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a test by the size of its bytes: serialized messages are padded by whatever was in memory."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """A DDS domain that no other test on this machine uses, on this machine only; saved data go to a passing folder.

    Each test takes the next one: what a test killed is remembered by DDS for some seconds.
    """
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    first = next(_TURNS) % len(DOMAINS)
    for domain in (*DOMAINS[first:], *DOMAINS[:first]):
        path = Path(tempfile.gettempdir()) / f"carm-test-domain-{domain}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield domain
        os.close(descriptor)
        return
    pytest.fail("every test domain is taken")


Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def spawn(ros_domain: int) -> Iterator[Spawn]:
    """Start processes in the test's domain; what still runs at the test's end is ended, with its children."""
    del ros_domain
    processes: list[subprocess.Popen[str]] = []

    def start(words: Sequence[str | Path], **options: object) -> subprocess.Popen[str]:
        settings: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        settings |= {"stdin": subprocess.DEVNULL, "start_new_session": True, "cwd": ROOT, **options}
        process = subprocess.Popen([str(word) for word in words], **settings)  # type: ignore[call-overload]
        processes.append(process)
        return process  # type: ignore[no-any-return]

    yield start
    for number in (signal.SIGINT, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        deadline = time.monotonic() + STOP_PATIENCE_S
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.stdout is not None:
            process.stdout.close()


StartEach = Callable[[str, Sequence[str]], "list[tuple[int, str]]"]


@pytest.fixture
def start_each(spawn: Spawn) -> StartEach:
    """Start a node's module once with each group of settings; it is imported only once.

    The groups are of the form ``"name:=value other:=value"``; returns exit codes and outputs.
    """

    def start(module: str, groups: Sequence[str]) -> list[tuple[int, str]]:
        words = [sys.executable, ROOT / "test/start_each.py", module, *groups]
        process = spawn(words, stderr=subprocess.PIPE)
        output, errors = process.communicate(timeout=START_PATIENCE_S)
        assert process.returncode == 0, errors
        return [(code, text) for code, text in json.loads(output)]

    return start


def pytest_configure(config: pytest.Config) -> None:
    """Keep tests that forget the fixture off everybody else's domain."""
    del config
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", "100")
