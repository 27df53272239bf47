# SPDX-License-Identifier: Apache-2.0
"""The repository as a package of a colcon workspace, on a Python that is no virtual environment."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[1]
INTERFACES = ROOT / ".build/install"
COLCON = "import sys; from colcon_core.command import main; sys.exit(main())"
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
ASK = """
import carm_core, carm_interfaces.msg, tf2_msgs.msg
from carm_bringup.cli import doctor
from carm_bringup.graph import readiness
from carm_core.paths import config_file
print(carm_core.__file__)
print(config_file("carm.yaml"))
print(tf2_msgs.__file__)
print(readiness.ready_line(1.0, "", "", "/lab"))
print(doctor.check_python())
"""


def environment(prefixes: list[Path]) -> dict[str, str]:
    """What sourcing ROS 2 sets, for the interpreter from which .venv was made."""
    import coal

    places = [INTERFACES / "lib" / f"python3.{sys.version_info.minor}/site-packages", *map(Path, sys.path)]
    places.append(Path(coal.__file__).parents[1])
    site = [str(p) for p in places if "site-packages" in str(p) and not p.is_relative_to(sys.base_prefix)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(site), "AMENT_PREFIX_PATH": os.pathsep.join(map(str, prefixes))}


@pytest.mark.parametrize("mode", ["", "--symlink-install"])
def test_workspace(mode: str, tmp_path: Path, ros_domain: int) -> None:
    del ros_domain
    python = os.path.realpath(sys.executable)
    workspace = tmp_path / "workspace"
    (workspace / "src").mkdir(parents=True)
    (workspace / "src/carm").symlink_to(ROOT)
    underlay = [Path(p) for p in os.environ["AMENT_PREFIX_PATH"].split(os.pathsep) if Path(p) != INTERFACES]
    if mode:
        prefix = INTERFACES
    else:  # tf2_msgs is missing
        prefix = tmp_path / "underlay"
        for name in ("carm_interfaces", "control_msgs"):
            (prefix / "share" / name).mkdir(parents=True)
            (prefix / "share" / name / "package.xml").symlink_to(ROOT / "package.xml")
    settings = environment([prefix, *underlay])
    words = [python, "-c", COLCON, "build", "--event-handlers", "console_direct+", *([mode] if mode else [])]
    built = subprocess.run(words, cwd=workspace, env=settings, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    install = workspace / "install/carm_bringup"
    for file in ("launch/sim.launch.py", "config/carm.yaml", "urdf/carm.urdf.xacro", "package.xml"):
        assert (install / "share/carm_bringup" / file).is_file()
    assert {path.name for path in (install / "lib/carm_bringup").iterdir()} == set(SCRIPTS)

    def run(command: str) -> "subprocess.CompletedProcess[str]":
        sourced = ["bash", "-c", f"source install/local_setup.bash && {command}"]
        return subprocess.run(sourced, cwd=workspace, env=settings, capture_output=True, text=True, check=False)

    (workspace / "ask.py").write_text(ASK)
    asked = run(f"{python} ask.py")
    assert asked.returncode == 0, asked.stderr
    code, config, messages, ready, machine = asked.stdout.splitlines()
    assert code.startswith(str(workspace / ("build" if mode else "install")))
    assert config.startswith(str(ROOT if mode else install))
    assert messages.startswith(str(INTERFACES if mode else install))
    assert ready.endswith("ros2 run carm_bringup carm navigate carina --namespace /lab")
    assert machine.startswith("OK")
    assert str(install) in machine
    node = run(f"{install}/lib/carm_bringup/motion_node --ros-args -p state_rate_hz:=0.0")
    assert node.returncode == 2, node.stderr
    assert "state_rate_hz = 0.0 Hz is outside" in node.stderr
