# SPDX-License-Identifier: Apache-2.0
"""What a recording says about its own origin: versions, commit, machine, kinematics, parameters, model."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from carm_bringup import __version__
from carm_bringup.recording.errors import BagError
from carm_core.cli import results_file
from carm_core.data_files import parse_json, shown
from carm_core.parameters import check_parameter, parameter_defaults
from carm_core.paths import config_file

SESSION, CARM_CONFIG, MODEL = "session", "carm.yaml", "model"
"""Names of metadata records in the ``.mcap`` file."""
PARAMETERS = "parameters "
"""Start of the name of the record of a node's parameters; the node's full name follows."""

T = TypeVar("T")


def session_record() -> dict[str, str]:
    """Return versions, commit and machine, as text by name."""
    origin = results_file.document("carm record", 0, {})
    return {
        "carm": __version__,
        "commit": str(origin["commit"]),
        **{f"version of {name}": str(version) for name, version in origin["versions"].items()},
        **{name: str(value) for name, value in origin["machine"].items()},
    }


def carm_config_record() -> dict[str, str]:
    """Return the text of ``config/carm.yaml``: kinematics, limits, imaging geometry."""
    return {"text": config_file("carm.yaml").read_text(encoding="utf-8")}


def parameters_record(values: Mapping[str, Any]) -> dict[str, str]:
    """Return a node's parameters, each as JSON."""
    return {name: json.dumps(value, default=str) for name, value in sorted(values.items())}


def parameters_of(records: Mapping[str, Mapping[str, str]], node: str) -> dict[str, Any]:
    """Return the recorded parameters of a node.

    Args:
        records: Metadata records of a bag.
        node: The node's name without its namespace.

    Returns:
        Name to value; empty when they were not recorded.

    Raises:
        BagError: A value is no JSON.
    """
    for name, content in records.items():
        if name.startswith(PARAMETERS) and name.rsplit("/", 1)[-1] == node:
            try:
                return {key: parse_json(text) for key, text in content.items()}
            except ValueError as error:
                raise BagError(f"the recorded parameters of {node} cannot be read ({error})") from error
    return {}


def recorded_parameters(
    records: Mapping[str, Mapping[str, str]], node: str, cls: type[T], ignored: Collection[str] = ()
) -> T:
    """Return the parameters of a node as recorded, checked like those of a node that starts.

    Args:
        records: Metadata records of a bag.
        node: The node's name without its namespace.
        cls: Its parameter dataclass; what was not recorded has its default.
        ignored: Parameters that a bag may not set.

    Raises:
        BagError: A value has another type, or is out of range.
    """
    defaults, values = parameter_defaults(cls), {}
    for name, value in parameters_of(records, node).items():
        if name not in defaults or name in ignored:
            continue
        given = float(value) if isinstance(defaults[name], float) and type(value) is int else value
        reason = "" if type(given) is type(defaults[name]) else f"{name} = {shown(value)} has another type"
        reason = reason or check_parameter(cls, name, given)
        if reason:
            raise BagError(f"the recorded parameters of {node} cannot be used: {reason}")
        values[name] = given
    return cls(**values)
