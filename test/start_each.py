# SPDX-License-Identifier: Apache-2.0
"""Run as a program: start the node of a module once with each group of ROS arguments, on imports made once."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib import import_module

from carm_ros.entry import run

if __name__ == "__main__":
    module, *groups = sys.argv[1:]
    import_module(module)
    ends = []
    for group in groups:
        with tempfile.TemporaryFile() as output:
            child = os.fork()
            if not child:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                sys.argv = [module, "--ros-args", *(word for one in group.split() for word in ("-p", one))]
                run(module)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            ends.append((code, output.read().decode()))
    print(json.dumps(ends))
