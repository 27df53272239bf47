# SPDX-License-Identifier: Apache-2.0
"""The seam between localizers and everybody who asks them: questions, answers, and one small abstract class."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import landmark

NAN = float("nan")
POINT_ID = 0
"""Id of the estimate of a point of the patient's CT, which is no landmark."""
POINT_NAME = "Point of the CT"
NEEDS_CT = "the patient's CT is needed: ct:=PATH with localizer fused or registered"


class Protocol(StrEnum):
    """Text protocols of the localizers; values as in ``Localize.action``."""

    POINTING = "pointing"
    COMMAND = "command"
    RETRIEVAL = "retrieval"
    LOCALIZATION = "localization"
    NAVIGATION = "navigation"
    REEVALUATION = "re-evaluation"


@dataclass(frozen=True)
class Query:
    """A question about one frame; a command is about a sentence only.

    Attributes:
        protocol: Form of the answer.
        target_id: Landmark asked for, or None.
        hint: What the clinician added, in plain words; of a command, the sentence itself.
        correction: Earlier answer that is to be reconsidered.
        point_mm: Point of the patient's CT that is asked for instead of a landmark, LPS, mm; None: none.
        among: Ids of the landmarks that lists and places are about; empty: all that the localizer knows.
    """

    protocol: Protocol = Protocol.LOCALIZATION
    target_id: int | None = None
    hint: str = ""
    correction: str = ""
    point_mm: tuple[float, float, float] | None = None
    among: tuple[int, ...] = ()

    def covers(self, landmark_id: int) -> bool:
        """Return whether an answer may name a landmark."""
        return not self.among or landmark_id in self.among


@dataclass(frozen=True)
class LandmarkEstimate:
    """Where a localizer believes a landmark to be.

    Attributes:
        id: Landmark id, or ``POINT_ID``.
        displacement_mm: From the image center at isocenter depth, mm; right and up in the display image.
            NaN when the protocol gives an order only.
        std_mm: Standard deviation of either component, mm; NaN when unknown.
        radius_90_mm: Radius that holds the landmark in 90 of 100 cases, mm; NaN when not calibrated.
        confidence: 0 to 1; NaN when unknown.
        radius_95_mm: As ``radius_90_mm``, in 95 of 100 cases.
        radius_97_mm: As ``radius_90_mm``, in 97 of 100 cases.
        depth_mm: Beyond the plane of the isocenter, along the beam, mm; NaN when unknown.
        depth_std_mm: Standard deviation of that, mm; NaN when unknown.
    """

    id: int
    displacement_mm: tuple[float, float]
    std_mm: float = NAN
    radius_90_mm: float = NAN
    confidence: float = NAN
    radius_95_mm: float = NAN
    radius_97_mm: float = NAN
    depth_mm: float = NAN
    depth_std_mm: float = NAN

    @property
    def name(self) -> str:
        """What it is an estimate of, for people."""
        return POINT_NAME if self.id == POINT_ID else landmark(self.id).name


@dataclass(frozen=True)
class Localization:
    """A localizer's reply: an answer, an abstention or an error; never a guess.

    Attributes:
        localizer: Name of the localizer.
        model_version: Short hash of its weights; empty when it has none.
        query: The question.
        answer: The answer, word for word; empty when there is none.
        estimates: Landmarks, closest to the image center first; empty on abstention and error.
        latency_s: From the start of inference to the answer, s.
        abstained: The localizer declines: not sure enough.
        message: Why it abstained or failed; empty when fine.
        error: Kind of failure (``"malformed"``, ``"internal"``), or None.
    """

    localizer: str
    model_version: str
    query: Query
    answer: str
    estimates: tuple[LandmarkEstimate, ...] = field(default=())
    latency_s: float = NAN
    abstained: bool = False
    message: str = ""
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an answer to act on."""
        return self.error is None and not self.abstained

    def estimate(self, landmark_id: int) -> LandmarkEstimate | None:
        """Return the estimate of one landmark, or None."""
        return next((e for e in self.estimates if e.id == landmark_id), None)


class Localizer(ABC):
    """Answers questions about X-ray frames. One thread at a time owns an instance.

    Attributes:
        name: Name in messages and reports.
        model_version: Short hash of the weights; empty when there are none.
        loaded: How the weights were loaded: memory, precision and device, and why; empty when there was no choice.
    """

    name: str
    model_version: str = ""
    loaded: str = ""

    @abstractmethod
    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question. Failures of the model are returned in ``error``, not raised."""

    def localize_batch(self, frame: XrayFrame, queries: Sequence[Query]) -> list[Localization]:
        """Answer questions about one frame, one reply each; as one batch if the localizer supports it."""
        return [self.localize(frame, query) for query in queries]

    def _reply(self, query: Query, start_s: float, **content: Any) -> Localization:
        """Return a reply to a question that came at ``start_s`` of ``time.perf_counter``; ``content``: its fields."""
        content.setdefault("answer", "")
        latency_s = time.perf_counter() - start_s
        return Localization(self.name, self.model_version, query, latency_s=latency_s, **content)

    def cancel(self) -> None:  # noqa: B027
        """Abort the present answer, from any thread; may do nothing, and does not affect later questions."""

    def warm_up(self) -> None:  # noqa: B027
        """Make the first real question as fast as the later ones."""

    def forget(self) -> None:  # noqa: B027
        """Forget what earlier images said: the next one belongs to another task. Most keep nothing anyway."""

    def close(self) -> None:  # noqa: B027
        """Release memory and connections."""
