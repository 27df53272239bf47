# SPDX-License-Identifier: Apache-2.0
"""Search for the pose of the CT in which its rendered images fit all X-ray images: CMA-ES, then Gauss-Newton."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from cmaes import CMA
from scipy.spatial.transform import Rotation

from carm_core.imaging.projection import XrayView
from carm_core.transforms import Array, RigidTransform
from carm_perception.registration.model import CtModel, Mask
from carm_perception.registration.similarity import (
    LEAST_SHARE,
    Features,
    Target,
    correlation,
    correlation_of,
    features,
    patches,
)

STEP_DEG, STEP_MM, DEPTH = 1.0, 2.5, 2.5
"""One unit of a parameter: of a turn, of a shift across the first view, and how much larger one is along it."""
_FALL = 1e-4
_JACOBIAN_STEP = 0.15
_DAMPING = 1e-3
_SOFT_WEIGHT = 0.1
"""Of edges that are no bone's, against 1 of those that are."""
_TOLERANT = 1.0
"""A patch that fits so many times worse than the median one counts half."""


@dataclass(frozen=True, eq=False)
class PoseGrid:
    """Six numbers around a pose: turns about the axes of a view, and shifts along them, about a point.

    Attributes:
        transform_lps_to_table: Pose at (0, ..., 0), mm.
        pivot_mm: The point (3,), frame ``table``, mm.
        axes: Columns right, down, forward of the view (3, 3), frame ``table``.
    """

    transform_lps_to_table: RigidTransform
    pivot_mm: Array
    axes: Array

    @classmethod
    def around(cls, transform_lps_to_table: RigidTransform, view: XrayView) -> PoseGrid:
        """Turn about a view's isocenter and along its axes."""
        return cls(transform_lps_to_table, view.isocenter_mm, view.rotation)

    def pose(self, x: Array) -> RigidTransform:
        """Return the pose at (6,): three turns, then three shifts, in units."""
        turn = Rotation.from_rotvec(self.axes @ np.radians(x[:3] * STEP_DEG)).as_matrix()
        shift = self.axes @ (x[3:] * np.array([STEP_MM, STEP_MM, STEP_MM * DEPTH]))
        about = RigidTransform(turn, self.pivot_mm - turn @ self.pivot_mm + shift)
        return about @ self.transform_lps_to_table

    def moves(self, x: Array, points_lps_mm: Array) -> Array:
        """Return how points (n, 3), LPS, mm, move in frame ``table`` per unit of each parameter (n, 3, 6), mm."""
        moved = np.empty((len(points_lps_mm), 3, 6))
        for i in range(6):
            step = np.zeros(6)
            step[i] = 0.5
            moved[:, :, i] = self.pose(x + step).apply(points_lps_mm) - self.pose(x - step).apply(points_lps_mm)
        return moved


@dataclass(frozen=True, eq=False)
class Fit:
    """A pose with how well it fits.

    Attributes:
        grid: What the parameters mean.
        x: Parameters (6,).
        similarity: Correlation over all images, -1 to 1.
        covariance: Of the parameters (6, 6), from the curvature; not calibrated. NaN after a coarse search.
    """

    grid: PoseGrid
    x: Array
    similarity: float
    covariance: Array = field(default_factory=lambda: np.full((6, 6), np.nan))

    @property
    def transform_lps_to_table(self) -> RigidTransform:
        """The pose."""
        return self.grid.pose(self.x)


