# SPDX-License-Identifier: Apache-2.0
"""The package rules of docs/architecture.md, read from the sources."""

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
ALLOWED = {
    "carm_core": set(),
    "carm_ros": {"carm_core"},
    "carm_control": {"carm_core", "carm_ros"},
    "carm_sim": {"carm_core", "carm_ros"},
    "carm_perception": {"carm_core", "carm_ros", "carm_sim"},
    "carm_agent": {"carm_core", "carm_ros"},
    "carm_bringup": {"carm_core", "carm_ros", "carm_control", "carm_sim", "carm_perception", "carm_agent"},
}
PACKAGES = tuple(ALLOWED)
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


def sources(package: str) -> list[Path]:
    return sorted((SOURCE / package).rglob("*.py"))


def at_the_edge(file: Path) -> bool:
    """Whether a file is in ``nodes/`` or is its package's ``entry_points.py``."""
    return "nodes" in file.parts or file.relative_to(SOURCE).parts[1:] == ("entry_points.py",)


@lru_cache(maxsize=1024)
def imported(file: Path) -> tuple[tuple[str, str], ...]:
    """Every (module, name) that a file imports, lazily, for types only, or at once; no name for `import module`."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += ((node.module, alias.name) for alias in node.names)
    return tuple(found)


def imports(package: str) -> Iterator[tuple[Path, str]]:
    """Every (file, top-level module) that a package imports."""
    for file in sources(package):
        yield from ((file, module.split(".")[0]) for module, _ in imported(file))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package: str) -> None:
    others = set(PACKAGES) - ALLOWED[package] - {package}
    assert [(str(file.relative_to(SOURCE)), name) for file, name in imports(package) if name in others] == []


def test_every_package_is_in_the_rules() -> None:
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} == set(PACKAGES)
    assert [str(f.parent) for p in PACKAGES for f in sources(p) if not (f.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize("package", ["carm_sim", "carm_perception", "carm_agent"])
def test_the_shared_ros_edge_is_for_nodes(package: str) -> None:
    strays = [str(f.relative_to(SOURCE)) for f, n in imports(package) if n == "carm_ros" and not at_the_edge(f)]
    assert strays == []


@pytest.mark.parametrize("package", ["carm_core", "carm_ros", "carm_control", "carm_agent", "carm_sim"])
def test_torch_stays_in_perception(package: str) -> None:
    """And in the renderer for GPUs, which imports it when there is one."""
    strays = [(file.name, name) for file, name in imports(package) if name in {"torch", "transformers"}]
    assert [stray for stray in strays if stray != ("cuda.py", "torch")] == []


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "carm_ros"])
def test_ros_stays_at_the_edge(package: str) -> None:
    """ROS is imported by ``nodes/`` only; in the bring-up also by the round-trip checks."""
    edge = {"carm_bringup/cli/doctor.py", "carm_bringup/graph/readiness.py"}
    strays = {str(f.relative_to(SOURCE)) for f, name in imports(package) if name in ROS and not at_the_edge(f)}
    assert strays - edge == set()


def module_graph() -> dict[str, set[str]]:
    """Module -> the project's modules that it imports, in whatever way."""
    files = {}
    for file in (f for package in PACKAGES for f in sources(package)):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return {
        module: {
            target
            for name, member in imported(file)
            for target in [f"{name}.{member}" if f"{name}.{member}" in files else name]
            if target in files and target != module
        }
        for module, file in files.items()
    }


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules each of which imports all others, by way of others: what is left without leaves and roots."""
    reach = {start: reachable(graph, start) for start in graph}
    groups = {frozenset(m for m in reach[start] if start in reach[m]) for start in graph if start in reach[start]}
    return [set(group) for group in groups]


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = list(graph[start])
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += graph[module]
    return found


def test_no_modules_import_each_other() -> None:
    assert [sorted(circle) for circle in circles(module_graph())] == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


def test_every_source_file_names_its_license() -> None:
    files = [f for package in PACKAGES for f in sources(package)]
    assert [
        f.name for f in files if not f.read_text(encoding="utf-8").startswith("# SPDX-License-Identifier: Apache-2.0")
    ] == []
