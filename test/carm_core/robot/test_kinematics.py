# SPDX-License-Identifier: Apache-2.0
"""Kinematics: forward and inverse agree everywhere, and with an independent implementation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_core.errors import ConfigurationError, GoalError, JointLimitError, UnreachableError
from carm_core.paths import config_file
from carm_core.robot.kinematics import CArm
from carm_core.robot.urdf import urdf

CARM = CArm.from_config()
LOWER = np.array([j.lower for j in CARM.joints])
UPPER = np.array([j.upper for j in CARM.joints])


@st.composite
def positions(draw: st.DrawFn) -> np.ndarray:
    """Joint positions over the whole range, the limits and the zero included."""
    fractions = [draw(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))) for _ in CARM.joints]
    q = LOWER + np.array(fractions) * (UPPER - LOWER)
    return np.where([draw(st.booleans()) and lo <= 0 <= hi for lo, hi in zip(LOWER, UPPER, strict=True)], 0.0, q)


@settings(max_examples=300, deadline=None)
@given(positions())
def test_inverse_of_forward_is_the_identity(q: np.ndarray) -> None:
    primary, secondary = CARM.angles(q)
    solutions = CARM.inverse(CARM.isocenter(q), primary, secondary, q[3], seed=q)
    errors = []
    for solution in solutions:
        CARM.check(solution)
        assert np.allclose(CARM.isocenter(solution), CARM.isocenter(q), atol=1e-9)
        assert CARM.view(solution).forward @ CARM.view(q).forward == pytest.approx(1, abs=1e-12)
        errors.append(np.abs(solution - q).max())
    singular = abs(math.cos(q[5])) < 1e-6
    assert singular or min(errors) < 1e-7


@settings(max_examples=100, deadline=None)
@given(st.floats(-math.pi, math.pi), st.floats(-1.5, 1.5), st.floats(-0.2, 0.2))
def test_forward_of_inverse_is_the_identity_or_a_named_refusal(primary: float, secondary: float, wig: float) -> None:
    try:
        solutions = CARM.inverse((0.1, -0.05, 0.15), primary, secondary, wig)
    except JointLimitError as error:
        assert not error.lower <= error.value <= error.upper
        assert error.joint in str(error)
        return
    except UnreachableError as error:
        assert sum(name in str(error) for name in CARM.joint_names) >= 2
        return
    for q in solutions:
        p, s = CARM.angles(q)
        assert math.cos(p - primary) == pytest.approx(1, abs=1e-9) or math.cos(secondary) < 1e-6
        assert s == pytest.approx(secondary, abs=1e-7)
        assert CARM.isocenter(q) == pytest.approx([0.1, -0.05, 0.15], abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(positions())
def test_jacobian_matches_finite_differences(q: np.ndarray) -> None:
    jacobian, h = CARM.jacobian(q), 1e-6
    for k in range(6):
        step = np.zeros(6)
        step[k] = h
        a, b = CARM.transform_carm_to_table(q - step), CARM.transform_carm_to_table(q + step)
        spin = (b.rotation - a.rotation) / (2 * h) @ CARM.transform_carm_to_table(q).rotation.T
        twist = [*((b.translation - a.translation) / (2 * h)), spin[2, 1], spin[0, 2], spin[1, 0]]
        assert jacobian[:, k] == pytest.approx(twist, abs=1e-8)


def test_forward_kinematics_matches_pinocchio_on_the_urdf() -> None:
    pin = pytest.importorskip("pinocchio")
    model = pin.buildModelFromXML(urdf(CARM))
    data = model.createData()
    assert tuple(model.names)[1:] == CARM.joint_names
    rng = np.random.default_rng(1)
    for q in [CARM.home, LOWER, UPPER, *rng.uniform(LOWER, UPPER, (200, 6))]:
        pin.framesForwardKinematics(model, data, q)
        view = CARM.view(q)
        optical = data.oMf[model.getFrameId("xray_optical")]
        detector = data.oMf[model.getFrameId("detector")]
        assert np.abs(optical.translation - view.source_mm / 1000).max() < 1e-9
        assert np.abs(optical.rotation - view.rotation).max() < 1e-9
        assert np.abs(detector.translation - view.detector_center_mm / 1000).max() < 1e-9
    assert model.lowerPositionLimit == pytest.approx(LOWER, abs=0)
    assert model.upperPositionLimit == pytest.approx(UPPER, abs=0)
    assert model.velocityLimit == pytest.approx([j.velocity for j in CARM.joints], abs=0)


@pytest.mark.parametrize(
    ("primary_deg", "secondary_deg", "towards"),
    [
        (0, 0, (0, 0, 1)),
        (90, 0, (0, -1, 0)),
        (0, 90, (1, 0, 0)),
        (30, 0, (0, -0.5, math.sqrt(0.75))),
        (-30, 0, (0, 0.5, math.sqrt(0.75))),
        (0, -30, (-0.5, 0, math.sqrt(0.75))),
    ],
)
def test_angle_signs_are_those_of_dicom(primary_deg: float, secondary_deg: float, towards: tuple[float, ...]) -> None:
    """LAO turns the detector to the patient's left (-y), cranial to the head (+x)."""
    q = CARM.inverse((0, 0, 0.1), math.radians(primary_deg), math.radians(secondary_deg))[0]
    assert CARM.view(q).forward == pytest.approx(towards, abs=1e-9)


