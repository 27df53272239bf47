# SPDX-License-Identifier: Apache-2.0
"""What the heads' outputs mean, and how two opinions become one."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.errors import LocalizerError
from carm_core.frame import XrayFrame
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Protocol, Query
from carm_perception.answers import nearest_first
from carm_perception.calibration.fusion import RADIUS_90_PER_STD, Fusion, Joint, Opinion, join
from carm_perception.fused import FusedLocalizer, contradicted, radius_mm
from carm_perception.heads import SEEN_MASS, SEEN_STD_MM, peak
from carm_perception.image import FIELD_MM

CELL_MM = FIELD_MM / 16


@given(st.integers(0, 15), st.integers(0, 15))
def test_peak_lies_in_the_middle_of_a_certain_cell(row: int, column: int) -> None:
    probability = np.zeros(257)
    probability[16 * row + column] = 1.0
    place, std, mass = peak(probability)
    assert place == pytest.approx([(column - 7.5) * CELL_MM, (7.5 - row) * CELL_MM], abs=1e-9)
    assert std == SEEN_STD_MM[-1]
    assert mass == 1.0


def test_peak_lies_between_cells_that_share_a_landmark() -> None:
    probability = np.zeros(257)
    probability[[16 * 4 + 9, 16 * 4 + 10]] = 0.3, 0.1
    probability[256] = 0.6
    place, std, mass = peak(probability)
    assert place == pytest.approx([(9.25 - 7.5) * CELL_MM, 3.5 * CELL_MM])
    assert mass == pytest.approx(0.4)
    assert std == pytest.approx(np.interp(0.4, SEEN_MASS, SEEN_STD_MM))


def test_likelier_of_two_places_is_taken_not_their_middle() -> None:
    probability = np.zeros(257)
    probability[[16 * 2 + 2, 16 * 13 + 13]] = 0.5, 0.4
    assert peak(probability)[0] == pytest.approx([-5.5 * CELL_MM, 5.5 * CELL_MM])


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
