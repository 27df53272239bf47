# SPDX-License-Identifier: Apache-2.0
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from carm_bringup.cli import app as cli
from carm_bringup.cli.verbs import VERBS
from carm_core.errors import LocalizerError, PatientError, quoted
from carm_core.landmarks import LANDMARKS

HEAVY = ("torch", "transformers", "rclpy", "numba", "numpy", "scipy", "cv2", "mujoco")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from carm_bringup.cli.app import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)


def test_help_is_fast_and_light() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # processor time: the machine may be busy
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5
    code = (
        "import sys\nfrom carm_bringup.cli.app import run\nrun(['--help'])\n"
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
        (["navigate"], "one of the arguments target --point is required"),
        (["navigate", "--point", "-12,30"], "'-12,30' is not a point: three numbers"),
        (["navigate", "--point=1,nan,3"], "'1,nan,3' is not a point"),
        (["navigate", "carina", "--point", "1,2,3"], "not allowed with"),
        (["navigate", "carna"], "did you mean 'Carina'"),
        (["navigate", "carina", "--tolerance", "0"], "not a number from 1 to 200"),
        (["view", "--primary", "abc"], "'abc' is not a number"),
        (["view", "--primary", "nan"], "'nan' is not a number"),
        (["view", "--isocenter", "1", "2"], "expected 3 arguments"),
        (["sim", "patient=phantom:7"], "name:=value"),
        (["sim", "--patient", "x"], "unrecognized arguments"),
        (["snapshot", "nowhere/there/x.png"], "does not exist"),
        (["stop", "now"], "unrecognized arguments"),
        (["stop", "--namespace", "a b"], "'a b' is not a ROS namespace"),
        (["navigate", "L9"], "one of: 113 T9 (th9, thoracic vertebra 9), 116 L1"),
        (["navigate", "--", "-5"], "unknown landmark '-5'; did you mean 'T5'?"),
        (["view"], "say which view"),
        (["view", "--run", ""], "needs a value that is not empty"),
        (["view", "--at", "L9", "spider"], "one of: 113 T9"),
        (["view", "spider", "--save", "x"], "--save cannot be combined"),
        (["view", "--list", "--save", "x"], "--save cannot be combined"),
        (["say", ""], "needs a value that is not empty"),
        (["say", "\udcff"], "is not UTF-8"),
        (["snapshot", "/proc/x.png"], "cannot write /proc/x.png"),
        (["eval", "localize", "--seed", "-1"], "'-1' is not a whole number"),
        (["bench", "plan", "--json", "http://a/b.json"], "is a URL"),
        (["train", "--output", "/proc/x"], "cannot write into folder /proc"),
        ([""], "unknown verb ''"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_ends_in_one_line_and_code_2(words: list[str], reason: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("domain", ["abc", " ", "-1", "1.5", "233", "9" * 30])
@pytest.mark.parametrize("verb", ["stop", "sim"])
def test_a_domain_that_is_none_is_bad_input(
    domain: str, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    assert cli.run([verb]) == 2
    error = capsys.readouterr().err
    assert f"ROS_DOMAIN_ID={quoted(domain)} is not a whole number from 0 to 232" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PatientError("unreadable"), 2),
        (LocalizerError("gone"), 1),
        (PatientError("\x1b[2Ja\nb\u202e.nii: no CT"), 2),
        (OSError(28, "No space left on device", "x.json"), 1),
    ],
)
def test_errors_become_one_line(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(options: object) -> int:
        raise error

    monkeypatch.setattr(cli, "load", lambda reference: body)
    assert cli.run(["stop"]) == code
    told = f"'{error.filename}': {error.strerror}" if isinstance(error, OSError) else str(error)
    told = told.replace("\x1b", "").replace("\n", " ").replace("\u202e", " ")  # what a terminal would obey
    assert capsys.readouterr().err == f"carm stop: {told}\n"


def test_help_and_bad_options_need_no_body(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing heavy is loaded, nor what is not installed here."""
    monkeypatch.setattr(cli, "load", lambda reference: pytest.fail(f"{reference} was loaded"))
    with pytest.raises(SystemExit) as ended:
        cli.run(["navigate", "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for mark in LANDMARKS for name in (mark.name, *mark.synonyms))
    with pytest.raises(SystemExit) as ended:
        cli.run(["navigate", "carina", "--wait", "nan"])
    assert ended.value.code == 2


def test_no_server_is_one_line_and_code_1(ros_domain: int) -> None:
    done = run("stop")
    assert done.returncode == 1
    assert done.stderr.startswith(f"carm stop: no service stop within 5 s in domain {ros_domain}")
    assert len(done.stderr.strip().splitlines()) == 1


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    code = "from carm_bringup.cli.app import main; main()"
    done = subprocess.run(
        f"{sys.executable} -c '{code}' --help | true", shell=True, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""


def test_no_python_that_a_verb_starts_runs_a_file_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may work in a folder that came from others, with modules in it."""
    (tmp_path / "made_up.py").write_text("open('was_run', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # restored afterwards
    started = [sys.executable, "-c", "import made_up"]
    monkeypatch.setattr(cli, "run", lambda words: subprocess.run(started, timeout=60).returncode)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert not (tmp_path / "was_run").exists()