def test_both_ways_to_look_from_below_are_offered() -> None:
    assert len(CARM.inverse((0, 0, 0.1), math.pi, 0.0)) == 2
    near_90 = CARM.inverse((0, 0, 0.1), math.radians(88), 0.0)
    assert len({round(float(q[5]), 6) for q in near_90}) == 2


def test_seed_picks_the_nearest_solution() -> None:
    seed = np.array([0, 0, 0.2, 0, -math.pi, 0.0])
    assert CARM.inverse((0, 0, 0.1), math.pi, 0.0, seed=seed)[0][4] == pytest.approx(-math.pi)


def test_refusals_name_joint_value_and_limits() -> None:
    with pytest.raises(
        JointLimitError, match=r"orbital = -1\.3963 rad is outside its limits \[-0\.8988, 1\.6842\] rad"
    ):
        CARM.inverse((0, 0, 0.1), math.radians(-80), 0)
    with pytest.raises(JointLimitError) as caught:
        CARM.inverse((0, 0, 0.9), 0, 0)
    assert (caught.value.joint, caught.value.unit) == ("lift", "m")
    with pytest.raises(UnreachableError, match="cart_longitudinal.*cart_lateral"):
        CARM.inverse((1.3, 0.5, 0.1), 0, 0)
    with pytest.raises(GoalError, match="finite"):
        CARM.inverse((float("nan"), 0, 0), 0, 0)
    with pytest.raises(GoalError, match="secondary"):
        CARM.inverse((0, 0, 0.1), 0, 2.0)
    with pytest.raises(GoalError, match="tilt = nan"):
        CARM.check([0, 0, 0, 0, float("nan"), 0])


def test_configuration_errors_name_the_file(tmp_path) -> None:
    text = config_file("carm.yaml").read_text(encoding="utf-8")
    for bad in (
        "",
        "joints: {}",
        text.replace("lower_m: -0.95", "lower_m: 1.10"),
        text.replace("lift_m: 0.17", "lift_m: 9"),
        text.replace("source_isocenter_distance_m: 0.530", "source_isocenter_distance_m: 1.53"),
    ):
        file = tmp_path / "carm.yaml"
        file.write_text(bad, encoding="utf-8")
        with pytest.raises((ConfigurationError, JointLimitError), match="carm.yaml|lift"):
            CArm.from_config(file)
    with pytest.raises(ConfigurationError, match="missing.yaml"):
        CArm.from_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize(("binning", "side"), [(3, 512), (1, 1024), (2, 768), (6, 100)])
def test_view_of_an_image_follows_from_its_camera_model(binning: int, side: int) -> None:
    whole = CARM.view(CARM.home, binning)
    view = CARM.view_of_image(CARM.home, side, side, whole.focal_px)
    assert view.focal_px == whole.focal_px
    assert (view.detector.columns, view.detector.rows) == (side, side)
    point = np.array([20.0, 30.0, 150.0])
    shift = (whole.detector.columns - side) / 2
    np.testing.assert_allclose(view.pixel_raw(point), whole.pixel_raw(point) - shift)


@pytest.mark.parametrize(("columns", "focal"), [(512, 1000.0), (512, 0.0), (512, math.nan), (600, 1020 / (3 * 0.194))])
def test_an_image_of_another_detector_has_no_view(columns: int, focal: float) -> None:
    with pytest.raises(ConfigurationError, match="focal length|larger than the detector"):
        CARM.view_of_image(CARM.home, columns, 512, focal)
