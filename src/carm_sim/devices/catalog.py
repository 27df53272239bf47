# SPDX-License-Identifier: Apache-2.0
"""Hardware and findings by name, and a patient who has them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from carm_core.errors import PatientError, UnknownNameError
from carm_sim.devices import cardiac, implants, jewelry, lines, surroundings
from carm_sim.devices.pathology import findings, fractures
from carm_sim.devices.site import Site
from carm_sim.drr.solids import Solid, SolidSet
from carm_sim.patient.patient import Patient
from carm_sim.patient.volume import Volume

_SAMPLES = 2

HARDWARE: dict[str, Callable[[Site], list[Solid]]] = {
    "screws_rods": implants.screws_rods,
    "hip_implant": implants.hip_implant,
    "shoulder_implant": implants.shoulder_implant,
    "sternal_wires": implants.sternal_wires,
    "pacemaker": cardiac.pacemaker,
    "ecg": lines.ecg,
    "tubes": lines.tubes,
    "catheter": cardiac.catheter,
    "guide_wire": cardiac.guide_wire,
    "jewellery": jewelry.jewellery,
    "table": surroundings.table,
    "surgeon_hand": surroundings.surgeon_hand,
}
"""What is added to a patient, by name."""

FINDINGS: dict[str, Callable[[Site], Volume]] = {
    "pleural_effusion": findings.pleural_effusion,
    "fracture": fractures.fracture,
}
"""What changes a patient's own tissue, by name."""


class UnknownHardwareError(PatientError, UnknownNameError):
    """No hardware or finding has this name; ``suggestion`` is the nearest one."""


@dataclass(frozen=True)
class Item:
    """A piece of hardware or a finding as asked for.

    Attributes:
        name: Its name.
        seed: Which of its variants.
    """

    name: str
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> Item:
        """Read ``NAME`` or ``NAME:SEED``.

        Raises:
            UnknownHardwareError: There is nothing of this name.
            PatientError: The seed is no whole number.
        """
        name, colon, seed = text.strip().partition(":")
        name = name.strip().lower()
        if name not in HARDWARE and name not in FINDINGS:
            raise UnknownHardwareError.among("hardware", name, [*HARDWARE, *FINDINGS], 0.0)
        if colon and not re.fullmatch(r"\d{1,9}", seed):
            raise PatientError(f"'{text}': a variant of {name} is a whole number from 0, for example {name}:3")
        return cls(name, int(seed) if colon else 0)


def equip(patient: Patient, names: Sequence[str]) -> Patient:
    """Return a patient with hardware and findings.

    Args:
        patient: The patient.
        names: Names, each with a variant behind a colon if wanted: ``pacemaker``, ``pacemaker:3``.

    Returns:
        The patient with the names in its name; landmarks as before.

    Raises:
        UnknownHardwareError: There is nothing of one of these names.
        MissingLandmarkError: The patient lacks a landmark that a piece of hardware is placed by.
        PatientError: A name comes twice, a variant is no whole number, or something cannot be placed.
    """
    items = [Item.parse(name) for name in names]
    for item in items:
        if sum(other.name == item.name for other in items) > 1:
            raise PatientError(f"{item.name} is given more than once")
    equipped = patient
    for item in items:
        if item.name in FINDINGS:
            equipped = replace(equipped, volume=FINDINGS[item.name](_site(equipped, item, patient.name)))
    solids: list[Solid] = []
    for item in items:
        if item.name in HARDWARE:
            solids += HARDWARE[item.name](_site(equipped, item, patient.name))
    devices = equipped.devices + SolidSet(tuple(solids), samples=_SAMPLES) if solids else equipped.devices
    return replace(equipped, name="+".join([patient.name, *names]), devices=devices)


def _site(patient: Patient, item: Item, seed_name: str) -> Site:
    seeds = [item.seed, zlib.crc32(item.name.encode()), zlib.crc32(seed_name.encode())]
    return Site(patient, item.name, np.random.default_rng(seeds), item.seed)
