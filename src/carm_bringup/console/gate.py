# SPDX-License-Identifier: Apache-2.0
"""Who may open the console: a token in its address, then a cookie; only from this machine, only from its own page."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping

_WRONG_A_MINUTE = 20


ANYBODY = "operator"
"""Who has the token of the address."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Rate:
    """Counts events, so many in a time."""

    def __init__(self, most: int, period_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing has been counted.

        Args:
            most: Events that are admitted in a period.
            period_s: The period, s.
            clock: Returns the time, s.
        """
        self._times: deque[float] = deque(maxlen=most)
        self._period_s, self._clock = period_s, clock

    @property
    def full(self) -> bool:
        """Whether no further event is admitted now."""
        return len(self._times) == self._times.maxlen and self._clock() - self._times[0] < self._period_s

    def admits(self) -> bool:
        """Return whether an event is admitted, and count it if so."""
        if self.full:
            return False
        self._times.append(self._clock())
        return True


class Gate:
    """Checks requests.

    Attributes:
        address: The address to open, with the token.
        cookie: Name of the cookie. Browsers send cookies to all ports of a machine, so it names the port.
        session: Value of the cookie.
        scheme: Of addresses.
    """

    scheme = "http"

    def __init__(self, host: str, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Draw the token and the cookie's value.

        Args:
            host: Address that is listened on; loopback.
            port: Port.
            clock: Returns the time, s.
        """
        shown = f"[{host}]" if ":" in host else host
        self._token = secrets.token_urlsafe(24)
        self._hosts = {f"{name}:{port}" for name in (shown, "localhost")}
        self._wrong = Rate(_WRONG_A_MINUTE, 60.0, clock)
        self.address = f"{self.scheme}://{shown}:{port}/?token={self._token}"
        self.cookie, self.session = f"carm_console_{port}", secrets.token_urlsafe(24)

    @property
    def closed(self) -> bool:
        """Whether too many wrong tokens came lately, which is told."""
        return self._wrong.full

    def knows_token(self, token: str) -> bool:
        """Return whether a token is right; wrong ones are counted.

        They do not close the door to the right one: any page in a browser on this machine can send wrong ones, and
        nobody guesses 192 bits.
        """
        right = hmac.compare_digest(token.encode(), self._token.encode())
        return right or (self._wrong.admits() and False)

    def admits(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Return whether a request comes to this host and from a browser that has shown the token.

        Args:
            headers: Of the request, names in lower case. The host is checked too: a foreign name that resolves to this
                machine (DNS rebinding) is refused.
            cookies: Of the request.
        """
        return self.is_here(headers) and bool(self.user_of(cookies))

    def user_of(self, cookies: Mapping[str, str]) -> str:
        """Return who has a cookie; empty when it is not the right one."""
        right = hmac.compare_digest(cookies.get(self.cookie, "").encode(), self.session.encode())
        return ANYBODY if right else ""

    def admits_socket(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """As ``admits``; the page that opens the socket must be ours."""
        return self.admits(headers, cookies) and headers.get("origin") == f"{self.scheme}://{headers.get('host')}"

    def is_here(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request names this host."""
        return headers.get("host", "") in self._hosts
