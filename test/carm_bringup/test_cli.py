# SPDX-License-Identifier: Apache-2.0
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from carm_bringup import cli
from carm_bringup.verbs import VERBS
from carm_core.errors import LocalizerError, PatientError

HEAVY = ("torch", "transformers", "rclpy", "numba", "numpy", "scipy", "cv2", "mujoco")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from carm_bringup.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)


def test_help_is_fast_and_light() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # processor time: the machine may be busy
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    code = (
        "import sys\nfrom carm_bringup.cli import run\nrun(['--help'])\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_overview_lists_every_verb() -> None:
    for verb in VERBS:
        assert f"  {verb.name} " in cli.overview()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_help_with_an_example(verb: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run([*verb.name.split(), "--help"])  # type: ignore[attr-defined]
    assert caught.value.code == 0
    assert "example: carm " in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_example_parses(verb: object) -> None:
    import shlex

    words = shlex.split(verb.example)[1:]  # type: ignore[attr-defined]
    selected = cli.select(words)
    assert selected is not None
    assert selected[0] is verb
    cli.parse(*selected)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_a_body(verb: object) -> None:
    assert callable(cli.load(verb.body))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["navigat", "carina"], "did you mean navigate"),
        (["nav"], "did you mean navigate"),
        (["navigate"], "required: target"),
        (["navigate", "carna"], "did you mean 'Carina'"),
        (["navigate", "carina", "--tolerance", "0"], "not a number from 1 to 200"),
        (["view", "--primary", "abc"], "abc is not a number"),
        (["view", "--primary", "nan"], "nan is not a number"),
        (["view", "--isocenter", "1", "2"], "expected 3 arguments"),
        (["sim", "patient=phantom:7"], "name:=value"),
        (["sim", "--patient", "x"], "unrecognized arguments"),
        (["snapshot", "nowhere/there/x.png"], "folder that exists"),
        (["stop", "now"], "unrecognized arguments"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_ends_in_one_line_and_code_2(words: list[str], reason: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("error", "code"), [(PatientError("unreadable"), 2), (LocalizerError("gone"), 1)])
def test_errors_become_one_line(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(options: object) -> int:
        raise error

    monkeypatch.setattr(cli, "load", lambda reference: body)
    assert cli.run(["stop"]) == code
    assert capsys.readouterr().err == f"carm stop: {error}\n"


def test_no_server_is_one_line_and_code_1(ros_domain: int) -> None:
    done = run("stop")
    assert done.returncode == 1
    assert done.stderr.startswith(f"carm stop: no service stop within 5 s in domain {ros_domain}")
    assert len(done.stderr.strip().splitlines()) == 1


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    code = "from carm_bringup.cli import main; main()"
    done = subprocess.run(
        f"{sys.executable} -c '{code}' --help | true", shell=True, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
