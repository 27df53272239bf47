# SPDX-License-Identifier: Apache-2.0
"""The check on a GPU: what it says without one, and that its steps run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check.sh"


def check(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OUT": str(folder), "PYTHON": sys.executable}
    return subprocess.run([SCRIPT, *words], env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_line(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 1
    assert done.stderr == "gpu_check.sh: no NVIDIA GPU that torch can use; --dry-run runs the steps on the CPU\n"
    assert check(tmp_path, "--fast").returncode == 2


def test_a_step_writes_its_figures_and_a_missing_one_fails_the_summary(tmp_path: Path) -> None:
    helper = [sys.executable, str(ROOT / "scripts" / "gpu_check.py")]
    where = ["--out", str(tmp_path), "--device", "cpu", "--seconds", "0.1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([*helper, "speed", *where], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "speed.json").read_text())
    assert figures["ok"]
    assert figures["images_per_s"] > 0
    done = subprocess.run([*helper, "summary", *where], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    summary = json.loads((tmp_path / "gpu_check.json").read_text())
    assert summary["failed"] == ["renderer", "latency", "nf4", "training"]
