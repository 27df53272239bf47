# SPDX-License-Identifier: Apache-2.0
"""Standard views by name, as DICOM positioner angles, and angles as clinicians write them ("RAO 30 CRAN 20").

Angles of named views are the middle of what textbooks of cardiac catheterization and orthopedic fluoroscopy give; a
clinician turns on from there. The detector is on the side that the name says: cranial towards the head.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from carm_core.errors import GoalError, UnknownNameError, quoted


@dataclass(frozen=True)
class StandardView:
    """A view by name.

    Attributes:
        name: As shown.
        primary_deg: DICOM positioner primary angle, LAO positive, deg.
        secondary_deg: DICOM positioner secondary angle, cranial positive, deg.
        synonyms: Other names, lower case.
        description: What it is for, one line; empty for views that are just their angles.
    """

    name: str
    primary_deg: float
    secondary_deg: float
    synonyms: tuple[str, ...] = ()
    description: str = ""

    @property
    def angles_rad(self) -> tuple[float, float]:
        """Primary and secondary angle, rad."""
        return math.radians(self.primary_deg), math.radians(self.secondary_deg)


STANDARD_VIEWS = (
    StandardView("AP", 0, 0, ("anteroposterior", "frontal", "straight"), "detector above the supine patient"),
    StandardView("PA", 180, 0, ("posteroanterior",), "detector below the supine patient"),
    StandardView("lateral", 90, 0, ("left lateral", "lat", "side", "lao 90"), "detector on the patient's left"),
    StandardView("right lateral", -90, 0, ("rao 90",), "detector on the patient's right"),
    StandardView("left oblique", 45, 0, ("oblique", "lao"), "halfway to the left"),
    StandardView("right oblique", -45, 0, ("rao",), "halfway to the right"),
    StandardView("spider", 45, -25, ("lao caudal", "spider view"), "left main coronary artery and its branches"),
    StandardView("AP cranial", 0, 30, ("cranial",), "left anterior descending artery and its diagonals"),
    StandardView("AP caudal", 0, -30, ("caudal",), "left main and circumflex arteries"),
    StandardView("LAO cranial", 45, 25, (), "left anterior descending artery, septal and diagonal branches"),
    StandardView("RAO cranial", -30, 25, (), "mid and distal left anterior descending artery"),
    StandardView("RAO caudal", -20, -20, (), "circumflex artery and obtuse marginals"),
    StandardView("inlet", 0, 30, ("pelvic inlet", "inlet view"), "pelvic ring from the head's side"),
    StandardView("outlet", 0, -40, ("pelvic outlet", "outlet view"), "pelvic ring and sacrum from the feet's side"),
)
"""Names are unique; a synonym belongs to one view."""

_AXES = {"lao": (0, 1), "rao": (0, -1), "cran": (1, 1), "cra": (1, 1), "cranial": (1, 1), "caud": (1, -1)}
_AXES |= {"cau": (1, -1), "caudal": (1, -1)}
_LIMITS_DEG = (190.0, 90.0)
_TERM = re.compile(
    r"(?P<axis>lao|rao|cranial|cran|cra|caudal|caud|cau)\s*(?P<deg>\d+(?:[.,]\d+)?)\s*(?:degrees?|deg|°)?"
    r"|(?P<deg2>\d+(?:[.,]\d+)?)\s*(?:degrees?|deg|°)?\s*(?P<axis2>lao|rao|cranial|cran|cra|caudal|caud|cau)"
)
_FILLERS = re.compile(r"\b(?:the|a|an|to|view|position|projection|and|please|go|turn|show|me|by|of)\b|[/;+]|[.,](?!\d)")


def find_view(text: str) -> StandardView:
    """Return the view that a name or a combination of angles stands for.

    Args:
        text: For example ``spider``, ``the AP view``, ``LAO 30``, ``RAO 30 CRAN 20``, ``30° LAO / 20° caudal``.

    Raises:
        UnknownNameError: It is neither; the error lists them, the nearest first.
        GoalError: An angle is named twice, or is outside what a C-arm can mean (190 and 90 degrees).
    """
    words = " ".join(_FILLERS.sub(" ", text.lower()).split())
    by_name = {name: view for view in STANDARD_VIEWS for name in (view.name.lower(), *view.synonyms)}
    if words in by_name:
        return by_name[words]
    terms = list(_TERM.finditer(words))
    if terms and not _TERM.sub("", words).strip():
        return _from_terms(text, terms)
    raise UnknownNameError.among("view", text.strip(), {view.name: view.synonyms for view in STANDARD_VIEWS}, 0.6)


def _from_terms(text: str, terms: list[re.Match[str]]) -> StandardView:
    angles: dict[int, float] = {}
    for term in terms:
        axis, sign = _AXES[term["axis"] or term["axis2"]]
        degrees = float((term["deg"] or term["deg2"]).replace(",", "."))
        if axis in angles:
            raise GoalError(f"{quoted(text)} gives the {('primary', 'secondary')[axis]} angle twice")
        if degrees > _LIMITS_DEG[axis]:
            raise GoalError(f"{quoted(text)}: {degrees:g} deg is beyond {_LIMITS_DEG[axis]:g} deg")
        angles[axis] = sign * degrees
    primary, secondary = angles.get(0, 0.0), angles.get(1, 0.0)
    return StandardView(described(primary, secondary), primary, secondary)


def described(primary_deg: float, secondary_deg: float) -> str:
    """Return angles as clinicians write them, for example ``LAO 30 CRAN 20``; ``AP`` for zero.

    Args:
        primary_deg: LAO positive, deg.
        secondary_deg: Cranial positive, deg.
    """
    parts = []
    for value, (positive, negative) in ((primary_deg, ("LAO", "RAO")), (secondary_deg, ("CRAN", "CAUD"))):
        if abs(value) >= 0.05:
            parts.append(f"{positive if value > 0 else negative} {round(abs(value), 1):g}")
    return " ".join(parts) or "AP"
