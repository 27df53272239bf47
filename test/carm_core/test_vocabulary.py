# SPDX-License-Identifier: Apache-2.0
"""Landmark vocabulary, trajectories and parameters."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from carm_core.errors import ConfigurationError, UnknownNameError
from carm_core.landmarks import EXTRA_LANDMARKS, IDS, LANDMARKS, ROWS, find_landmark, landmark
from carm_core.parameters import FRAME_PREFIX, check_parameter, parameter, parameter_defaults
from carm_core.robot.trajectory import Trajectory
from carm_ros.parameters import declare_parameters


def test_ids_and_names_are_fixed() -> None:
    assert [(m.id, m.name) for m in LANDMARKS] == list(
        enumerate(
            (
                "Skull",
                "Right humeral head",
                "Left humeral head",
                "Right scapular inferior angle",
                "Left scapular inferior angle",
                "Right elbow",
                "Left elbow",
                "Right wrist",
                "Left wrist",
                "T1",
                "Carina",
                "Right hemidiaphragm",
                "Left hemidiaphragm",
                "T12",
            ),
            start=1,
        )
    )


def test_mirror_pairs_point_at_each_other() -> None:
    for mark in LANDMARKS:
        if mark.mirror_id is not None:
            assert landmark(mark.mirror_id).mirror_id == mark.id
            assert {mark.name.split()[0], landmark(mark.mirror_id).name.split()[0]} == {"Right", "Left"}


@pytest.mark.parametrize(
    ("text", "mark_id"),
    [
        ("carina", 11),
        ("the Carina", 11),
        ("LEFT_SHOULDER", 3),
        ("14", 14),
        ("right olecranon", 6),
        ("Tracheal bifurcation", 11),
        ("th1", 10),
    ],
)
def test_names_synonyms_and_ids_are_found(text: str, mark_id: int) -> None:
    assert find_landmark(text).id == mark_id


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("carnia", "Carina"),
        ("left elbo", "Left elbow"),
        ("elbow", "Right elbow or Left elbow"),
        ("xyzzy", None),
        ("", None),
    ],
)
def test_unknown_names_come_with_a_suggestion(text: str, suggestion: str | None) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_landmark(text)
    assert caught.value.suggestion == suggestion


def test_further_landmarks_start_at_101_and_follow_the_fourteen() -> None:
    ids = [mark.id for mark in EXTRA_LANDMARKS]
    assert sorted(ids) == list(range(101, 101 + len(ids)))
    names = [name.lower() for mark in (*LANDMARKS, *EXTRA_LANDMARKS) for name in (mark.name, *mark.synonyms)]
    assert len(set(names)) == len(names)
    for mark in EXTRA_LANDMARKS:
        assert find_landmark(mark.name) == landmark(mark.id) == mark
        if mark.mirror_id is not None:
            assert landmark(mark.mirror_id).mirror_id == mark.id
    assert [ROWS[mark.id] for mark in LANDMARKS] == list(range(14))
    assert IDS.tolist() == [mark.id for mark in (*LANDMARKS, *EXTRA_LANDMARKS)]
    assert find_landmark("4th lumbar vertebra").name == "L4"
    with pytest.raises(UnknownNameError, match="Right femoral head or Left femoral head"):
        find_landmark("hip")
    assert find_landmark("left hip").name == "Left femoral head"
    assert find_landmark("carina").id == 11


@pytest.mark.parametrize("order", [1, 3, 5])
def test_interpolation_passes_through_its_points_with_their_derivatives(order: int) -> None:
    rng = np.random.default_rng(order)
    times = np.array([0.0, 0.4, 1.0, 1.7])
    p, v, a = rng.normal(size=(3, 4, 2))
    trajectory = Trajectory(("a", "b"), times, p, v if order >= 3 else None, a if order == 5 else None)
    for k, t in enumerate(times[:-1]):
        for moment in (t, np.nextafter(times[k + 1], 0)):
            index = k if moment == t else k + 1
            position, velocity, acceleration = trajectory.sample(moment)
            assert position == pytest.approx(p[index], abs=1e-9)
            if order >= 3:
                assert velocity == pytest.approx(v[index], abs=1e-7)
            if order == 5:
                assert acceleration == pytest.approx(a[index], abs=1e-6)
    h = 1e-6
    before, now, after = (trajectory.sample(0.7 + d)[0] for d in (-h, 0, h))
    assert trajectory.sample(0.7)[1] == pytest.approx((after - before) / (2 * h), abs=1e-6)
    assert np.isfinite(now).all()


@pytest.mark.parametrize("times", [[], [0.0, 0.0], [1.0, 0.5], [-1.0, 0.0], [0.0, float("nan")]])
def test_bad_times_are_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="point|times"):
        Trajectory(("a",), np.array(times), np.zeros((len(times), 1)))


@dataclass(frozen=True)
class _Parameters:
    rate_hz: float = parameter(0.0, "rate", unit="Hz", lower=0.0, upper=30.0)
    names: list[str] = parameter(["a"], "names")
    count: int = parameter(3, "count", lower=1, upper=6, read_only=True)
    share: float = parameter(0.5, "share", lower=0.0)
    frame_prefix: str = parameter("", "prefix", pattern=FRAME_PREFIX)


def test_parameters_are_checked_against_their_declaration() -> None:
    assert parameter_defaults(_Parameters) == {
        "rate_hz": 0.0,
        "names": ["a"],
        "count": 3,
        "share": 0.5,
        "frame_prefix": "",
    }
    assert check_parameter(_Parameters, "rate_hz", 15.0) == ""
    assert check_parameter(_Parameters, "rate_hz", 31.0) == "rate_hz = 31.0 Hz is outside [0.0, 30.0] Hz"
    assert "finite" in check_parameter(_Parameters, "rate_hz", float("nan"))
    assert "unknown" in check_parameter(_Parameters, "rat", 1.0)
    for prefix, allowed in (("", True), ("left_arm/", True), ("lab/left_", True), ("/left/", False), ("l eft", False)):
        assert (check_parameter(_Parameters, "frame_prefix", prefix) == "") is allowed, prefix


def test_descriptors_have_ranges_and_refusals_keep_their_words() -> None:
    import rclpy
    from rclpy.node import Node
    from rclpy.parameter import Parameter

    context = rclpy.Context()
    context.init()
    try:
        for rate_hz in (0.0, 30.0):
            settings = {"parameter_overrides": [Parameter("rate_hz", value=rate_hz)], "context": context}
            node = Node("ranges", start_parameter_services=False, **settings)
            assert declare_parameters(node, _Parameters).rate_hz == rate_hz
            (rate,) = node.describe_parameter("rate_hz").floating_point_range
            (count,) = node.describe_parameter("count").integer_range
            (share,) = node.describe_parameter("share").floating_point_range
            assert (rate.from_value, rate.to_value) == (0.0, 30.0)
            assert (count.from_value, count.to_value) == (1, 6)
            assert (share.from_value, share.to_value) == (0.0, math.inf)
            assert node.describe_parameter("count").read_only
            at_limits = node.set_parameters([Parameter("rate_hz", value=0.0), Parameter("rate_hz", value=30.0)])
            assert all(result.successful for result in at_limits)
            beyond = node.set_parameters([Parameter("rate_hz", value=30.1), Parameter("rate_hz", value=math.nan)])
            assert not any(result.successful for result in beyond)
            node.destroy_node()
        wrong = Node("ranges", parameter_overrides=[Parameter("rate_hz", value=31.0)], context=context)
        with pytest.raises(ConfigurationError, match=r"rate_hz = 31.0 Hz is outside \[0.0, 30.0\] Hz"):
            declare_parameters(wrong, _Parameters)
        wrong.destroy_node()
    finally:
        context.shutdown()
