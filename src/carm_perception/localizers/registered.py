# SPDX-License-Identifier: Apache-2.0
"""A localizer that knows the patient's CT: it registers the CT to the images and projects the CT's landmarks.

It starts from the learned landmarks of another localizer. Where the CT does not fit, ``registered`` abstains, and
``fused`` goes on without the CT; either says why.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.landmarks import landmark
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Protocol, Query
from carm_perception.localizers.fused import FusedLocalizer
from carm_perception.localizers.regression import written
from carm_perception.protocols.estimates import confidence
from carm_perception.registration.breathing import FOLLOWED, LEAST_SCORE, followed_mm
from carm_perception.registration.model import CtModel
from carm_perception.registration.registrar import Registrar, Registration
from carm_perception.uncertainty.fusion import RADIUS_90_PER_STD
from carm_sim.patient.patient import Patient
from carm_sim.patient_loader import with_landmarks

LANDMARK_STD_MM = 1.5
"""How exactly landmarks are known in a CT, mm."""
SOFT_STD_MM = {11: 4.0, 12: 8.0, 13: 8.0}
"""The same of carina and domes of the diaphragm, which breathing has moved since."""
FOLLOWED_STD_MM = 2.5
"""How exactly a dome is followed in the image, mm."""
_RADIUS_95_PER_STD, _RADIUS_97_PER_STD = math.sqrt(-2 * math.log(0.05)), math.sqrt(-2 * math.log(0.03))
_LISTS = (Protocol.LOCALIZATION, Protocol.RETRIEVAL)


class RegisteredLocalizer(Localizer):
    """Answers from the registered CT; from the learned localizer beside it where this is wanted.

    Attributes:
        registration: Of the last image that carried its view; None: there was none.
    """

    def __init__(
        self,
        ct: str | Patient,
        folder: Path | None = None,
        *,
        falls_back: bool,
        maximum_std_mm: float = 0.0,
        maximum_risk: float,
    ) -> None:
        """Load the CT and the learned localizer.

        Args:
            ct: As for ``carm_sim.patient_loader.load_patient``: the path of a CT with a ``landmarks.yaml``; or the CT.
            folder: Model folder of the learned localizer; None: the one that ships.
            falls_back: Whether the learned localizer answers where the CT does not; then this one is called ``fused``.
            maximum_std_mm: As of ``fused``.
            maximum_risk: As of ``fused``.

        Raises:
            PatientError: The CT cannot be loaded.
            ConfigurationError: Its landmarks are not known.
            LocalizerError: The learned localizer cannot be loaded.
        """
        patient = with_landmarks(ct) if isinstance(ct, str) else ct
        self.name = "fused" if falls_back else "registered"
        self._falls_back = falls_back
        self._learned = FusedLocalizer(folder, maximum_std_mm, maximum_risk=maximum_risk)
        self.model_version = self._learned.model_version
        self._registrar = Registrar(CtModel(patient))
        self.registration: Registration | None = None
        self._image: object = None

    def set_caution(self, maximum_std_mm: float, maximum_risk: float) -> None:
        """Change when the learned localizer abstains; see ``CalibratedLocalizer``."""
        self._learned.set_caution(maximum_std_mm, maximum_risk)

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question about a frame."""
        start = time.perf_counter()
        if query.protocol is Protocol.COMMAND:
            return self._learned.localize(frame, query)
        problem = self._registered(frame)
        if not problem and frame.view is not None and self.registration is not None:
            if query.target_id and query.target_id not in self._registrar.model.landmarks_mm:
                problem = f"the CT does not hold {landmark(query.target_id).name}"
            elif query.protocol is not Protocol.REEVALUATION or not self._falls_back:
                return self._projected(frame, frame.view, query, self.registration, start)
        if not self._falls_back:
            return self._reply(query, start, abstained=True, message=problem)
        reply = self._learned.localize(frame, query)
        message = "; ".join(part for part in (problem and f"without the CT: {problem}", reply.message) if part)
        return replace(reply, message=message, latency_s=time.perf_counter() - start)

    def cancel(self) -> None:
        """See ``Localizer``."""
        self._learned.cancel()

    def warm_up(self) -> None:
        """See ``Localizer``."""
        self._learned.warm_up()

    def forget(self) -> None:
        """See ``Localizer``."""
        self._registrar.close()
        self._registrar = Registrar(self._registrar.model)
        self.registration = self._image = None

    def close(self) -> None:
        """See ``Localizer``."""
        self._registrar.close()
        self._learned.close()

    def _registered(self, frame: XrayFrame) -> str:
        """Register a frame, once; return why the CT does not tell anything about it, empty when it does."""
        if frame.view is None:
            return "the position of the C-arm at the exposure is not known"
        if self._image is not frame.image or self.registration is None:
            reply = self._learned.localize(frame, Query(Protocol.POINTING))
            self.registration = self._registrar.register(frame, reply.estimates if reply.ok else ())
            self._image = frame.image
        return self.registration.reason

    def _projected(
        self, frame: XrayFrame, view: XrayView, query: Query, registration: Registration, start: float
    ) -> Localization:
        estimates = projected(view, registration, self._registrar.model)
        if query.target_id and query.protocol is Protocol.POINTING:
            estimates = tuple(e for e in estimates if e.id == query.target_id)
            estimates = tuple(self._followed(frame, view, registration, e) for e in estimates)
        text = written(query.protocol, estimates)
        listed = estimates[: 2 if query.protocol is Protocol.LOCALIZATION else None]
        note = f"registered CT (similarity {registration.similarity:.2f}, {registration.images} images)"
        return self._reply(query, start, answer=text, estimates=listed, message="" if self._falls_back else note)

    def _followed(
        self, frame: XrayFrame, view: XrayView, registration: Registration, estimate: LandmarkEstimate
    ) -> LandmarkEstimate:
        """Return where a dome of the diaphragm is in the image, where that is seen; other landmarks as they are."""
        if estimate.id not in FOLLOWED:
            return estimate
        model, pose = self._registrar.model, registration.transform_lps_to_table
        point = model.landmarks_mm[estimate.id]
        moved_mm, score = followed_mm(model, frame, pose, point)
        if score < LEAST_SCORE:
            return estimate
        there = pose.apply(point + np.array([0.0, 0.0, moved_mm]))
        pose_std = _in_view_std_mm(view, there, registration.covariance_mm2(point))
        return _estimate(estimate.id, view.displacement_mm(there), math.hypot(pose_std, FOLLOWED_STD_MM))


