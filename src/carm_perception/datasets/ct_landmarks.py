# SPDX-License-Identifier: Apache-2.0
"""``carm patient landmarks PATH``: the landmarks of a CT, found on X-rays rendered from it, or from labels.

Without labels, the CT is laid on the table and imaged along the body from the front and from a little aside, where
localizers err least. A localizer points to the landmarks in each image. A landmark's place is the one that most of its
sightings agree on, by a robust fit; how deep landmarks lie between the front and the back of bodies adds what images
from the front tell badly. Each landmark is then imaged again, centered, as often as its place still moves: localizers
are most exact at the image center, and away from it their answers lean toward it. What too few images agree on, or
what stays uncertain, is left out.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carm_core.anatomy.axes import BoneAxes
from carm_core.errors import ConfigurationError, GoalError, PatientError
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.triangulation import Sighting
from carm_core.landmarks import landmark
from carm_core.localization import Localizer, Protocol, Query
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array
from carm_perception.datasets.body_columns import BodyColumns, Depth, in_lps
from carm_sim.patient.ct.files import LANDMARK_FILE, LandmarkFile, ct_checksum, write_landmarks
from carm_sim.patient.patient import Patient

if TYPE_CHECKING:
    from PIL import Image

    from carm_sim.xray import XraySystem

STATION_MM = 60.0
"""Distance of the places along the body that are imaged, mm."""
_END_MM = 40.0
_PRIMARIES_DEG = (-30.0, 0.0, 30.0)
_CENTERED_DEG = (-30.0, -15.0, 0.0, 15.0, 30.0)
_ROUNDS, _STILL_MM = 3, 2.0
_EDGE_MM = 8.0
"""Sightings nearer to the edge of the image are not used, mm."""
_LEAST_STD_MM, _AGREES_STD = 3.0, 3.0
"""A sighting agrees with a point that it misses by less than this many standard deviations, of 3 mm at least."""
_LEAST_SIGHTINGS, _LEAST_SHARE = 3, 0.5
_STARTS, _STEPS, _FREEDOM = 8, 15, 3.0
"""Fits begin at the surest sightings; errors follow Student's distribution with so many degrees of freedom."""
_SHARED = 0.55
"""Share of a sighting's standard deviation that further views do not average out: the model errs alike in all."""
_R90_STD = 2.1
"""Radius that holds 90 % of errors, in standard deviations along the least certain direction."""
_BINNING = 3
_LONGEST_STEP_MM = 60.0
MOST_UNCERTAIN_MM = 25.0
"""Landmarks whose 90 % radius is larger are left out, mm."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class FoundLandmark:
    """A landmark of a CT.

    Attributes:
        position_mm: (3,), LPS of the CT, mm.
        radius_90_mm: Radius that should hold the landmark in 90 of 100 cases, mm.
        sightings: How many images of it, centered, agree.
    """

    position_mm: Array
    radius_90_mm: float
    sightings: int

    @property
    def method(self) -> str:
        """How it was found, in one line."""
        return f"from {self.sightings} rendered X-rays; 90 % within {self.radius_90_mm:.0f} mm"


@dataclass(frozen=True)
class Findings:
    """What was found in a CT.

    Attributes:
        found: Landmark id to where it is.
        left_out: Landmark id to why it is not among them, for landmarks that some image seemed to show.
    """

    found: dict[int, FoundLandmark]
    left_out: dict[int, str]


def find_landmarks(patient: Patient, localizer: Localizer, progress: Progress = lambda done, all_: None) -> Findings:
    """Find the landmarks of a CT on X-rays rendered from it.

    Args:
        patient: The CT; its own landmarks are not looked at.
        localizer: Points to landmarks, with standard deviations.
        progress: Told after each image: images so far, and how many there will be.

    Raises:
        PatientError: The CT holds nothing but air.
    """
    from carm_sim.xray import XrayConfig, XraySystem

    arm = CArm.from_config()
    system, space = XraySystem(patient, arm, XrayConfig(binning=_BINNING)), Space(patient)
    places = list(_survey(patient, arm))
    seen: dict[int, list[Sighting]] = {}
    for number, joints in enumerate(places):
        for identifier, sighting in _sightings(localizer, system.expose(joints).frame(), None):
            seen.setdefault(identifier, []).append(sighting)
        progress(number + 1, len(places) + _ROUNDS * len(seen))
    found: dict[int, FoundLandmark] = {}
    left_out: dict[int, str] = {}
    for number, (identifier, sightings) in enumerate(sorted(seen.items())):
        try:
            found[identifier] = _judged(patient, *_centered(system, space, localizer, identifier, sightings))
        except GoalError as error:
            left_out[identifier] = str(error)
        progress(len(places) + (number + 1) * _ROUNDS, len(places) + _ROUNDS * len(seen))
    return Findings(found, left_out)


def _centered(
    system: XraySystem, space: Space, localizer: Localizer, identifier: int, sightings: Sequence[Sighting]
) -> tuple[Place, float]:
    """Return where a landmark is when it is imaged centered, and how far it moved last, mm.

    Raises:
        GoalError: Too few sightings agree.
    """
    place = space.place(identifier, sightings)
    moved_mm = math.inf
    for _ in range(_ROUNDS):
        closer = []
        for joints in _reachable(system.carm, place.point_mm, _CENTERED_DEG):
            closer += [sighting for _, sighting in _sightings(localizer, system.expose(joints).frame(), identifier)]
        before_mm = place.point_mm
        place = space.place(identifier, closer)
        moved_mm = float(np.linalg.norm(place.point_mm - before_mm))
        if moved_mm < _STILL_MM:
            break
    return place, moved_mm


def _survey(patient: Patient, arm: CArm) -> Iterator[Array]:
    """Yield joint positions (6,) along the body, from several sides each."""
    low, high = (np.asarray(patient.transform_lps_to_table.apply(end)) for end in patient.volume.body_box_mm())
    low, high = np.minimum(low, high), np.maximum(low, high)
    count = max(1, math.ceil((high[0] - low[0] - 2 * _END_MM) / STATION_MM)) + 1
    middle = (low + high) / 2
    wide = (high[1] - low[1]) / 4
    for x in np.linspace(low[0] + _END_MM, high[0] - _END_MM, count):
        for y in (middle[1] - wide, middle[1], middle[1] + wide):
            yield from _reachable(arm, np.array([x, y, middle[2]]), _PRIMARIES_DEG)


def _reachable(arm: CArm, isocenter_mm: Array, primaries_deg: Sequence[float]) -> Iterator[Array]:
    for primary in primaries_deg:
        try:
            yield arm.inverse(isocenter_mm / 1000.0, math.radians(primary), 0.0)[0]
        except GoalError:
            continue


def _sightings(localizer: Localizer, frame: XrayFrame, target: int | None) -> Iterator[tuple[int, Sighting]]:
    """Yield the landmarks in an image that the localizer is sure enough of, away from its edge."""
    assert frame.view is not None
    reply = localizer.localize(frame, Query(Protocol.POINTING, target_id=target))
    sides = np.array(frame.image.shape[::-1]) * frame.mm_per_px_at_isocenter / 2 - _EDGE_MM
    for estimate in reply.estimates if reply.ok else ():
        if math.isfinite(estimate.std_mm) and (np.abs(estimate.displacement_mm) < sides).all():
            std_mm = max(estimate.std_mm, _LEAST_STD_MM)
            yield estimate.id, Sighting(frame.view, estimate.displacement_mm, std_mm)


@dataclass(frozen=True, eq=False)
class Place:
    """A point in space that sightings agree on.

    Attributes:
        point_mm: (3,), frame ``table``, mm.
        covariance_mm2: (3, 3), mm².
        agreeing: The sightings that agree with it.
    """

    point_mm: Array
    covariance_mm2: Array
    agreeing: list[Sighting]


class Space:
    """Places landmarks in space."""

    def __init__(self, patient: Patient) -> None:
        """Find the body in a CT.

        Args:
            patient: On the table.

        Raises:
            PatientError: The CT holds nothing but air.
        """
        self._columns, self._patient = BodyColumns(patient), patient

    def place(self, landmark_id: int, sightings: Sequence[Sighting]) -> Place:
        """Return where most sightings of a landmark have it.

        Args:
            landmark_id: Tells how deep it is likely to lie.
            sightings: Of it, some of them wrong.

        Raises:
            GoalError: Too few of them agree.
        """
        surest = sorted(sightings, key=lambda one: one.std_mm)[:_STARTS]
        fits = [self._fitted(landmark_id, sightings, self._along(landmark_id, one)) for one in surest]
        best = min(fits, key=lambda fit: fit[0], default=None)
        agreeing = [] if best is None else [one for one in sightings if _misses(one, best[1]) <= _AGREES_STD]
        if best is None or len(agreeing) < max(_LEAST_SIGHTINGS, _LEAST_SHARE * len(sightings)):
            raise GoalError(f"only {len(agreeing)} of {len(sightings)} images agree on where it is")
        return Place(best[1], best[2], agreeing)

    def _depth(self, landmark_id: int, point_mm: Array) -> Depth | None:
        x, _, z = in_lps(self._patient, point_mm)
        return self._columns.depth(landmark_id, float(x), float(z))

    def _along(self, landmark_id: int, sighting: Sighting) -> Array:
        """Return the point of a sighting's ray as deep as the landmark is likely to lie, or at the isocenter."""
        source, direction = sighting.ray
        point = source + direction * sighting.view.source_isocenter_mm
        depth = self._depth(landmark_id, point)
        if depth is None:
            return point
        to_table = self._patient.transform_lps_to_table
        back = to_table.rotation @ np.array([0.0, 1.0, 0.0])
        y = float(in_lps(self._patient, point)[1])
        along = float(direction @ back)
        return point + direction * (depth.y_mm - y) / along if abs(along) > 0.2 else point

    def _fitted(self, landmark_id: int, sightings: Sequence[Sighting], start_mm: Array) -> tuple[float, Array, Array]:
        """Return the misfit, the point (3,) and its covariance (3, 3) of a robust fit, mm."""
        point = start_mm
        for _ in range(_STEPS):
            depth = self._depth(landmark_id, point)
            residuals, slopes = self._residuals(sightings, point, depth)
            squares = (residuals[: 2 * len(sightings)].reshape(-1, 2) ** 2).sum(1)
            weights = np.repeat((_FREEDOM + 2.0) / (_FREEDOM + squares), 2)
            weights = np.append(weights, np.ones(len(residuals) - len(weights)))
            information = slopes.T @ (weights[:, None] * slopes) + 1e-9 * np.eye(3)
            step = -np.linalg.solve(information, slopes.T @ (weights * residuals))
            point = point + step * min(1.0, _LONGEST_STEP_MM / max(float(np.linalg.norm(step)), 1e-9))
            if float(np.abs(step).max()) < 0.05:
                break
        misfit = float(np.log1p(squares / _FREEDOM).sum()) * (_FREEDOM + 2.0) / 2
        misfit += float((residuals[2 * len(sightings) :] ** 2).sum()) / 2
        return misfit, point, np.asarray(np.linalg.inv(information), float)

    def _residuals(self, sightings: Sequence[Sighting], point: Array, depth: Depth | None) -> tuple[Array, Array]:
        """Return the errors in standard deviations (n,), and how they change with the point (n, 3), 1/mm."""

        def errors(at: Array) -> Array:
            off = [(np.asarray(s.view.displacement_mm(at)) - s.displacement_mm) / s.std_mm for s in sightings]
            deep = [] if depth is None else [(float(in_lps(self._patient, at)[1]) - depth.y_mm) / depth.std_mm]
            return np.asarray(np.nan_to_num(np.append(np.ravel(off), deep), nan=1e3, posinf=1e3, neginf=-1e3))

        here = errors(point)
        return here, np.stack([(errors(point + step) - here) for step in np.eye(3)], 1)


