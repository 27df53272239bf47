# SPDX-License-Identifier: Apache-2.0
"""What the compact model is taught, it may say; what it may say, the parsers accept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.landmarks import LANDMARKS
from carm_core.localization import Protocol, Query
from carm_perception.protocols.grammar import measured
from carm_perception.protocols.parsing import parse
from carm_perception.training.compact import targets


@given(st.integers(0, 2**32 - 1), st.integers(1, 14))
def test_what_is_taught_may_be_said(seed: int, target: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, rng.choice((5, 80, 400)), (len(LANDMARKS), 2))
    said = targets.text(targets.navigation(target, truth))
    assert measured(Query(Protocol.NAVIGATION, target)).admits(said)
    again = targets.text(targets.reevaluation(targets.earlier_answer(truth, rng), truth))
    assert measured(Query(Protocol.REEVALUATION)).admits(again)


@given(st.data())
@pytest.mark.parametrize("protocol", [Protocol.NAVIGATION, Protocol.REEVALUATION])
def test_what_may_be_said_is_valid(protocol: Protocol, data: st.DataObject) -> None:
    query = Query(protocol, 11)
    parse(data.draw(st.from_regex(measured(query).regex, fullmatch=True)), query)


def test_reasons_have_the_form_that_was_taught() -> None:
    truth = np.arange(28.0).reshape(14, 2)
    said = targets.text(targets.navigation(11, truth))
    assert not measured(Query(Protocol.NAVIGATION, 11)).admits(said.replace(" mm ", " cm "))
    assert measured(Query(Protocol.POINTING, 4)).admits('{"target": 4, "dx_mm": -3, "dy_mm": 0}')
