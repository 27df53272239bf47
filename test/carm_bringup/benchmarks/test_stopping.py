# SPDX-License-Identifier: Apache-2.0
"""``carm bench stop`` on real nodes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def test_stops_are_timed_by_service_and_by_word(ros_domain: int, tmp_path: Path) -> None:
    del ros_domain
    words = ["bench", "stop", "--stops", "1", "--flood", "sentences", "--json", str(tmp_path / "stop.json")]
    command = [sys.executable, "-c", "from carm_bringup.cli.app import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "stop.json").read_text(encoding="utf-8"))["results"]
    assert set(results) == {"sentences, service", "sentences, word"}
    assert all(0.0 < figures["p99_ms"] < 2000.0 for figures in results.values())
