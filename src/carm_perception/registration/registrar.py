# SPDX-License-Identifier: Apache-2.0
"""Keeps where the patient's CT lies, image by image, and says when it does not know."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.localization import LandmarkEstimate
from carm_core.transforms import Array, RigidTransform
from carm_perception.registration.evidence import Evidence, evidence
from carm_perception.registration.initial_pose import Sighted, everywhere, from_landmarks, lying
from carm_perception.registration.model import CtModel
from carm_perception.registration.search import Fit, PoseGrid, PoseSearch
from carm_perception.registration.similarity import LEAST_SHARE, Target

LEAST_PROBABILITY = {"belief": 0.4, "landmarks": 0.65, "stations": 0.75}
"""A fit that is less probable is none, by where the search began: an image that fits where the patient lay in the ones
before needs to say less. Chosen on phantoms and CTs that are no test (``docs/registration.md``)."""
LEAST_ALIGNED = 0.06
"""Share of the patches that must fit best where they are, three times what chance gives: a round bone alone fits that
of anybody. Chosen on the same bodies."""
LEAST_AGREEING, LEAST_HELD = 0.2, 0.15
"""Fits of two views that are at least so probable count where they put the CT at the same place; so does one that
leaves the belief where it is."""
_AGREES_MM, _AGREES_DEG = 5.0, 3.0
"""The same place: so near in either view, and so little turned. Fits of another patient's CT hardly ever agree."""
_OTHER_VIEW_MM, _OTHER_VIEW_DEG = 15.0, 5.0
"""Views that are nearer to each other than this may err alike."""
_STILL_FITS, _NO_LONGER_FITS = 0.75, 0.6
"""Similarity from which the belief is refined at once, and below which an earlier image is no longer used."""
_MOST_TURNED_DEG, _MOST_ACROSS_MM, _MOST_ABOVE_MM = 25.0, 150.0, 80.0
"""How else a patient may lie than supine in the middle of the table."""
_PENALTY = 0.1
"""What a coarse search subtracts from the correlation at each of these limits."""
_KEPT = 4
"""Images that are registered together."""
_COARSE, _MEDIUM, _FINE = 0, 1, 2
_POPULATION = 16
_LANDMARK_SPREAD = np.array([4.0, 4.0, 4.0, 5.0, 5.0, 4.0])
_STATION_SPREAD = np.array([5.0, 5.0, 5.0, 7.0, 7.0, 4.0])
_STATIONS, _FOLLOWED, _ROUNDS = 6, 3, 12
"""Stations from which is searched for some rounds, and the best of these that are searched from to the end."""
_SEARCHED = 2
"""After so many images without success stations are left out, where there are landmarks."""
_APART_MM = 30.0
"""Stations are at least so far apart."""
_COVARIANCE_SCALE = 60.0
"""Neighboring pixels err alike, and models err besides: chosen so that errors on held-out bodies fit."""


@dataclass(frozen=True, eq=False)
class Registration:
    """Where a CT lies.

    Attributes:
        transform_lps_to_table: Pose of the CT, mm.
        similarity: Correlation of the images' gradients, -1 to 1.
        overlap: Share of the newest image that the CT covers.
        evidence: What the newest image says for it.
        accepted: Whether it is to be believed.
        reason: Why not; empty when accepted.
        images: Registered together.
        start: Where the search began: ``"belief"``, ``"landmarks"`` or ``"stations"``; ``"agreement"`` where two images
            that are each in doubt say the same.
        fit: The last fit, with its covariance.
        duration_s: What it took, s; NaN before it is complete.
    """

    transform_lps_to_table: RigidTransform
    similarity: float
    overlap: float
    evidence: Evidence
    accepted: bool
    reason: str
    images: int
    start: str
    fit: Fit
    duration_s: float = math.nan

    def better_than(self, other: Registration) -> bool:
        """Return whether this one is rather to be believed than another."""
        return (self.accepted, self.evidence.probability) > (other.accepted, other.evidence.probability)

    def covariance_mm2(self, point_lps_mm: Array) -> Array:
        """Return the covariance (3, 3) of a point's position (3,), LPS, mm, in frame ``table``, mm²."""
        moves = self.fit.grid.moves(self.fit.x, np.asarray(point_lps_mm, float)[None])[0]
        return np.asarray(_COVARIANCE_SCALE * moves @ self.fit.covariance @ moves.T)


