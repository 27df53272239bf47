# SPDX-License-Identifier: Apache-2.0
"""The words that the rules know, as regular expressions over plain lower-case text."""

import re

from carm_agent.dialogue.quantities import NUMBER_WORDS, WORDS
from carm_core.landmarks import ALL_LANDMARKS

LIMITS = (
    r"limits?|velocity|speed|supervisor|safety|collisions?|overrid\w*|bypass\w*|ignor\w*|disabl\w*|unlock\w*|admin"
    r"|fast|faster|fastest|maximum|unlimited|restrictions?|rules|instructions?|percent|%|obey|pretend|exceed\w*"
    r"|the checks|without checking|safety checks|reset|unlatch\w*|developer|jailbreak|system|prompt"
)
IDIOMS = (
    r"right (?:away|there)|all right(?: now)?|alright(?: now)?|at once|bring up|set up|line up|for me|from here"
    r"|(?:what|how) about|head to|not (?:to )?(?:the )?(?:left|right)(?: one| side)"
)
YES = (
    r"yes|ok|okay|go ahead|do it|confirm|confirmed|i confirm|proceed|please do|sure|thats right|that is right|correct"
    r"|affirmative|sounds good|fine|yep|yeah|agreed|go for it|that is correct|thats correct|looks good|do that|exactly"
    r"|absolutely|by all means|that is fine|thats fine|very well|you may proceed|carry on|aye|of course|good|please|go"
    r"|right|thank you|thanks"
)
MERE_POLITENESS = r"(?:please|good|right|thank you|thanks|go|fine|ok|okay| )*"
NO = r"no|nope|nah|negative|no thanks|no thank you|rather not|no no"
QUESTION = (
    r"(?:where|what(?! an?\b)|which|why|who|whom|how|when|is|are|was|were|did|does|do you|have you|has|am i|should"
    r"|will it)\b.*"
)
WRONG = (
    r"no no|no thats wrong|no that is wrong|no way|no|nope|nah|wrong|incorrect|not (?:that|this)(?: one)?|thats wrong"
    r"|that is wrong|you got it wrong|thats not it|that is not it|this is wrong|you are wrong|youre wrong"
)
AGAIN = r"look again|check again|try again|(?:have )?another look|reconsider(?: that)?"
OTHER = (
    r"(?:other|opposite|contralateral) (?:side|one|#+)|wrong side|(?:the|this) wrong (?:side|one|#+)|mixed up the sides"
    r"|sides swapped"
)
MEANT = r"i (?:meant|said)|was talking about|was what i asked for"
EXPOSE = (
    r"(?:take|make|get|give me|do|acquire|capture|record|snap|update|refresh|shoot|one more|one|another|(?:a )?new"
    r"|a fresh|single)(?: (?:an?|the|one|more|another|new|fresh|single))*"
    r" (?:shot|image|picture|x ?ray|exposure|radiograph)"
    r"|expose|shoot|fire|x ray (?:now|on)|image please|fluoro shot|take one|snap one|press the pedal|x ray"
)
DEPTH = (
    r"(?:and )?(?:also )?(?:in (?:its )?depth|in (?:3 ?d|three dimensions|all three dimensions)"
    r"|(?:in|by|with|from|using|as) (?:a )?(?:biplane|two views|two angles|two directions)|biplane|bi plane)"
    r"(?: (?:too|also|as well))?"
)
TURN = r"(?:rotate|turn|angle|tilt|swing|angulate|pivot|roll|swivel)(?: (?:it|(?:the )?(?:c arm|arm|gantry)))?"
MOVE = (
    r"(?:move|go|shift|nudge|slide|translate|drive|pan|bring|push|scoot|displace|travel|jog|relocate|take|shove|budge"
    r"|ease)(?: (?:it|over|on|the c arm|the view|the arm|the beam))?"
)
AND = r"and (?:take|make|get|shoot|expose|rotate|turn|tilt)"
SEE = (
    r"show(?: me)?|go|move|bring|center|centre|drive|navigate|take|focus|find|see|look|steer|get|aim|need|want|give|put"
    r"|position|display|proceed|travel|line|have|target|next|let us|lets|head|set|should be"
)
NAMES = (
    ("lao", (1, 0), r"l ?a ?o|left anterior oblique"),
    ("rao", (-1, 0), r"r ?a ?o|right anterior oblique"),
    ("cran", (0, 1), r"cranial(?! direction)|cran|cra"),
    ("caud", (0, -1), r"caudal(?! direction)|caud|cau"),
)
LEANS = {name: axis for name, axis, _ in NAMES} | {
    "left": (1, 0),
    "right": (-1, 0),
    "up": (0, 1),
    "down": (0, -1),
}
FRONT = (
    r"(?:straight |plain |a |an |the )?(?:ap|frontal|anteroposterior)(?: (?:view|projection))?|zero zero|0 0"
    r"|straight from the front"
)
LATERAL = r"(?:a )?(left |right )?lateral(?: (?:view|projection))?"
VIEW = r"(?:an? |the )?(spider|inlet|outlet)(?: view)?"
STEPS = {"left": (1, 0), "right": (-1, 0), "up": (0, 1), "down": (0, -1)}
MORE = r"more|further|another|additional|increase|add|by|again|extra"
FILLERS = (
    rf"{MORE}|{MOVE}|{TURN}|{SEE}|please|now|ok|okay|could you|can you|would you|will you|hey|alright|well|uh|um|then"
    r"|so|let|lets|let us|see|kindly|fine|doctor here|would|you|can|all|thanks|thank you|many|cheers|a|an|at|once|the"
    r"|it|to|of|in|on|and|i|we|me|my|is|has|have|be|should|like|need|needs|want|off|from|over|degrees?|view|angle"
    r"|image|picture|center|centre|middle|into|position|c arm|arm|beam|that|make|its|side|patients?|also|plus|switch"
    r"|change|towards?|out|up|line|one|next|with|centered|centred|just|target|display|projection|still|about|roughly"
    r"|around|id|shot|go|this|way|going|come|keep|take|get|bit|little|c-arm|steer|navigate|for"
)
ASIDES = (
    r"when you are ready|(?:if|when) (?:you (?:can|could|would|like|please)|possible)|would you mind if you"
    r"|mind if you|for (?:a|one) moment|doctor here|we are|(?:go )?back to|back(?= to)|vertebra|angulation"
)
"""Courtesies, whose words would be conditions elsewhere."""
DENIED = r"not (?:(?:to|at|the|over|on|patients|vertebra) )*#(?: #)*"
"""A landmark that is named to say that another one is meant."""
CORRECTING = (
    r"this|that|it|is|isnt|thats|was|cannot|be|dont think|think|looking|look|at|too|low|high|lower|higher|far|further"
    r"|more|on|lies|went|are|up|down|left|right|one|side|sides|not|asked|what|got|had|another|around|swapped|mixed"
    r"|wrong|again"
)
"""Words of corrections, beside those that mark one."""
DOUBTS = (
    r"(?:is|are|looks?) (?:now |already |still )?(?:fine|good|ok|okay|well|here|there|perfect)"
    r"|i (?:can )?see|(?:in|after) (?:a|one|an) (?:minute|moment|second|while|hour)|back up"
    r"|to -?\d+(?:\.\d+)? ?(?:degrees?|deg|°)"
)
"""What makes a command doubtful although every word is known: a remark, a later time, an angle "to" which to turn."""


