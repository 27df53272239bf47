# SPDX-License-Identifier: Apache-2.0
"""Who has logged in: the gate of a console that other machines reach."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carm_bringup.console.access.certificate import read_names
from carm_bringup.console.access.users import Entry, Users, default_file
from carm_bringup.console.gate import Gate, Rate, is_loopback
from carm_core.errors import CarmError, ConfigurationError, quoted

EXPIRES_S = 8 * 3600.0
"""A session ends so long after its login, s."""
_MOST_SESSIONS = 64
_MOST_ADDRESSES = 1024
_WRONG_PER_ADDRESS = 5
_WRONG_A_MINUTE = 30
_MOST_AT_ONCE = 4
_HTTPS_PORT = 443


class LoginError(CarmError):
    """A login is not even looked at now."""


@dataclass(frozen=True)
class Access:
    """What a console needs that other machines reach.

    Attributes:
        certificate: PEM file, the whole chain.
        key: Its private key, PEM.
        names: What the certificate is for.
        users: Who may log in.
    """

    certificate: Path
    key: Path
    names: tuple[str, ...]
    users: Users


def read_access(host: str, certificate: str, key: str, users_file: str) -> Access | None:
    """Return what is needed to serve others; None: this machine only, by a token.

    Args:
        host: Address that is to be listened on.
        certificate: PEM file; empty: no TLS.
        key: Its key; empty as well then.
        users_file: Empty: the one of this account.

    Raises:
        ConfigurationError: Others would reach the console without TLS and users, or a file cannot be used.
    """
    if bool(certificate) != bool(key):
        raise ConfigurationError("give both the certificate (tls_cert) and its key (tls_key), or neither")
    if not certificate:
        if users_file:
            raise ConfigurationError("named users need TLS: give tls_cert and tls_key, too")
        if not is_loopback(host):
            needs = "tls_cert, tls_key, and a user made by `carm console user NAME`"
            raise ConfigurationError(f"host {quoted(host)}: other machines reach it, so it needs {needs}")
        return None
    files = Path(certificate).expanduser(), Path(key).expanduser()
    names = read_names(*files)
    file = Path(users_file).expanduser() if users_file else default_file()
    users = Users(file)
    if not len(users):
        raise ConfigurationError(f"users file {file}: no users; make one by `carm console user NAME`")
    return Access(*files, names, users)


@dataclass(frozen=True)
class _Session:
    user: str
    entry: Entry
    expires_s: float


class LoginGate(Gate):
    """Admits who has logged in. Attributes as of ``Gate``; the address has no token."""

    scheme = "https"

    def __init__(self, host: str, port: int, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody has logged in.

        Args:
            host: Address that is listened on.
            port: Port.
            access: Names and users.
            clock: Returns the time, s.
        """
        super().__init__(host, port, clock)
        self._users, self._clock = access.users, clock
        self._names = _reached_by(access.names, host)
        shown = f"[{self._names[0]}]" if ":" in self._names[0] else self._names[0]
        self._ports = (f":{port}", "") if port == _HTTPS_PORT else (f":{port}",)
        self.address = f"https://{shown.replace('*.', 'any.')}:{port}/"
        self.cookie = f"__Host-carm_console_{port}"
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._addresses: OrderedDict[str, Rate] = OrderedDict()
        self._all = Rate(_WRONG_A_MINUTE, 60.0, clock)
        self._turn, self._lock = threading.BoundedSemaphore(_MOST_AT_ONCE), threading.Lock()

    def knows_token(self, token: str) -> bool:
        """There is no token."""
        del token
        return False

    def is_here(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request names a host of the certificate: a foreign name (DNS rebinding) is refused."""
        host = headers.get("host", "").lower()
        for port in self._ports:
            if host.endswith(port) and any(_names(name, host.removesuffix(port)) for name in self._names):
                return True
        return False

    def user_of(self, cookies: Mapping[str, str]) -> str:
        """Return who has logged in with a cookie; empty when nobody, or no more."""
        key = _digest(cookies.get(self.cookie, ""))
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return ""
            if self._clock() >= session.expires_s or self._users.entry(session.user) != session.entry:
                del self._sessions[key]
                return ""
            return session.user

    def login(self, name: str, password: str, address: str) -> str:
        """Return the value of the cookie of a new session; empty when name or password are wrong. Takes long.

        Args:
            name: As typed.
            password: As typed.
            address: Of the client.

        Raises:
            LoginError: Too many wrong ones came lately, or too many come at once: this one was not looked at.
        """
        with self._lock:
            rate = self._rate(address)
            if rate.full or self._all.full:
                raise LoginError("Too many wrong passwords: wait a minute.")
        if not self._turn.acquire(blocking=False):
            raise LoginError("Too many logins at once: try again.")
        try:
            entry = self._users.check(name, password)
        finally:
            self._turn.release()
        with self._lock:
            if entry is None:
                rate.admits()
                self._all.admits()
                return ""
            value = secrets.token_urlsafe(32)
            self._sessions[_digest(value)] = _Session(name, entry, self._clock() + EXPIRES_S)
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
            return value

    def logout(self, cookies: Mapping[str, str]) -> None:
        """End the session of a cookie."""
        with self._lock:
            self._sessions.pop(_digest(cookies.get(self.cookie, "")), None)

    def _rate(self, address: str) -> Rate:
        rate = self._addresses.pop(address, None) or Rate(_WRONG_PER_ADDRESS, 60.0, self._clock)
        self._addresses[address] = rate
        while len(self._addresses) > _MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        return rate


def _digest(value: str) -> bytes:
    """What is looked up is no secret itself: how long the search takes says nothing of one."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()


def _reached_by(names: Sequence[str], host: str) -> tuple[str, ...]:
    """Return the names of the certificate, that of the address that is listened on first."""
    return tuple(sorted(names, key=lambda name: name != host))


def _names(pattern: str, host: str) -> bool:
    plain = host.removeprefix("[").removesuffix("]")
    if pattern.startswith("*."):
        first, dot, rest = plain.partition(".")
        return bool(first and dot) and rest == pattern[2:]
    return plain == pattern
