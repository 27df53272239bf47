# SPDX-License-Identifier: Apache-2.0
"""A patient: a CT, what is known about its landmarks, and how it lies on the table."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from carm_core.anatomy.axes import BoneAxes
from carm_core.anatomy.from_landmarks import axes_of
from carm_core.errors import PatientError
from carm_core.transforms import RigidTransform
from carm_sim.drr.solids import SolidSet
from carm_sim.patient.volume import Volume

_ROTATION_LPS_TO_TABLE = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class Patient:
    """A CT, what is known about its landmarks, and where it lies on the table.

    Attributes:
        name: Short name for logs and files.
        volume: The CT.
        landmarks_mm: Landmark id to its LPS position, shape (3,), in mm; only landmarks inside the volume.
        landmarks_known: False when there is no ground truth for this CT.
        transform_lps_to_table: Patient supine, head towards +x of the table, back resting on z = 0 (mm).
        source: Where CT and landmarks come from.
        extra_landmarks_mm: Id of each of `carm_core.landmarks.EXTRA_LANDMARKS` to its LPS position, shape (3,), in mm,
            inside the volume or not; empty for a CT.
        bones: Axes of bones that labels of the CT gave, by name, LPS (mm).
        devices: Hardware in the beam, in LPS (mm).
        points_mm: Name of each further point that the CT's landmark file holds to its LPS position, shape (3,), in mm.
    """

    name: str
    volume: Volume
    landmarks_mm: dict[int, NDArray[np.float64]]
    landmarks_known: bool
    transform_lps_to_table: RigidTransform
    source: str
    extra_landmarks_mm: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    bones: dict[str, BoneAxes] = field(default_factory=dict)
    devices: SolidSet = field(default_factory=SolidSet)
    points_mm: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def axes_of(self, bone: str) -> BoneAxes:
        """Return the axes of a bone (``carm_core.anatomy.axes.BONES``), LPS, mm: by labels, else by landmarks.

        Raises:
            MissingAnatomyError: They cannot be told; the message names what is missing.
        """
        return axes_of(bone, self.landmarks_mm | self.extra_landmarks_mm, self.bones)

    @property
    def imaged_landmarks_mm(self) -> dict[int, NDArray[np.float64]]:
        """Id of each landmark inside the volume, further ones too, to its LPS position, shape (3,), in mm."""
        inside = {key: point for key, point in self.extra_landmarks_mm.items() if self.volume.contains(point)}
        return self.landmarks_mm | inside

    @property
    def all_landmarks_table_mm(self) -> dict[int, NDArray[np.float64]]:
        """As ``landmarks_table_mm``, with the further landmarks, inside the volume or not."""
        everything = self.landmarks_mm | self.extra_landmarks_mm
        return {key: np.asarray(self.transform_lps_to_table.apply(point)) for key, point in everything.items()}

    @property
    def landmarks_table_mm(self) -> dict[int, NDArray[np.float64]]:
        """Landmark id to its position in the table frame, shape (3,), in mm."""
        return {key: np.asarray(self.transform_lps_to_table.apply(point)) for key, point in self.landmarks_mm.items()}


def place_on_table(volume: Volume) -> RigidTransform:
    """Transform from LPS to the table frame (mm) for a supine patient.

    The table's x is superior, y the patient's right, z anterior. The back of the body rests on z = 0; the center of
    the body's bounding box is at x = 0 and y = 0.

    Raises:
        PatientError: If the volume holds nothing but air.
    """
    low, high = volume.body_box_mm()
    center = (low + high) / 2
    resting = np.array([center[0], high[1], center[2]])
    return RigidTransform(_ROTATION_LPS_TO_TABLE, -_ROTATION_LPS_TO_TABLE @ resting)


def make_patient(
    name: str, volume: Volume, landmarks_mm: dict[int, NDArray[np.float64]] | None, source: str
) -> Patient:
    """Assemble a patient; ``landmarks_mm`` of None means that ground truth is unknown.

    Raises:
        PatientError: If the volume holds nothing but air, or a landmark lies outside it.
    """
    for identifier, point in (landmarks_mm or {}).items():
        if not volume.contains(point):
            shown = ", ".join(f"{value:z.0f}" for value in point)
            raise PatientError(f"{name}: landmark {identifier} at ({shown}) mm LPS lies outside the CT")
    return Patient(name, volume, dict(landmarks_mm or {}), landmarks_mm is not None, place_on_table(volume), source)
