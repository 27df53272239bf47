# SPDX-License-Identifier: Apache-2.0
"""Standard views that are defined in the axes of a bone, not of the table: "true lateral of T12", "inlet".

Angles are DICOM's, but refer to the bone: 90/0 has the detector on the bone's own left, 0/30 tilts it by 30 degrees
toward the bone's own head. The detector's turn about the beam does not matter. ``docs/views.md`` shows the table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from carm_core.anatomy.axes import HIPS, PELVIS, SHOULDERS, TRUNK, VERTEBRAE, BoneAxes, named
from carm_core.anatomy.from_landmarks import BRIM_DEG
from carm_core.errors import GoalError, UnknownNameError, quoted
from carm_core.landmarks import find_landmark
from carm_core.transforms import Array

_LUMBAR = tuple(name for name in VERTEBRAE if name[0] == "L")
_KAUSCH = "Kausch et al., Int J CARS 15 (2020) and 18 (2023)"
_MERRILL = "Merrill's Atlas of Radiographic Positioning"
_TILE = "Pennal, Tile et al., Clin Orthop 151 (1980)"
_JUDET = "Judet, Judet and Letournel, J Bone Joint Surg Am 46 (1964)"


@dataclass(frozen=True)
class AnatomicalView:
    """A view of some bones.

    Attributes:
        name: As shown.
        bones: Bones that have it; the isocenter is at the origin of their axes.
        angles_deg: Primary and secondary angle in the bone's axes, deg; those of the left side where the view differs
            between sides: primary angles change their sign for the right.
        description: What it shows, in one line.
        source: Where it is defined.
        synonyms: Other names, lower case.
        either_way: Source and detector may change places.
        sided: Shows one side of a bone in the midline, which has to be named.
        any_turn: Every direction across the bone's head axis is one; the nearest to the present one is taken.
    """

    name: str
    bones: tuple[str, ...]
    angles_deg: tuple[float, float]
    description: str
    source: str
    synonyms: tuple[str, ...] = ()
    either_way: bool = False
    sided: bool = False
    any_turn: bool = False


ANATOMICAL_VIEWS = (
    AnatomicalView(
        "true AP", (*VERTEBRAE, TRUNK, PELVIS), (0, 0),
        "spinous process midway between the pedicles, end plates as lines; pelvis symmetric", _KAUSCH,
        ("true anteroposterior", "true frontal", "ap"),
    ),
    AnatomicalView(
        "true lateral", (*VERTEBRAE, TRUNK, PELVIS), (90, 0),
        "both pedicles as one, end plates as lines; from the side that is within reach", _KAUSCH, ("lateral",),
        either_way=True,
    ),
    AnatomicalView(
        "true left lateral", (*VERTEBRAE, TRUNK, PELVIS), (90, 0), "as true lateral, detector on the bone's left",
        _KAUSCH, ("left true lateral", "left lateral"),
    ),
    AnatomicalView(
        "true right lateral", (*VERTEBRAE, TRUNK, PELVIS), (-90, 0), "as true lateral, detector on the bone's right",
        _KAUSCH, ("right true lateral", "right lateral"),
    ),
    AnatomicalView(
        "end plates parallel", VERTEBRAE, (0, 0),
        "end plates as lines; otherwise as near to the present view as can be", _KAUSCH,
        ("end plates", "endplates", "end plate", "endplate"), any_turn=True,
    ),
    AnatomicalView(
        "oblique", _LUMBAR, (-45, 0), "facet joint of the named side, as the eye of the \"Scottie dog\"",
        f"{_MERRILL}, lumbar spine: AP oblique, 45°", ("scottie dog", "scotty dog", "facet joint", "true oblique"),
        either_way=True, sided=True,
    ),
    AnatomicalView(
        "inlet", (PELVIS,), (0, BRIM_DEG), "along the pelvic brim's axis: ring and front of the sacrum",
        f"{_TILE}: beam perpendicular to the brim", ("pelvic inlet", "true inlet", "inlet view"),
    ),
    AnatomicalView(
        "outlet", (PELVIS,), (0, -45), "45° from the other side: sacrum and its foramina, pubic rami",
        f"{_TILE}: 45° toward the head", ("pelvic outlet", "true outlet", "outlet view"),
    ),
    AnatomicalView(
        "obturator oblique", HIPS, (45, 0), "obturator ring en face: front column, back wall of the acetabulum",
        f"{_JUDET}: pelvis rolled by 45°, this hip raised", ("obturator",), either_way=True,
    ),
    AnatomicalView(
        "iliac oblique", HIPS, (-45, 0), "iliac wing en face: back column, front wall of the acetabulum",
        f"{_JUDET}: pelvis rolled by 45°, the other hip raised", ("iliac",), either_way=True,
    ),
    AnatomicalView(
        "Grashey", SHOULDERS, (0, 0), "across the plane of the scapula: glenohumeral joint space open",
        f"Grashey (1923); {_MERRILL}, shoulder: glenoid cavity",
        ("true ap", "grashey view", "glenohumeral ap"), either_way=True,
    ),
    AnatomicalView(
        "scapular Y", SHOULDERS, (90, 0), "along the plane of the scapula, across the trunk: body as the stem of a Y",
        "Rubin, Gray and Green, Radiology 110 (1974)", ("y view", "scapula y", "true lateral"), either_way=True,
    ),
)  # fmt: skip
"""A name or synonym, together with a bone, belongs to one view."""

_FILLERS = re.compile(
    r"\b(?:the|a|an|to|view|position|projection|and|please|go|turn|show|me|of|for|in|on|at|parallel)\b|[/;+.,]"
)
_SIDE = re.compile(r"\b(left|right)\b")
_BONE_WORDS = {TRUNK: TRUNK, "thorax": TRUNK, "chest": TRUNK, PELVIS: PELVIS, "pelvic ring": PELVIS}
_JOINT_WORDS = {"hip": "hip", "acetabulum": "hip", "hip joint": "hip", "shoulder": "shoulder", "scapula": "shoulder"}
_JOINT_WORDS |= {"glenohumeral joint": "shoulder", "shoulder joint": "shoulder", "shoulder blade": "shoulder"}


@dataclass(frozen=True)
class RequestedView:
    """A view of one bone.

    Attributes:
        view: Which.
        bone: One of ``view.bones``.
        side: ``"left"`` or ``"right"`` for a sided view, else empty.
    """

    view: AnatomicalView
    bone: str
    side: str = ""

    @property
    def name(self) -> str:
        """As spoken: ``"true lateral of T12"``."""
        side = f"{self.side} " if self.side else ""
        return f"{side}{self.view.name} of {named(self.bone)}"

    def directions(self, axes: BoneAxes, present: Array) -> list[Array]:
        """Return the unit vectors (3,) from source to detector that give the view, nearest to the present one first.

        Args:
            axes: Of the bone, in some frame.
            present: Present direction (3,), same frame.
        """
        if self.view.any_turn:
            across = present - (present @ axes.head) * axes.head
            length = float(np.linalg.norm(across))
            return [across / length if length > 1e-6 else axes.front]
        primary, secondary = self.view.angles_deg
        mirrored = self.side == "right" or (self.bone in HIPS and self.bone.startswith("right"))
        direction = axes.direction(-primary if mirrored else primary, secondary)
        ways = [direction, -direction] if self.view.either_way else [direction]
        return sorted(ways, key=lambda way: -float(way @ present))


def find_anatomical_view(text: str) -> RequestedView:
    """Return the view and the bone that a phrase asks for.

    Args:
        text: For example ``true lateral of T12``, ``Grashey of the left shoulder``, ``inlet``.

    Raises:
        UnknownNameError: It names no view; the error lists them.
        GoalError: The bone or its side is missing, unknown, or has no such view.
    """
    words = " ".join(_FILLERS.sub(" ", text.lower()).split())
    named = {name: view.name for view in ANATOMICAL_VIEWS for name in (view.name.lower(), *view.synonyms)}
    phrase = next((p for p in sorted(named, key=len, reverse=True) if re.search(rf"\b{re.escape(p)}\b", words)), None)
    if phrase is None:
        raise UnknownNameError.among(
            "anatomical view", text.strip(), {v.name: v.synonyms for v in ANATOMICAL_VIEWS}, 0.6
        )
    views = [view for view in ANATOMICAL_VIEWS if phrase in (view.name.lower(), *view.synonyms)]
    rest = " ".join(re.sub(rf"\b{re.escape(phrase)}\b", " ", words, count=1).split())
    bone, side = _bone(text, rest, views)
    view = next((view for view in views if bone in view.bones), None)
    if view is None:
        raise GoalError(f"{quoted(text)}: {views[0].name} is a view of {_listed(views)}, not of {bone}")
    if view.sided and not side:
        raise GoalError(f"{quoted(text)}: which side? say left or right {view.name} of {bone}")
    return RequestedView(view, bone, side if view.sided else "")


def listed_views() -> list[RequestedView]:
    """Return the views of trunk, pelvis, hips and shoulders, for lists to choose from; vertebrae are too many."""
    return [
        RequestedView(view, bone)
        for view in ANATOMICAL_VIEWS
        for bone in view.bones
        if bone not in VERTEBRAE and not view.sided and not view.name.startswith(("true left", "true right"))
    ]


def said_view(text: str) -> RequestedView | str | None:
    """Return the view of a bone that a sentence asks for, what it lacks, or None where it is about something else.

    Args:
        text: What was said, for example "show me a true lateral of T12" or "turn to the inlet view".
    """
    text = _ASKING.sub("", re.sub(r"[!?]", " ", text.lower()).strip())
    words = " ".join(_FILLERS.sub(" ", text).split())
    known = [name for view in ANATOMICAL_VIEWS for name in (view.name.lower(), *view.synonyms)]
    said = [name for name in known if re.search(rf"\b{re.escape(name)}\b", words)]
    if not said:
        return None
    try:
        return find_anatomical_view(text)
    except (GoalError, UnknownNameError) as error:  # "lateral" and "AP" alone are views of the table
        return str(error) if any(name not in _OF_THE_TABLE for name in said) else None


_ASKING = re.compile(
    r"^(?:(?:now|next|please)[ ,]+)*(?:(?:i|we) (?:want|need|would like)(?: to (?:see|have|get))?"
    r"|let us (?:see|have|take|get)|(?:can you )?(?:show|give|get)(?: me| us)?|take)\b|\bnow$"
)
"""How people ask for a view; "I see the inlet" and "we have the inlet now" ask for nothing."""
_OF_THE_TABLE = frozenset(("ap", "lateral", "left lateral", "right lateral"))


def _bone(text: str, rest: str, views: list[AnatomicalView]) -> tuple[str, str]:
    """Return the bone that the words beside the view's name mean, and the side that they name."""
    sides = set(_SIDE.findall(rest))
    plain = " ".join(_SIDE.sub(" ", rest).split())
    if len(sides) > 1:
        raise GoalError(f"{quoted(text)} names both sides; say left or right")
    side = next(iter(sides), "")
    joints = {bone.split()[1] for view in views for bone in view.bones if bone in (*HIPS, *SHOULDERS)}
    joint = _JOINT_WORDS.get(plain, next(iter(joints)) if not plain and len(joints) == 1 else "")
    if joint and (plain or len(views) == 1):
        if not side:
            raise GoalError(f"{quoted(text)}: which side? say left or right {joint}")
        return f"{side} {joint}", side
    if plain in _BONE_WORDS:
        return _BONE_WORDS[plain], side
    if not plain:
        if views[0].bones == (PELVIS,):
            return PELVIS, side
        raise GoalError(f"{quoted(text)}: of which bone? {views[0].name} is a view of {_listed(views)}")
    try:
        return find_landmark(plain).name, side
    except UnknownNameError:
        raise GoalError(
            f"{quoted(text)}: {quoted(plain)} is no bone with views; {views[0].name} is a view of {_listed(views)}"
        ) from None


def _listed(views: list[AnatomicalView]) -> str:
    bones = [bone for view in views for bone in view.bones]
    levels = [bone for bone in bones if bone in VERTEBRAE]
    others = [f"the {bone}" for bone in dict.fromkeys(b.split()[-1] for b in bones if b not in VERTEBRAE)]
    return " or ".join(([f"{levels[0]} to {levels[-1]}"] if levels else []) + others)
