# SPDX-License-Identifier: Apache-2.0
"""``carm bench dialogue``: how the agent acts on a clinician's sentences, in words that no model was trained on.

The agent's own conversation hears each sentence, with its stop words, its rules and the language model's reading; what
it then does is compared with what was meant. Nothing moves.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING, Any

from carm_agent.dialogue.conversation import Conversation, Hands, Kind
from carm_agent.dialogue.parser import Heard
from carm_core.cli import results_file
from carm_core.cli.arguments import output_file, seed, whole
from carm_core.errors import AnswerError
from carm_core.landmarks import find_landmark
from carm_core.language.commands import Command, Confirm, Stop, Unknown, command_from_text, same_way

if TYPE_CHECKING:
    from carm_agent.dialogue.actions import Errand
    from carm_core.localization import Localizer

RULES = "rules"
"""In place of a localizer: no language model."""
OUTCOMES = ("done", "other amount", "asked back", "no action", "wrong", "unnecessary stop", "missed stop")
_TARGET = find_landmark("left shoulder").id
"""The task that corrections are about."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--localizer", action="append", help=f"compact, fused or {RULES}; repeat (compact, {RULES})")
    parser.add_argument("--sentences", type=whole(1, 1_000_000), default=1000, help="how many (1000)")
    parser.add_argument("--seed", type=seed, default=0, help="of the sentences (0)")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write the figures to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the bench.

    Returns:
        Exit code 0.

    Raises:
        CarmError: Bad input; nothing was run.
    """
    from tqdm import tqdm

    from carm_perception.localizers.registry import make_localizer

    results_file.check_file(args.json)
    results = {}
    for name in dict.fromkeys(args.localizer or ("compact", RULES)):
        localizer = make_localizer(name) if name != RULES else None
        with tqdm(total=args.sentences, desc=name, unit="sentence") as bar:
            results[name] = bench(localizer, args.sentences, args.seed, bar.update)
        if localizer is not None:
            localizer.close()
        shown = "  ".join(f"{one} {results[name][one]:.3f}" for one in OUTCOMES)
        print(f"{name}: {shown}", flush=True)
    if args.json is not None:
        asked = " ".join(f"--localizer {name}" for name in results)
        command = f"carm bench dialogue {asked} --sentences {args.sentences} --seed {args.seed}"
        results_file.write(args.json, results_file.document(command, args.seed, results))
    return 0


def bench(localizer: Localizer | None, count: int, seed: int, progress: Any = lambda done: None) -> dict[str, Any]:
    """Return the share of each outcome over sentences drawn from words that training never sees.

    Args:
        localizer: Reads sentences (protocol 6); None: rules alone.
        count: Number of sentences.
        seed: Of the sentences.
        progress: Told 1 after each.
    """
    import numpy as np

    from carm_perception.datasets.language import sample

    rng = np.random.default_rng([seed, 81])
    outcomes: Counter[str] = Counter()
    meant: Counter[str] = Counter()
    done: Counter[str] = Counter()
    for _ in range(count):
        words, wanted = sample(rng, "test")
        outcome = outcome_of(words, wanted, localizer)
        outcomes[outcome] += 1
        meant[wanted.intent] += 1
        done[wanted.intent] += outcome == "done"
        progress(1)
    shares = {name: round(outcomes[name] / count, 4) for name in OUTCOMES}
    by_intent = {str(intent): round(done[intent] / meant[intent], 4) for intent in sorted(meant)}
    return {"n": count, **shares, "done_by_intent": by_intent}


class _Still(Hands):
    """Notes what is asked for and does nothing."""

    task = ""

    def __init__(self) -> None:
        self.said: list[Kind] = []
        self.stopped = False
        self.number = 0

    def say(self, kind: Kind, text: str, in_reply_to: str) -> None:
        self.said.append(kind)

    def stop(self, words: str) -> None:
        self.stopped = True

    def begin(self, errand: Errand, words: str) -> None:
        pass

    def expose(self, words: str) -> None:
        pass

    def ask_model(self, number: int, words: str) -> bool:
        self.number = number
        return True

    def find_point(self, number: int, name: str) -> bool:
        return False

    def consent(self, yes: bool) -> bool:
        return False

    def status(self) -> str:
        return ""

    def earlier(self) -> None:
        return None


class _Noted(Conversation):
    """Notes the command that is obeyed."""

    obeyed: Command | None = None

    def _obey(self, command: Command, words: str) -> None:
        self.obeyed = command
        super()._obey(command, words)


def outcome_of(words: str, wanted: Command, localizer: Localizer | None) -> str:
    """Return what the agent makes of one sentence, one of ``OUTCOMES``."""
    hands = _Still()
    conversation = _Noted(hands, lambda: 0.0)
    conversation.target_is(_TARGET)
    conversation.hear(Heard(words))
    if hands.number:
        conversation.model_answered(hands.number, None if localizer is None else _reading(localizer, words))
    if isinstance(wanted, Stop) or hands.stopped:
        if not hands.stopped:
            return "missed stop"
        return "done" if isinstance(wanted, Stop) else "unnecessary stop"
    obeyed = conversation.obeyed
    if isinstance(wanted, Unknown | Confirm):  # nothing waits for a yes here
        if obeyed is None or obeyed == wanted:
            return "done"
        return "wrong"
    if obeyed is None:
        return "asked back" if Kind.QUESTION in hands.said else "no action"
    if obeyed == wanted:
        return "done"
    return "other amount" if same_way(obeyed, wanted) else "wrong"


def _reading(localizer: Localizer, words: str) -> Command | None:
    """Return what the language model reads, as the agent's node takes it."""
    import numpy as np

    from carm_core.imaging.frame import XrayFrame
    from carm_core.localization import Protocol, Query

    blank = XrayFrame(np.zeros((8, 8), np.uint8), 1.0, 0.0)  # a command has no image
    reply = localizer.localize(blank, Query(Protocol.COMMAND, hint=words))
    try:
        return command_from_text(reply.answer) if reply.ok else None
    except AnswerError:
        return None
