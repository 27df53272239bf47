# SPDX-License-Identifier: Apache-2.0
"""Labels of TotalSegmentator for a CT, and the landmarks that follow from them.

Each rule is one function; its docstring goes into ``landmarks.yaml`` beside the position. A structure that the end of
the CT cuts off gives no landmark, and neither does one that a rule cannot make sense of: the reason is kept.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from carm_core.errors import PatientError
from carm_core.landmarks import EXTRA_LANDMARKS, LANDMARKS
from carm_core.transforms import Array
from carm_sim.patient.ct.nifti import open_nifti
from carm_sim.patient.ct.source import laid_in_lps, one_line
from carm_sim.patient.volume import Volume

TABLE_FILE = "structures.csv"
"""Beside a label map: columns ``id`` and ``structure``, where its numbers are not those of TotalSegmentator 2."""
_SUFFIX = ".nii.gz"
_MOST_LABELS = 1000
_LARGEST_TABLE = 1 << 20
_CANAL_GAP_MM = 1.4
_CANAL_BRIDGE_MM = 80.0
"""A gap in the canal's labels, as slices of thick CTs have it, is bridged up to this length, mm."""
_PEDICLE_MM = 6.3
_NEAR_SCAPULA_MM, _NEAR_HIP_MM = 14.0, 9.0
_HEAD_RADIUS_MM = (15.0, 32.0)
_ROUGHNESS = 0.2
"""Root mean square distance of a joint's surface from its sphere, as a share of the radius, at most."""
_TIP_MM = 3.0
_AIR_HU, _LUMEN_MM2, _WALL_MM = -700, 20.0, 2.1
_DOME_BLUR_MM, _DOME_TOP_MM, _WALL_DISTANCE_MM, _HEART_DISTANCE_MM, _LAYER_MM = 5.6, 2.0, 12.0, 5.0, 12.5
_DOME_BELOW_END_MM = 15.0
_SYMPHYSIS_MM = 12.0
_PROMONTORY_MM = (8.0, 22.0)
_BONE_HU, _LUNG_HU = 60.0, -400.0
"""Means that bones exceed and lungs do not reach, HU, where labels and CT belong together."""
_MOST_OUTSIDE = 0.1
_LOOKED_AT = 4000

_VERTEBRAE = (*(f"L{n}" for n in range(5, 0, -1)), *(f"T{n}" for n in range(12, 0, -1)))
_VERTEBRAE = (*_VERTEBRAE, *(f"C{n}" for n in range(7, 0, -1)))
STRUCTURES = {
    "spleen": 1, "liver": 5, "stomach": 6, "lung_upper_lobe_left": 10, "lung_lower_lobe_left": 11,
    "lung_upper_lobe_right": 12, "lung_middle_lobe_right": 13, "lung_lower_lobe_right": 14, "trachea": 16, "colon": 20,
    "sacrum": 25,
    "heart": 51, "humerus_left": 69, "humerus_right": 70, "scapula_left": 71, "scapula_right": 72, "femur_left": 75,
    "femur_right": 76, "hip_left": 77, "hip_right": 78, "spinal_cord": 79, "skull": 91,
} | {f"vertebrae_{name}": 27 + row for row, name in enumerate(_VERTEBRAE)}  # fmt: skip
"""Numbers of TotalSegmentator 2, task ``total``: what the rules need."""
_LUNGS = {
    "left": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
    "right": ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
}
_BELOW = {"right": ("liver",), "left": ("spleen", "stomach", "colon", "liver")}
_BONES = ("humerus", "scapula", "femur", "hip")


class _NoLandmarkError(PatientError):
    """A landmark cannot be told from the labels."""


class _AbsentError(_NoLandmarkError):
    """The labels hold nothing of a structure."""


@dataclass(frozen=True, eq=False)
class Mask:
    """A part of a label map.

    Attributes:
        values: bool array, shape (I, J, K), of the box that holds the part.
        origin: First voxel of the box (3,).
    """

    values: NDArray[np.bool_]
    origin: NDArray[np.int64]

    @property
    def voxels(self) -> NDArray[np.int64]:
        """Voxels of the part (N, 3)."""
        return np.asarray(np.argwhere(self.values) + self.origin)

    def surface(self) -> Mask:
        """Return the voxels of the part that have a neighbor outside of it."""
        inner = ndimage.binary_erosion(np.pad(self.values, 1))[1:-1, 1:-1, 1:-1]
        return Mask(self.values & ~inner, self.origin)


