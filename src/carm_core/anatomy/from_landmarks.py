# SPDX-License-Identifier: Apache-2.0
"""Axes of bones from landmarks: a spine's direction, pairs of left and right, the pelvic brim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from carm_core.anatomy.axes import (
    HIPS,
    PELVIS,
    SHOULDERS,
    TRUNK,
    VERTEBRAE,
    BoneAxes,
    MissingAnatomyError,
    made,
    named,
)
from carm_core.landmarks import EXTRA_LANDMARKS, LANDMARKS
from carm_core.transforms import Array

ID = {mark.name: mark.id for mark in (*LANDMARKS, *EXTRA_LANDMARKS)}
_PAIRS = ("humeral head", "scapular inferior angle", "iliac crest", "femoral head")
_NEAR_MM = 250.0
"""Pairs of landmarks this near to a vertebra tell its left, mm."""
_LEFT_LPS = np.array([1.0, 0.0, 0.0])
_LEVELS = 2
"""Vertebrae this many levels away tell the spine's direction."""
BRIM_DEG = 30.0
"""Between the pelvic brim and the pelvis's front plane (Gray's Anatomy: the brim lies 60° to the horizontal in the
anatomical position, in which iliac spines and symphysis are in one vertical plane)."""
_LEAST_THORACIC = 3
_WANTS_LABELS = "; `carm patient landmarks --segmentation` finds what TotalSegmentator shows"


def axes_of(bone: str, landmarks_mm: Mapping[int, Array], known: Mapping[str, BoneAxes]) -> BoneAxes:
    """Return the axes of a bone: those that labels gave, else what landmarks tell.

    Args:
        bone: One of ``carm_core.anatomy.axes.BONES``.
        landmarks_mm: Landmark id, with those from 101 on, to its LPS position (3,), mm.
        known: Axes from labels by the bone's name, LPS.

    Raises:
        MissingAnatomyError: They cannot be told.
    """
    if bone in known:
        return known[bone]
    if bone in VERTEBRAE:
        return _vertebra(bone, landmarks_mm)
    if bone in HIPS:
        side = bone.split()[0].capitalize()
        (head,) = _need(bone, landmarks_mm, f"{side} femoral head")
        return replace(axes_of(PELVIS, landmarks_mm, known), name=bone, origin_mm=head)
    if bone in SHOULDERS:
        raise MissingAnatomyError(f"the plane of the {bone.split()[0]} scapula is not known" + _WANTS_LABELS)
    return _trunk(landmarks_mm, known) if bone == TRUNK else _pelvis(landmarks_mm)


def _need(bone: str, landmarks_mm: Mapping[int, Array], *names: str) -> list[Array]:
    missing = [name for name in names if ID[name] not in landmarks_mm]
    if missing:
        wanted = " and ".join(missing)
        raise MissingAnatomyError(
            f"the axes of {named(bone)} need {wanted}, which the CT's landmarks lack" + _WANTS_LABELS
        )
    return [np.asarray(landmarks_mm[ID[name]], float) for name in names]


def _left_near(place: Array, landmarks_mm: Mapping[int, Array], reach_mm: float) -> tuple[Array, str]:
    """Return the direction to the left by the pairs around a place (3,), and which they are."""
    found, names = [], []
    for pair in _PAIRS:
        ends = [landmarks_mm.get(ID[f"{side} {pair}"]) for side in ("Left", "Right")]
        if ends[0] is not None and ends[1] is not None:
            left, right = (np.asarray(end, float) for end in ends)
            if np.linalg.norm((left + right) / 2 - place) < reach_mm:
                found.append((left - right) / np.linalg.norm(left - right))
                names.append(f"{pair}s")
    return (np.mean(found, axis=0), ", ".join(names)) if found else (_LEFT_LPS, "the CT's own left")


def _vertebra(bone: str, landmarks_mm: Mapping[int, Array]) -> BoneAxes:
    (center,) = _need(bone, landmarks_mm, bone)
    row = VERTEBRAE.index(bone)
    levels = range(max(0, row - _LEVELS), min(len(VERTEBRAE), row + _LEVELS + 1))
    there = {level: landmarks_mm[ID[VERTEBRAE[level]]] for level in levels if ID[VERTEBRAE[level]] in landmarks_mm}
    above, below = (max((k for k in there if k < row), default=row), min((k for k in there if k > row), default=row))
    if above == below:
        raise MissingAnatomyError(f"the axes of {bone} need a vertebra next to it among the landmarks" + _WANTS_LABELS)
    left, pairs = _left_near(center, landmarks_mm, _NEAR_MM)
    head = np.asarray(there[above]) - np.asarray(there[below])
    method = f"line from {VERTEBRAE[below]} to {VERTEBRAE[above]}; left by {pairs}"
    return made(bone, center, head, left, method)


def _trunk(landmarks_mm: Mapping[int, Array], known: Mapping[str, BoneAxes]) -> BoneAxes:
    top, bottom = _need(TRUNK, landmarks_mm, "T1", "T12")
    middle = (top + bottom) / 2
    lefts = [axes.left for name, axes in known.items() if name in VERTEBRAE and name[0] == "T"]
    if len(lefts) >= _LEAST_THORACIC:
        left, method = np.mean(lefts, axis=0), f"left by {len(lefts)} thoracic vertebrae"
    else:
        shoulders = {ID[f"{side} {pair}"] for side in ("Left", "Right") for pair in _PAIRS[:2]}
        near = {key: point for key, point in landmarks_mm.items() if key in shoulders}
        left, pairs = _left_near(middle, near, np.inf)
        method = f"left by {pairs}"
    return made(TRUNK, middle, top - bottom, left, f"line from T12 to T1; {method}")


def _pelvis(landmarks_mm: Mapping[int, Array]) -> BoneAxes:
    promontory, symphysis = _need(PELVIS, landmarks_mm, "Sacral promontory", "Pubic symphysis")
    pair = next(
        (
            p
            for p in ("femoral head", "iliac crest")
            if ID[f"Left {p}"] in landmarks_mm and ID[f"Right {p}"] in landmarks_mm
        ),
        None,
    )
    if pair is None:
        raise MissingAnatomyError("the axes of the pelvis need both femoral heads or both iliac crests" + _WANTS_LABELS)
    left, right = (np.asarray(landmarks_mm[ID[f"{side} {pair}"]], float) for side in ("Left", "Right"))
    across = (left - right) / np.linalg.norm(left - right)
    turn = Rotation.from_rotvec(np.radians(BRIM_DEG) * across).as_matrix()
    head = turn @ (promontory - symphysis)
    method = f"left by {pair}s; the brim, promontory to symphysis, {BRIM_DEG:g}° from the front plane"
    return made(PELVIS, (promontory + symphysis) / 2, head, across, method, keep_left=True)
