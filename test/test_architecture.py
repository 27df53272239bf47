# SPDX-License-Identifier: Apache-2.0
"""The package rules of docs/architecture.md, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
PACKAGES = ("carm_core", "carm_ros", "carm_sim", "carm_perception", "carm_agent", "carm_bringup")
ALLOWED = {
    "carm_core": set(),
    "carm_ros": {"carm_core"},
    "carm_sim": {"carm_core", "carm_ros"},
    "carm_perception": {"carm_core", "carm_ros", "carm_sim"},
    "carm_agent": {"carm_core", "carm_ros"},
    "carm_bringup": {"carm_core", "carm_ros", "carm_sim", "carm_perception", "carm_agent"},
}
ROS = {
    "rclpy",
    "lifecycle_msgs",
    "sensor_msgs",
    "std_msgs",
    "geometry_msgs",
    "carm_interfaces",
    "control_msgs",
    "std_srvs",
    "shape_msgs",
}


def imports(package: str) -> Iterator[tuple[Path, str]]:
    """Every (file, top-level module) that a package imports, lazily or not."""
    for file in sorted((SOURCE / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                yield file, node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package: str) -> None:
    others = set(PACKAGES) - ALLOWED[package] - {package}
    assert [(file.name, name) for file, name in imports(package) if name in others] == []


@pytest.mark.parametrize("package", ["carm_core", "carm_ros", "carm_agent", "carm_sim"])
def test_torch_stays_in_perception(package: str) -> None:
    """And in the renderer for GPUs, which imports it when there is one."""
    strays = [(file.name, name) for file, name in imports(package) if name in {"torch", "transformers"}]
    assert [stray for stray in strays if stray != ("cuda.py", "torch")] == []


@pytest.mark.parametrize("package", [package for package in PACKAGES if package != "carm_ros"])
def test_ros_stays_at_the_edge(package: str) -> None:
    """ROS is imported by ``node.py``, ``nodes/`` and, in the bring-up, by the client and the round-trip check only."""
    edge = {"carm_bringup": {"client.py", "doctor.py", "readiness.py"}}.get(package, {"node.py"})
    strays = {
        str(file.relative_to(SOURCE))
        for file, name in imports(package)
        if name in ROS and file.name not in edge and "nodes" not in file.parts
    }
    assert strays == set()


def test_the_shared_ros_edge_is_imported_at_the_edge_only() -> None:
    users = {
        str(file.relative_to(SOURCE))
        for package in PACKAGES
        for file, name in imports(package)
        if name == "carm_ros" and package != "carm_ros" and file.name != "node.py" and "nodes" not in file.parts
    }
    assert users == set()


def test_every_source_file_names_its_license() -> None:
    files = [f for package in PACKAGES for f in (SOURCE / package).rglob("*.py")]
    assert [
        f.name for f in files if not f.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier: Apache-2.0")
    ] == []
