# SPDX-License-Identifier: Apache-2.0
"""Opening a CAN bus by its name."""

from __future__ import annotations

from collections.abc import Callable

import can
from canopen import Network

from carm_control.canopen.cia402 import DriveError
from carm_core.errors import ConfigurationError

VIRTUAL = "virtual"
"""Name of the bus inside this process, with simulated drives on it."""


def bus_arguments(name: str, bitrate: int) -> dict[str, str | int]:
    """Read the name of a bus.

    Args:
        name: ``virtual``, or ``INTERFACE:CHANNEL`` of python-can, for example ``socketcan:can0``.
        bitrate: bit/s; socketcan's is set with ``ip link``.

    Raises:
        ConfigurationError: The name is malformed or names no interface of python-can.
    """
    if name == VIRTUAL:
        name = "virtual:drives"
    interface, separator, channel = name.partition(":")
    if not separator or not channel:
        raise ConfigurationError(f"bus {name!r} is neither 'virtual' nor INTERFACE:CHANNEL, such as socketcan:can0")
    if interface not in can.VALID_INTERFACES:
        known = ", ".join(sorted(can.VALID_INTERFACES))
        raise ConfigurationError(f"bus {name!r}: python-can has no interface {interface!r}; it has {known}")
    arguments: dict[str, str | int] = {"interface": interface, "channel": channel}
    if interface not in ("socketcan", "virtual"):
        arguments["bitrate"] = bitrate
    return arguments


def open_network(name: str, bitrate: int, populate: Callable[[Network], None] | None = None) -> Network:
    """Connect to a bus.

    Args:
        name: See ``bus_arguments``.
        bitrate: bit/s.
        populate: Called before frames are received; puts nodes and listeners on the network.

    Raises:
        ConfigurationError: The name is malformed.
        DriveError: The bus cannot be opened.
    """
    arguments = bus_arguments(name, bitrate)
    try:
        network = Network(can.Bus(**arguments))
        if populate is not None:
            populate(network)
        network.connect()
    except (can.CanError, OSError, ValueError, ImportError) as error:
        raise DriveError("", f"bus {name} cannot be opened: {' '.join(str(error).split())}") from error
    return network
