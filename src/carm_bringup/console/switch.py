# SPDX-License-Identifier: Apache-2.0
"""The switch of fluoroscopy, which a page has to hold: who holds it, and when that has ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from carm_core.errors import CarmError

HOLD_S = 0.5
"""A page that does not say so long that it still holds the switch has let it go, s."""


class SwitchError(CarmError):
    """The switch cannot be pressed."""


class Switch:
    """``hold`` may be called from any thread, the rest from one.

    Attributes:
        owner: Number of the page that holds it; 0: nobody does.
        who: That page, for people.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody holds it.

        Args:
            clock: Returns the time, s.
        """
        self._clock = clock
        self._held_s = -math.inf
        self.owner, self.who = 0, ""

    def press(self, number: int, who: str) -> None:
        """Begin to hold.

        Args:
            number: Number of the page.
            who: The page, for people.

        Raises:
            SwitchError: Another page holds it.
        """
        if self.owner not in (0, number):
            raise SwitchError(f"{self.who} holds the switch")
        self.owner, self.who, self._held_s = number, who, self._clock()

    def hold(self, number: int) -> None:
        """Go on holding; a page whose switch was released meanwhile does not press it by this."""
        if self.owner == number and not self.lapsed:
            self._held_s = self._clock()

    def release(self) -> None:
        """Let go."""
        self.owner, self.who = 0, ""

    @property
    def lapsed(self) -> bool:
        """Whether it is pressed by a page that has not said for too long that it still holds it."""
        return self.owner != 0 and self._clock() - self._held_s > HOLD_S
