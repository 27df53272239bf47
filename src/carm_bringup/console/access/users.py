# SPDX-License-Identifier: Apache-2.0
"""The users file: names, and passwords as salted scrypt hashes, readable by its owner only."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from carm_core.data_files import DataFileError, read_json
from carm_core.errors import ConfigurationError, quoted

SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 200
MOST_USERS = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_MOST_BYTES = 2**18
_COST, _BLOCK, _PARALLEL = 2**15, 8, 3
_MEMORY = 2**26
_SALT_BYTES, _HASH_BYTES = 16, 32


def default_file() -> Path:
    """Return the users file that is used unless another is named."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "carm" / "console_users.json"


@dataclass(frozen=True)
class Entry:
    """A password that can be checked but not read.

    Attributes:
        salt: Hexadecimal.
        hash: Of scrypt (n 32768, r 8, p 3), hexadecimal.
    """

    salt: str
    hash: str

    @classmethod
    def of(cls, password: str) -> Entry:
        """Return the entry of a password, with a new salt."""
        salt = secrets.token_bytes(_SALT_BYTES)
        return cls(salt.hex(), _scrypt(password, salt).hex())

    def fits(self, password: str) -> bool:
        """Return whether a password is the one; takes a fraction of a second, whatever it is."""
        return hmac.compare_digest(_scrypt(password, bytes.fromhex(self.salt)), bytes.fromhex(self.hash))


def _scrypt(password: str, salt: bytes) -> bytes:
    words = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(words, salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL, maxmem=_MEMORY, dklen=_HASH_BYTES)


class Users:
    """The users of a file, which is read again when it has changed: a new password counts at once."""

    def __init__(self, file: Path) -> None:
        """Read the file.

        Args:
            file: The users file.

        Raises:
            ConfigurationError: It is not there, others may read it, or it is malformed.
        """
        self._file = file
        self._stamp: tuple[int, ...] = ()
        self._entries: dict[str, Entry] = {}
        self._nobody = Entry.of(secrets.token_hex())
        self._read()

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self._entries)

    def entry(self, name: str) -> Entry | None:
        """Return a user's entry, as the file has it now; None when there is no such user, or no file any more."""
        try:
            self._read()
        except ConfigurationError:  # nobody is let in by a file that cannot be read or trusted
            self._entries, self._stamp = {}, ()
        return self._entries.get(name)

    def check(self, name: str, password: str) -> Entry | None:
        """Return the user's entry when the password fits; an unknown name takes as long as a wrong password."""
        entry = self.entry(name)
        fits = (entry or self._nobody).fits(password[:LONGEST_PASSWORD])
        return entry if fits else None

    def _read(self) -> None:
        try:
            state = self._file.stat()
        except OSError as error:
            raise ConfigurationError(f"users file {self._file}: {error.strerror}") from error
        stamp = (state.st_mtime_ns, state.st_ino, state.st_size, state.st_mode, state.st_uid)
        if stamp != self._stamp:
            self._entries, self._stamp = read_users(self._file), stamp


def read_users(file: Path) -> dict[str, Entry]:
    """Return the entries of a users file.

    Raises:
        ConfigurationError: It cannot be read, others may read or write it, or it is malformed.
    """
    try:
        state = file.stat()
        if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o077 or state.st_uid not in (os.getuid(), 0):
            raise ConfigurationError(f"users file {file}: it must be yours alone (chmod 600)")
        content = read_json(file, _MOST_BYTES)
    except OSError as error:
        raise ConfigurationError(f"users file {file}: {error.strerror}") from error
    except DataFileError as error:
        raise ConfigurationError(f"users file {file}: {error}") from error
    users = content.get("users") if isinstance(content, dict) else None
    if not isinstance(users, dict) or len(users) > MOST_USERS:
        raise ConfigurationError(f"users file {file}: no object `users` of at most {MOST_USERS} names")
    return {check_name(name): _entry(file, name, value) for name, value in users.items()}


def _entry(file: Path, name: str, value: Any) -> Entry:
    sizes = {"salt": _SALT_BYTES, "hash": _HASH_BYTES}
    for key, size in sizes.items():
        text = value.get(key) if isinstance(value, dict) else None
        if not isinstance(text, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text):
            raise ConfigurationError(f"users file {file}: {key} of {name} is not {size} bytes in hexadecimal")
    return Entry(value["salt"], value["hash"])


def check_name(name: str) -> str:
    """Return a user's name.

    Raises:
        ConfigurationError: It is none.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{quoted(name)} is no user name: 1 to 32 letters, digits, dots, dashes, underscores")
    return name


def check_password(password: str) -> str:
    """Return a new password.

    Raises:
        ConfigurationError: It is too short or too long.
    """
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ConfigurationError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    return password


def change_user(file: Path, name: str, password: str | None) -> None:
    """Set a user's password, or remove the user; the file is replaced in one step.

    Args:
        file: Made with its folder when it is not there.
        name: The user.
        password: None: remove the user.

    Raises:
        ConfigurationError: Name, password or file cannot be used.
    """
    users = read_users(file) if file.exists() else {}
    if password is None:
        if users.pop(name, None) is None:
            raise ConfigurationError(f"users file {file}: no user {quoted(name)}")
    else:
        if name not in users and len(users) >= MOST_USERS:
            raise ConfigurationError(f"users file {file}: {MOST_USERS} users are the most")
        users[check_name(name)] = Entry.of(check_password(password))
    content = {"users": {one: asdict(entry) for one, entry in sorted(users.items())}}
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(file, json.dumps(content, indent=1).encode() + b"\n")
    except OSError as error:
        raise ConfigurationError(f"users file {file}: {error.strerror}") from error


def write_private(file: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in one step.

    Raises:
        OSError: It cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
        os.replace(temporary, file)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
