# SPDX-License-Identifier: Apache-2.0
"""Axes of bones from landmarks."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from carm_core.anatomy.axes import BONES, PELVIS, TRUNK, VERTEBRAE, BoneAxes, MissingAnatomyError, angle_deg, made
from carm_core.anatomy.from_landmarks import BRIM_DEG, ID, axes_of
from carm_core.transforms import RigidTransform

TURNED = RigidTransform(Rotation.from_euler("xyz", [12, -8, 20], degrees=True).as_matrix(), np.array([30.0, -50, 200]))


def body() -> dict[int, np.ndarray]:
    """A straight body in LPS: spine along z, pelvis upright."""
    marks = {name: np.array([0.0, 40, 25 * (12 - row)]) for row, name in enumerate(VERTEBRAE)}
    promontory = np.array([0.0, 30, -300])
    slope = np.radians(90 - BRIM_DEG)
    marks["Sacral promontory"] = promontory
    marks["Pubic symphysis"] = promontory + 110 * np.array([0, -np.cos(slope), -np.sin(slope)])
    for sign, side in ((1, "Left"), (-1, "Right")):
        marks[f"{side} humeral head"] = np.array([sign * 170.0, 20, 190])
        marks[f"{side} scapular inferior angle"] = np.array([sign * 100.0, 70, 60])
        marks[f"{side} femoral head"] = np.array([sign * 90.0, 0, -370])
        marks[f"{side} iliac crest"] = np.array([sign * 120.0, 20, -210])
    return {ID[name]: point for name, point in marks.items()}


@pytest.mark.parametrize("bone", [bone for bone in BONES if "shoulder" not in bone])
def test_axes_turn_with_the_body(bone: str) -> None:
    straight = axes_of(bone, body(), {})
    assert np.allclose(straight.rotation, np.eye(3), atol=1e-6)
    turned = axes_of(bone, {key: TURNED.apply(point) for key, point in body().items()}, {})
    expected = straight.moved(TURNED)
    assert np.allclose(turned.rotation, expected.rotation, atol=1e-6)
    assert np.allclose(turned.origin_mm, expected.origin_mm, atol=1e-6)


def test_directions_are_named_as_dicom_names_them() -> None:
    axes = axes_of("L3", body(), {})
    assert np.allclose(axes.direction(0, 0), [0, -1, 0])
    assert np.allclose(axes.direction(90, 0), [1, 0, 0])
    assert axes.direction(0, 30) @ axes.head == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("bone", "missing", "said"),
    [
        ("T5", ("T5",), "T5 need T5"),
        ("T5", ("T3", "T4", "T6", "T7"), "a vertebra next to it"),
        ("pelvis", ("Pubic symphysis",), "Pubic symphysis"),
        ("pelvis", ("Left femoral head", "Right iliac crest"), "both femoral heads or both iliac crests"),
        ("left hip", ("Left femoral head",), "Left femoral head"),
        ("trunk", ("T1",), "T1"),
        ("left shoulder", (), "left scapula"),
    ],
)
def test_what_is_missing_is_named(bone: str, missing: tuple[str, ...], said: str) -> None:
    marks = body()
    for name in missing:
        del marks[ID[name]]
    with pytest.raises(MissingAnatomyError, match=said):
        axes_of(bone, marks, {})


def test_labels_come_before_landmarks() -> None:
    tilted = made("T5", np.zeros(3), np.array([0.0, 0.2, 1.0]), np.array([1.0, 0.1, 0.0]))
    assert axes_of("T5", body(), {"T5": tilted}) is tilted
    thoracic = {name: BoneAxes(name, np.zeros(3), tilted.rotation) for name in ("T4", "T5", "T6")}
    assert angle_deg(axes_of(TRUNK, body(), thoracic).left, tilted.left) < 1.5
    pelvis = BoneAxes(PELVIS, np.zeros(3), TURNED.rotation)
    hip = axes_of("right hip", body(), {PELVIS: pelvis})
    assert np.allclose(hip.rotation, TURNED.rotation)
    assert np.allclose(hip.origin_mm, body()[ID["Right femoral head"]])
