# SPDX-License-Identifier: Apache-2.0
"""Axes of bones from labels, and their place in ``landmarks.yaml``."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from carm_core.anatomy.axes import angle_deg, made
from carm_core.anatomy.from_landmarks import ID
from carm_core.errors import PatientError
from carm_sim.patient.bone_axes import bone_axes, scapula_axes, vertebra_axes
from carm_sim.patient.ct.files import LandmarkFile, read_landmarks, write_landmarks
from carm_sim.patient.segmentation import STRUCTURES, Segmentation
from carm_sim.phantom.labels import structure_of

TURN = Rotation.from_euler("xyz", [14, -7, 9], degrees=True).as_matrix()


def vertebra(turn: np.ndarray, voxel_mm: float = 1.5) -> np.ndarray:
    """Voxels (N, 3) of a body 40 by 30 by 24 mm with a spinous and two transverse processes, turned."""
    axis = np.arange(-60, 60, voxel_mm)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    x, y, z = (grid @ turn).T
    body = ((x / 20) ** 2 + (y / 15) ** 2 < 1) & (np.abs(z) < 12)
    spinous = (np.abs(x) < 4) & (y > 25) & (y < 55) & (np.abs(z + 8) < 8)
    arch = (np.abs(x) > 9) & (np.abs(x) < 15) & (y > 8) & (y < 30) & (np.abs(z) < 7)
    transverse = (np.abs(x) < 38) & (y > 22) & (y < 30) & (np.abs(z) < 5)
    return grid[body | spinous | arch | transverse]


@pytest.mark.parametrize("turn", [np.eye(3), TURN], ids=["straight", "turned"])
def test_a_vertebra_is_found_turned(turn: np.ndarray) -> None:
    axes = vertebra_axes("L2", vertebra(turn), np.zeros(3), np.array([0.0, 0.1, 1.0]), 1.5)
    assert angle_deg(axes.head, turn[:, 2]) < 1.0
    assert angle_deg(axes.left, turn[:, 0]) < 1.0


def test_a_mask_without_a_body_is_refused() -> None:
    with pytest.raises(PatientError, match="no end plates of L2"):
        vertebra_axes("L2", vertebra(np.eye(3)), np.array([0.0, 0, 40]), np.array([0.0, 0, 1]), 1.5)


def test_a_scapula_has_the_plane_of_its_mask() -> None:
    rng = np.random.default_rng(0)
    turn = Rotation.from_euler("z", 35, degrees=True).as_matrix()
    blade = rng.uniform(-1, 1, (2000, 3)) * [50, 4, 70] @ turn.T
    axes = scapula_axes("left shoulder", blade, np.array([60.0, 0, 40]), np.array([0.0, 0, 1]))
    assert angle_deg(axes.front, -turn[:, 1]) < 1.0
    assert angle_deg(axes.left, turn[:, 0]) < 1.0
    assert axes.origin_mm.tolist() == [60, 0, 40]


def test_labels_of_a_cut_off_vertebra_give_no_axes() -> None:
    labels = np.zeros((80, 80, 80), np.uint16)
    for name, center in (("L2", 50), ("L3", 8)):
        voxels = np.rint(vertebra(np.eye(3)) / 1.5).astype(int) + np.array([40, 30, center])
        voxels = voxels[(voxels[:, 2] >= 0) & (voxels[:, 2] < 80)]
        labels[tuple(voxels.T)] = STRUCTURES[f"vertebrae_{name}"]
    shift = np.diag([1.5, 1.5, 1.5, 1.0])
    labels[:, :, 0] = STRUCTURES["vertebrae_L3"] * (labels[:, :, 1] > 0)
    found, left_out = bone_axes(Segmentation(labels, shift, STRUCTURES), {ID["L2"]: 1.5 * np.array([40.0, 30, 50])})
    assert list(found) == ["L2"]
    assert "cut off" in left_out["L3"]


def test_the_landmark_file_keeps_axes(tmp_path: Path) -> None:
    axes = made("T5", np.array([1.0, 2, 3]), TURN[:, 2], TURN[:, 0], "labels")
    path = tmp_path / "landmarks.yaml"
    write_landmarks(LandmarkFile("a" * 64, {10: np.zeros(3)}, {}, "test", {}, {"T5": axes}), path)
    read = read_landmarks(path).bones["T5"]
    assert np.allclose(read.rotation, TURN, atol=1e-3)
    assert (read.origin_mm.tolist(), read.method) == ([1, 2, 3], "labels")


HEAD = f"ct_sha256: {'a' * 64}\nlandmarks: []\n"


@pytest.mark.parametrize(
    ("bones", "told"),
    [
        ("bones: 3", "must map names"),
        ("bones: {T5: {origin_mm: [0, 0, 0], left: [1, 0, 0]}}", "T5 needs"),
        ("bones: {T5: {origin_mm: [0, 0, 0], left: [2, 0, 0], head: [0, 0, 1]}}", "of length 1"),
        ("bones: {T5: {origin_mm: [0, 0, .nan], left: [1, 0, 0], head: [0, 0, 1]}}", "T5 needs"),
        ("bones: {T5: {origin_mm: [0, 0, 0], left: [1, 0, 0], head: [0.6, 0, 0.8]}}", "perpendicular"),
    ],
)
def test_axes_that_make_no_sense_are_refused(tmp_path: Path, bones: str, told: str) -> None:
    path = tmp_path / "landmarks.yaml"
    path.write_text(HEAD + bones)
    with pytest.raises(PatientError, match=told):
        read_landmarks(path)


def test_older_and_newer_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.yaml"
    path.write_text(HEAD)
    assert read_landmarks(path).bones == {}
    path.write_text(HEAD + "bones: {left femur: {anything: 1}}")
    assert read_landmarks(path).bones == {}


def test_meshes_are_named_as_totalsegmentator_names_structures() -> None:
    named = {mesh: structure_of(mesh) for mesh in ("torso_geom_1_thoracic12_s", "scapula_l", "r_pelvis", "r_femur")}
    assert list(named.values()) == ["vertebrae_T12", "scapula_left", "hip_right", None]
