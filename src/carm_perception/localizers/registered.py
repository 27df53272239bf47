# SPDX-License-Identifier: Apache-2.0
"""A localizer that knows the patient's CT: it registers the CT to the images and projects the CT's landmarks.

Any other point of the CT can be asked for, too. The registration starts from the learned landmarks of another
localizer. Where the CT does not fit, ``registered`` abstains, and ``fused`` goes on without the CT; either says why.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from carm_core.data_files import parse_json
from carm_core.errors import GoalError, LocalizerError, UnknownNameError
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.landmarks import landmark
from carm_core.localization import POINT_ID, LandmarkEstimate, Localization, Localizer, Protocol, Query
from carm_core.transforms import Array
from carm_perception.localizers.fused import FusedLocalizer
from carm_perception.localizers.regression import written
from carm_perception.protocols.estimates import confidence
from carm_perception.registration.breathing import FOLLOWED, LEAST_SCORE, followed_mm
from carm_perception.registration.model import CtModel
from carm_perception.registration.registrar import Registrar, Registration
from carm_perception.uncertainty.fusion import RADIUS_90_PER_STD
from carm_sim.patient.patient import Patient
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import with_landmarks

LANDMARK_STD_MM = 1.5
"""How exactly landmarks are known in a CT, mm."""
SOFT_STD_MM = {11: 4.0, 12: 8.0, 13: 8.0}
"""The same of carina and domes of the diaphragm, which breathing has moved since."""
FOLLOWED_STD_MM = 2.5
"""How exactly a dome is followed in the image, mm."""
_RADIUS_95_PER_STD, _RADIUS_97_PER_STD = math.sqrt(-2 * math.log(0.05)), math.sqrt(-2 * math.log(0.03))
_POINT = "point_mm"


class RegisteredLocalizer(Localizer):
    """Answers from the registered CT; from the learned localizer beside it where this is wanted.

    Attributes:
        patient: The CT; where it lies on the table is not looked at.
        registration: Of the last image that carried its view; None: there was none.
        in_view_std_mm: What the registration contributes to the standard deviation of a point at the isocenter, in
            that image, mm; NaN when there was none.
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
        patient = self.patient = with_landmarks(ct) if isinstance(ct, str) else ct
        self.name = "fused" if falls_back else "registered"
        self._falls_back = falls_back
        self._learned = FusedLocalizer(folder, maximum_std_mm, maximum_risk=maximum_risk)
        self.model_version = self._learned.model_version
        self._registrar = Registrar(CtModel(patient))
        self.registration: Registration | None = None
        self.in_view_std_mm = math.nan
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
        if query.point_mm is not None and problem:
            return self._reply(query, start, abstained=True, message=problem)
        if not problem and frame.view is not None and self.registration is not None:
            if query.point_mm is not None:
                return self._at_point(frame.view, query, self.registration, start)
            if query.target_id and query.target_id not in self._registrar.model.landmarks_mm:
                problem = f"the CT does not hold {landmark(query.target_id).name}"
            elif query.protocol is not Protocol.REEVALUATION or not self._falls_back:
                return self._projected(frame, frame.view, query, self.registration, start)
        if not self._falls_back:
            return self._reply(query, start, abstained=True, message=problem)
        reply = self._learned.localize(frame, query)
        message = "; ".join(part for part in (problem and f"without the CT: {problem}", reply.message) if part)
        return replace(reply, message=message, latency_s=time.perf_counter() - start)

    def sighted(self, frame: XrayFrame) -> tuple[LandmarkEstimate, ...]:
        """See ``carm_perception.registration.body_belief.Sighting``."""
        return self._learned.sighted(frame)

    def find(self, name: str) -> tuple[str, Array]:
        """Return a point of the CT's landmark file by its name, and the name as it is written there.

        Args:
            name: Whatever its case and the order of its words, with spaces or underscores: "left kidney".

        Returns:
            The name and its position (3,), LPS, mm.

        Raises:
            UnknownNameError: There is none; carries the nearest, be it a landmark.
            GoalError: It lies outside the CT.
        """
        extra = {landmark(key).name: place for key, place in self.patient.extra_landmarks_mm.items()}
        points = self.patient.points_mm | extra
        asked = _plain(name)
        for known, place in points.items():
            if _plain(known) == asked:
                self.check(place)
                return known, place
        landmarks = [landmark(key).name for key in self.patient.landmarks_mm]
        raise UnknownNameError.among("landmark or point of the CT", name, [*landmarks, *points])

    def check(self, point_mm: Array) -> None:
        """Check that a point (3,), LPS, mm, is in the CT.

        Raises:
            GoalError: It is not finite, or outside the CT.
        """
        if not np.isfinite(point_mm).all() or not self.patient.volume.contains(point_mm):
            low, high = _box(self.patient.volume)
            reach = ", ".join(f"{name} {a:z.0f} to {b:z.0f}" for name, a, b in zip("xyz", low, high, strict=True))
            shown = ", ".join(f"{value:z.0f}" for value in point_mm)
            raise GoalError(f"the point ({shown}) mm is outside the CT ({reach} mm, LPS)")

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
            try:
                estimates = self.sighted(frame)
            except LocalizerError:  # an image that the network cannot read may fit nevertheless
                estimates = ()
            self.registration = self._registrar.register(frame, estimates)
            self._image = frame.image
            self.in_view_std_mm = _center_std_mm(frame.view, self.registration)
        return self.registration.reason

    def _at_point(self, view: XrayView, query: Query, registration: Registration, start: float) -> Localization:
        estimate = estimated(view, registration, POINT_ID, np.array(query.point_mm))
        if estimate is None:
            return self._reply(query, start, abstained=True, message="the point lies beside or behind the X-ray source")
        x, y = estimate.displacement_mm
        text = json.dumps({_POINT: query.point_mm, "dx_mm": round(x), "dy_mm": round(y)})
        return self._reply(query, start, answer=text, estimates=(estimate,))

    def _projected(
        self, frame: XrayFrame, view: XrayView, query: Query, registration: Registration, start: float
    ) -> Localization:
        everything = projected(view, registration, self._registrar.model)
        estimates = tuple(e for e in everything if query.covers(e.id))
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


