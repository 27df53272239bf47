# SPDX-License-Identifier: Apache-2.0
"""Node parameters as frozen dataclasses: one declaration for ROS, for ``config/*.yaml`` and for the docs.

A field carries its description, unit and range::

    @dataclass(frozen=True)
    class Parameters:
        rate_hz: float = parameter(0.0, "fluoroscopy rate", unit="Hz", lower=0.0, upper=30.0)

A field that guards people has a ``guard``: while the node runs, it can be tightened but not loosened.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from carm_core.errors import ConfigurationError

T = TypeVar("T")

FRAME_PREFIX = r"([A-Za-z][A-Za-z0-9_]*(/[A-Za-z0-9_]+)*/?)?"
"""Pattern of the parameter ``frame_prefix``: what stands before the frame ids of an arm, such as ``left_arm/``."""

Loosens = Callable[[Any, Any], bool]
"""Tells whether a change from an old to a new value of a parameter loosens what it guards."""
GUARDS: dict[str, Loosens] = {
    "lower_is_tighter": lambda old, new: bool(new > old),
    "higher_is_tighter": lambda old, new: bool(new < old),
    "true_is_tighter": lambda old, new: bool(old and not new),
    "false_is_tighter": lambda old, new: bool(new and not old),
}
"""Names of guards, for ``parameter``."""


def parameter(
    default: Any,
    description: str,
    *,
    unit: str = "",
    lower: float | None = None,
    upper: float | None = None,
    pattern: str = "",
    read_only: bool = False,
    guard: str | Loosens = "",
) -> Any:
    """Declare a dataclass field that is a node parameter.

    Args:
        default: Default; its type is the parameter's type.
        description: One line.
        unit: Unit, empty when it has none.
        lower: Smallest value allowed.
        upper: Largest value allowed.
        pattern: Regular expression that the whole of a text must match; empty: any text.
        read_only: Cannot change while the node runs.
        guard: The parameter guards people: while the node runs it may only be tightened. A key of ``GUARDS``, or a
            function that tells whether a change loosens it; empty: it guards nothing.
    """
    metadata = {
        "description": description,
        "unit": unit,
        "lower": lower,
        "upper": upper,
        "pattern": pattern,
        "read_only": read_only,
        "guard": GUARDS[guard] if isinstance(guard, str) and guard else guard or None,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parameter_defaults(cls: type[Any]) -> dict[str, Any]:
    """Return ``{name: default}`` of a parameter dataclass."""
    instance = cls()
    return {f.name: getattr(instance, f.name) for f in dataclasses.fields(cls)}


def check_parameter(cls: type[Any], name: str, value: Any) -> str:
    """Check one value against its declaration.

    Returns:
        Empty when the value is allowed, else one line that says why not.
    """
    field = next((f for f in dataclasses.fields(cls) if f.name == name), None)
    if field is None:
        return f"unknown parameter {name}"
    meta = field.metadata
    unit = f" {meta['unit']}" if meta.get("unit") else ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            return f"{name} = {value}{unit} is not finite"
        lower, upper = meta.get("lower"), meta.get("upper")
        if (lower is not None and value < lower) or (upper is not None and value > upper):
            low = "-inf" if lower is None else lower
            high = "inf" if upper is None else upper
            return f"{name} = {value}{unit} is outside [{low}, {high}]{unit}"
    if isinstance(value, str) and meta.get("pattern") and not re.fullmatch(meta["pattern"], value):
        return f"{name} = {value!r} does not match {meta['pattern']}"
    return ""


def updated_parameters(settings: T, changes: Iterable[Any]) -> tuple[T, str]:
    """Apply changes to a running node's parameters, all or none. Those that guard can only be tightened.

    Args:
        settings: Instance of a parameter dataclass.
        changes: ``rclpy`` parameters; those that are not fields (``use_sim_time``) are passed over.

    Returns:
        The new instance and an empty text, or the old one and one line that says why not.
    """
    cls: type[Any] = type(settings)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for change in changes:
        name, value = change.name, change.value
        if name not in fields:
            continue
        old = getattr(settings, name)
        reason = check_parameter(cls, name, value)
        if fields[name].metadata.get("read_only") and value != old:
            reason = f"{name} cannot change while the node runs: set it at startup"
        elif type(value) is not type(old):
            reason = f"{name} = {value!r} is not a {type(old).__name__}"
        if reason:
            return settings, reason
        values[name] = value
    try:
        updated = dataclasses.replace(settings, **values)  # type: ignore[type-var]
    except ConfigurationError as error:
        return settings, str(error)
    for name in values:
        loosens, old, new = fields[name].metadata.get("guard"), getattr(settings, name), getattr(updated, name)
        if loosens and new != old and loosens(old, new):
            return settings, f"{name} = {new!r} is looser than {old!r}: it can be loosened only when the node starts"
    return updated, ""


def guard_changes(old: T, new: T) -> list[str]:
    """Return a line with the old and the new value for each parameter that guards and has changed.

    Args:
        old: Instance of a parameter dataclass.
        new: Another one of the same class.
    """
    guards = [field.name for field in dataclasses.fields(old) if field.metadata.get("guard")]  # type: ignore[arg-type]
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in guards]
    return [f"{name} is now {after!r}, was {before!r}" for name, before, after in pairs if before != after]
