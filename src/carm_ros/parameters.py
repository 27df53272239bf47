# SPDX-License-Identifier: Apache-2.0
"""Parameter dataclasses declared on a node."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

from carm_core.errors import ConfigurationError
from carm_core.parameters import check_parameter, guard_changes, parameter_defaults, updated_parameters

T = TypeVar("T")


def declare_parameters(node: Any, cls: type[T]) -> T:
    """Declare every field on a node and read the values back.

    Args:
        node: An ``rclpy`` node.
        cls: Frozen dataclass whose fields come from ``parameter``.

    Returns:
        An instance with the values that the node was started with.

    Raises:
        ConfigurationError: A value has the wrong type or is out of range.
    """
    from rcl_interfaces.msg import ParameterDescriptor

    # A descriptor with limits comes after the value has been checked here: so the refusal names the unit.
    values: dict[str, Any] = {}
    for name, default in parameter_defaults(cls).items():
        meta = next(f for f in dataclasses.fields(cls) if f.name == name).metadata  # type: ignore[arg-type]
        unit = f" [{meta['unit']}]" if meta.get("unit") else ""
        try:
            value = node.declare_parameter(name, default).value
        except Exception as error:  # rclpy raises several unrelated types for a wrong type or override
            raise ConfigurationError(f"parameter {name}: {error}") from error
        reason = check_parameter(cls, name, value)
        if reason:
            raise ConfigurationError(f"parameter {reason}")
        descriptor = ParameterDescriptor(
            type=node.describe_parameter(name).type,
            description=f"{meta.get('description', '')}{unit}",
            read_only=bool(meta.get("read_only")),
            **_ranges(default, meta.get("lower"), meta.get("upper")),
        )
        node.set_descriptor(name, descriptor)
        values[name] = value
    return cls(**values)


def follow_parameters(
    node: Any, settings: T, take: Callable[[T], None], refusal: Callable[[T], str] | None = None
) -> None:
    """Take over changes of a node's parameters while it runs; those that guard can only be tightened, and are logged.

    Args:
        node: An ``rclpy`` node, which has declared the parameters of ``settings``.
        settings: What it was started with.
        take: Takes over new settings; called once they are accepted.
        refusal: Returns in one line why new settings are not accepted now, empty when they are.
    """
    from rcl_interfaces.msg import SetParametersResult

    now = settings

    def check(changes: list[Any]) -> SetParametersResult:
        new, reason = updated_parameters(now, changes)
        reason = reason or (refusal(new) if refusal is not None and new != now else "")
        return SetParametersResult(successful=not reason, reason=reason)

    def apply(changes: list[Any]) -> None:
        nonlocal now
        new, reason = updated_parameters(now, changes)
        if reason or new == now:
            return
        for line in guard_changes(now, new):
            node.get_logger().warning(f"parameter {line} (by a request over the network; ROS does not tell whose)")
        now = new
        take(new)

    node.add_on_set_parameters_callback(check)
    node.add_post_set_parameters_callback(apply)


def _ranges(default: Any, lower: float | None, upper: float | None) -> dict[str, Any]:
    """Return the ranges of a descriptor; an open end of a float is infinite, a whole number has both ends or no range.

    rqt draws a slider between the ends of a range, and its sliders for whole numbers have 32 bits.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange

    if isinstance(default, float) and (lower, upper) != (None, None):
        low = -math.inf if lower is None else float(lower)
        high = math.inf if upper is None else float(upper)
        return {"floating_point_range": [FloatingPointRange(from_value=low, to_value=high)]}
    if isinstance(default, int) and not isinstance(default, bool) and lower is not None and upper is not None:
        return {"integer_range": [IntegerRange(from_value=math.ceil(lower), to_value=math.floor(upper))]}
    return {}
