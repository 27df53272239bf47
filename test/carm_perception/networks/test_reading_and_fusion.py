# SPDX-License-Identifier: Apache-2.0
"""What the heads' outputs mean, and how two opinions become one."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carm_core.errors import LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Protocol, Query
from carm_perception.localizers.fused import FusedLocalizer, contradicted, radius_mm, tied
from carm_perception.networks.landmark_reader import COARSE, FINE, Reading, combined, joined, peak, shifted
from carm_perception.networks.preprocessing import FIELD_MM
from carm_perception.protocols.estimates import nearest_first
from carm_perception.uncertainty.fusion import RADIUS_90_PER_STD, Fusion, Joint, Opinion, join

CELL_MM = FIELD_MM / 32
HALVES = (0.5, 0.5)


@given(st.integers(0, 31), st.integers(0, 31))
def test_peak_lies_in_the_middle_of_a_certain_cell(row: int, column: int) -> None:
    probability = np.zeros(1025)
    probability[32 * row + column] = 1.0
    place, std, mass = peak(probability, FINE)
    assert place == pytest.approx([(column - 15.5) * CELL_MM, (15.5 - row) * CELL_MM], abs=1e-9)
    assert std == FINE.std_mm[-1]
    assert mass == 1.0


def test_peak_lies_between_cells_that_share_a_landmark() -> None:
    probability = np.zeros(1025)
    probability[[32 * 4 + 9, 32 * 4 + 10]] = 0.3, 0.1
    probability[1024] = 0.6
    place, std, mass = peak(probability, FINE)
    assert place == pytest.approx([(9.25 - 15.5) * CELL_MM, 11.5 * CELL_MM])
    assert mass == pytest.approx(0.4)
    assert std == pytest.approx(np.interp(0.4, FINE.mass, FINE.std_mm))


def test_coarse_cells_are_read_by_three_by_three() -> None:
    probability = np.zeros(257)
    probability[[16 * 4 + 9, 16 * 4 + 12]] = 0.4, 0.3
    place, _, mass = peak(probability, COARSE)
    assert place == pytest.approx([1.5 * FIELD_MM / 16, 3.5 * FIELD_MM / 16])
    assert mass == pytest.approx(0.4)


def test_likelier_of_two_places_is_taken_not_their_middle() -> None:
    probability = np.zeros(1025)
    probability[[32 * 4 + 4, 32 * 25 + 25]] = 0.5, 0.4
    assert peak(probability, FINE)[0] == pytest.approx([-11.5 * CELL_MM, 11.5 * CELL_MM])


def test_reading_takes_cells_for_what_is_seen_and_the_displacement_for_the_rest() -> None:
    mean, log_scale = torch.full((14, 2), 1.5), torch.full((14, 2), math.log(0.3))
    logits = torch.zeros(14, 1025)
    logits[:, 1024] = 20.0
    logits[3, 32 * 16 + 20] = 40.0
    reading = combined(mean, log_scale, logits, FINE)
    assert reading.seen.tolist() == [index == 3 for index in range(14)]
    assert reading.displacement_mm[3] == pytest.approx([4.5 * CELL_MM, -0.5 * CELL_MM])
    assert reading.displacement_mm[0] == pytest.approx([150.0, 150.0])
    assert reading.std_mm[0] == pytest.approx(math.sqrt(2) * 30.0, rel=1e-5)
    assert reading.presence[3] == pytest.approx(1.0)


def reading(place: float, std: float, presence: float = 0.9) -> Reading:
    return Reading(np.full((14, 2), place), np.full(14, std), np.full(14, True), np.full(14, presence))


def test_joined_readings_weigh_by_variance_and_are_wider_where_they_disagree() -> None:
    agreeing, apart = joined([reading(10.0, 4.0)] * 2, HALVES), joined([reading(0.0, 4.0), reading(20.0, 4.0)], HALVES)
    assert agreeing.displacement_mm[0] == pytest.approx([10.0, 10.0])
    assert agreeing.std_mm[0] == pytest.approx(4.0)
    assert apart.displacement_mm[0] == pytest.approx([10.0, 10.0])
    assert apart.std_mm[0] == pytest.approx(math.hypot(4.0, 10.0))
    unequal = joined([reading(0.0, 3.0), reading(20.0, 30.0, 0.1)], HALVES)
    assert unequal.displacement_mm[0, 0] == pytest.approx(20.0 / 101)
    assert unequal.presence[0] == pytest.approx(0.5)


@given(st.integers(-6, 6), st.integers(-6, 6))
def test_shifted_image_shows_the_same_elsewhere(right: int, down: int) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    moved = shifted(gray, right, down)
    assert moved.shape == gray.shape
    assert moved[16 + down, 16 + right] == gray[16, 16]


finite = st.floats(-400, 400)
radius = st.floats(2, 400)


def both(one: tuple[float, float, float], other: tuple[float, float, float], fusion: Fusion | None = None) -> Joint:
    """The joint opinion on one landmark that is seen: (right, up, radius) of the language model and of the referee."""
    speaker, referee = (Opinion(np.array([[x, y]]), np.array([r])) for x, y, r in (one, other))
    return join(speaker, referee, np.array([True]), fusion or Fusion())


@given(finite, finite, radius, finite, finite, radius)
def test_fusion_is_symmetric_and_never_surer_than_the_better(
    x: float, y: float, r: float, u: float, v: float, s: float
) -> None:
    one, other = both((x, y, r), (u, v, s)), both((u, v, s), (x, y, r))
    assert one.contradiction == other.contradiction
    if abs(r - s) > 1e-6:
        assert one.place_mm == pytest.approx(other.place_mm, abs=1e-6)
    assert one.std_mm[0] >= min(r, s) / RADIUS_90_PER_STD - 1e-9
    assert math.dist(one.place_mm[0], (x, y)) <= math.dist((x, y), (u, v)) + 1e-6


def test_agreeing_opinions_meet_nearer_to_the_better() -> None:
    joint = both((0, 0, 60), (10, 0, 20), Fusion(disagreement=0.0))
    assert not joint.contradiction[0]
    assert joint.place_mm[0] == pytest.approx((9.0, 0.0))
    assert joint.std_mm[0] == pytest.approx(20 / RADIUS_90_PER_STD)


def test_contradiction_is_told_and_costs_confidence() -> None:
    joint = both((0, 0, 20), (120, 0, 30))
    assert joint.contradiction[0]
    assert joint.apart_mm[0] == pytest.approx(120)
    assert joint.place_mm[0] == pytest.approx((0, 0))
    assert joint.std_mm[0] == pytest.approx(math.hypot(20 / RADIUS_90_PER_STD, 30))


def test_an_opinion_of_no_weight_only_widens() -> None:
    joint = both((10, 0, 20), (0, 0, 30), Fusion(weight_seen=0.0, disagreement=0.5))
    assert joint.place_mm[0] == pytest.approx((0, 0))
    assert joint.std_mm[0] == pytest.approx(math.hypot(30 / RADIUS_90_PER_STD, 5))


@pytest.mark.parametrize("content", [{"weight_seen": -1.0}, {"localization": "nobody"}, {"unknown": 1}])
def test_damaged_choice_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(LocalizerError, match="damaged"):
        Fusion.from_dict(content)
    assert Fusion.from_dict({}) == Fusion()


def test_a_landmark_is_not_the_closest_when_another_surely_is() -> None:
    near, far = LandmarkEstimate(11, (5, 0), 5, radius_90_mm=10), LandmarkEstimate(8, (90, 0), 10, radius_90_mm=30)
    assert contradicted(8, (near, far))
    assert not contradicted(11, (near, far))
    vague = LandmarkEstimate(8, (90, 0), 10, radius_90_mm=80)
    assert not contradicted(8, (near, vague))


def test_radius_without_calibration_is_that_of_a_normal_distribution() -> None:
    assert radius_mm(LandmarkEstimate(8, (0, 0), 10)) == pytest.approx(21.46)
    assert radius_mm(LandmarkEstimate(8, (0, 0), 10, radius_90_mm=33.0)) == 33.0


def test_of_two_that_seem_equally_far_the_vaguer_comes_last() -> None:
    order = nearest_first({10: (30.0, 0.0), 11: (0.0, 31.0), 12: (0.0, 200.0)}, {10: 60.0, 11: 6.0, 12: 6.0})
    assert [e.id for e in order] == [11, 10, 12]


@pytest.mark.parametrize(("second_mm", "open_question"), [(23.0, True), (30.0, False)])
def test_two_that_cannot_be_told_apart_are_a_tie(second_mm: float, open_question: bool) -> None:
    first, second = LandmarkEstimate(8, (0.0, 20.0), 8.0), LandmarkEstimate(9, (second_mm, 0.0), 8.0)
    assert tied(first, second) == open_question


def test_a_doubt_decides_a_tie_and_nothing_else(fused: FusedLocalizer, monkeypatch: pytest.MonkeyPatch) -> None:
    places = np.array([[900.0, 10.0 * i] for i in range(48)])
    places[9], places[10], places[12] = (20.0, 0.0), (0.0, 22.0), (60.0, 0.0)
    frame = XrayFrame(np.zeros((128, 128), np.uint8), FIELD_MM / 128, 0.0)

    def again(std_mm: float, earlier: str, hint: str = "are you sure?") -> tuple[int, ...]:
        reading = Reading(places, np.full(48, std_mm), np.ones(48, bool), np.ones(48))
        monkeypatch.setattr(fused._referee, "read", lambda frame: reading)
        reply = fused.localize(frame, Query(Protocol.REEVALUATION, hint=hint, correction=earlier))
        return tuple(e.id for e in reply.estimates)

    assert again(8.0, "[10,11]") == (11, 10)
    assert again(2.0, "[10,11]") == (10, 11)
    assert again(8.0, "[11,10]") == (10, 11)
    assert again(8.0, "[10,11]", "yes, this is T1") == (10, 11)
    assert again(8.0, "[10,11]", "no, more to the left") == (13, 11)


class Speaker(Localizer):
    """Says what it is told to; on a second look something else."""

    name = "compact"
    protocols = tuple(Protocol)

    def __init__(self, first: LandmarkEstimate, second: LandmarkEstimate) -> None:
        self._first, self._second = first, second
        self.asked: list[Query] = []

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        self.asked.append(query)
        again = query.protocol is Protocol.REEVALUATION
        return Localization(self.name, "", query, "an answer", (self._second if again else self._first,))


@pytest.fixture(scope="module")
def fused() -> FusedLocalizer:
    return FusedLocalizer(maximum_risk=0.0)


@pytest.mark.parametrize(("second", "agree"), [((0.0, 1.0), True), ((250.0, 0.0), False)])
def test_contradiction_asks_for_a_second_look(
    fused: FusedLocalizer, monkeypatch: pytest.MonkeyPatch, second: tuple[float, float], agree: bool
) -> None:
    gray = np.random.default_rng(0).integers(60, 200, (128, 128)).astype(np.uint8)
    frame = XrayFrame(gray, FIELD_MM / 128, 0.0)
    seen = fused._referee.localize(frame, Query(Protocol.POINTING, 11)).estimates[0]
    x, y = seen.displacement_mm
    away = 3 * radius_mm(seen)
    first = LandmarkEstimate(11, (x + away, y), 4 * seen.std_mm)
    again = LandmarkEstimate(11, (x + second[0] * away, y + second[1]))
    speaker = Speaker(first, again)
    monkeypatch.setattr(fused, "_speaker", speaker)
    reply = fused.localize(frame, Query(Protocol.POINTING, 11))
    assert [q.protocol for q in speaker.asked] == [Protocol.POINTING, Protocol.REEVALUATION]
    assert speaker.asked[1].correction == "an answer"
    assert f"{away:.0f} mm apart" in reply.message
    assert ("on a second look they agree" in reply.message) == agree
    assert ("is followed" in reply.message) != agree
    found = reply.estimates[0]
    assert math.dist(found.displacement_mm, seen.displacement_mm) < 2
    if not agree:
        assert found.std_mm > seen.std_mm
        assert found.confidence < seen.confidence