def projected(view: XrayView, registration: Registration, model: CtModel) -> tuple[LandmarkEstimate, ...]:
    """Return the CT's landmarks as they lie in a view, nearest to its center first."""
    estimates: list[LandmarkEstimate] = []
    for identifier, point in model.landmarks_mm.items():
        there = registration.transform_lps_to_table.apply(point)
        place = view.displacement_mm(there)
        if not np.isfinite(place).all():
            continue
        own = SOFT_STD_MM.get(identifier, LANDMARK_STD_MM)
        std = math.hypot(_in_view_std_mm(view, there, registration.covariance_mm2(point)), own)
        estimates.append(_estimate(identifier, place, std))
    return tuple(sorted(estimates, key=lambda e: math.hypot(*e.displacement_mm)))


def _estimate(identifier: int, place: np.ndarray, std: float) -> LandmarkEstimate:
    radii = [factor * std for factor in (RADIUS_90_PER_STD, _RADIUS_95_PER_STD, _RADIUS_97_PER_STD)]
    where = float(place[0]), float(place[1])
    return LandmarkEstimate(identifier, where, std, radii[0], confidence(std), radii[1], radii[2])


def _in_view_std_mm(view: XrayView, point_mm: np.ndarray, covariance_mm2: np.ndarray) -> float:
    """Return the standard deviation of either component at isocenter depth, mm."""
    axes: Sequence[np.ndarray] = view.display_axes
    scale = view.source_isocenter_mm / max(1.0, float((point_mm - view.source_mm) @ view.forward))
    return scale * math.sqrt(max(0.0, float(np.mean([axis @ covariance_mm2 @ axis for axis in axes]))))