def asked_point(answer: str) -> tuple[float, float, float] | None:
    """Return the point, LPS, mm, that an answer of ``RegisteredLocalizer`` is about; None: it is about landmarks."""
    if not answer.startswith(f'{{"{_POINT}"'):
        return None
    try:
        x, y, z = map(float, parse_json(answer)[_POINT])
    except (ValueError, TypeError, KeyError):
        return None
    return x, y, z


def projected(view: XrayView, registration: Registration, model: CtModel) -> tuple[LandmarkEstimate, ...]:
    """Return the CT's landmarks as they lie in a view, nearest to its center first."""
    found = (
        estimated(view, registration, key, point, SOFT_STD_MM.get(key, LANDMARK_STD_MM))
        for key, point in model.landmarks_mm.items()
    )
    return tuple(sorted((e for e in found if e is not None), key=lambda e: math.hypot(*e.displacement_mm)))


def estimated(
    view: XrayView, registration: Registration, identifier: int, point_mm: Array, std_mm: float = LANDMARK_STD_MM
) -> LandmarkEstimate | None:
    """Return how a point (3,), LPS, mm, of the registered CT lies in a view; None where it has no image.

    Args:
        view: Of the image.
        registration: Where the CT lies.
        identifier: Landmark id, or ``POINT_ID``.
        point_mm: The point.
        std_mm: How exactly it is known in the CT.
    """
    there = np.asarray(registration.transform_lps_to_table.apply(point_mm))
    place = view.displacement_mm(there)
    if not np.isfinite(place).all():
        return None
    covariance = registration.covariance_mm2(point_mm)
    std = math.hypot(_in_view_std_mm(view, there, covariance), std_mm)
    along = math.sqrt(max(0.0, float(view.forward @ covariance @ view.forward)))
    depth = float((there - view.isocenter_mm) @ view.forward)
    return _estimate(identifier, place, std, (depth, math.hypot(along, std_mm)))


def _estimate(
    identifier: int, place: Array, std: float, depth: tuple[float, float] = (math.nan, math.nan)
) -> LandmarkEstimate:
    radii = [factor * std for factor in (RADIUS_90_PER_STD, _RADIUS_95_PER_STD, _RADIUS_97_PER_STD)]
    where = float(place[0]), float(place[1])
    return LandmarkEstimate(identifier, where, std, radii[0], confidence(std), radii[1], radii[2], *depth)


def _in_view_std_mm(view: XrayView, point_mm: Array, covariance_mm2: Array) -> float:
    """Return the standard deviation of either component at isocenter depth, mm."""
    axes: Sequence[Array] = view.display_axes
    scale = view.source_isocenter_mm / max(1.0, float((point_mm - view.source_mm) @ view.forward))
    return scale * math.sqrt(max(0.0, float(np.mean([axis @ covariance_mm2 @ axis for axis in axes]))))


def _center_std_mm(view: XrayView, registration: Registration) -> float:
    there = registration.transform_lps_to_table.inverse().apply(view.isocenter_mm)
    return _in_view_std_mm(view, view.isocenter_mm, registration.covariance_mm2(np.asarray(there)))


def _box(volume: Volume) -> tuple[Array, Array]:
    """Return the lower and the upper corner of a CT (3,), LPS, mm."""
    ends = np.array([[-0.5] * 3, np.array(volume.shape) - 0.5])
    corners = volume.lps_from_voxel(np.stack(np.meshgrid(*ends.T), axis=-1).reshape(-1, 3))
    return corners.min(axis=0), corners.max(axis=0)


def _plain(name: str) -> str:
    return " ".join(sorted(name.lower().replace("_", " ").split()))
