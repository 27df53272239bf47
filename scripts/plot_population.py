# SPDX-License-Identifier: Apache-2.0
"""Plot the landmarks of generated bodies beside the human population that they are drawn after.

Usage: python scripts/plot_population.py [--samples 200] [--out docs/images/population.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from carm_core.landmarks import landmark
from carm_core.transforms import Array
from carm_sim.phantom import sample_landmarks
from carm_sim.phantom.population import landmark_population

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "population.png"
HUMAN, PHANTOM = "#d1495b", "#00798c"


def sampled_offsets(samples: int) -> Array:
    """Landmarks of the bodies from 0 on, arms crossed: (samples, landmarks, 2) below T1 and left of it, mm."""
    ids = landmark_population().ids
    rows = []
    for seed in range(samples):
        marks = sample_landmarks(seed, arms="crossed")
        away = np.array([marks[int(key)] - marks[10] for key in ids])
        rows.append(np.column_stack([-away[:, 2], away[:, 0]]))
    return np.array(rows)


def correlation(covariance: Array) -> Array:
    """Correlation matrix of a covariance matrix; rows without variance are nought."""
    deviation = np.sqrt(np.diag(covariance))
    scale = np.where(deviation > 1e-3, deviation, np.inf)
    return np.asarray(covariance / np.outer(scale, scale))


def _ellipse(axes: Axes, mean: Array, covariance: Array, color: str) -> None:
    """Two standard deviations; mean and covariance in (left, inferior)."""
    values, vectors = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    width, height = 4 * np.sqrt(np.maximum(values[::-1], 0))
    axes.add_patch(
        Ellipse((float(mean[0]), float(mean[1])), width, height, angle=angle, fill=False, color=color, lw=1.5)
    )


def _places(axes: Axes, offsets: Array) -> None:
    population = landmark_population()
    count = len(population.ids)
    axes.plot(offsets[:, :, 1].ravel(), offsets[:, :, 0].ravel(), ".", ms=2, alpha=0.35, color=PHANTOM)
    for row, key in enumerate(population.ids):
        index = [count + row, row]
        mean = population.mean_mm[row, ::-1]
        _ellipse(axes, mean, population.covariance_mm2[np.ix_(index, index)], HUMAN)
        _ellipse(axes, offsets[:, row, ::-1].mean(0), np.cov(offsets[:, row, ::-1].T), PHANTOM)
        axes.annotate(
            landmark(int(key)).name,
            (float(mean[0]), float(mean[1])),
            (0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
        )
    axes.plot([], [], color=HUMAN, label=f"{count} landmarks of 161 human bodies, two standard deviations")
    axes.plot([], [], color=PHANTOM, label=f"{len(offsets)} generated bodies")
    axes.set(aspect="equal", xlabel="left of T1 (mm)", ylabel="below T1 (mm)", title="Landmarks in the coronal plane")
    axes.set_ylim(365, -275)
    axes.legend(fontsize=7, loc="upper center")


def _deviations(axes: Axes, offsets: Array) -> None:
    population = landmark_population()
    for column, (marker, name) in enumerate((("o", "below T1"), ("s", "left of T1"))):
        axes.plot(population.std_mm[:, column], offsets.std(0)[:, column], marker, ms=5, label=name, color=PHANTOM)
    top = 1.15 * float(population.std_mm.max())
    axes.plot([0, top], [0, top], "k--", lw=0.8)
    axes.set(xlabel="human (mm)", ylabel="generated (mm)", title="Standard deviations", aspect="equal")
    axes.legend(fontsize=7)


def _correlations(axes: Axes, offsets: Array) -> None:
    """Human correlations below the diagonal, generated ones above."""
    human = correlation(landmark_population().covariance_mm2)
    ours = correlation(np.cov(np.concatenate([offsets[:, :, 0], offsets[:, :, 1]], axis=1).T))
    moving = np.abs(np.diag(human)) > 0.5
    human, ours = human[np.ix_(moving, moving)], ours[np.ix_(moving, moving)]
    image = axes.imshow(np.tril(human, -1) + np.triu(ours, 1), cmap="RdBu_r", vmin=-1, vmax=1)
    error = np.abs(human - ours)[np.triu_indices_from(human, 1)].mean()
    half = moving[: len(moving) // 2].sum() - 0.5
    axes.axhline(half, color="k", lw=0.5)
    axes.axvline(half, color="k", lw=0.5)
    axes.set(xticks=[], yticks=[], title="Correlations: human below, generated above the diagonal")
    axes.set_xlabel(f"first below T1, then left of T1; mean difference {error:.2f}")
    axes.title.set_fontsize(9)
    axes.figure.colorbar(image, ax=axes, shrink=0.8)


def main() -> None:
    """Draw and save the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200, help="number of bodies (200)")
    parser.add_argument("--out", type=Path, default=OUT, help="PNG to write")
    options = parser.parse_args()
    offsets = sampled_offsets(options.samples)
    figure = pyplot.figure(figsize=(12.5, 8.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[1.45, 1])
    _places(figure.add_subplot(grid[:, 0]), offsets)
    _deviations(figure.add_subplot(grid[0, 1]), offsets)
    _correlations(figure.add_subplot(grid[1, 1]), offsets)
    figure.savefig(options.out, dpi=90)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
