# SPDX-License-Identifier: Apache-2.0
"""The 22 body parts of protocol 7, by their ids, as in the UNIFESP X-ray body part competition (Kaggle, 2022)."""

from __future__ import annotations

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