class PoseSearch:
    """Compares one CT with some X-ray images of one patient who lies still."""

    def __init__(
        self,
        model: CtModel,
        frames: Sequence[Sequence[Target]],
        pool: ThreadPoolExecutor,
        penalty: Callable[[RigidTransform], float] = lambda pose: 0.0,
    ) -> None:
        """Take the images.

        Args:
            model: The CT.
            frames: Of each image, its ``Target`` at each level of the CT.
            pool: Threads, as many as the model may have.
            penalty: What a coarse search subtracts from the correlation of poses in which nobody lies.
        """
        self._model, self._frames, self._pool, self._penalty = model, frames, pool, penalty

    def similarity(self, pose: RigidTransform, level: int, worker: int = 0) -> float:
        """Return the correlation over all images."""
        scores = []
        for targets in self._frames:
            target = targets[level]
            image, known = self._model.render(level, target.view, pose, worker)
            mask = target.mask & known
            scores.append(correlation(features(image, mask), target.features, mask))
        return float(np.mean(scores))

    def similarities(self, poses: Sequence[RigidTransform], level: int) -> list[float]:
        """Return the correlation of many poses less their penalty, on all threads."""
        count = self._model.threads

        def work(worker: int) -> list[float]:
            return [self.similarity(p, level, worker) - self._penalty(p) for p in poses[worker::count]]

        scores = [0.0] * len(poses)
        for worker, part in enumerate(self._pool.map(work, range(count))):
            scores[worker::count] = part
        return scores

    def coarse(self, grid: PoseGrid, spread: Array, level: int, rounds: int, population: int, seed: int = 1) -> Fit:
        """Search by CMA-ES.

        Args:
            grid: Where to begin.
            spread: How far off each parameter may be (6,), one standard deviation, units.
            level: Resolution.
            rounds: Most generations; fewer when they no longer improve.
            population: Poses of each.
            seed: Of the random numbers.
        """
        search = CMA(mean=np.zeros(6), sigma=1.0, seed=seed, population_size=population)
        best, best_x, stale = -1.0, np.zeros(6), 0
        for _ in range(rounds):
            asked = [search.ask() for _ in range(population)]
            scores = self.similarities([grid.pose(x * spread) for x in asked], level)
            search.tell([(x, -score) for x, score in zip(asked, scores, strict=True)])
            top = int(np.argmax(scores))
            stale = 0 if scores[top] > best + _FALL else stale + 1
            if scores[top] > best:
                best, best_x = scores[top], asked[top] * spread
            if stale >= 8:
                break
        return Fit(grid, best_x, best)

    def refined(self, fit: Fit, level: int, steps: int) -> Fit:
        """Refine by Gauss-Newton on the images' features, damped until they fit better.

        Parts of the images that fit much worse than the others count little: what has moved in the body since the CT,
        and what the CT does not know.

        Args:
            fit: Where to begin.
            level: Resolution.
            steps: Most steps.

        Returns:
            The fit; its similarity is that of all parts alike.
        """
        x, damping = fit.x, _DAMPING
        parts = [self._linear(fit.grid, x, targets[level], level) for targets in self._frames]
        for _ in range(steps):
            jacobian = np.concatenate([part.weighted_jacobian for part in parts])
            residual = np.concatenate([part.weighted_residual for part in parts])
            normal = jacobian.T @ jacobian
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), jacobian.T @ residual)
            step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-9))
            pose = fit.grid.pose(x + step)
            gained = sum(self._score(part, pose, level) - part.score for part in parts) / len(parts)
            if gained <= 0:
                damping = max(damping, 1e-2) * 8
                if damping > 10:
                    break
                continue
            x, damping = x + step, damping / 4
            parts = [self._linear(fit.grid, x, targets[level], level) for targets in self._frames]
            if float(np.abs(step).max()) < 0.01 or gained < 1e-6:
                break
        jacobian = np.concatenate([part.weighted_jacobian for part in parts])
        residual = np.concatenate([part.weighted_residual for part in parts])
        covariance = np.linalg.pinv(jacobian.T @ jacobian) * float(residual @ residual) / max(1, len(residual))
        return Fit(fit.grid, x, float(np.mean([part.similarity for part in parts])), covariance)

    def _score(self, part: _Linear, pose: RigidTransform, level: int) -> float:
        """Return the correlation of one image with the weights that it has."""
        image, _ = self._model.render(level, part.target.view, pose)
        rendered = features(image, part.mask)[:, part.mask].ravel().astype(float)
        return _weighted(rendered, part.wanted, part.weights)

    def _linear(self, grid: PoseGrid, x: Array, target: Target, level: int) -> _Linear:
        """Compare one image with what is rendered at (6,), and how that changes."""
        poses = [grid.pose(x), *(grid.pose(x + _JACOBIAN_STEP * e) for e in np.eye(6))]
        mask = target.mask & self._model.render(level, target.view, poses[0])[1]
        count = self._model.threads

        def work(worker: int) -> list[Array]:
            images = [self._model.render(level, target.view, pose, worker)[0] for pose in poses[worker::count]]
            return [features(image, mask)[:, mask].ravel().astype(float) for image in images]

        made: list[Array] = [np.empty(0)] * len(poses)
        for worker, share in enumerate(self._pool.map(work, range(count))):
            made[worker::count] = share
        wanted = target.features[:, mask].ravel().astype(float)
        bones = features(self._model.render_bones(level, target.view, poses[0]), mask)
        weights = np.tile(_weights(mask, made[0], wanted) * _bony(bones[:, mask]), 2)
        unit = [part / (math.sqrt(float(weights @ part**2)) + 1e-12) for part in (*made, wanted)]
        score = float(weights @ (unit[0] * unit[-1]))
        slopes = [(moved - unit[0]) / _JACOBIAN_STEP for moved in unit[1:-1]]
        root = np.sqrt(weights)
        plain = correlation_of(made[0], wanted) if mask.mean() >= LEAST_SHARE else 0.0
        residual, jacobian = root * (unit[-1] * score - unit[0]), root[:, None] * np.stack(slopes, 1)
        return _Linear(target, mask, wanted, weights, residual, jacobian, score, plain)


@dataclass(frozen=True, eq=False)
class _Linear:
    """An image and what is rendered, as far as the mask holds; n features."""

    target: Target
    mask: Mask
    wanted: Array
    weights: Array
    weighted_residual: Array
    weighted_jacobian: Array
    score: float
    similarity: float


def _weighted(one: Array, other: Array, weights: Array) -> float:
    both = float(weights @ one**2) * float(weights @ other**2)
    return float(weights @ (one * other)) / (math.sqrt(both) + 1e-12)


def _bony(bones: Features) -> Array:
    """Return the weight (pixels in the mask,) of each pixel by the bone's edges (2, pixels): bones do not breathe."""
    strength = np.sqrt((bones.astype(float) ** 2).sum(0))
    typical = float(np.quantile(strength, 0.9)) if strength.size else 0.0
    return (
        np.asarray(_SOFT_WEIGHT + np.clip(strength / (typical + 1e-9), 0.0, 1.0))
        if typical > 0
        else np.ones_like(strength)
    )


def _weights(mask: Mask, rendered: Array, wanted: Array) -> Array:
    """Return the weight (pixels in the mask,) of each pixel by how its patch fits."""
    patch, fit, energy = patches(mask, rendered.reshape(2, -1), wanted.reshape(2, -1))
    there = energy > 0
    if not there.any():
        return np.ones(len(patch))
    misfit = np.clip(1.0 - fit, 1e-3, None)
    typical = float(np.median(misfit[there]))
    return np.asarray((1.0 / (1.0 + (misfit / (_TOLERANT * typical)) ** 2))[patch])