def _misses(sighting: Sighting, point_mm: Array) -> float:
    """Return how far a point (3,), mm, is from where a sighting has it, in standard deviations."""
    off = np.asarray(sighting.view.displacement_mm(point_mm)) - sighting.displacement_mm
    return float(np.linalg.norm(off)) / sighting.std_mm if np.isfinite(off).all() else math.inf


def _judged(patient: Patient, place: Place, moved_mm: float) -> FoundLandmark:
    """Return a landmark with its uncertainty.

    Raises:
        GoalError: The point is outside the CT, or stays uncertain.
    """
    position = in_lps(patient, place.point_mm)
    voxel = patient.volume.voxel_from_lps(position)
    if not ((voxel >= 0) & (voxel <= np.array(patient.volume.shape) - 1)).all():
        raise GoalError("it would lie outside the CT")
    shared = _SHARED * float(np.median([sighting.std_mm for sighting in place.agreeing]))
    least_certain = math.sqrt(float(np.linalg.eigvalsh(place.covariance_mm2)[-1]))
    radius = _R90_STD * math.hypot(least_certain, shared, min(moved_mm, MOST_UNCERTAIN_MM))
    if radius > MOST_UNCERTAIN_MM:
        raise GoalError(f"it is known to {radius:.0f} mm only")
    return FoundLandmark(position, radius, len(place.agreeing))


