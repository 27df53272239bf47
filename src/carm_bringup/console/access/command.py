# SPDX-License-Identifier: Apache-2.0
"""Bodies of ``carm console user`` and ``carm console certificate``."""

from __future__ import annotations

import argparse
import getpass
import socket
import sys
from pathlib import Path

from carm_core.errors import ConfigurationError


def add_user_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm console user``."""
    parser.add_argument("name", metavar="NAME", help="of the user; one that is there gets the new password")
    parser.add_argument("--file", type=Path, help="users file (~/.config/carm/console_users.json)")
    parser.add_argument("--remove", action="store_true", help="remove the user; sessions end at once")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")


def user(options: argparse.Namespace) -> int:
    """Set a password, or remove a user.

    Raises:
        ConfigurationError: Name, password or file cannot be used.
    """
    from carm_bringup.console.access import users

    file = options.file or users.default_file()
    users.check_name(options.name)
    if options.remove:
        users.change_user(file, options.name, None)
        print(f"{file}: {options.name} is removed")
        return 0
    if options.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        try:
            password = users.check_password(getpass.getpass(f"Password of {options.name}: "))
            again = getpass.getpass("Again: ")
        except (EOFError, KeyboardInterrupt):
            raise ConfigurationError("no password was given") from None
        if password != again:
            raise ConfigurationError("the passwords differ")
    users.change_user(file, options.name, password)
    print(f"{file}: {options.name} may log in")
    return 0


def add_certificate_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm console certificate``."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder for the two files")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="host names and addresses to open the console by (this machine's)"
    )


def certificate(options: argparse.Namespace) -> int:
    """Make a certificate signed by itself.

    Raises:
        ConfigurationError: A name or the folder cannot be used.
    """
    from carm_bringup.console.access.certificate import make

    cert, key = make(options.folder, options.names or [socket.gethostname().lower()])
    print(f"carm sim console_host:=0.0.0.0 console_cert:={cert} console_key:={key}")
    return 0
