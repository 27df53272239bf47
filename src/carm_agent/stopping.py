# SPDX-License-Identifier: Apache-2.0
"""The word that needs no language model: stop, in whatever wording.

Whatever sounds like a stop is one, also inside a longer sentence and when negated: an unneeded stop costs seconds.
"""

import re
import unicodedata

_MOTION = r"(move|moving|go|going|rotate|rotating|turn|turning|drive|driving|shift|tilt|swing|touch)"
_STOP = re.compile(
    r"\b(s+t+o+p+(s|e|ed|en|ing|it|pen|pe|ping|ped)?|sto+pp*|sotp|stpo|tsop|stp|halt(e|en|ed|ing)?|hold|freeze|abort|cancel"
    r"|wait|whoa+|pause|quit|emergency|e ?stop|cease|enough|notaus|anhalten|abbrechen|arr[eê]te[rz]?|basta|alto"
    rf"|(dont|do not|no more|never|not) (even )?({_MOTION}|motion|movement)"
    r"|no further(?= *$)|stand still|keep still|stay (there|put|where))\b",
    re.IGNORECASE,
)


def is_stop(text: str) -> bool:
    """Return whether the words ask for a stop, in whatever wording."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "").replace("'", "")
    words = re.sub(r"[\W_]+", " ", plain)
    spelled = re.sub(r"\b(\w)[\W_]+(?=\w\b)", r"\1", plain)
    return any(_STOP.search(variant) for variant in (words, spelled))
