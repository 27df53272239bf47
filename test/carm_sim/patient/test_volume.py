# SPDX-License-Identifier: Apache-2.0
"""Volume: the grid's place in LPS."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from carm_core.errors import PatientError
from carm_sim.patient.volume import Volume

OFFSETS = st.tuples(*[st.floats(-300, 300)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 5)] * 3)


def oblique_volume(rotation_vector: tuple[float, ...], spacing: tuple[float, ...], origin: tuple[float, ...]) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(rotation_vector).as_matrix() * np.array(spacing)
    affine[:3, 3] = origin
    return Volume(np.zeros((9, 10, 11), np.int16), affine)


@given(st.tuples(*[st.floats(-2, 2)] * 3), SPACINGS, OFFSETS)
def test_voxel_and_lps_are_inverse(
    rotation: tuple[float, ...], spacing: tuple[float, ...], origin: tuple[float, ...]
) -> None:
    volume = oblique_volume(rotation, spacing, origin)
    index = np.array([[0.0, 0, 0], [8, 9, 10], [2.5, 3.25, 7.75]])
    np.testing.assert_allclose(volume.voxel_from_lps(volume.lps_from_voxel(index)), index, atol=1e-6)
    np.testing.assert_allclose(volume.spacing_mm, spacing, rtol=1e-9)


def test_sample_is_trilinear_and_air_outside() -> None:
    hu = np.zeros((10, 10, 10), np.int16)
    hu[5] = 100
    volume = Volume(hu, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert volume.sample(np.array([9.0, 8, 8])) == pytest.approx(50)
    assert volume.sample(np.array([-50.0, 8, 8])) == pytest.approx(-1000)
    assert volume.contains(np.array([18.9, 18.9, 18.9]))
    assert not volume.contains(np.array([19.1, 0, 0]))


@pytest.mark.parametrize(
    ("hu", "affine"),
    [
        (np.zeros((4, 4), np.int16), np.eye(4)),
        (np.zeros((4, 4, 0), np.int16), np.eye(4)),
        (np.zeros((4, 4, 4), np.float32), np.eye(4)),
        (np.zeros((4, 4, 4), np.int16), np.diag([1.0, 1, 0, 1])),
        (np.zeros((4, 4, 4), np.int16), np.full((4, 4), np.nan)),
    ],
)
def test_absurd_grids_are_refused(hu: np.ndarray, affine: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(PatientError):
        Volume(hu, affine)


def test_body_box_ignores_a_separate_table() -> None:
    hu = np.full((80, 80, 40), -1000, np.int16)
    hu[20:60, 20:50, :] = 40
    hu[5:75, 62:64, :] = 500
    low, high = Volume(hu, np.diag([4.0, 4.0, 4.0, 1.0])).body_box_mm()
    np.testing.assert_allclose(low[:2], [78, 78])
    np.testing.assert_allclose(high[:2], [238, 198])


def test_body_box_of_air_is_refused() -> None:
    with pytest.raises(PatientError, match="nothing but air"):
        Volume(np.full((20, 20, 20), -1000, np.int16), np.eye(4)).body_box_mm()
