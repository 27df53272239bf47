# SPDX-License-Identifier: Apache-2.0
"""A random body's plan: everything that is drawn before anything is built."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carm_core.transforms import Array
from carm_sim.phantom.population import landmark_population
from carm_sim.phantom.traits import Traits, draw_traits

STYLES = ("standard", "validation", "living")
ARM_POSES = ("crossed", "along", "one_up", "raised")
ARM_POSE_WEIGHTS = {
    "standard": (0.55, 0.12, 0.08, 0.25),
    "validation": (0.45, 0.15, 0.15, 0.25),
    "living": (0.20, 0.36, 0.12, 0.32),
}
CARINA_SHARE = (0.345, 0.035)
"""Mean and standard deviation of the carina's distance from T1, as a share of the distance from T1 to T12, in CTs of
living patients: 0.33 to 0.37 in four, against 0.24 in the decedents of ``population.json``."""
MAX_KYPHOSIS_MM = 55.0
UP, ALONG, CROSSED = "up", "along", "crossed"


@dataclass(frozen=True)
class BodyPlan:
    """Proportions, posture and tissue of one body.

    Attributes:
        seed: Seed that the plan was drawn from.
        style: One of ``STYLES``.
        arms: One of ``ARM_POSES``.
        arm_sides: ``up``, ``along`` or ``crossed`` for the sides ``r`` and ``l``.
        targets_mm: Landmark id to (inferior, left) relative to T1 in the body's own upright axes.
        tilt_rad: Rotation of the whole body in the coronal plane.
        frame_scale: Trunk length against the model's.
        torso_width, torso_depth: Chest scale factors against the model.
        female: Sex; tall bodies with broad shoulders are mostly male. It shapes pelvis, shoulders, neck and breasts.
        fatness: 0 (slim) to 1 (obese), and beyond in rare bodies.
        muscle: Thickness factor of muscles, about 1.
        kyphosis_mm, scoliosis_mm, scoliosis_phase: Bulge of the thoracic spine backwards and sideways.
        inspiration: About 0 (as in the population) to 1 (deep breath held).
        head_rotation_rad: Axial rotation, flexion, and lateral bending of the head, shape (3,).
        limb_scale: Arm length factor.
        leg_scale: Leg length factor.
        traits: Age and what comes with it, organ sizes, gas.
    """

    seed: int
    style: str
    arms: str
    arm_sides: dict[str, str]
    targets_mm: dict[int, Array]
    tilt_rad: float
    frame_scale: float
    torso_width: float
    torso_depth: float
    female: bool
    fatness: float
    muscle: float
    kyphosis_mm: float
    scoliosis_mm: float
    scoliosis_phase: float
    inspiration: float
    head_rotation_rad: Array
    limb_scale: float
    leg_scale: float
    traits: Traits


def plan_body(seed: int, style: str = "standard", arms: str | None = None) -> BodyPlan:
    """Draw a body.

    Args:
        seed: Any whole number from 0.
        style: ``standard``; ``validation`` for bodies with other habits (wider proportions); ``living`` for bodies as
            in CTs of living patients, see ``_living``.
        arms: One of ``ARM_POSES``; None draws it, mostly crossed.

    Raises:
        ValueError: If ``style`` or ``arms`` is unknown.
    """
    if style not in STYLES:
        raise ValueError(f"unknown phantom style {style!r}; known are {', '.join(STYLES)}")
    if arms is not None and arms not in ARM_POSES:
        raise ValueError(f"unknown arm pose {arms!r}; known are {', '.join(ARM_POSES)}")
    rng = np.random.default_rng([seed, STYLES.index(style), 1])
    drawn = str(rng.choice(ARM_POSES, p=ARM_POSE_WEIGHTS[style]))
    arms = arms or drawn
    sides = _arm_sides(arms, np.random.default_rng([seed, STYLES.index(style), 2]))
    wide = 1.25 if style == "validation" else 1.0
    upright, tilt = _upright(landmark_population().sample(rng, wide))
    living = np.random.default_rng([seed, 9]) if style == "living" else None
    if living is not None:
        upright = _living(upright, living)
    frame = float(np.clip(upright[14][0] / 254.5, 0.78, 1.25))
    inspiration = float(rng.uniform(0.3, 1.0)) if arms == "raised" else float(rng.uniform(-0.15, 0.15))
    width, depth = float(rng.normal(1.03, 0.06 * wide)), float(rng.normal(1.08, 0.07 * wide))
    female = bool(rng.random() < _share_of_women(upright))
    traits = draw_traits(seed, style, female)
    if living is not None:
        inspiration = float(living.uniform(-0.1, 0.9))
    inspiration = float(np.clip(inspiration + traits.breath, -0.5, 1.1))
    targets = _breathe(upright, inspiration, frame)
    if living is not None:
        share = float(np.clip(living.normal(*CARINA_SHARE), 0.24, 0.46))
        targets[11] = np.array([share * targets[14][0], targets[11][1]])
    fatness = float(rng.beta(1.6, 2.4)) if style == "standard" else float(rng.uniform(0.02, 0.98))
    muscle = float(np.clip(rng.normal(1.0, 0.18) - (traits.age_years - 62.0) * 0.0025, 0.55, 1.6))
    kyphosis = float(rng.gamma(1.6, 7.0)) * (0.4 + traits.age_years / 103.0)
    kyphosis = min(kyphosis + traits.kyphosis_mm, MAX_KYPHOSIS_MM)
    scoliosis = float(rng.normal(0, 5.0 * wide)) + traits.scoliosis_mm
    phase = float(rng.uniform(0, 2 * np.pi))
    posture = 1.0 if living is None else 1.5
    head = np.add(posture * rng.normal(0, [0.22, 0.10, 0.04]), [traits.head_turn_rad, 0.012 * traits.kyphosis_mm, 0.0])
    return BodyPlan(
        seed=seed,
        style=style,
        arms=arms,
        arm_sides=sides,
        targets_mm=targets,
        tilt_rad=tilt,
        frame_scale=frame,
        torso_width=frame**0.5 * width,
        torso_depth=frame**0.5 * depth * (1 + 0.04 * traits.breath),
        female=female,
        fatness=max(0.0, fatness + traits.obesity),
        muscle=muscle,
        kyphosis_mm=kyphosis,
        scoliosis_mm=scoliosis,
        scoliosis_phase=phase,
        inspiration=inspiration,
        head_rotation_rad=head,
        limb_scale=frame**0.5 * float(rng.normal(0.985, 0.035 * wide)),
        leg_scale=frame**0.6 * traits.leg_share,
        traits=traits,
    )


def _share_of_women(targets: dict[int, Array]) -> float:
    """Return the chance that a body of this trunk length and shoulder breadth is a woman's; 45 % on average."""
    population = landmark_population()
    row = {int(key): index for index, key in enumerate(population.ids)}
    mean, count = population.mean_mm, len(population.ids)
    trunk = (targets[14][0] - mean[row[14], 0]) / population.std_mm[row[14], 0]
    ends = [count + row[2], count + row[3]]
    covariance = population.covariance_mm2[np.ix_(ends, ends)]
    spread = float(np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    breadth = (targets[3][1] - targets[2][1] - (mean[row[3], 1] - mean[row[2], 1])) / spread
    return float(1 / (1 + np.exp(0.25 + 0.9 * (trunk + breadth))))


def _arm_sides(arms: str, rng: np.random.Generator) -> dict[str, str]:
    if arms == "one_up":
        raised = str(rng.choice(["r", "l"]))
        other = str(rng.choice([CROSSED, ALONG]))
        return {side: UP if side == raised else other for side in ("r", "l")}
    return dict.fromkeys(("r", "l"), {"raised": UP}.get(arms, arms))


def _upright(sample: dict[int, Array]) -> tuple[dict[int, Array], float]:
    """Remove the rotation about T1 in the coronal plane from a sampled landmark set."""
    central = (1, 2, 3, 4, 5, 11, 12, 13, 14)
    mean = {
        int(key): value for key, value in zip(landmark_population().ids, landmark_population().mean_mm, strict=True)
    }
    dot = sum(float(mean[key] @ sample[key]) for key in central)
    cross = sum(float(mean[key][0] * sample[key][1] - mean[key][1] * sample[key][0]) for key in central)
    angle = float(np.arctan2(cross, dot))
    cosine, sine = np.cos(angle), np.sin(angle)
    turn_back = np.array([[cosine, sine], [-sine, cosine]])
    return {key: turn_back @ value for key, value in sample.items()}, angle


def _living(targets: dict[int, Array], rng: np.random.Generator) -> dict[int, Array]:
    """Change the landmarks of a decedent to those of a living patient: a shorter trunk, shoulders raised or dropped."""
    length = float(np.clip(rng.normal(0.95, 0.07), 0.78, 1.10))
    moved = {key: value * (length, length**0.5) for key, value in targets.items()}
    both = rng.normal(0, 14)
    for head, angle in ((2, 4), (3, 5)):
        shrug = both + rng.normal(0, 7)
        moved[head] = moved[head] + (shrug, 0.0)
        moved[angle] = moved[angle] + (0.8 * shrug, rng.normal(0, 8))
    return moved


def _breathe(targets: dict[int, Array], inspiration: float, frame: float) -> dict[int, Array]:
    lowered = dict(targets)
    for dome in (12, 13):
        lowered[dome] = targets[dome] + np.array([52.0 * inspiration * frame, 0.0])
    lowered[11] = targets[11] + np.array([10.0 * inspiration * frame, 0.0])
    return lowered
