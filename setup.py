# SPDX-License-Identifier: Apache-2.0
"""What a ROS 2 workspace needs beyond ``pyproject.toml``.

colcon looks for no package below the root's ``package.xml``, and with ``--symlink-install`` it sees nothing of
``pyproject.toml``. So this file says both: name, packages and entry points are read from there, and the interfaces that
the workspace does not have yet are built into the prefix of ``carm_bringup``.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from setuptools import Command, find_packages, setup
from setuptools.command.develop import develop
from setuptools.command.install import install

ROOT = Path(__file__).resolve().parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INTERFACES = [ROOT / "interfaces/carm_interfaces", *sorted((ROOT / "interfaces/underlay").glob("*_msgs"))]


def files(folder: str, pattern: str) -> list[str]:
    """Return the files of a folder as paths below the root."""
    return [str(path.relative_to(ROOT)) for path in sorted((ROOT / folder).glob(pattern))]


def build_missing_interfaces(command: Command) -> None:
    """Build the interface packages that no prefix has, as CMake packages of the prefix that colcon installs into.

    Args:
        command: Of setuptools, run by colcon, which makes ``sys.prefix`` the prefix of ``carm_bringup``.
    """
    if "COLCON" not in os.environ:  # pip, for which scripts/bootstrap.py builds them
        return
    prefix = Path(sys.prefix).resolve()
    prefixes = {Path(p).resolve() for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p}
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [p for p in paths if Path(p).name != "prefix_override"]  # there colcon changes sys.prefix
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    for source in INTERFACES:
        build = Path(command.get_finalized_command("build").build_base).resolve() / "interfaces" / source.name
        manifest = build / "install_manifest.txt"
        others = prefixes - {prefix} if manifest.is_file() else prefixes | {prefix}
        if any((other / "share" / source.name / "package.xml").is_file() for other in others):
            if manifest.is_file():  # a copy of ours would hide the other one
                for line in manifest.read_text(encoding="utf-8").splitlines():
                    Path(line).unlink(missing_ok=True)
                manifest.unlink()
            continue
        print(f"building {source.name}", flush=True)
        settings = [f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
        for words in (
            ["-S", str(source), "-B", str(build), *settings],
            ["--build", str(build), "--parallel", str(os.cpu_count() or 1)],
            ["--install", str(build)],
        ):
            subprocess.run(["cmake", *words], check=True, env=environment)


class Install(install):  # type: ignore[misc]
    """``colcon build``."""

    def run(self) -> None:
        """Install the Python packages and the interfaces."""
        super().run()
        build_missing_interfaces(self)


class Develop(develop):  # type: ignore[misc]
    """``colcon build --symlink-install``."""

    def run(self) -> None:
        """Install links to the Python packages, and the interfaces."""
        super().run()
        if not self.uninstall:
            build_missing_interfaces(self)


setup(
    name=PROJECT["name"],
    version=PROJECT["version"],
    license="Apache-2.0",  # here, since setuptools before and after 77 want different forms in pyproject.toml
    package_dir={"": "src"},
    packages=find_packages(str(ROOT / "src")),
    entry_points={"console_scripts": [f"{name} = {function}" for name, function in PROJECT["scripts"].items()]},
    cmdclass={"install": Install, "develop": Develop},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/carm_bringup"]),
        ("share/carm_bringup", ["package.xml"]),
        ("share/carm_bringup/launch", files("launch", "*.launch.py")),
        ("share/carm_bringup/config", files("config", "*.yaml")),
        ("share/carm_bringup/meshes", files("meshes", "*.stl")),
        ("share/carm_bringup/moveit", files("moveit", "*")),
        ("share/carm_bringup/rviz", files("rviz", "*")),
        ("share/carm_bringup/urdf", files("urdf", "*.xacro")),
        ("share/carm_bringup/web/node_modules/three", files("web/node_modules/three", "LICENSE")),
        ("share/carm_bringup/web/node_modules/three/build", files("web/node_modules/three/build", "*.js")),
        ("share/carm_bringup/worlds", files("worlds", "*.sdf")),
    ],
)
