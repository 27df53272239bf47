# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

import pytest

from carm_bringup.cli import doctor
from carm_bringup.cli.doctor import Finding


def test_every_check_of_a_set_up_machine_names_what_it_found(ros_domain: int) -> None:
    for check in (
        doctor.check_compilers,
        doctor.check_ros,
        doctor.check_interfaces,
        doctor.check_dds,
        doctor.check_real_time,
    ):
        finding = check()
        assert finding.ok, finding
        assert finding.detail


def test_failures_carry_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(doctor, "run_python", lambda code: (False, "broken"))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "ROOT", Path("/nowhere"))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    for check in doctor.CHECKS:
        if check is doctor.check_security:  # without SROS2 it tells, and does not fail
            continue
        finding = check()
        assert not finding.ok, finding
        assert finding.advice


def test_exit_code_tells_whether_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda: Finding("a", True, "fine"),))
    assert doctor.run() == 0
    assert "make sim" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CHECKS", (lambda: Finding("a", False, "gone", "do this"),))
    assert doctor.run() == 1
    assert "-> do this" in capsys.readouterr().out


def test_runs_on_a_bare_python() -> None:
    code = "import sys; sys.path.insert(0, 'src'); import carm_bringup.cli.doctor"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
