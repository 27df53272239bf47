# SPDX-License-Identifier: Apache-2.0
"""Stands in for a node in tests of the launcher: says that it is up, then behaves as its first argument asks."""

import os
import signal
import subprocess
import sys


def main() -> None:
    behavior = sys.argv[1]
    if behavior == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behavior == "polite":
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    if behavior == "parent":
        subprocess.Popen([sys.executable, __file__, "deaf"])
    print(f"up {os.getpid()}", flush=True)
    if behavior.startswith("exit"):
        sys.exit(int(behavior.removeprefix("exit")))
    while True:
        signal.pause()


main()
