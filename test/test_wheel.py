# SPDX-License-Identifier: Apache-2.0
"""``pip install .`` on a machine without ROS: the wheel is whole, what needs no graph works, the rest says one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("config", "launch", "meshes", "moveit", "resource", "rviz", "src", "urdf", "worlds")
WITHOUT_ROS = """
import sys
sys.modules.update(dict.fromkeys(["rclpy", "carm_interfaces", "builtin_interfaces", "rcl_interfaces", "sensor_msgs"]))
"""
LIBRARY = """
import carm_core
from carm_core.paths import share_dir
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import RobotGeometry
from carm_perception.networks.model_folder import COMPACT_FOLDER
from carm_sim.patient_loader import load_patient
CArm.from_config(), RobotGeometry.from_config(), load_patient("chest_ct")
print(carm_core.__file__, share_dir(), (COMPACT_FOLDER / "model.safetensors").is_file(), sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignored)
    for file in ROOT.glob("*.*"):
        if file.is_file():
            shutil.copy(file, folder / "source")
    shutil.copy(ROOT / "LICENSE", folder / "source")
    pip("wheel", "--no-build-isolation", "-w", folder, folder / "source")
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-compile", "--target", folder, wheel)
    return folder


def pip(command: str, *words: object) -> None:
    start = [sys.executable, "-m", "pip", command, "-q", "--disable-pip-version-check", "--no-deps", "--no-index"]
    done = subprocess.run([*start, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run(installed: Path, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("AMENT_", "ROS_"))}
    settings["PYTHONPATH"] = str(installed)
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_ROS + code], cwd=cwd, env=settings, capture_output=True, text=True, check=False
    )


def test_the_wheel_has_every_file_of_the_sources(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    sources = {str(f.relative_to(ROOT / "src")) for f in (ROOT / "src").rglob("*") if f.is_file()}
    kept = {name for name in sources if "__pycache__" not in name and ".egg-info" not in name}
    assert kept - set(names) == set()
    assert {
        f"{name}/py.typed" for name in os.listdir(ROOT / "src") if name.startswith("carm_") and "." not in name
    } <= kept
    shared = {name.partition("/share/carm_bringup/")[2] for name in names}
    folders = {name: {str(f.relative_to(ROOT)) for f in (ROOT / name).iterdir() if f.is_file()} for name in SOURCES}
    for name in set(SOURCES) - {"src", "resource"}:
        assert folders[name] - shared == set()


def test_the_installed_library_finds_its_files(installed: Path, tmp_path: Path) -> None:
    done = run(installed, LIBRARY, tmp_path)
    assert done.returncode == 0, done.stderr
    module, share, has_model = done.stdout.splitlines()[-3:]
    assert Path(module) == installed / "carm_core/__init__.py"
    assert Path(share) == installed / "share/carm_bringup"
    assert has_model == "True"


@pytest.mark.parametrize("words", [["sim"], ["navigate", "carina"]])
def test_a_verb_that_needs_ros_says_so_in_one_line(installed: Path, tmp_path: Path, words: list[str]) -> None:
    done = run(installed, f"from carm_bringup.cli.app import run; sys.exit(run({words!r}))", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"carm {words[0]}: ")
    assert "needs ROS 2 and the project's messages" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_node_that_needs_ros_says_so_in_one_line(installed: Path, tmp_path: Path) -> None:
    done = run(installed, "from carm_control.entry_points import motion_node; motion_node()", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("motion_node: ")
    assert "needs ROS 2" in done.stderr
    assert len(done.stderr.splitlines()) == 1
