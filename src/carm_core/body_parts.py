# SPDX-License-Identifier: Apache-2.0
"""The 22 body parts of protocol 7, by their ids, as in the UNIFESP X-ray body part competition (Kaggle, 2022)."""

from __future__ import annotations

from collections.abc import Sequence

BODY_PARTS = (
    "Abdomen",
    "Ankle",
    "Cervical Spine",
    "Chest",
    "Clavicles",
    "Elbow",
    "Feet",
    "Finger",
    "Forearm",
    "Hand",
    "Hip",
    "Knee",
    "Lower Leg",
    "Lumbar Spine",
    "Others",
    "Pelvis",
    "Shoulder",
    "Sinus",
    "Skull",
    "Thigh",
    "Thoracic Spine",
    "Wrist",
)
"""Names; the id is the place, from 0."""


def label_text(part_ids: Sequence[int]) -> str:
    """Return ids in the form of the paper's labels, ``<label_id>9,21</label_id>``."""
    return f"<label_id>{','.join(map(str, part_ids))}</label_id>"


def part_names(part_ids: Sequence[int]) -> str:
    """Return names for a sentence: ``Hand and Wrist``."""
    return " and ".join(BODY_PARTS[number] for number in part_ids)
