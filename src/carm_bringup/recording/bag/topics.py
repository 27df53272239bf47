# SPDX-License-Identifier: Apache-2.0
"""Which topics go into a recording, and with which quality of service. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

COMMON = ("/tf", "/tf_static", "/diagnostics", "/clock", "/rosout", "/parameter_events")
"""Topics outside the namespace that belong to every recording."""
SKIPPED = ("xray/image/compressed", "landmarks/image")
"""Topics that repeat others; their nodes compute them only while somebody listens."""
_UNLIMITED_NS = 2**63 - 1


def is_wanted(topic: str, namespace: str, include: str = "", exclude: str = "") -> bool:
    """Return whether a topic is to be recorded.

    Args:
        topic: Full name.
        namespace: Namespace of the graph, for example ``"/carm"``.
        include: Pattern (regular expression, anywhere in the name) of more topics.
        exclude: Pattern of topics to leave out; outranks all else.
    """
    if exclude and re.search(exclude, topic):
        return False
    if include and re.search(include, topic):
        return True
    prefix = namespace.rstrip("/") + "/"
    return topic in COMMON or (topic.startswith(prefix) and topic[len(prefix) :] not in SKIPPED)


def offered_profile(profile: Any) -> dict[str, Any]:
    """Return a publisher's QoS profile in the words of ``metadata.yaml``.

    Args:
        profile: ``rclpy.qos.QoSProfile``.
    """

    def span(duration: Any) -> dict[str, int]:
        nanoseconds = min(int(duration.nanoseconds), _UNLIMITED_NS)
        return {"sec": nanoseconds // 10**9, "nsec": nanoseconds % 10**9}

    return {
        "history": profile.history.name.lower(),
        "depth": int(profile.depth),
        "reliability": profile.reliability.name.lower(),
        "durability": profile.durability.name.lower(),
        "deadline": span(profile.deadline),
        "lifespan": span(profile.lifespan),
        "liveliness": profile.liveliness.name.lower(),
        "liveliness_lease_duration": span(profile.liveliness_lease_duration),
        "avoid_ros_namespace_conventions": bool(profile.avoid_ros_namespace_conventions),
    }


def hears_all(offered: Sequence[Mapping[str, Any]]) -> tuple[bool, bool]:
    """Return the strictest profile that is compatible with every publisher: (reliable, transient local)."""
    reliable = all(profile["reliability"] == "reliable" for profile in offered)
    latched = bool(offered) and all(profile["durability"] == "transient_local" for profile in offered)
    return reliable, latched
