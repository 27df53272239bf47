# SPDX-License-Identifier: Apache-2.0
"""Parameters of the console node."""

from __future__ import annotations

from dataclasses import dataclass

from carm_core.errors import ConfigurationError
from carm_core.parameters import parameter

RUN_MODES = ("confirm", "hold")


@dataclass(frozen=True)
class ConsoleParameters:
    """Parameters of the console node; ``config/console.yaml`` has the same keys."""

    host: str = parameter(
        "127.0.0.1", "address that the page is served on; another needs TLS and users", read_only=True
    )
    port: int = parameter(
        0, "port of the page; 0: 8090, or any that is free if it is taken", lower=0, upper=65535, read_only=True
    )
    tls_cert: str = parameter("", "certificate (PEM): HTTPS and named users; empty: a token", read_only=True)
    tls_key: str = parameter("", "its private key (PEM)", read_only=True)
    users_file: str = parameter("", "users; empty: ~/.config/carm/console_users.json", read_only=True)
    run_mode: str = parameter(
        "confirm",
        "what moves runs after a confirmation (confirm), or only while a button or key is held (hold)",
        read_only=True,
    )
    kerma_notice_mgy: float = parameter(
        3000.0,
        "air kerma at the reference point from which on all pages are told, mGy, and again after each third of it; 0:"
        " never",
        lower=0.0,
        upper=1e6,
        read_only=True,
    )
    recordings: str = parameter(
        "recordings",
        "folder with the bags of `record:=true`; the one that is being recorded is part of an exported session",
        read_only=True,
    )
    carm_config: str = parameter("", "C-arm description file; empty: the one in the package", read_only=True)

    def __post_init__(self) -> None:
        """Check what a range cannot say.

        Raises:
            ConfigurationError: The run mode is unknown.
        """
        if self.run_mode not in RUN_MODES:
            raise ConfigurationError(f"parameter run_mode = {self.run_mode!r} is not one of: {', '.join(RUN_MODES)}")
