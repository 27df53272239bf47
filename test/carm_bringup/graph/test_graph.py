# SPDX-License-Identifier: Apache-2.0
"""The graph's names against their sources: entry points, configuration files and parameter dataclasses."""

import dataclasses
import importlib
import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from carm_bringup.graph import description as graph
from carm_bringup.graph.description import ArgumentError

ROOT = Path(__file__).resolve().parents[3]


def entry_points() -> dict[str, str]:
    scripts: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    return scripts


def configuration(spec: graph.NodeSpec) -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "config" / spec.config).read_text(encoding="utf-8"))
    (section,) = content.values()
    parameters: dict[str, Any] = section["ros__parameters"]
    return parameters


def parameter_class(spec: graph.NodeSpec) -> type[Any]:
    """Return the parameter dataclass that the node's module uses: the one whose fields are declared parameters."""
    package = entry_points()[spec.executable].partition(".")[0]
    module = importlib.import_module(f"{package}.nodes.{spec.executable}")
    classes = [c for _, c in inspect.getmembers(module, dataclasses.is_dataclass)]
    declared = [c for c in classes if all("read_only" in f.metadata for f in dataclasses.fields(c))]
    assert len(declared) == 1, declared
    return declared[0]  # type: ignore[return-value]


@pytest.mark.parametrize("spec", graph.ALL_NODES, ids=lambda spec: spec.name)
class TestNode:
    def test_executable_is_an_entry_point(self, spec: graph.NodeSpec) -> None:
        module, _, function = entry_points()[spec.executable].partition(":")
        assert callable(getattr(importlib.import_module(module), function))

    def test_configuration_has_the_keys_of_the_dataclass(self, spec: graph.NodeSpec) -> None:
        fields = {field.name for field in dataclasses.fields(parameter_class(spec))}
        assert set(configuration(spec)) == fields

    def test_launch_arguments_set_declared_parameters(self, spec: graph.NodeSpec) -> None:
        fields = {field.name for field in dataclasses.fields(parameter_class(spec))}
        assert set(spec.arguments) <= fields
        names = {argument.name for arguments in graph.ARGUMENTS_OF.values() for argument in arguments}
        assert set(spec.arguments.values()) <= names

    def test_launch_arguments_have_the_parameters_types(self, spec: graph.NodeSpec) -> None:
        defaults = configuration(spec)
        for name, value in graph.parameters(spec, graph.resolve([], "hardware")).items():
            assert type(value) is type(defaults[name]), name


def test_with_a_ct_the_last_motion_on_exact_answers_needs_no_image() -> None:
    agent = next(spec for spec in graph.NODES if spec.name == "agent_node")
    assert "exact_radius_m" not in graph.parameters(agent, graph.resolve([]))
    assert graph.parameters(agent, graph.resolve(["ct:=my_ct.nii.gz"]))["exact_radius_m"] == 0.01


def test_every_executable_but_the_command_is_a_node() -> None:
    assert set(entry_points()) - {"carm"} == {spec.executable for spec in graph.ALL_NODES}


def test_every_configuration_file_is_used() -> None:
    names = {path.name for path in (ROOT / "config").glob("*.yaml")}
    others = {"carm.yaml", "drives.yaml", "controllers.yaml", "gazebo_bridge.yaml"}
    assert names == {spec.config for spec in graph.ALL_NODES} | others


def test_defaults_parse_to_themselves() -> None:
    words = [f"{argument.name}:={argument.default_text}" for argument in graph.ARGUMENTS]
    assert graph.resolve(words) == graph.resolve([])


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("patient", "name:=value"),
        ("patinet:=chest_ct", "did you mean patient"),
        ("zzz:=1", "known: patient"),
        ("headless:=maybe", "true or false"),
        ("rate:=fast", "not a number"),
        ("rate:=nan", "outside"),
        ("rate:=31", r"outside \[0, 30\]"),
        ("simulator:=real", "one of: embedded, gazebo"),
        ("namespace:=my arm", "not a ROS namespace"),
        ("patient:=", "needs a value"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(word: str, reason: str) -> None:
    with pytest.raises(ArgumentError, match=reason) as caught:
        graph.resolve([word])
    assert "\n" not in str(caught.value)


def test_namespace_has_one_leading_slash() -> None:
    for text in ("carm", "/carm"):
        assert graph.namespace(graph.resolve([f"namespace:={text}"])) == "/carm"