def sheet(patient: Patient, positions_mm: dict[int, Array]) -> Image.Image:
    """Return a frontal and a lateral projection of a CT with landmarks (id to (3,), LPS, mm) drawn in."""
    from PIL import Image, ImageDraw

    from carm_sim.patient.ct.source import laid_in_lps

    volume = patient.volume
    hu = np.clip(laid_in_lps(volume.hu, volume.transform_voxel_to_lps), -1000, 1500).astype(np.float32) + 1000
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(volume.shape) - 1)
    low, high = (
        volume.lps_from_voxel(corners.astype(float)).min(axis=0),
        volume.lps_from_voxel(corners.astype(float)).max(axis=0),
    )
    scale = _SHEET_PX / float(high[2] - low[2])
    panels = []
    for across, along in ((0, 1), (1, 0)):
        gray = hu.mean(axis=along).T[::-1]
        gray = np.clip(gray / np.percentile(gray, 99.5) * 255, 0, 255).astype(np.uint8)
        size = max(1, round((high[across] - low[across]) * scale)), _SHEET_PX
        panel = Image.fromarray(gray).resize(size, Image.Resampling.BILINEAR).convert("RGB")
        pen = ImageDraw.Draw(panel)
        for identifier, position in positions_mm.items():
            x, y = (position[across] - low[across]) * scale, (high[2] - position[2]) * scale
            pen.line([(x - 6, y), (x + 6, y)], fill=(255, 220, 0), width=2)
            pen.line([(x, y - 6), (x, y + 6)], fill=(255, 220, 0), width=2)
            pen.text((x + 8, y - 6), landmark(identifier).name, fill=(255, 220, 0))
        panels.append(panel)
    image = Image.new("RGB", (sum(panel.width for panel in panels) + 10, _SHEET_PX))
    left = 0
    for panel in panels:
        image.paste(panel, (left, 0))
        left += panel.width + 10
    return image


