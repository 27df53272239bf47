# SPDX-License-Identifier: Apache-2.0
"""Group axioms of rigid transforms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.transforms import RigidTransform, rotation_about

ANGLES = st.floats(-4, 4)


@st.composite
def transforms(draw: st.DrawFn) -> RigidTransform:
    """Any rotation with a translation of up to 1 m."""
    rotation = rotation_about("z", draw(ANGLES)) @ rotation_about("y", draw(ANGLES)) @ rotation_about("x", draw(ANGLES))
    return RigidTransform(rotation, [draw(st.floats(-1000, 1000)) for _ in range(3)])


@given(transforms(), transforms(), transforms())
def test_group_axioms(a: RigidTransform, b: RigidTransform, c: RigidTransform) -> None:
    point = np.array([1.0, -2, 3])
    assert ((a @ b) @ c).matrix == pytest.approx((a @ (b @ c)).matrix, abs=1e-6)
    assert (a @ a.inverse()).matrix == pytest.approx(np.eye(4), abs=1e-6)
    assert (a @ RigidTransform.identity()).matrix == pytest.approx(a.matrix)
    assert (a @ b).apply(point) == pytest.approx(a.apply(b.apply(point)), abs=1e-6)
    assert a.apply(point) - a.translation == pytest.approx(a.rotate(point), abs=1e-9)


def test_rotations_are_right_handed() -> None:
    assert rotation_about("z", np.pi / 2) @ [1, 0, 0] == pytest.approx([0, 1, 0])
    assert rotation_about("x", np.pi / 2) @ [0, 1, 0] == pytest.approx([0, 0, 1])
    assert rotation_about("y", np.pi / 2) @ [0, 0, 1] == pytest.approx([1, 0, 0])


def test_what_is_not_a_rigid_transform_is_refused() -> None:
    with pytest.raises(ValueError, match="rotation"):
        RigidTransform(np.diag([1.0, 1, -1]))
    with pytest.raises(ValueError, match="rotation"):
        RigidTransform(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="shape"):
        RigidTransform(np.eye(3), np.zeros(2))
    with pytest.raises(ValueError, match="last row"):
        RigidTransform.from_matrix(np.ones((4, 4)))


def test_a_transform_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        RigidTransform.identity().translation[0] = 1
