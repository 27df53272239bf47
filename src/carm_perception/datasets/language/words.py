# SPDX-License-Identifier: Apache-2.0
"""Words and templates, each list with a part that training never sees.

A slot in braces stands for what the sentence generator fills in. Sentences of the split ``"test"`` are built on
templates that training does not hold, with words of both parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Pool:
    """Alternatives for one place in a sentence.

    Attributes:
        train: For training, and for testing too.
        test: For testing only.
    """

    train: tuple[str, ...]
    test: tuple[str, ...] = ()

    def word(self, rng: np.random.Generator, split: Split) -> str:
        """Draw a word: for testing from both parts."""
        options = self.train if split == "train" else self.train + self.test
        return options[int(rng.integers(len(options)))]

    def template(self, rng: np.random.Generator, split: Split) -> str:
        """Draw a template: for testing from the held-out part only."""
        options = self.train if split == "train" else self.test
        return options[int(rng.integers(len(options)))]


def pool(train: str, test: str = "") -> Pool:
    """Make a pool of two lists separated by ``|``."""
    return Pool(*(tuple(part.strip() for part in side.split("|") if part.strip()) for side in (train, test)))


BEFORE = pool(
    "please | ok | okay | now | ok now | could you | can you | would you | now please | hey | alright | well | uh | um"
    " | let's see | please could you | can you please | then | so | next | all right now",
    "kindly | would you kindly | would you mind if you | doctor here | fine | so now please",
)
AFTER = pool(
    "please | now | thanks | thank you | for me | if you can | ok | right away | would you | please now",
    "many thanks | when you are ready | cheers | if possible | for a moment | at once",
)

SEE = pool(
    "show me | show | go to | move to | bring me to | center on | center | drive to | navigate to | take me to"
    " | bring up | focus on | find | i want to see | i need to see | i would like to see | let me see | look at"
    " | head to | position on | put the beam on | steer to | get me | aim at | i need | i want | give me",
    "display | proceed to | travel to | let's have a look at | line up on | centre on | i'd like to look at | target"
    " | get to | set up on",
)
GO_THERE = pool(
    "{see} {mark} | {mark} | {see} {mark} | {see} {mark} in the image center | bring {mark} to the center"
    " | bring {mark} into view | put {mark} in the middle | {mark} in the center | center the image on {mark}"
    " | move the c-arm to {mark} | {see} {mark} now | next {mark} | now {mark} | {see} {mark}, not {other}"
    " | the next target is {mark} | target {mark} | i need an image of {mark} | get {mark} into the picture"
    " | move over to {mark} | take the c-arm to {mark} | we need {mark} | let's go to {mark}",
    "bring {mark} to the image center | {mark} should be in the middle of the image | can we have {mark} centered"
    " | let us look at {mark} next | drive the arm over {mark} | position the c-arm so that {mark} is centered"
    " | we now want {mark} in view | have {mark} in the center of the picture | go over to {mark}, not to {other}",
)

MOVE = pool(
    "move | go | shift | nudge | slide | translate | drive | pan | move it | move over | bring it | push it"
    " | move the c-arm | shift the view | move the arm | go on | scoot | bring the arm | move the beam",
    "displace it | travel | jog | relocate the view | take it | shove it | budge | ease it",
)
NUDGE = pool(
    "{move} {amount} {way} | {move} {way} by {amount} | {move} {way} {amount} | {amount} {way} | {way} {amount}"
    " | {amount} further {way} | {move} {amount} further {way} | {move} {amount} more {way} | another {amount} {way}"
    " | {amount} {way} from here | {way} by {amount} | i need to go {amount} {way} | we are {amount} off, go {way}",
    "let us have it {amount} {way} | it has to go {amount} {way} | {move} it {way} for {amount}"
    " | i would like it {amount} more {way} | make it {amount} {way} | {way}, {amount} | {amount} more {way}, that is",
)
NUDGE_VAGUE = pool(
    "{move} {way} | {move} {touch} {way} | {touch} {way} | {move} {touch} further {way} | {touch} more {way}"
    " | further {way} | {move} further {way} | {move} {way} {touch} | i want to see more {way} | {way}",
    "it should go {touch} {way} | {way}, {touch} | let it {move} {touch} more {way} | it needs to be {touch} {way}"
    " | still {touch} {way}",
)
NUDGE_BOTH = pool(
    "{move} {amount} {way} and {amount2} {way2} | {amount} {way} and {amount2} {way2}"
    " | {amount} {way}, {amount2} {way2} | {move} {way} {amount} and {way2} {amount2}"
    " | {move} {amount} {way} then {amount2} {way2}",
    "{amount} {way} plus {amount2} {way2} | {move} {way} by {amount} and also {way2} by {amount2}",
)
WAYS = {
    "left": pool(
        "left | to the left | to the left | leftwards | towards the left | to the patient's left | to the patients left"
        " | towards the patient's left side | to the left side | patient left | to the left of the patient",
        "leftward | toward the patient's left | on the patient's left | over to the left",
    ),
    "right": pool(
        "right | to the right | to the right | rightwards | towards the right | to the patient's right"
        " | to the patients right | towards the patient's right side | to the right side | patient right"
        " | to the right of the patient",
        "rightward | toward the patient's right | on the patient's right | over to the right",
    ),
    "up": pool(
        "up | up | upwards | towards the head | cranially | headwards | cephalad | superiorly | higher"
        " | towards the patient's head | up towards the head | in the cranial direction",
        "upward | toward the head | closer to the head | in the direction of the head",
    ),
    "down": pool(
        "down | down | downwards | towards the feet | caudally | footwards | inferiorly | lower"
        " | towards the patient's feet | down towards the feet | in the caudal direction",
        "downward | toward the feet | closer to the feet | in the direction of the feet",
    ),
}
IMAGE_WAYS = {
    "right": pool(
        "to the left of the image | image left | to the left of the screen | left in the image | to the image left",
        "towards the left edge of the picture | left on the monitor",
    ),
    "left": pool(
        "to the right of the image | image right | to the right of the screen | right in the image"
        " | to the image right",
        "towards the right edge of the picture | right on the monitor",
    ),
}
"""The patient's direction to words for the image's: the patient's right is on the image's left."""
TOUCH = pool("a touch | a tiny bit | a hair | a smidge | a tad", "a fraction | ever so slightly")
BIT = pool("a bit | a little | slightly | a little bit | somewhat | just a bit", "a small bit | just slightly")
LOT = pool("a lot | much | far | quite far | a good deal | a long way", "a great deal | very much")

TURN = pool(
    "rotate | turn | angle | tilt | swing | rotate the arm | turn the c-arm | tilt the c-arm | rotate it | angulate"
    " | swing the arm",
    "pivot | roll it | swivel | turn the gantry",
)
VIEW = pool("go to | set | give me | move to | rotate to | i want | show me | take | set it to | turn to | swing to")
VIEW_ABSOLUTE = pool(
    "{view} {angles} | {angles} | {angles} | {angles} view | {view} a {angles} view | {view} {angles} now"
    " | {view} an angulation of {angles} | change to {angles} | now {angles} | set the angle to {angles}",
    "let us have {angles} | i would like to have {angles} | the next view is {angles} | make that {angles}"
    " | switch to {angles}",
)
VIEW_NAMED = {
    (0, 0): pool(
        "AP | AP view | straight AP | frontal view | zero zero | an AP view | anteroposterior view"
        " | straight from the front | the frontal projection",
        "plain AP | AP projection",
    ),
    (90, 0): pool("lateral | lateral view | left lateral | a lateral view | LAO 90", "left lateral projection"),
    (-90, 0): pool("right lateral | right lateral view | a right lateral view | RAO 90", "right lateral projection"),
}
TURN_RELATIVE = pool(
    "{turn} {degrees} {lean} | {turn} {lean} by {degrees} | {degrees} more {lean} | another {degrees} {lean}"
    " | {turn} {degrees} more {lean} | {turn} {degrees} further {lean} | {turn} by {degrees} {lean}"
    " | {degrees} further {lean} | {turn} another {degrees} {lean} | increase {lean} by {degrees}"
    " | add {degrees} {lean}",
    "{turn} it {lean} by {degrees} | i need {degrees} more {lean} | go {degrees} further {lean}"
    " | let it {turn} {degrees} {lean}",
)
TURN_VAGUE = pool(
    "{turn} {lean} | {turn} {touch} {lean} | {turn} {touch} more {lean} | {turn} {touch} further {lean}"
    " | {turn} further {lean}",
    "it should {turn} {touch} {lean} | let it {turn} {touch} more {lean}",
)
LEANS = {
    "lao": pool(
        "LAO | to LAO | towards LAO | to the left | towards the patient's left | left anterior oblique",
        "toward LAO | leftwards",
    ),
    "rao": pool(
        "RAO | to RAO | towards RAO | to the right | towards the patient's right | right anterior oblique",
        "toward RAO | rightwards",
    ),
    "cran": pool("cranial | CRAN | cranially | towards the head | to cranial", "toward cranial | toward the head"),
    "caud": pool("caudal | CAUD | caudally | towards the feet | to caudal", "toward caudal | toward the feet"),
}
ANGLE_NAMES = {
    "lao": pool("LAO | LAO | LAO | left anterior oblique | L A O"),
    "rao": pool("RAO | RAO | RAO | right anterior oblique | R A O"),
    "cran": pool("CRAN | cranial | CRA"),
    "caud": pool("CAUD | caudal | CAU"),
}

EXPOSE = pool(
    "take a shot | take an image | one more image | another exposure | expose | x-ray now | take a picture | new image"
    " | shoot | take an x-ray | acquire an image | one exposure | another shot | fire | give me a new image"
    " | take another picture | image please | update the image | make an exposure | get a fresh image | x-ray on"
    " | one more shot | take one | fluoro shot | refresh the image | another image | single shot",
    "capture an image | record a radiograph | do another x-ray | one more picture | make another image | snap one"
    " | another radiograph | press the pedal",
)
CONFIRM = pool(
    "yes | ok | okay | go ahead | do it | confirmed | confirm | proceed | yes please | sure | that's right | correct"
    " | affirmative | sounds good | yes do it | fine | yep | yeah | agreed | ok go | go for it | yes go ahead"
    " | that is correct | looks good | i confirm | do that | exactly | please do",
    "absolutely | by all means | yes that is fine | very well | you may proceed | good, carry on | aye | of course",
)
STOP = pool(
    "stop | halt | freeze | stop now | stop it | stop moving | hold | hold it | hold on | wait | abort | cancel"
    " | do not move | don't move | dont move | stand still | emergency stop | emergency | e-stop | stop stop stop"
    " | whoa | pause | quit | stop right there | stop the arm | enough | that's enough | stay there | no more movement"
    " | don't go there | do not go to {mark} | don't rotate | never mind, stop | cancel that | abort the motion"
    " | stop at {mark} | stop, that is wrong | stop moving {way} | no stop | wait a moment | hold still"
    " | don't go any further | do not go {way} | stopp | stooop | freeze the arm | halt the motion",
    "cease | stay where you are | do not move to {mark} | please don't move any more | will you stop | stop everything"
    " | not moving | hold it there | do not rotate | i said stop | stop, i need {mark} first | don't turn | keep still"
    " | stop before {mark} | abort now",
)

WRONG = pool(
    "no | wrong | no no | nope | not that | no that's wrong | not that one | that is wrong | not this one | incorrect",
    "nah | no way | you got it wrong | that's not it",
)
CORRECT_MARK = pool(
    "{wrong}, i meant {mark} | {wrong}, {mark} | {wrong}, i want {mark} | i meant {mark} | {wrong}, i said {mark}"
    " | {mark}, not {other} | {wrong}, {mark} please | i said {mark} | {wrong}, go to {mark}, not {other}",
    "{wrong}, it is {mark} that i want | {wrong}, {mark} was what i asked for | i was talking about {mark}",
)
CORRECT_HINTS = {
    "other_side": pool(
        "{wrong}, the other side | the other side | wrong side | {wrong}, the other one | the other {part} | other side"
        " | {wrong}, the other {part} | that is the wrong side | the opposite side | {wrong}, on the other side"
        " | i meant the other {part} | this is the wrong {part}",
        "{wrong}, the opposite {part} | it is on the other side | the contralateral {part} | you mixed up the sides",
    ),
    "left_side": pool(
        "{wrong}, the left one | i meant the left one | {wrong}, the left side | {wrong}, i said left"
        " | the left one, not the right one | {wrong}, left not right",
        "{wrong}, i want the left one | it was the left one",
    ),
    "right_side": pool(
        "{wrong}, the right one | i meant the right one | {wrong}, the right side | {wrong}, i said right"
        " | the right one, not the left one | {wrong}, right not left",
        "{wrong}, i want the right one | it was the right one",
    ),
    "left": pool(
        "{wrong}, further to the left | {wrong}, more to the left | too far right | {wrong}, further left",
        "{wrong}, it is more on the left | you went too far to the right",
    ),
    "right": pool(
        "{wrong}, further to the right | {wrong}, more to the right | too far left | {wrong}, further right",
        "{wrong}, it is more on the right | you went too far to the left",
    ),
    "up": pool(
        "{wrong}, further up | {wrong}, higher | too low | {wrong}, it is higher up | that is too low"
        " | {wrong}, more towards the head",
        "{wrong}, it lies higher | you are too low",
    ),
    "down": pool(
        "{wrong}, further down | {wrong}, lower | too high | {wrong}, it is lower down | that is too high"
        " | {wrong}, more towards the feet",
        "{wrong}, it lies lower | you are too high",
    ),
    "look_again": pool(
        "{wrong}, look again | that is wrong | look again | this is not {mark} | that is not {mark} | check again"
        " | that is {other}, not {mark} | this is {other}, not {mark} | that's wrong | {wrong}, check again"
        " | i don't think this is {mark} | this is wrong | you are wrong | {wrong}, try again | that isn't {mark}",
        "have another look | this cannot be {mark} | you are looking at {other}, not at {mark} | reconsider that",
    ),
}