_SHEET_PX = 700


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument(
        "path",
        help="CT file (NIfTI, NRRD, MetaImage) or folder of a DICOM series, with options as in patient:=",
    )
    parser.add_argument(
        "--segmentation",
        type=Path,
        metavar="PATH",
        help="TotalSegmentator's label map, or folder of masks: landmarks follow from it, nothing is guessed",
    )
    parser.add_argument("--localizer", default="fused", help="who points to landmarks, without --segmentation (fused)")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"file to write ({LANDMARK_FILE} beside the CT)")
    parser.add_argument("--force", action="store_true", help="replace the file")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="PNG of projections with the landmarks drawn in")


def run(options: argparse.Namespace) -> int:
    """Find the landmarks, print them, write the file.

    Returns:
        0; 1 when none was found.

    Raises:
        CarmError: The CT or the labels cannot be used, or a file cannot be written.
    """
    from carm_perception.localizers.registry import check_name
    from carm_sim.patient.ct.files import open_ct, read_source
    from carm_sim.patient.patient import make_patient
    from carm_sim.patient_loader import path_and_options, single_image

    path, import_options = path_and_options(options.path)
    if not path.exists():
        raise PatientError(f"{path}: no such file or folder")
    path = single_image(path, import_options.series)
    check_name(options.localizer)
    output = options.output or (path if path.is_dir() else path.parent) / LANDMARK_FILE
    if output.suffix.lower() not in (".yaml", ".yml") or not output.absolute().parent.is_dir():
        raise ConfigurationError(f"{output} must end in .yaml and lie in a folder that exists")
    if output.exists() and not options.force:
        raise ConfigurationError(f"{output} exists; --output FILE writes another, --force replaces it")
    if options.sheet is not None and options.sheet.suffix.lower() != ".png":
        raise ConfigurationError(f"{options.sheet} must end in .png")
    ct = open_ct(path, import_options.series)
    patient = make_patient(path.name, read_source(ct, import_options), None, str(path))
    checksum = ct_checksum(path, import_options.series)
    points: dict[str, Array] = {}
    bones: dict[str, BoneAxes] = {}
    without_axes: dict[str, str] = {}
    if options.segmentation is not None:
        from carm_sim.patient.bone_axes import bone_axes
        from carm_sim.patient.segmentation import derive, read_segmentation

        labels = read_segmentation(options.segmentation)
        derived = derive(labels, patient.volume)
        bones, without_axes = bone_axes(labels, derived.positions_mm)
        positions, methods, left_out = derived.positions_mm, derived.methods, derived.left_out
        points = derived.centroids_mm
        source = f"carm patient landmarks --segmentation {options.segmentation.name}"
    else:
        findings = _by_itself(patient, options.localizer)
        positions = {key: one.position_mm for key, one in findings.found.items()}
        methods = {key: one.method for key, one in findings.found.items()}
        left_out = findings.left_out
        source = f"carm patient landmarks, localizer {options.localizer}"
    for key, position in sorted(positions.items()):
        place = ", ".join(f"{value:.1f}" for value in position)
        print(f"{key:4d} {landmark(key).name:32s} {place:>24s} mm  {methods[key]}")
    for key, reason in sorted(left_out.items()):
        print(f"{key:4d} {landmark(key).name:32s} {'left out':>24s}     {reason}")
    if bones:
        print(f"axes of {', '.join(bones)}")
    for name, reason in without_axes.items():
        print(f"no axes of {name}: {reason}")
    if not positions:
        print("carm patient landmarks: no landmark found, nothing written", file=sys.stderr)
        return 1
    write_landmarks(LandmarkFile(checksum, positions, methods, source, points, bones), output)
    named = f" and the centroids of {len(points)} structures" if points else ""
    print(f"{len(positions)} landmarks{named} written to {output}")
    if options.sheet is not None:
        try:
            sheet(patient, positions).save(options.sheet)
        except OSError as error:
            raise ConfigurationError(f"cannot write {options.sheet}: {error.strerror or error}") from error
    return 0


def _by_itself(patient: Patient, name: str) -> Findings:
    from tqdm import tqdm

    from carm_perception.localizers.registry import LocalizerOptions, make_localizer

    localizer = make_localizer(name, LocalizerOptions())
    try:
        with tqdm(desc="landmarks", unit="X-ray", file=sys.stderr) as bar:

            def progress(done: int, all_: int) -> None:
                bar.total = all_
                bar.update(done - bar.n)

            return find_landmarks(patient, localizer, progress)
    finally:
        localizer.close()
