# SPDX-License-Identifier: Apache-2.0
"""How well a localizer reads a clinician's sentences (protocol 6): drawn from words that training never sees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from carm_core.errors import AnswerError
from carm_core.imaging.frame import XrayFrame
from carm_core.language.commands import Command, Intent, command_from_text, same_way
from carm_core.localization import Localization, Localizer, Protocol, Query
from carm_perception.datasets.language import Split, sample
from carm_perception.evaluation.scoring.figures import latencies, rate, with_interval
from carm_perception.networks.preprocessing import FIELD_MM, MODEL_PX


def read_sentences(
    localizer: Localizer,
    count: int,
    seed: int,
    split: Split = "test",
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Ask about sentences.

    Args:
        localizer: Who reads.
        count: Number of sentences.
        seed: Seed of the sentences.
        split: ``"test"``: templates and words that training never sees.
        progress: Told the number of sentences done.

    Returns:
        ``right``: the very command; ``same_way``: also the same motion by another amount; ``other``: another command,
        which the agent's rules have to catch; ``not_understood``: no command although there is one; ``malformed`` or
        ``failed``; ``right`` by intent; latency.
    """
    rng = np.random.default_rng([seed, 81])
    blank = XrayFrame(np.full((MODEL_PX, MODEL_PX), 128, np.uint8), FIELD_MM / MODEL_PX, 0.0)  # commands have no image
    localizer.warm_up()
    kinds: list[str] = []
    by_intent: dict[Intent, list[bool]] = defaultdict(list)
    seconds = []
    for index in range(count):
        text, wanted = sample(rng, split)
        reply = localizer.localize(blank, Query(Protocol.COMMAND, hint=text))
        kinds.append(_kind(reply, wanted))
        by_intent[wanted.intent].append(kinds[-1] == "right")
        seconds.append(reply.latency_s)
        progress(index + 1)
    right = with_interval("right", [kind == "right" for kind in kinds])
    rest = ("other", "not_understood", "malformed", "failed")
    figures = right | {"same_way": rate(kind in ("right", "same_way") for kind in kinds)}
    figures |= {kind: rate(one == kind for one in kinds) for kind in rest}
    figures["right_by_intent"] = {str(intent): rate(values) for intent, values in sorted(by_intent.items())}
    return {"n": count, **figures, **latencies(seconds)}


def _kind(reply: Localization, wanted: Command) -> str:
    if reply.error is not None:
        return "malformed" if reply.error == "malformed" else "failed"
    try:
        found = command_from_text(reply.answer)
    except AnswerError:
        return "malformed"
    if found == wanted:
        return "right"
    if same_way(found, wanted):
        return "same_way"
    return "not_understood" if found.intent is Intent.UNKNOWN else "other"
