# SPDX-License-Identifier: Apache-2.0
"""Environment of every Python in the project's virtual environment (copied into it by the set-up).

The dynamic loader reads ``LD_LIBRARY_PATH`` once, at a process's start; so when ROS 2's libraries are not on it
yet, the interpreter is started again, once, with the right environment.
"""

import json
import os
import sys
from pathlib import Path


def _apply() -> None:
    settings = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    environment = os.environ
    restart = False
    for name, entries in settings["prepend"].items():
        present = [entry for entry in environment.get(name, "").split(os.pathsep) if entry]
        missing = [entry for entry in entries if entry not in present]
        if missing:
            environment[name] = os.pathsep.join([*entries, *(e for e in present if e not in entries)])
            restart = restart or name == "LD_LIBRARY_PATH"
            if name == "PYTHONPATH":
                sys.path[1:1] = missing
    environment.setdefault("ROS_DISTRO", settings["name"])
    environment.setdefault("PYTHONUTF8", "1")  # text is UTF-8 even after a library has changed the process's locale
    if not settings["ros_distribution"]:
        environment.setdefault("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
        environment["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
    if "ROS_LOCALHOST_ONLY" not in environment:
        environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if restart:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


_apply()
