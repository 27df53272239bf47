# SPDX-License-Identifier: Apache-2.0
"""Test sets by name, each fixed by a seed. No model was trained or selected on these patients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import TYPE_CHECKING

from carm_core.errors import ConfigurationError, UnknownNameError
from carm_core.landmarks import ALL_LANDMARKS, LANDMARKS

if TYPE_CHECKING:
    from carm_sim.phantom.body import BodyPlan

WHOLE_BODY, LOWER_BODY, SPINE = "whole-body", "lower-body", "spine"
NOMINAL, VALIDATION, CHEST_CT, FALSIFICATION = "phantom-nominal", "validation", "chest-ct", "falsification"
SHIFT_PREFIX = "phantom-shift-"
FIRST_UNSEEN_SEED, FIRST_VALIDATION_SEED, FIRST_WHOLE_BODY_SEED = 900_000, 600_000, 990_000

SHIFTS = {
    "noise": "readout noise of 100 instead of 2 digital units (4 % of the signal), 0.2 % dead pixels",
    "low-dose": "5 nGy instead of 100 nGy behind the patient: 4.5 times the quantum noise",
    "hardware": "3 to 5 of: pacemaker, ECG, tubes, catheter, wires, screws, implant, jewellery, table, hand",
    "cropping": "every other patient's CT ends within the field; the others' fields are collimated to 50 to 85 %",
    "habitus": "bodies at the extremes: thin, obese, short, tall, kyphotic, scoliotic in turn",
    "arms": "no arms crossed: along the body, raised, and one raised in turn",
    "motion-blur": "the arm moves 4 to 12 mm along the image during the exposure",
    "rotation": "the detector is turned by 10 to 25 degrees about the central ray",
    "inverted": "inverted polarity: bones dark, air bright",
}
"""What each shift changes against the nominal suite; patients and views are the nominal ones where it allows."""

ALIASES = {"phantom": NOMINAL, "chest_ct": CHEST_CT}
SUITE_NAMES = (
    NOMINAL,
    *(SHIFT_PREFIX + name for name in SHIFTS),
    *(VALIDATION, CHEST_CT, FALSIFICATION, WHOLE_BODY, LOWER_BODY, SPINE),
)
GROUPS = {"all": SUITE_NAMES, "phantom-shift": tuple(SHIFT_PREFIX + name for name in SHIFTS)}
DEFAULT_SUITES = (NOMINAL, VALIDATION, CHEST_CT, FALSIFICATION)

_HABITUS: tuple[tuple[str, Callable[[BodyPlan], bool]], ...] = (
    ("slim", lambda plan: plan.fatness <= 0.09),
    ("obese", lambda plan: plan.fatness >= 0.83),
    ("short", lambda plan: plan.frame_scale <= 0.89),
    ("tall", lambda plan: plan.frame_scale >= 1.18),
    ("kyphotic", lambda plan: plan.kyphosis_mm >= 33),
    ("scoliotic", lambda plan: abs(plan.scoliosis_mm) >= 13),
)
"""About the outer 5 per cent of the population each."""
_ARMS = ("along", "raised", "one_up")
_FALSE_KINDS = ("air", "table", "objects", "hand", "photograph", "noise")

FOURTEEN = tuple(mark.id for mark in LANDMARKS)
"""The landmarks of the paper, which most suites are about."""
WHOLE_SETS: dict[str, tuple[str, tuple[int, ...]]] = {
    WHOLE_BODY: ("all landmarks from head to foot", tuple(mark.id for mark in ALL_LANDMARKS)),
    LOWER_BODY: ("hips, knees, ankles, pelvis and lumbar spine", (*range(116, 127), *range(129, 135))),
    SPINE: ("vertebrae from C3 to L5", (10, 14, *range(101, 121))),
}
"""What the suites on whole bodies are about, and these landmarks."""


@dataclass(frozen=True)
class Suite:
    """A fixed set of views.

    Attributes:
        name: Name in reports.
        patients: Names for ``load_patient``; of the falsification suite, ``KIND:NUMBER``.
        views: Views over all patients.
        description: One line.
        shift: One of ``SHIFTS``; empty: none.
        inside_fraction: A view counts when at least this part of its rays meets the CT.
        ct: The only patient, where its CT is known to who asks; empty: none is.
        content: Hash of that CT and its landmarks: another of the same name has other images.
        ids: Landmarks that are asked for.
        everywhere: Views that are not centered near a landmark are drawn about any of them, not over the trunk.
    """

    name: str
    patients: tuple[str, ...]
    views: int
    description: str
    shift: str = ""
    inside_fraction: float = 0.0
    ct: str = ""
    content: str = ""
    ids: tuple[int, ...] = FOURTEEN
    everywhere: bool = False

    @property
    def shares(self) -> tuple[int, ...]:
        """Views of each patient."""
        count = len(self.patients)
        return tuple(self.views // count + (number < self.views % count) for number in range(count))


def resolve(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of suites from names, aliases and groups, each once.

    Raises:
        UnknownNameError: There is no such suite; carries the nearest name.
    """
    found: list[str] = []
    for name in names:
        if name in GROUPS:
            found += GROUPS[name]
        elif ALIASES.get(name, name) in SUITE_NAMES:
            found.append(ALIASES.get(name, name))
        else:
            raise UnknownNameError.among("suite", name, [*SUITE_NAMES, *GROUPS, *ALIASES])
    return tuple(dict.fromkeys(found))


