# SPDX-License-Identifier: Apache-2.0
"""What counts as the localizer's first answer."""

import pytest
from carm_interfaces.msg import Landmark, LandmarkArray

from carm_bringup.readiness import answered

REMARK = "language model and deep-learning localizer contradict each other about T1"


@pytest.mark.parametrize(
    ("message", "counts"),
    [
        (LandmarkArray(landmarks=[Landmark()]), True),
        (LandmarkArray(landmarks=[Landmark()], message=REMARK), True),
        (LandmarkArray(abstained=True, message="no X-ray image"), True),
        (LandmarkArray(message="the server cannot be reached"), False),
    ],
)
def test_an_answer_with_a_remark_is_one_and_a_failure_is_none(message: LandmarkArray, counts: bool) -> None:
    assert answered(message) == counts
