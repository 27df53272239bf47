# SPDX-License-Identifier: Apache-2.0
"""The conversation with the clinician: every utterance is answered with what was understood and what will happen.

A stop needs no model and no context. Everything else is read twice, by rule and by the localizer's language model;
where the two contradict each other, the agent asks. What is obeyed becomes an errand, which is planned, checked and
supervised like any other goal: words choose among goals, nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

from carm_agent import phrases
from carm_agent.dialogue import actions
from carm_agent.dialogue.actions import Errand, Shift
from carm_agent.dialogue.parser import Heard, Reading, Topic, chosen, doubted, named_thing
from carm_agent.planning.anatomical_views import RequestedView, said_view
from carm_core.landmarks import LANDMARKS, landmark
from carm_core.language.commands import (
    Command,
    Confirm,
    Correct,
    Expose,
    Hint,
    Navigate,
    Nudge,
    Rotate,
    Stop,
    Unknown,
    same_way,
)

ABILITIES = (
    "I can bring a landmark to the image center: "
    + ", ".join(landmark.name for landmark in LANDMARKS)
    + ", any vertebra from C3 to L5, hips, knees, ankles, and the landmarks of pelvis and shoulders"
    + '. I can also move ("2 cm to the left"), turn ("LAO 30"), take an image, and be corrected ("no, the other side").'
    ' Say "stop" at any time to bring the arm to rest.'
)
"""What the agent can be told, in a few sentences."""

SEARCH_STEP_MM = 50
"""How far a correction such as "no, further up" moves before the search goes on, mm."""

_UNLIMITED = (
    "Words cannot change limits, speed or checks, and cannot reset a stop. I did nothing. Name a landmark, a distance"
    " or an angle alone."
)
_AXES = {Hint.LEFT: (1, 0), Hint.RIGHT: (-1, 0), Hint.UP: (0, 1), Hint.DOWN: (0, -1)}


class Kind(IntEnum):
    """Kinds of utterances; values as in ``Utterance.msg``."""

    INFO = 0
    REASON = 1
    QUESTION = 2
    WARNING = 3
    RESULT = 4
    ANSWER = 5


class Hands(ABC):
    """What a conversation can set in motion."""

    @abstractmethod
    def say(self, kind: Kind, text: str, in_reply_to: str) -> None:
        """Say something to the clinician."""

    @abstractmethod
    def stop(self, words: str) -> None:
        """Bring everything to rest, now, and say so."""

    @abstractmethod
    def begin(self, errand: Errand, words: str) -> None:
        """Begin an errand; a task that runs is ended first, with the arm at rest."""

    @abstractmethod
    def expose(self, words: str) -> None:
        """Take one image."""

    @abstractmethod
    def ask_model(self, number: int, words: str) -> bool:
        """Ask the language model to read a sentence; ``Conversation.model_answered`` is told.

        Returns:
            Whether there is one to ask.
        """

    @abstractmethod
    def find_point(self, number: int, name: str) -> bool:
        """Look for a name in the patient's CT; ``Conversation.point_found`` is told.

        Returns:
            Whether there is a CT to look in.
        """

    @abstractmethod
    def consent(self, yes: bool) -> bool:
        """Answer a motion that waits for a yes; return whether one does."""

    @property
    @abstractmethod
    def task(self) -> str:
        """What is being done; empty when nothing is."""

    @abstractmethod
    def status(self) -> str:
        """Say where the arm is and what was last done, in a sentence or two."""

    @abstractmethod
    def earlier(self) -> tuple[float, ...] | None:
        """Return the joint positions (J,) before the last motion, m or rad; None when there was none."""


@dataclass(frozen=True)
class Limits:
    """Bounds of what words can ask for.

    Attributes:
        nudge_mm: Longest move by words, mm.
        turn_deg: Largest relative turn by words, degrees.
        model_patience_s: Wait for the language model, s.
        question_patience_s: After this time a question of the agent's is no longer open, s.
    """

    nudge_mm: float = 200.0
    turn_deg: float = 45.0
    model_patience_s: float = 1.0
    question_patience_s: float = 30.0


@dataclass(frozen=True)
class _Pending:
    """A sentence that the language model is reading."""

    number: int
    heard: Heard
    until_s: float


@dataclass(frozen=True)
class _Question:
    """A question to the clinician: a sentence that lacks something, or commands to choose from."""

    words: str
    options: tuple[Command, ...]
    until_s: float


class Conversation:
    """Hears, asks back, and sets errands going. All calls come from one thread; none waits."""

    def __init__(self, hands: Hands, now_s: Callable[[], float], limits: Limits | None = None) -> None:
        """Begin to listen.

        Args:
            hands: What words set in motion.
            now_s: Monotonic time, s.
            limits: Bounds of what words can ask for.
        """
        self._hands, self._now_s, self._limits = hands, now_s, limits or Limits()
        self._pending: _Pending | None = None
        self._question: _Question | None = None
        self._count = 0
        self._target_id: int | None = None

    def target_is(self, target_id: int | None) -> None:
        """Note the landmark of a task that was not begun by words, so that it can be corrected by words; None: none."""
        self._target_id = target_id

    def forget_question(self) -> None:
        """Drop an open question, because another one has been put since: a yes answers the newest."""
        self._question = None

    def hear(self, heard: Heard) -> None:
        """Take one utterance of the clinician."""
        if heard.is_stop:
            self._pending = self._question = None
            self._hands.stop(heard.words)
            return
        if self._pending is not None:
            self._say(Kind.ANSWER, "I drop this for what you said next.", self._pending.heard.words)
            self._pending = None
        question = self._open_question()
        self._question = None
        if question is not None and self._completed(question, heard):
            return
        view = said_view(heard.words)
        if isinstance(view, RequestedView):
            self._set_going(actions.show(view), heard.words)
            return
        if view is not None:
            self._ask(f"{view[:1].upper()}{view[1:]}.", heard.words)
            return
        if self._replied(heard.intent, heard.words):
            return
        self._count += 1
        until_s = self._now_s() + self._limits.model_patience_s
        self._pending = _Pending(self._count, heard, until_s)
        intent = heard.intent
        clear = intent.certain and not isinstance(intent.command, Unknown)
        name = "" if clear or intent.landmarks or intent.topic is not Topic.NONE else named_thing(heard.words)
        if not name or not self._hands.find_point(self._count, name):
            self._ask_model()

    def point_found(self, number: int, name: str, point_mm: tuple[float, float, float] | None) -> None:
        """Take what the patient's CT says about a name.

        Args:
            number: Of the sentence, as in ``Hands.find_point``; a late answer about an earlier one is dropped.
            name: As it is written there.
            point_mm: Its place, LPS, mm; None: the CT does not know it.
        """
        if self._pending is None or self._pending.number != number:
            return
        if point_mm is None:
            self._ask_model()
        else:
            words, self._pending = self._pending.heard.words, None
            self._set_going(actions.bring_point(name, point_mm), words)

    def _ask_model(self) -> None:
        """Have the sentence that is pending read by the language model."""
        assert self._pending is not None
        until_s = self._now_s() + self._limits.model_patience_s
        self._pending = replace(self._pending, until_s=until_s)
        if not self._hands.ask_model(self._pending.number, self._pending.heard.words):
            self._settle(None)

    def model_answered(self, number: int, command: Command | None) -> None:
        """Take the language model's reading.

        Args:
            number: Of the sentence, as in ``Hands.ask_model``; a late answer about an earlier one is dropped.
            command: The reading; None when the model has none.
        """
        if self._pending is not None and self._pending.number == number:
            self._settle(command)

    def tick(self) -> None:
        """Let time pass: a model that is too slow is not waited for."""
        if self._pending is not None and self._now_s() >= self._pending.until_s:
            self._settle(None)

    def _say(self, kind: Kind, text: str, words: str) -> None:
        self._hands.say(kind, text, words)

    # Questions of the agent's

    def _open_question(self) -> _Question | None:
        question = self._question
        return question if question is not None and self._now_s() < question.until_s else None

    def _ask(self, text: str, words: str, options: tuple[Command, ...] = ()) -> None:
        self._question = _Question(words, options, self._now_s() + self._limits.question_patience_s)
        self._say(Kind.QUESTION, text, words)

    def _completed(self, question: _Question, heard: Heard) -> bool:
        """Take an utterance as the answer to a question; return whether it is one."""
        words, reading = heard.words, heard.intent
        if question.options:
            if reading.topic is Topic.DECLINE:
                self._say(Kind.ANSWER, "All right, I leave it.", words)
                return True
            place = chosen(words)
            if isinstance(reading.command, Confirm) and len(question.options) == 1:
                self._obey(question.options[0], words)
            elif reading.command in question.options:
                self._obey(reading.command, words)
            elif place is not None and place < len(question.options):
                self._obey(question.options[place], words)
            else:
                return False
            return True
        view = said_view(f"{question.words} {words}")
        if isinstance(view, RequestedView):
            self._set_going(actions.show(view), words)
            return True
        whole = Heard(f"{question.words} {words}").intent
        if isinstance(whole.command, Unknown):
            return False
        if whole.certain:
            self._obey(whole.command, words)
        else:
            self._ask(f"Did I get this right: {self._intention(whole.command)}?", words, (whole.command,))
        return True

    # Understanding

    def _replied(self, reading: Reading, words: str) -> bool:
        """Answer what needs no second reading; return whether it was that."""
        if isinstance(reading.command, Confirm):
            if self._hands.consent(True):
                self._say(Kind.INFO, "Going ahead.", words)
            else:
                self._say(Kind.ANSWER, "There is nothing to confirm.", words)
        elif reading.topic is Topic.DECLINE:
            declined = self._hands.consent(False)
            text = "All right, I do not move." if declined else 'Say "stop" to bring the arm to rest.'
            self._say(Kind.ANSWER, text, words)
        elif reading.topic is Topic.STATUS:
            self._say(Kind.ANSWER, self._hands.status(), words)
        elif reading.topic is Topic.LIMITS:
            self._say(Kind.WARNING, _UNLIMITED, words)
        elif reading.topic is Topic.LONG:
            self._say(Kind.WARNING, "That was too long for me. I did nothing; say it in one sentence.", words)
        elif reading.topic is Topic.BACK:
            self._go_back(words)
        elif reading.topic is Topic.VIEW and reading.certain:
            self._obey(reading.command, words)
        else:
            return False
        return True

    def _settle(self, command: Command | None) -> None:
        """Compare the two readings of a sentence, and act or ask."""
        pending, self._pending = self._pending, None
        assert pending is not None
        words, reading = pending.heard.words, pending.heard.intent
        ruled = reading.command
        if command == ruled and not isinstance(command, Unknown):
            self._obey(ruled, words)
        elif isinstance(command, Stop) and not (reading.certain and not isinstance(ruled, Unknown)):
            self._hands.stop(words)
        elif isinstance(ruled, Unknown):
            if command is None or isinstance(command, Unknown | Confirm) or reading.topic is not Topic.NONE:
                self._ask_for_more(reading, words)
            else:
                self._ask(f"Did I get this right: {self._intention(command)}?", words, (command,))
        elif command is None or isinstance(command, Unknown):
            if reading.certain:
                self._obey(ruled, words)
            else:
                self._ask(f"Did I get this right: {self._intention(ruled)}?", words, (ruled,))
        elif isinstance(command, Confirm | Stop):
            self._ask(f"Did I get this right: {self._intention(ruled)}?", words, (ruled,))
        elif reading.certain and same_way(ruled, command):
            self._obey(ruled, words)
        else:
            text = f"Which do you mean: first, {self._intention(ruled)}; or second, {self._intention(command)}?"
            self._ask(text, words, (ruled, command))

    def _ask_for_more(self, reading: Reading, words: str) -> None:
        topic = reading.topic
        if topic is Topic.WHICH and not reading.landmarks:
            self._ask("Which landmark do you mean?", words)
        elif topic is Topic.WHICH:
            names = " or ".join(phrases.called(mark) for mark in reading.landmarks)
            self._ask(f"Which one do you mean: {names}?", words)
        elif topic is Topic.WHERE_TO:
            self._ask("In which direction: left, right, up (towards the head) or down? And by how much?", words)
        elif topic is Topic.HOW_FAR:
            text = f"I move at most {self._limits.nudge_mm:.0f} mm and turn by whole degrees; please say it again."
            self._ask(text, words)
        elif topic is Topic.TWO:
            self._say(Kind.QUESTION, "One thing at a time, please: what first?", words)
        elif topic is Topic.QUESTION:
            self._say(Kind.ANSWER, f"I cannot answer that. {self._hands.status()}", words)
        else:
            self._say(Kind.WARNING, f"I did not understand that. {ABILITIES}", words)

    # Acting

    def _intention(self, command: Command) -> str:
        if isinstance(command, Expose):
            return "taking an image"
        if isinstance(command, Correct):
            return "what I took for right is wrong"
        errand = self._errand(command)
        return errand.doing if errand is not None else "nothing that I can do"

    def _errand(self, command: Command) -> Errand | None:
        if isinstance(command, Navigate):
            return actions.bring(command.target, in_depth=command.in_depth)
        if isinstance(command, Nudge):
            return actions.shift(command)
        if isinstance(command, Rotate):
            return actions.turn(command)
        return None

    def _obey(self, command: Command, words: str) -> None:
        if isinstance(command, Nudge) and max(abs(command.dx_mm), abs(command.dy_mm)) > self._limits.nudge_mm:
            text = f"That is too far: by words I move at most {self._limits.nudge_mm:.0f} mm. I did nothing."
            self._say(Kind.WARNING, text, words)
        elif isinstance(command, Rotate) and self._turns_too_far(command):
            text = f"That is too much: by words I turn at most {self._limits.turn_deg:.0f}° at once. I did nothing."
            self._say(Kind.WARNING, text, words)
        elif isinstance(command, Nudge | Rotate) and not _moves(command):
            self._say(Kind.ANSWER, "That would move nothing.", words)
        elif isinstance(command, Correct):
            self._correct(command.what, words)
        elif isinstance(command, Expose):
            self._expose(words)
        else:
            errand = self._errand(command)
            if errand is None:
                self._say(Kind.ANSWER, "There is nothing to confirm.", words)
            else:
                self._set_going(errand, words)

    def _turns_too_far(self, command: Rotate) -> bool:
        return command.relative and max(abs(command.primary_deg), abs(command.secondary_deg)) > self._limits.turn_deg

    def _expose(self, words: str) -> None:
        if self._hands.task:
            self._say(Kind.ANSWER, f"I am {self._hands.task} and take the images for it myself.", words)
        else:
            self._say(Kind.INFO, "Taking an image.", words)
            self._hands.expose(words)

    def _correct(self, what: int | Hint, words: str) -> None:
        if not isinstance(what, Hint):
            self._set_going(actions.bring(what, words), words)
            return
        if self._target_id is None:
            self._say(Kind.QUESTION, "Which landmark do you want in the image center?", words)
            return
        target = landmark(self._target_id)
        if what in _AXES:
            dx, dy = (SEARCH_STEP_MM * axis for axis in _AXES[what])
            self._set_going(actions.bring(target.id, words, Shift(dx, dy)), words)
        elif what is Hint.LOOK_AGAIN:
            self._set_going(actions.bring(target.id, words, doubt=doubted(words)), words)
        elif target.mirror_id is None:
            text = f"{phrases.called(target, start=True)} has no other side. Which landmark do you mean?"
            self._say(Kind.QUESTION, text, words)
        else:
            side = {Hint.LEFT_SIDE: "Left", Hint.RIGHT_SIDE: "Right"}.get(what)
            other = side is None or not target.name.startswith(side)
            self._set_going(actions.bring(target.mirror_id if other else target.id, words), words)

    def _go_back(self, words: str) -> None:
        positions = self._hands.earlier()
        if positions is None:
            self._say(Kind.ANSWER, "I have not moved yet: there is nothing to go back to.", words)
        else:
            self._set_going(Errand("going back to where we were", (actions.Recall(positions),)), words)

    def _set_going(self, errand: Errand, words: str) -> None:
        self._target_id = errand.target_id or self._target_id
        task = self._hands.task
        first = f"I break off {task}. " if task else ""
        self._say(Kind.INFO, f"{first}Now {errand.doing}.", words)
        self._hands.begin(errand, words)


def _moves(command: Nudge | Rotate) -> bool:
    if isinstance(command, Nudge):
        return bool(command.dx_mm or command.dy_mm)
    return not command.relative or bool(command.primary_deg or command.secondary_deg)