PATTERNS = (
    *(
        LIMITS,
        IDIOMS,
        YES,
        NO,
        QUESTION,
        WRONG,
        AGAIN,
        OTHER,
        MEANT,
        EXPOSE,
        DEPTH,
        TURN,
        MOVE,
        SEE,
        FRONT,
        CORRECTING,
        ASIDES,
    ),
    *(LATERAL, VIEW, MORE, FILLERS, *(pattern for *_, pattern in NAMES)),
)
VOCABULARY = frozenset(
    word
    for text in (
        *PATTERNS,
        *NUMBER_WORDS,
        *WORDS,
        *(name for mark in ALL_LANDMARKS for name in (mark.name, *mark.synonyms)),
    )
    for word in re.findall(r"[a-z]{4,}", text.lower())
)
NOT_GUESSED = frozenset(("right", "left", "reset", *NUMBER_WORDS))
"""Words that no misspelled word is taken for."""


def spelled(word: str) -> str:
    """Return the known word that a longer unknown one is one slip away from; else the word itself."""
    if len(word) < 4 or not word.isalpha() or word in VOCABULARY:
        return word
    close = [known for known in VOCABULARY - NOT_GUESSED if len(known) > 3 and _one_slip(word, known)]
    return close[0] if len({known[:5] for known in close}) == 1 and max(len(word), len(close[0])) > 4 else word


def _one_slip(one: str, other: str) -> bool:
    """Return whether two words differ by one letter left out, doubled, replaced or swapped with its neighbor."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    a, b = one[start:], other[start:]
    if len(a) == len(b):
        return a[1:] == b[1:] or (a[2:] == b[2:] and a[:2] == b[1::-1])
    return a[1:] == b or b[1:] == a
