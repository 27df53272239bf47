# SPDX-License-Identifier: Apache-2.0
"""Hears the clinician's words on a thread of its own, and asks for a stop before anything else is done about them.

The thread has a node and an executor of its own: whatever the agent does, and however many sentences come, each is
looked at for a stop within milliseconds. Of the others no more are passed on than a person speaks, and no publisher
takes the place of all others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from std_msgs.msg import String
from std_srvs.srv import Trigger

from carm_agent.dialogue.stop_words import is_stop
from carm_core.plausibility import at_most
from carm_ros.message_checks import LARGEST_TEXT
from carm_ros.node import OrderlyNode
from carm_ros.side_node import SideNode

MOST_A_SECOND = 20
"""Sentences that are read in one second; more are not spoken by a person, and are listened to for a stop only."""
_MOST_OF_ONE = 15
"""Of these, so many may come from one publisher."""
_STOPS_A_SECOND = 5
"""Stops that are answered in one second; every one is obeyed."""
_KEPT_WORDS = 1000
_STOP_AGAIN_S = 0.1
_MOST_STREAMS = 16
_MOST_LOST = 1000
_LONGEST_READ = 10_000
"""Characters of a sentence that are passed on; the rest is listened to for a stop only."""


class FairShare:
    """Says which of many sentences are passed on: so many a second, and not all from one publisher.

    Publishers are told apart by the sequence numbers of their messages, each of which counts on from its last one.
    """

    def __init__(self, total: int, each: int) -> None:
        """Start without a memory.

        Args:
            total: Passed on in one second.
            each: Of these, from one publisher.
        """
        self._total, self._each = total, each
        self._times: deque[float] = deque(maxlen=total)
        self._streams: list[tuple[int, deque[float]]] = []

    def admits(self, sequence: int, now_s: float) -> bool:
        """Return whether a sentence is passed on, and count it if so.

        Args:
            sequence: Its publisher's number for it.
            now_s: Monotonic, s.
        """
        times = self._stream(sequence)
        if _full(self._times, now_s) or _full(times, now_s):
            return False
        self._times.append(now_s)
        times.append(now_s)
        return True

    def _stream(self, sequence: int) -> deque[float]:
        """Return when the publisher of a sentence was heard; the publisher heard last comes last."""
        follows = [stream for stream in self._streams if 0 < sequence - stream[0] <= _MOST_LOST]
        found = min(follows, key=lambda stream: sequence - stream[0], default=None)
        times: deque[float] = deque(maxlen=self._each) if found is None else found[1]
        others = [stream for stream in self._streams if stream is not found]
        self._streams = [*others[-(_MOST_STREAMS - 1) :], (sequence, times)]
        return times


def _full(times: deque[float], now_s: float) -> bool:
    return len(times) == times.maxlen and now_s - times[0] < 1.0


class Listener:
    """Hears ``clinician``; calls ``stop`` itself, and passes on what is to be read."""

    def __init__(
        self,
        node: OrderlyNode,
        on_stop: Callable[[str], None],
        on_words: Callable[[str, Future | None], None],
        on_flood: Callable[[str], None],
    ) -> None:
        """Begin to listen.

        Args:
            node: The agent node.
            on_stop: Told the words of every stop, at once, on this thread.
            on_words: Told what is to be read and answered, on this thread; of a stop, with the answer to its request,
                which is None where the stop service is not there.
            on_flood: Told the words that are not passed on, on this thread.
        """
        self._on_stop, self._on_words, self._on_flood = on_stop, on_words, on_flood
        self._words = FairShare(MOST_A_SECOND, _MOST_OF_ONE)
        self._stops = FairShare(_STOPS_A_SECOND, _STOPS_A_SECOND)
        self._asked: Future | None = None
        self._asked_s = 0.0
        self._again = False
        self._side = SideNode(node, "clinician")
        self._client = self._side.node.create_client(Trigger, node.resolve_service_name("stop"))
        topic, depth = self._side.name_of("clinician"), QoSProfile(depth=_KEPT_WORDS)
        self._side.node.create_subscription(String, topic, self._hear, depth, raw=True)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._side.node.create_timer(_STOP_AGAIN_S, self._ask_again, clock=steady)
        self._side.start()

    def _hear(self, message: bytes, info: Any) -> None:
        at_most("the sentence", message, LARGEST_TEXT)
        text = deserialize_message(message, String).data
        number, now_s = int(info["publication_sequence_number"] or 0), time.monotonic()
        if is_stop(text):
            self._stop(text, number, now_s)
            return
        if self._words.admits(number, now_s):
            self._on_words(text[:_LONGEST_READ], None)
        else:
            self._on_flood(text)

    def _stop(self, text: str, number: int, now_s: float) -> None:
        """Ask for a stop; of stops in quick succession, the last is asked for too."""
        self._again = now_s - self._asked_s < _STOP_AGAIN_S
        if not self._again:
            self._ask(now_s)
        self._on_stop(text)
        if self._stops.admits(number, now_s):
            self._on_words(text[:_LONGEST_READ], self._asked)

    def _ask(self, now_s: float) -> None:
        there = self._client.service_is_ready()
        self._asked, self._asked_s = (self._client.call_async(Trigger.Request()) if there else None), now_s

    def _ask_again(self) -> None:
        if self._again:
            self._again = False
            self._ask(time.monotonic())

    def close(self) -> None:
        """End the thread."""
        self._side.close()
