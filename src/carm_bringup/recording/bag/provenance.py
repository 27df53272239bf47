# SPDX-License-Identifier: Apache-2.0
"""What a recording says about its own origin: versions, commit, machine, kinematics, parameters, model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from carm_bringup import __version__
from carm_core.cli import results_file
from carm_core.paths import config_file

SESSION, CARM_CONFIG, MODEL = "session", "carm.yaml", "model"
"""Names of metadata records in the ``.mcap`` file."""
PARAMETERS = "parameters "
"""Start of the name of the record of a node's parameters; the node's full name follows."""


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
    """
    for name, content in records.items():
        if name.startswith(PARAMETERS) and name.rsplit("/", 1)[-1] == node:
            return {key: json.loads(text) for key, text in content.items()}
    return {}