class Registrar:
    """Registers the images of one patient, one after the other. One thread at a time owns an instance.

    Attributes:
        belief: The last registration that was accepted; None: nothing is known.
    """

    def __init__(self, model: CtModel) -> None:
        """Know nothing yet.

        Args:
            model: The patient's CT.
        """
        self.model = model
        self.belief: Registration | None = None
        self._nominal = lying(model.center_mm, model.body_box_mm)
        self._images: list[tuple[XrayView, list[Target]]] = []
        self._doubtful: list[tuple[XrayView, list[Target], Registration]] = []
        self._refused = 0
        self._inverted = False
        self._pool = ThreadPoolExecutor(model.threads, thread_name_prefix="registration")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def register(self, frame: XrayFrame, estimates: Sequence[LandmarkEstimate] = ()) -> Registration:
        """Register a new image, together with the last ones that fit.

        Args:
            frame: The image, with its view.
            estimates: What a localizer sees in it.

        Returns:
            Where the CT lies; an accepted one becomes the belief.
        """
        assert frame.view is not None
        start_s = time.monotonic()
        targets = self._targets(frame)
        sighted = Sighted(frame.view, tuple(estimates))
        result = self._followed(frame.view, targets) if self.belief is not None else None
        if result is None or not result.accepted:
            targets = self._by_polarity(targets, sighted)
            fresh = self._found(frame.view, targets, sighted)
            if result is None or fresh.better_than(result):
                result = fresh
                if fresh.accepted:  # the patient lies elsewhere than in the images before
                    self._images.clear()
            if not result.accepted:
                result = self._confirmed(frame.view, targets, fresh) or result
        self._refused = 0 if result.accepted else self._refused + 1
        if result.accepted:
            self.belief = result
            self._doubtful.clear()
            self._images = [*self._images, (frame.view, targets)][-_KEPT:]
            if len(self._images) > 1:
                self.belief = result = self._joined(result)
        return replace(result, duration_s=time.monotonic() - start_s)

    def search_from(self, frame: XrayFrame, transform_lps_to_table: RigidTransform) -> Registration:
        """Register an image by a search from one pose of the CT, mm; what is believed stays as it is."""
        assert frame.view is not None
        targets = self._targets(frame)
        search = self._search([targets])
        return self._from(search, transform_lps_to_table, frame.view, targets, _LANDMARK_SPREAD, "landmarks")

    def _targets(self, frame: XrayFrame) -> list[Target]:
        targets = [Target.of(frame, level.side_px) for level in self.model.levels]
        return [target.inverted() for target in targets] if self._inverted else targets

    def _by_polarity(self, targets: list[Target], sighted: Sighted) -> list[Target]:
        """Return an image as its display seems to show it, with bones bright; the display stays as it is."""
        pose = from_landmarks([sighted], self.model.landmarks_mm, self._nominal)
        if self.belief is not None or pose is None or self._search([targets]).similarity(pose, _COARSE) >= 0:
            return targets
        other = [target.inverted() for target in targets]
        view = other[0].view
        if not self._from(self._search([other]), pose, view, other, _LANDMARK_SPREAD, "landmarks").accepted:
            return targets
        self._inverted = not self._inverted
        return other

    def _search(self, frames: Sequence[list[Target]]) -> PoseSearch:
        return PoseSearch(self.model, frames, self._pool, self._penalty)

    def _followed(self, view: XrayView, targets: list[Target]) -> Registration:
        """Refine the belief on the new image."""
        assert self.belief is not None
        search = self._search([targets])
        fit = Fit(PoseGrid.around(self.belief.transform_lps_to_table, view), np.zeros(6), 0.0)
        if search.similarity(self.belief.transform_lps_to_table, _FINE) < _STILL_FITS:  # the patient has moved
            fit = search.refined(fit, _MEDIUM, 4)
            fit = Fit(PoseGrid.around(fit.transform_lps_to_table, view), np.zeros(6), 0.0)
        result = self._judged(search.refined(fit, _FINE, 4), targets, "belief", 1)
        held = replace(result, accepted=True, reason="")
        return held if self._is_doubtful(result, LEAST_HELD) and _agree(self.belief, result, (view,)) else result

    def _confirmed(self, view: XrayView, targets: list[Target], fresh: Registration) -> Registration | None:
        """Return a doubtful fit as accepted where that of another view says the same; else keep it for later images."""
        if not self._is_doubtful(fresh, LEAST_AGREEING):
            return None
        for other_view, other_targets, other in self._doubtful:
            if _differ(view, other_view) and _agree(other, fresh, (view, other_view)):
                self._images = [(other_view, other_targets)]
                return replace(fresh, accepted=True, reason="", start="agreement")
        self._doubtful = [*self._doubtful, (view, targets, fresh)][-_KEPT:]
        return None

    def _found(self, view: XrayView, targets: list[Target], sighted: Sighted) -> Registration:
        """Search from the landmarks, and along the whole body where that leads to nothing."""
        search = self._search([targets])
        pose = from_landmarks([sighted], self.model.landmarks_mm, self._nominal)
        best: Registration | None = None
        if pose is not None:
            best = self._from(search, pose, view, targets, _LANDMARK_SPREAD, "landmarks")
        if best is None or (not best.accepted and self._refused < _SEARCHED):
            for near in self._stations(search, view):
                other = self._from(search, near, view, targets, _LANDMARK_SPREAD, "stations")
                best = other if best is None or other.better_than(best) else best
                if best.accepted:
                    break
        assert best is not None
        return best

    def _stations(self, search: PoseSearch, view: XrayView) -> list[RigidTransform]:
        """Return where the CT lies as far as a short search along the whole body tells, likeliest first."""
        poses = list(everywhere(view, self._nominal, self.model.body_box_mm))
        scores = search.similarities(poses, _COARSE)
        chosen: list[RigidTransform] = []
        for index in np.argsort(scores)[::-1]:
            shift = poses[index].translation
            if all(np.linalg.norm(shift - other.translation) >= _APART_MM for other in chosen):
                chosen.append(poses[index])
            if len(chosen) == _STATIONS:
                break
        fits = [
            search.coarse(PoseGrid.around(pose, view), _STATION_SPREAD, _COARSE, _ROUNDS, _POPULATION)
            for pose in chosen
        ]
        fits.sort(key=lambda fit: -fit.similarity)
        return [fit.transform_lps_to_table for fit in fits[:_FOLLOWED]]

    def _from(
        self,
        search: PoseSearch,
        pose: RigidTransform,
        view: XrayView,
        targets: list[Target],
        spread: Array,
        start: str,
    ) -> Registration:
        """Search from coarse to fine."""
        fit = search.coarse(PoseGrid.around(pose, view), spread, _COARSE, 40, _POPULATION)
        grid = PoseGrid.around(fit.transform_lps_to_table, view)
        fit = search.coarse(grid, 0.25 * spread, _MEDIUM, 15, 12)
        grid = PoseGrid.around(fit.transform_lps_to_table, view)
        fit = search.refined(Fit(grid, np.zeros(6), fit.similarity), _FINE, 6)
        return self._judged(fit, targets, start, 1)

    def _joined(self, result: Registration) -> Registration:
        """Refine on all images that are kept; an image that no longer fits with the newest one is dropped."""
        newest_view, newest = self._images[-1]
        pose = result.transform_lps_to_table
        fitting = [
            (view, targets)
            for view, targets in self._images[:-1]
            if self._search([targets]).similarity(pose, _MEDIUM) >= _NO_LONGER_FITS
        ]
        self._images = [*fitting, (newest_view, newest)]
        if not fitting:
            return result
        grid = PoseGrid.around(pose, newest_view)
        fit = self._search([targets for _, targets in self._images]).refined(
            Fit(grid, np.zeros(6), result.similarity), _MEDIUM, 3
        )
        joined = self._judged(fit, newest, result.start, len(self._images))
        return joined if joined.accepted else result

    def _judged(self, fit: Fit, newest: list[Target], start: str, images: int) -> Registration:
        pose = fit.transform_lps_to_table
        target = newest[_MEDIUM]
        _, known = self.model.render(_MEDIUM, target.view, pose)
        overlap = float((known & target.mask).mean() / max(target.mask.mean(), 1e-6))
        found = evidence(self.model, newest, pose)
        least = LEAST_PROBABILITY.get(start, LEAST_AGREEING)
        reason = ""
        if overlap < LEAST_SHARE:
            reason = f"the CT covers only {100 * overlap:.0f} % of the image"
        elif not found.probability >= least:
            reason = f"the CT does not fit the image (probability {found.probability:.2f}, at least {least:.2f})"
        elif start in LEAST_PROBABILITY and found.aligned < LEAST_ALIGNED:
            reason = f"the CT would fit elsewhere as well ({100 * found.aligned:.0f} % of the image fit best here)"
        elif implausible := self._implausible(pose):
            reason = f"the CT would lie {implausible}"
        return Registration(pose, fit.similarity, overlap, found, not reason, reason, images, start, fit)

    def _is_doubtful(self, fit: Registration, least: float) -> bool:
        """Return whether nothing but a lack of evidence speaks against a fit, and some speaks for it."""
        enough = fit.overlap >= LEAST_SHARE and fit.evidence.probability >= least
        return enough and not self._implausible(fit.transform_lps_to_table)

    def _lies(self, pose: RigidTransform) -> tuple[float, float, float]:
        """Return how a pose differs from lying supine in the middle: turned, deg; across and above, mm."""
        shift = pose.apply(self.model.center_mm) - self._nominal.apply(self.model.center_mm)
        return math.degrees(_angle(pose.rotation @ self._nominal.rotation.T)), float(shift[1]), float(shift[2])

    def _penalty(self, pose: RigidTransform) -> float:
        parts = zip(self._lies(pose), (_MOST_TURNED_DEG, _MOST_ACROSS_MM, _MOST_ABOVE_MM), strict=True)
        return _PENALTY * sum((value / most) ** 2 for value, most in parts)

    def _implausible(self, pose: RigidTransform) -> str:
        """Return in what way nobody lies like this on the table; empty: somebody may."""
        turned, across, above = self._lies(pose)
        if turned > _MOST_TURNED_DEG:
            return f"turned by {turned:.0f}° against a patient on the back"
        if abs(across) > _MOST_ACROSS_MM:
            return f"{abs(across):.0f} mm beside the middle of the table"
        return f"{abs(above):.0f} mm above or below the table's top" if abs(above) > _MOST_ABOVE_MM else ""


def _angle(rotation: Array) -> float:
    return math.acos(min(1.0, max(-1.0, (float(np.trace(rotation)) - 1) / 2)))


def _agree(one: Registration, other: Registration, views: Sequence[XrayView]) -> bool:
    """Return whether two registrations put the CT at the same place, as far as some views show."""
    first, second = one.transform_lps_to_table, other.transform_lps_to_table
    if math.degrees(_angle(first.rotation @ second.rotation.T)) > _AGREES_DEG:
        return False
    return all(
        float(np.linalg.norm(view.displacement_mm(second.apply(first.inverse().apply(view.isocenter_mm)))))
        <= _AGREES_MM
        for view in views
    )


def _differ(one: XrayView, other: XrayView) -> bool:
    """Return whether two views show different parts of a body, or from different sides."""
    apart_mm = float(np.linalg.norm(one.isocenter_mm - other.isocenter_mm))
    return apart_mm >= _OTHER_VIEW_MM or math.degrees(_angle(one.rotation @ other.rotation.T)) >= _OTHER_VIEW_DEG
