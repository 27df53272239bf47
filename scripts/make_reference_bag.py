#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Record the reference bag of the tests anew: one navigation on a phantom, through the real nodes.

Run it after the weights or the agent's decisions have changed on purpose:

    python scripts/make_reference_bag.py

It starts the graph headless, records `carm navigate`, replays the bag and keeps it only when
both perception and agent say the same again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT / "test" / "data" / "reference_bag"
CARM = [sys.executable, "-c", "from carm_bringup.cli.app import main; main()"]
LIMIT_BYTES = 3_000_000
EXCLUDED = r"image_raw|^/tf$|^/diagnostics$|^/rosout$|robot_description|/state$"
"""What the replay does not need and what would make the bag large."""
READY_S = 180.0


def main() -> int:
    """Record, check, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT, help="folder of the bag (test/data/reference_bag)")
    parser.add_argument("--patient", default="phantom:7", help="patient (phantom:7)")
    parser.add_argument("--target", default="T12", help="landmark (T12)")
    options = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", "97")
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with tempfile.TemporaryDirectory() as scratch:
        bag = Path(scratch) / options.output.name
        problem = record(bag, options.patient, options.target) or check(bag)
        if problem:
            print(f"make_reference_bag: {problem}", file=sys.stderr)
            return 1
        shutil.rmtree(options.output, ignore_errors=True)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(bag, options.output)
    print(f"{options.output}: {size(options.output) / 1e6:.2f} MB")
    return 0


def record(bag: Path, patient: str, target: str) -> str:
    """Record one navigation; return what went wrong, or nothing."""
    sim = subprocess.Popen([*CARM, "sim", f"patient:={patient}", "headless:=true"], start_new_session=True)
    recorder = None
    try:
        if subprocess.run([*CARM, "wait", "--timeout", str(READY_S)]).returncode:
            return f"the graph was not ready within {READY_S:g} s"
        recorder = subprocess.Popen([*CARM, "record", "--output", str(bag), "--exclude", EXCLUDED])
        if not wait_for_topics(bag, ("/carm/xray/image", "/carm/agent/task", "navigate/_action/feedback")):
            return "the recorder found no topics"
        if subprocess.run([*CARM, "navigate", target]).returncode:
            return "the navigation failed; try again or choose another target or patient"
        recorder.send_signal(signal.SIGINT)
        return "" if recorder.wait(timeout=30) == 0 else "the recording failed"
    finally:
        for process in (recorder, sim):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(timeout=30)


def wait_for_topics(bag: Path, topics: tuple[str, ...]) -> bool:
    """Wait until the recorder has found topics."""
    file, deadline = bag / "metadata.yaml", time.monotonic() + 60.0
    while time.monotonic() < deadline:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if all(topic in text for topic in topics):
            return True
        time.sleep(0.2)
    return False


def check(bag: Path) -> str:
    """Replay a bag; return what is wrong with it, or nothing."""
    if size(bag) > LIMIT_BYTES:
        return f"the bag has {size(bag) / 1e6:.2f} MB, more than {LIMIT_BYTES / 1e6:g} MB"
    if subprocess.run([*CARM, "replay", str(bag), "--rate", "max"]).returncode:
        return "the replay differs from the recording"
    return ""


def size(folder: Path) -> int:
    """Return the size of the files in a folder, bytes."""
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    sys.exit(main())