class Segmentation:
    """Structures of a CT by name, on a grid whose indices grow to the left, to the back and to the head."""

    def __init__(self, labels: NDArray[Any], transform_voxel_to_lps: Array, ids: Mapping[str, int]) -> None:
        """Take over a label map.

        Args:
            labels: Whole numbers (I, J, K); 0: nothing.
            transform_voxel_to_lps: (4, 4), mm.
            ids: Name of a structure to its number.

        Raises:
            PatientError: The values are no labels.
        """
        from nibabel.orientations import inv_ornt_aff, io_orientation

        low, high = float(labels.min()), float(labels.max())
        if low < 0 or high > _MOST_LABELS or (labels.dtype.kind == "f" and not (labels == np.rint(labels)).all()):
            raise PatientError(f"not a label map: its values run from {low:g} to {high:g}; whole numbers are needed")
        turned = inv_ornt_aff(io_orientation(transform_voxel_to_lps), labels.shape)
        self.transform_voxel_to_lps: Array = np.asarray(transform_voxel_to_lps @ turned)
        self.labels = laid_in_lps(labels, transform_voxel_to_lps).astype(np.uint16)
        self.spacing_mm: Array = np.linalg.norm(self.transform_voxel_to_lps[:3, :3], axis=0)
        self.ids: dict[str, int] = dict(ids)
        self._boxes = ndimage.find_objects(self.labels)

    @property
    def structures(self) -> list[str]:
        """Names of the structures that the map holds."""
        return [name for name in self.ids if self.box(name) is not None]

    def box(self, name: str) -> tuple[slice, ...] | None:
        """Return the box that holds a structure, or None."""
        number = self.ids.get(name, 0)
        return self._boxes[number - 1] if 0 < number <= len(self._boxes) else None

    def centroid(self, name: str) -> Array:
        """Return the centroid (3,), LPS, mm, of a structure that the map holds."""
        box = self.box(name)
        assert box is not None
        voxels = np.argwhere(self.labels[box] == self.ids[name]).mean(axis=0) + [part.start for part in box]
        return np.asarray(self.lps(voxels[None])[0])

    def lps(self, voxels: Array) -> Array:
        """Return positions (N, 3) in LPS, mm, of voxels (N, 3)."""
        matrix = self.transform_voxel_to_lps
        return np.asarray(voxels @ matrix[:3, :3].T + matrix[:3, 3])

    def steps(self, length_mm: float, axis: int = 0) -> int:
        """Return how many voxels a length, mm, is along an axis."""
        return round(length_mm / float(self.spacing_mm[axis]))

    def mask(self, *names: str) -> Mask:
        """Return the largest connected part of the union of some structures.

        Raises:
            _NoLandmarkError: There is none.
        """
        boxes = [box for box in map(self.box, names) if box is not None]
        if not boxes:
            raise _AbsentError(f"the labels hold no {' or '.join(names)}")
        box = tuple(slice(min(b[axis].start for b in boxes), max(b[axis].stop for b in boxes)) for axis in range(3))
        union = np.isin(self.labels[box], [self.ids[name] for name in names if name in self.ids])
        parts, _ = ndimage.label(union)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        origin = np.array([part.start for part in box])
        return Mask(np.asarray(parts == sizes.argmax()), origin)

    def whole(self, mask: Mask, what: str, *, above: bool = True, below: bool = True) -> Mask:
        """Return a part again, after checking that the CT shows all of it.

        Args:
            mask: The part.
            what: Its name.
            above: Whether its upper end matters.
            below: Whether its lower end matters.

        Raises:
            _NoLandmarkError: It reaches the end of the CT.
        """
        last = mask.origin[2] + mask.values.shape[2]
        if (below and mask.origin[2] <= 0) or (above and last >= self.labels.shape[2]):
            raise _NoLandmarkError(f"{what} is cut off by the end of the CT")
        return mask

    def hu_at(self, volume: Volume, voxels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the CT's values (N,), HU, at voxels (N, 3) of the labels; NaN outside the CT."""
        places = np.rint(volume.voxel_from_lps(self.lps(voxels.astype(float)))).astype(int)
        inside = ((places >= 0) & (places < volume.shape)).all(axis=1)
        found = np.full(len(voxels), np.nan)
        found[inside] = volume.hu[tuple(places[inside].T)]
        return found


def vertebral_body(seg: Segmentation, _: Volume, name: str) -> Array:
    """Centroid of the vertebral body: in each axial slice the vertebra's part in front of the spinal canal, opened."""
    vertebra = seg.whole(seg.mask(f"vertebrae_{name}"), name)
    low = vertebra.origin
    fronts = _canal_fronts(seg)
    body = np.zeros_like(vertebra.values)
    for k in np.flatnonzero(vertebra.values.any((0, 1))):
        front = fronts[k + low[2]]
        if not np.isfinite(front):
            raise _NoLandmarkError(f"the labels do not show the spinal canal beside {name}")
        row = max(0, round(front) - seg.steps(_CANAL_GAP_MM, 1) - int(low[1]))
        body[:, :row, k] = vertebra.values[:, :row, k]
    width = [max(1, seg.steps(_PEDICLE_MM, axis)) for axis in (0, 1)]
    body = ndimage.binary_opening(body, np.ones((*width, 1)))
    if not body.any():
        raise _NoLandmarkError(f"nothing of {name} lies in front of the spinal canal")
    return np.asarray(seg.lps(Mask(body, low).voxels.astype(float)).mean(axis=0))


def _canal_fronts(seg: Segmentation) -> Array:
    """Return the first row of the spinal canal in each slice (K,); NaN away from it, gaps are bridged."""
    canal = (seg.labels == seg.ids.get("spinal_cord", -1)).any(axis=0)
    known = np.flatnonzero(canal.any(axis=0))
    fronts = np.full(seg.labels.shape[2], np.nan)
    if len(known):
        slices = np.arange(known[0], known[-1] + 1)
        fronts[slices] = np.interp(slices, known, canal[:, known].argmax(axis=0))
        after = known[np.searchsorted(known, slices)]
        before = known[np.searchsorted(known, slices, side="right") - 1]
        fronts[slices[(after - before) * seg.spacing_mm[2] > _CANAL_BRIDGE_MM]] = np.nan
    return fronts


def carina(seg: Segmentation, volume: Volume) -> Array:
    """Highest axial slice, going down, in which the airway shows two separate lumina; the point between them."""
    trachea = seg.mask("trachea")
    area_mm2 = float(seg.spacing_mm[0] * seg.spacing_mm[1])
    margin = seg.steps(_WALL_MM)
    padded = np.pad(trachea.values, ((margin, margin), (margin, margin), (0, 0)))
    for k in range(padded.shape[2] - 1, -1, -1):
        near = ndimage.binary_dilation(padded[:, :, k], iterations=margin) if margin else padded[:, :, k]
        voxels = np.asarray(np.argwhere(near[:, :, None]) + trachea.origin - [margin, margin, -k], dtype=np.int64)
        lumen = np.zeros_like(near)
        lumen[near] = seg.hu_at(volume, voxels) < _AIR_HU
        parts, _ = ndimage.label(lumen)
        sizes = np.bincount(parts.ravel()) * area_mm2
        sizes[0] = 0
        large = [part for part in np.argsort(sizes)[::-1] if sizes[part] > _LUMEN_MM2]
        if len(large) >= 2:
            centers = [np.argwhere(parts == part).mean(axis=0) for part in large[:2]]
            between = np.mean(centers, axis=0) + trachea.origin[:2] - margin
            return np.asarray(seg.lps(np.array([[*between, float(k + trachea.origin[2])]]))[0])
    raise _NoLandmarkError("the trachea does not divide inside the CT")


def joint_center(seg: Segmentation, _: Volume, bone: str, socket: str, reach_mm: float) -> Array:
    """Center of the sphere fitted to the joint's surface: the bone's surface near the bone that it moves in."""
    surface = seg.lps(seg.mask(bone).surface().voxels.astype(float))
    tree = cKDTree(seg.lps(seg.mask(socket).surface().voxels.astype(float)))
    near = surface[tree.query(surface, distance_upper_bound=reach_mm)[0] < reach_mm]
    if len(near) < 20:
        raise _NoLandmarkError(f"{bone} and {socket} do not meet inside the CT")
    design = np.column_stack([2 * near, np.ones(len(near))])
    solution = np.linalg.lstsq(design, (near**2).sum(axis=1), rcond=None)[0]
    center = np.asarray(solution[:3])
    distances = np.linalg.norm(near - center, axis=1)
    radius = float(distances.mean())
    if not _HEAD_RADIUS_MM[0] <= radius <= _HEAD_RADIUS_MM[1] or distances.std() > _ROUGHNESS * radius:
        raise _NoLandmarkError(f"the joint's surface of {bone} is no sphere (radius {radius:.0f} mm)")
    return center


def inferior_angle(seg: Segmentation, _: Volume, side: str) -> Array:
    """Mean of the lowest 3 mm of the scapula."""
    name = f"scapula_{side}"
    points = seg.lps(seg.whole(seg.mask(name), name, above=False).voxels.astype(float))
    return np.asarray(points[points[:, 2] < points[:, 2].min() + _TIP_MM].mean(axis=0))


def dome(seg: Segmentation, _: Volume, side: str) -> Array:
    """Apex of the hemidiaphragm: highest point of the lung's smoothed base away from heart and chest wall."""
    lung = seg.mask(*_LUNGS[side])
    box = tuple(slice(o, o + n) for o, n in zip(lung.origin, lung.values.shape, strict=True))[:2]
    organs = np.isin(seg.labels[box], [seg.ids[name] for name in _BELOW[side] if name in seg.ids])
    bottom = int(lung.origin[2])
    lowest = np.where(lung.values.any(2), lung.values.argmax(2) + bottom, -1)
    highest = np.where(organs.any(2), organs.shape[2] - 1 - organs[:, :, ::-1].argmax(2), -1)
    layer = max(1, seg.steps(_LAYER_MM, 2))
    valid = np.asarray((lowest >= 0) & (highest >= 0) & (lowest - highest < layer) & (lowest >= highest - 1))
    sampling = tuple(seg.spacing_mm[:2])
    flat = np.pad(lung.values.any(2), 1)
    valid &= ndimage.distance_transform_edt(flat, sampling=sampling)[1:-1, 1:-1] > _WALL_DISTANCE_MM
    heart = (seg.labels[box] == seg.ids.get("heart", -1)).any(2)
    if heart.any():
        valid &= ndimage.distance_transform_edt(~heart, sampling=sampling) > _HEART_DISTANCE_MM
    if not valid.any():
        raise _NoLandmarkError(f"no {side} hemidiaphragm inside the CT")
    blur = _DOME_BLUR_MM / np.array(sampling)
    weight = ndimage.gaussian_filter(valid.astype(float), blur)
    height = ndimage.gaussian_filter(np.where(valid, lowest, 0).astype(float), blur) / np.maximum(weight, 1e-6)
    height[~valid] = -np.inf
    if (seg.labels.shape[2] - 1 - height.max()) * seg.spacing_mm[2] < _DOME_BELOW_END_MM:
        raise _NoLandmarkError(f"the {side} hemidiaphragm is cut off by the end of the CT")
    top = np.argwhere(height > height.max() - _DOME_TOP_MM / seg.spacing_mm[2])
    i, j = top.mean(axis=0) + lung.origin[:2]
    return np.asarray(seg.lps(np.array([[i, j, height.max()]]))[0])


def skull(seg: Segmentation, _: Volume) -> Array:
    """Center of the skull's bounding box."""
    points = seg.lps(seg.whole(seg.mask("skull"), "the skull").voxels.astype(float))
    return np.asarray((points.min(axis=0) + points.max(axis=0)) / 2)


def iliac_crest(seg: Segmentation, _: Volume, side: str) -> Array:
    """Mean of the highest 3 mm of the hip bone."""
    name = f"hip_{side}"
    points = seg.lps(seg.whole(seg.mask(name), name, below=False).voxels.astype(float))
    return np.asarray(points[points[:, 2] > points[:, 2].max() - _TIP_MM].mean(axis=0))


def promontory(seg: Segmentation, _: Volume) -> Array:
    """Foremost point of the middle 16 mm of the sacrum's upper 22 mm."""
    points = seg.lps(seg.whole(seg.mask("sacrum"), "the sacrum", below=False).voxels.astype(float))
    middle = (points[:, 0].min() + points[:, 0].max()) / 2
    top = points[:, 2].max() - _PROMONTORY_MM[1]
    near = points[(np.abs(points[:, 0] - middle) < _PROMONTORY_MM[0]) & (points[:, 2] > top)]
    return np.asarray(near[near[:, 1] < near[:, 1].min() + _TIP_MM].mean(axis=0))


def symphysis(seg: Segmentation, _: Volume) -> Array:
    """Mean of the surfaces of both hip bones where they come nearest to each other, in front."""
    surfaces = [seg.lps(seg.mask(f"hip_{side}").surface().voxels.astype(float)) for side in ("left", "right")]
    near = []
    for one, other in (surfaces, surfaces[::-1]):
        distance = cKDTree(other).query(one, distance_upper_bound=_SYMPHYSIS_MM)[0]
        near.append(one[distance < _SYMPHYSIS_MM])
    if min(map(len, near)) < 10:
        raise _NoLandmarkError("the hip bones do not meet inside the CT")
    return np.asarray((near[0].mean(axis=0) + near[1].mean(axis=0)) / 2)


def _rules() -> dict[int, partial[Array]]:
    """Return the rule of each landmark, by id."""
    rules: dict[str, partial[Array]] = {
        "Skull": partial(skull),
        "Carina": partial(carina),
        "Pubic symphysis": partial(symphysis),
        "Sacral promontory": partial(promontory),
        **{name: partial(vertebral_body, name=name) for name in _VERTEBRAE},
    }
    for word, side in (("Right", "right"), ("Left", "left")):
        arm = partial(joint_center, bone=f"humerus_{side}", socket=f"scapula_{side}", reach_mm=_NEAR_SCAPULA_MM)
        leg = partial(joint_center, bone=f"femur_{side}", socket=f"hip_{side}", reach_mm=_NEAR_HIP_MM)
        rules |= {f"{word} humeral head": arm, f"{word} femoral head": leg}
        rules[f"{word} scapular inferior angle"] = partial(inferior_angle, side=side)
        rules[f"{word} hemidiaphragm"] = partial(dome, side=side)
        rules[f"{word} iliac crest"] = partial(iliac_crest, side=side)
    by_name = {mark.name: mark.id for mark in (*LANDMARKS, *EXTRA_LANDMARKS)}
    return {by_name[name]: rule for name, rule in rules.items() if name in by_name}


@dataclass
class Derived:
    """Landmarks that follow from labels.

    Attributes:
        positions_mm: Landmark id to its LPS position (3,), mm.
        methods: Landmark id to how it was found.
        left_out: Landmark id to why it is missing, where the labels hold something of it.
        centroids_mm: Name of each structure to the centroid of its voxels (3,), LPS, mm.
    """

    positions_mm: dict[int, Array] = field(default_factory=dict)
    methods: dict[int, str] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)
    centroids_mm: dict[str, Array] = field(default_factory=dict)