def suite(name: str, patients: int = 0, views: int = 0) -> Suite:
    """Create a suite.

    Args:
        name: One of ``SUITE_NAMES`` or ``ALIASES``.
        patients: Number of patients; 0: the suite's own.
        views: Views over all patients; 0: as many of each patient as in the suite.

    Raises:
        UnknownNameError: There is no such suite; carries the nearest name.
        ConfigurationError: Fewer views than patients.
    """
    (name,) = resolve([name])
    usual = _make(name, 0)
    made = _make(name, patients) if patients else usual
    per_patient = usual.views // len(usual.patients)
    made = replace(made, views=views or per_patient * len(made.patients))
    if made.views < len(made.patients):
        raise ConfigurationError(f"suite {name}: {made.views} views for {len(made.patients)} patients")
    return made


def _make(name: str, patients: int) -> Suite:
    if name == CHEST_CT:
        return Suite(name, ("chest_ct",), 400, "the real chest CT: the field lies at least 80 % inside it", "", 0.8)
    if name == VALIDATION:
        names = tuple(f"phantom-validation:{FIRST_VALIDATION_SEED + number}" for number in range(patients or 50))
        return Suite(name, names, 1000, "phantoms of another style")
    if name == FALSIFICATION:
        count = patients or 24
        kinds = [(kind, number) for number in range(-(-count // len(_FALSE_KINDS))) for kind in _FALSE_KINDS]
        names = tuple(f"{kind}:{number}" for kind, number in kinds[:count])
        what = "air, an empty table, objects, a hand of staff, a photograph, noise: the right answer is to abstain"
        return Suite(name, names, 240, what)
    if name in WHOLE_SETS:
        what, ids = WHOLE_SETS[name]
        bodies = range(FIRST_WHOLE_BODY_SEED, FIRST_WHOLE_BODY_SEED + (patients or 50))
        names = tuple(f"phantom{'-living' * (seed % 2)}:{seed}?whole_body" for seed in bodies)
        return Suite(name, names, 1000, what, ids=ids, everywhere=True)
    shift = name.removeprefix(SHIFT_PREFIX) if name != NOMINAL else ""
    count = patients or (50 if shift else 100)
    seeds = _extreme_seeds(shift) if shift in ("habitus", "arms") else iter(range(FIRST_UNSEEN_SEED, 10**9))
    names = tuple(f"phantom:{seed}" for seed in islice(seeds, count))
    description = SHIFTS[shift] if shift else "phantoms of the training style, not used in training"
    return Suite(name, names, 1000 if shift else 2000, description, shift)


def _extreme_seeds(shift: str) -> Iterator[int]:
    """Seeds of unseen bodies that meet the conditions of a shift, one condition after the other."""
    from carm_sim.phantom.body import plan_body

    def arms_are(wanted: str) -> Callable[[BodyPlan], bool]:
        return lambda plan: plan.arms == wanted

    def matching(condition: Callable[[BodyPlan], bool]) -> Iterator[int]:
        return (seed for seed in range(FIRST_UNSEEN_SEED, FIRST_WHOLE_BODY_SEED) if condition(plan_body(seed)))

    conditions = [test for _, test in _HABITUS] if shift == "habitus" else [arms_are(pose) for pose in _ARMS]
    used: set[int] = set()
    for seeds in cycle([matching(condition) for condition in conditions]):
        seed = next(seed for seed in seeds if seed not in used)
        used.add(seed)
        yield seed
