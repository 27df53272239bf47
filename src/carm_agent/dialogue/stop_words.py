# SPDX-License-Identifier: Apache-2.0
"""The word that needs no language model: stop, in whatever wording.

Whatever sounds like a stop is one, also inside a longer sentence and when negated: an unneeded stop costs seconds.
Accents, invisible characters and letters that look like Latin ones do not hide it. Every step takes time that grows
with the length of the text only.
"""

import re
import unicodedata
from functools import lru_cache

_MOTION = r"(move|moving|go|going|rotate|rotating|turn|turning|drive|driving|shift|tilt|swing|touch)"
_STOP = re.compile(
    r"\b(sotp|stpo|tsop|stp|st0+p|halt(e|en|ed|ing)?|hold|freeze|abort|cancel"
    r"|wait|whoa+|pause|quit|emergency|cease|enough"
    rf"|(dont|do not|no more|never|not) (even )?({_MOTION}|motion|movement)"
    r"|no further(?= *$)|stand still|keep still|stay (there|put|where)"
    r"|no( no){2,}|watch out|look out|back off|let go|ouch|(it|that) hurts|danger)\b"
)
_ABROAD = (
    "notaus|anhalten|abbrechen|abbruch|aufh(o|oe)ren|stehen ?bleiben|stillhalten|warten?"
    "|nicht (weiter|bewegen|drehen|fahren)|beweg\\w* (dich |sich |sie sich )?nicht|keine bewegung",
    "arret(e|er|es|ez|ons)?|ne (bouge|bougez|bougeons) (pas|plus)|attendez|assez",
    "pare|paren|para|parar|alto|detente|detengase|detener|espera|no (te|se) muevas?|nao se mexa",
    "ferm(a|o|i|ati|ate|atevi|are)|basta|non (muover\\w*|ti muovere|si muova)|aspetta",
    "ophouden|hou op|niet bewegen|wacht|zatrzymaj\\w*|stoj|nie ruszaj\\w*|dur|durun|durdur",
    "стоп|стой|стойте|остановит\\w*|остановись|не двигай\\w*|قف|توقف|עצור",
)
_ABROAD_ANYWHERE = ("停", "别动", "住手", "止ま", "止め", "ストップ", "動くな", "動かないで", "やめ", "待って",
                    "정지", "멈춰", "멈추", "스톱", "그만")  # fmt: skip
"""In languages that are written without spaces."""
_LONGEST = 500
"""Characters; of longer texts the first and the last half as many are looked at, and all for the word "stop"."""
_HARMLESS = ("stopwatch", "stopcock", "stopgap", "stopover")
_LOOK_ALIKE = str.maketrans(
    "\u0430\u0441\u0435\u043e\u0440\u0455\u0442\u0445\u0443\u0456\u043f\u03b1\u03bf\u03b5\u03c4\u03c1\u03c5\ua731\u1d1b\u1d0f\u1d18\u1d07\u1d00\u1d1c",
    "aceopstxyinaoetpustopeau",
)
"""Small letters of other alphabets, and small capitals, that look like Latin letters."""


def _plain(text: str) -> str:
    """Return the small letters without accents and invisible characters."""
    parts = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in parts if unicodedata.category(c) not in ("Mn", "Me", "Cf"))


_WORDS_ABROAD = re.compile(rf"\b({_plain('|'.join(_ABROAD))})\b")
_PARTS_ABROAD = re.compile(_plain("|".join(_ABROAD_ANYWHERE)))


def is_stop(text: str) -> bool:
    """Return whether the words ask for a stop, in whatever wording."""
    if len(text) > _LONGEST:  # nobody says so much; nothing of it but a stop is obeyed
        if "stop" in text.lower():
            return True
        text = f"{text[: _LONGEST // 2]} {text[-_LONGEST // 2 :]}"
    return _asks_for_stop(text)


@lru_cache(maxsize=256)
def _asks_for_stop(text: str) -> bool:
    """Return whether a short text asks for a stop; who sends the same again and again is answered from memory."""
    plain = _plain(text).replace("\u2019", "").replace("'", "")
    latin = plain.translate(_LOOK_ALIKE)
    words = re.sub(r"[\W_]+", " ", latin)
    spelled = re.sub(r"\b(\w)[\W_]+(?=\w\b)", r"\1", latin)
    if any(_says_stop(variant) or _STOP.search(variant) for variant in (words, spelled)):
        return True
    native = re.sub(r"[\W_]+", " ", plain)
    return _WORDS_ABROAD.search(native) is not None or _PARTS_ABROAD.search(plain) is not None


def _says_stop(text: str) -> bool:
    """Return whether a word holds "stop", with letters doubled at will."""
    once = re.sub(r"(\w)\1+", r"\1", text)
    return any("stop" in word and not word.startswith(_HARMLESS) for word in re.split(r"[\W_]+", once))