def derive(seg: Segmentation, volume: Volume) -> Derived:
    """Return the landmarks that the labels of a CT show.

    Args:
        seg: Labels.
        volume: The CT.

    Raises:
        PatientError: The labels are those of another CT, or hold none of the structures.
    """
    check_fit(seg, volume)
    derived = Derived(centroids_mm={name: seg.centroid(name) for name in seg.structures})
    for number, rule in sorted(_rules().items()):
        try:
            derived.positions_mm[number] = rule(seg, volume)
            derived.methods[number] = f"TotalSegmentator labels: {(rule.func.__doc__ or '').strip()}"
        except _AbsentError:
            continue
        except _NoLandmarkError as error:
            derived.left_out[number] = str(error)
    if not derived.positions_mm:
        raise PatientError(
            "the labels show none of the landmarks; they hold " + (", ".join(seg.structures) or "nothing")
        )
    return derived


def check_fit(seg: Segmentation, volume: Volume) -> None:
    """Check that labels lie where the CT shows bones and lungs.

    Raises:
        PatientError: They do not: another CT's, or another table of structures.
    """
    for starts, what in (((*_BONES, "vertebrae"), "bone"), (("lung_",), "lung")):
        values = []
        for name in seg.structures:
            box = seg.box(name)
            if box is not None and name.startswith(starts):
                voxels = np.argwhere(seg.labels[box] == seg.ids[name]) + [part.start for part in box]
                values.append(seg.hu_at(volume, voxels[:: max(1, len(voxels) // _LOOKED_AT)]))
        if not values:
            continue
        hu = np.concatenate(values)
        outside = float(np.isnan(hu).mean())
        mean = float(np.nanmean(hu)) if outside < 1.0 else np.nan
        if outside > _MOST_OUTSIDE or not (mean > _BONE_HU if what == "bone" else mean < _LUNG_HU):
            seen = f"{100 * outside:.0f} % outside the CT" if outside > _MOST_OUTSIDE else f"{mean:.0f} HU on average"
            raise PatientError(f"the labels do not fit this CT: what they call {what} is {seen}")


def read_segmentation(path: Path) -> Segmentation:
    """Read what TotalSegmentator wrote.

    Args:
        path: One label map (NIfTI; the names of its numbers are in its header, in ``structures.csv`` beside it, or
            those of version 2), or a folder with one mask for each structure, ``vertebrae_T1.nii.gz`` and so on.

    Raises:
        PatientError: It cannot be read, or holds nothing that is needed.
    """
    if path.is_dir():
        return _from_folder(path)
    labels, affine = open_nifti(path).read()
    return Segmentation(labels, affine, _table(path) or STRUCTURES)


def _from_folder(folder: Path) -> Segmentation:
    files = {name: folder / f"{name}{_SUFFIX}" for name in STRUCTURES if (folder / f"{name}{_SUFFIX}").is_file()}
    if not files:
        raise PatientError(f"{folder}: no mask of TotalSegmentator in it, for example vertebrae_T1{_SUFFIX}")
    labels, affine = None, np.eye(4)
    for name, file in files.items():
        values, found = open_nifti(file).read()
        if labels is None:
            labels, affine = np.zeros(values.shape, np.uint16), found
        if values.shape != labels.shape or not np.allclose(found, affine, atol=1e-3):
            raise PatientError(f"{file}: its grid is another than that of {next(iter(files.values())).name}")
        labels[values > 0] = STRUCTURES[name]
    assert labels is not None
    return Segmentation(labels, affine, STRUCTURES)


def _table(path: Path) -> dict[str, int]:
    """Return the names of a label map's numbers, from the table beside it or from its header; empty without."""
    beside = path.with_name(TABLE_FILE)
    if beside.is_file():
        try:
            with beside.open(encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream.read(_LARGEST_TABLE).splitlines()))
            return {row["structure"]: int(row["id"]) for row in rows}
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise PatientError(f"{beside}: no table of 'structure' and 'id' ({one_line(error)})") from error
    return _names_in_header(path)


def _names_in_header(path: Path) -> dict[str, int]:
    """Return what the label table in the NIfTI header says, as TotalSegmentator writes it."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    text = ""
    try:
        image = nibabel.load(path)
    except (ImageFileError, HeaderDataError, OSError, ValueError) as error:
        raise PatientError(f"{path}: the names of its labels cannot be read ({one_line(error)})") from error
    for extension in image.header.extensions:
        content = extension.get_content()
        text += content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
    pairs = re.findall(r'<Label Key="(\d{1,4})"[^>]{0,200}>(?:<!\[CDATA\[)?([A-Za-z0-9_]{1,60})', text[:_LARGEST_TABLE])
    return {name: int(number) for number, name in pairs}
