# SPDX-License-Identifier: Apache-2.0
"""Kinematics of the C-arm: six joints to source, detector and isocenter, and back in closed form.

Frame ``table``: origin at the center of the table top, x towards the patient's head, y towards the patient's right, z
up. The isocenter is ``(cart_longitudinal, cart_lateral, isocenter_height + lift)`` with wigwag at 0; the C's
orientation is ``Rz(wigwag) Ry(tilt) Rx(orbital)``. With d the unit vector from source to detector, the positioner
angles follow DICOM PS3.3 C.8.7.5.1.2: ``d = (sin s, -cos s sin p, cos s cos p)`` for primary p (LAO positive) and
secondary s (cranial positive).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from carm_core.data_files import read_yaml
from carm_core.errors import ConfigurationError, GoalError, JointLimitError, UnreachableError
from carm_core.imaging.projection import Detector, XrayView
from carm_core.paths import config_file
from carm_core.transforms import Array, RigidTransform, rotation_about

JOINT_NAMES = ("cart_longitudinal", "cart_lateral", "lift", "wigwag", "tilt", "orbital")
STATIC_LINKS = ("table", "carm_base")
"""Links that no joint moves."""
LINKS = (
    *STATIC_LINKS,
    "cart_longitudinal_link",
    "cart_lateral_link",
    "lift_link",
    "wigwag_link",
    "tilt_link",
    "isocenter",
    "xray_source",
    "detector",
)
"""Links that can carry shapes, from the table outwards."""
_ISOCENTER = LINKS.index("isocenter")
ROTATION_OPTICAL_TO_CARM = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
"""Columns: right, down and forward of ``xray_optical`` in frame ``isocenter`` (right is the patient's right, down the
feet, forward the detector at 0/0)."""

_LIMIT_SLACK = 1e-9  # rounding in the inverse kinematics, m or rad


@dataclass(frozen=True)
class Joint:
    """One joint and its limits.

    Attributes:
        name: Name in messages and in the robot description.
        kind: ``"prismatic"`` or ``"revolute"``.
        lower: Lower position limit, m or rad.
        upper: Upper position limit, m or rad.
        velocity: Limit of the speed, m/s or rad/s.
        acceleration: Limit of the acceleration, m/s² or rad/s².
        jerk: Limit of the jerk, m/s³ or rad/s³.
    """

    name: str
    kind: str
    lower: float
    upper: float
    velocity: float
    acceleration: float
    jerk: float

    @property
    def unit(self) -> str:
        """Unit of the position: ``"m"`` or ``"rad"``."""
        return "m" if self.kind == "prismatic" else "rad"


@dataclass(frozen=True, eq=False)
class CArm:
    """A mobile C-arm. Build it with ``from_config``.

    Attributes:
        joints: The six joints, in the order of ``JOINT_NAMES``.
        home: Start position (6,), m and rad.
        source_detector_m: Source to detector, m.
        source_isocenter_m: Source to isocenter, m.
        column_to_isocenter_m: From the wigwag axis to the isocenter along the arm (towards -y), m.
        isocenter_height_m: Isocenter above the table top with lift at 0, m.
        table_height_m: Table top above the floor, m.
        detector: Pixel grid without binning.
        binnings: Binning factors that the detector offers.
    """

    joints: tuple[Joint, ...]
    home: Array
    source_detector_m: float
    source_isocenter_m: float
    column_to_isocenter_m: float
    isocenter_height_m: float
    table_height_m: float
    detector: Detector
    binnings: tuple[int, ...]

    @classmethod
    def from_config(cls, path: str | Path | None = None) -> CArm:
        """Read ``config/carm.yaml``.

        Args:
            path: Another file of the same form; None: the one that ships with the project.

        Raises:
            ConfigurationError: The file is missing, malformed or contradictory.
        """
        file = Path(path) if path is not None else config_file("carm.yaml")
        try:
            data = read_yaml(file)
            return cls._from_dict(data)
        except (OSError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise ConfigurationError(f"{file}: {type(error).__name__}: {error}") from error

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> CArm:
        geometry, detector = data["geometry"], data["detector"]
        if tuple(data["joints"]) != JOINT_NAMES:
            raise ValueError(f"joints must be {', '.join(JOINT_NAMES)} in this order")
        joints = tuple(_joint(name, spec) for name, spec in data["joints"].items())
        home = np.array(
            [
                float(data["home"][f"{j.name}_m"]) if j.unit == "m" else math.radians(data["home"][f"{j.name}_deg"])
                for j in joints
            ]
        )
        carm = cls(
            joints,
            home,
            float(geometry["source_detector_distance_m"]),
            float(geometry["source_isocenter_distance_m"]),
            float(geometry["column_to_isocenter_m"]),
            float(geometry["isocenter_height_m"]),
            float(geometry["table_height_m"]),
            Detector(int(detector["rows"]), int(detector["columns"]), 1000 * float(detector["pixel_pitch_m"])),
            tuple(int(b) for b in detector["binning"]),
        )
        if not 0 < carm.source_isocenter_m < carm.source_detector_m:
            raise ValueError("the isocenter must lie between source and detector")
        carm.check(home)
        return carm

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names in the order of the position vectors."""
        return JOINT_NAMES

    def check(self, positions: ArrayLike) -> Array:
        """Check a joint position against the limits.

        Args:
            positions: (6,), m and rad.

        Returns:
            The positions as an array (6,).

        Raises:
            GoalError: Wrong length, or a value is not finite.
            JointLimitError: A joint is outside its limits; the first such joint is named.
        """
        q = np.asarray(positions, dtype=np.float64)
        if q.shape != (len(self.joints),):
            raise GoalError(f"expected {len(self.joints)} joint positions, got shape {q.shape}")
        for joint, value in zip(self.joints, q, strict=True):
            if not math.isfinite(value):
                raise GoalError(f"{joint.name} = {value} is not a finite number")
            if not joint.lower - _LIMIT_SLACK <= value <= joint.upper + _LIMIT_SLACK:
                raise JointLimitError(joint.name, float(value), joint.lower, joint.upper, joint.unit)
        return q

    def link_frames(self, positions: ArrayLike) -> tuple[Array, Array]:
        """Return where the links are, in frame ``table``, as bare arrays: quick enough for each sample of a path.

        Args:
            positions: (6,), m and rad.

        Returns:
            Rotations (L, 3, 3) and origins (L, 3), m, in the order of :data:`LINKS`.
        """
        x, y, lift, wigwag, tilt, orbital = (float(value) for value in np.asarray(positions))
        cw, sw, ct, st, co, so = (f(a) for a in (wigwag, tilt, orbital) for f in (math.cos, math.sin))
        reach, floor = self.column_to_isocenter_m, -self.table_height_m
        upright = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        turn = ((cw, -sw, 0.0), (sw, cw, 0.0), (0.0, 0.0, 1.0))
        tilted = ((cw * ct, -sw, cw * st), (sw * ct, cw, sw * st), (-st, 0.0, ct))
        turned = tuple((a, b * co + c * so, c * co - b * so) for a, b, c in tilted)
        column = (x, y + reach, self.isocenter_height_m + lift)
        center = (x + reach * sw, column[1] - reach * cw, column[2])
        behind, ahead = self.source_isocenter_m, self.source_detector_m - self.source_isocenter_m
        source = tuple(c - behind * row[2] for c, row in zip(center, turned, strict=True))
        detector = tuple(c + ahead * row[2] for c, row in zip(center, turned, strict=True))
        rotations = (upright, upright, upright, upright, upright, turn, tilted, turned, turned, turned)
        origins = (
            (0.0, 0.0, 0.0),
            (0.0, 0.0, floor),
            (x, 0.0, floor),
            (x, column[1], floor),
            column,
            column,
            center,
            center,
            source,
            detector,
        )
        return np.array(rotations), np.array(origins)

    def transform_carm_to_table(self, positions: ArrayLike) -> RigidTransform:
        """Pose of frame ``isocenter`` (origin at the isocenter, turning with the C; z towards the detector), m.

        Args:
            positions: (6,), m and rad; limits are not checked.
        """
        rotations, origins = self.link_frames(positions)
        return RigidTransform(rotations[_ISOCENTER], origins[_ISOCENTER])

    def isocenter(self, positions: ArrayLike) -> Array:
        """Return the isocenter (3,) in frame ``table``, m."""
        return self.transform_carm_to_table(positions).translation

    def angles(self, positions: ArrayLike) -> tuple[float, float]:
        """Return the DICOM positioner angles (primary, secondary), rad: LAO and cranial positive."""
        head, right, up = self.transform_carm_to_table(positions).rotation[:, 2]
        return math.atan2(-right, up), math.asin(max(-1.0, min(1.0, head)))

    def view(self, positions: ArrayLike, binning: int = 3) -> XrayView:
        """Return the source and detector in frame ``table``, mm.

        Args:
            positions: (6,), m and rad.
            binning: Detector binning.

        Raises:
            ConfigurationError: The detector does not offer this binning.
        """
        if binning not in self.binnings:
            raise ConfigurationError(f"binning {binning} is not available; choose one of {list(self.binnings)}")
        pose = self.transform_carm_to_table(positions)
        rotation = pose.rotation @ ROTATION_OPTICAL_TO_CARM
        source = 1000 * (pose.translation - self.source_isocenter_m * rotation[:, 2])
        detector = Detector(
            self.detector.rows // binning, self.detector.columns // binning, self.detector.pitch_mm * binning
        )
        return XrayView(source, rotation, detector, 1000 * self.source_detector_m, 1000 * self.source_isocenter_m)

    def view_of_image(self, positions: ArrayLike, columns: int, rows: int, focal_px: float) -> XrayView:
        """Source and detector of an image, by its camera model: binned, perhaps the central part of the detector.

        Args:
            positions: (6,), m and rad.
            columns: Width of the image, px.
            rows: Its height, px.
            focal_px: ``fx`` of its camera model, px.

        Raises:
            ConfigurationError: No binning of the detector has this focal length, or it is smaller than the image.
        """
        exact = 1000 * self.source_detector_m / (self.detector.pitch_mm * focal_px) if focal_px > 0 else 0.5
        if abs(exact - round(exact)) > 0.01:
            raise ConfigurationError(f"no binning of the detector has a focal length of {focal_px:g} px")
        view = self.view(positions, round(exact))
        if columns > view.detector.columns or rows > view.detector.rows:
            size = f"{view.detector.columns} x {view.detector.rows}"
            raise ConfigurationError(f"an image of {columns} x {rows} px is larger than the detector of {size} px")
        return view.central(columns, rows)

    def inverse(
        self,
        isocenter_m: ArrayLike,
        primary_rad: float,
        secondary_rad: float,
        wigwag_rad: float = 0.0,
        seed: ArrayLike | None = None,
    ) -> list[Array]:
        """Return the joint positions that put the isocenter and the beam where they are wanted, in closed form.

        Args:
            isocenter_m: Isocenter (3,) in frame ``table``, m.
            primary_rad: DICOM positioner primary angle, LAO positive, rad.
            secondary_rad: DICOM positioner secondary angle, cranial positive, rad, within ±pi/2.
            wigwag_rad: The redundant joint, rad.
            seed: Present position (6,); solutions come nearest first, in units of the joints' ranges, and tilt is
                chosen free when it does not matter (orbital at ±pi/2).

        Returns:
            All solutions within the limits, at least one.

        Raises:
            GoalError: A number is not finite, or the secondary angle is outside ±pi/2.
            JointLimitError: The only obstacle is one joint; it is named with its value and its limits.
            UnreachableError: Several joints stand in the way; the message names them.
        """
        target = np.asarray(isocenter_m, dtype=np.float64)
        if target.shape != (3,) or not np.isfinite([*target, primary_rad, secondary_rad, wigwag_rad]).all():
            raise GoalError("isocenter and angles must be finite numbers")
        if abs(secondary_rad) > math.pi / 2 + _LIMIT_SLACK:
            raise GoalError(f"secondary angle {math.degrees(secondary_rad):.1f} deg is outside [-90, 90] deg")
        reference = self.home if seed is None else np.asarray(seed, dtype=np.float64)
        solutions: list[Array] = []
        failures: list[tuple[float, list[JointLimitError]]] = []
        for tilt, orbital in self._orientations(primary_rad, secondary_rad, wigwag_rad, float(reference[4])):
            q = self._position(target, wigwag_rad, tilt, orbital)
            errors = self._limit_errors(q)
            if errors:
                excess = max(max(e.lower - e.value, e.value - e.upper) for e in errors)
                failures.append((len(errors) * 10 + excess, errors))
            elif not any(np.allclose(q, known, atol=1e-9) for known in solutions):
                solutions.append(np.clip(q, [j.lower for j in self.joints], [j.upper for j in self.joints]))
        if solutions:
            spans = np.array([j.upper - j.lower for j in self.joints])
            return sorted(solutions, key=lambda q: float(np.abs((q - reference) / spans).max()))
        nearest = min(failures, key=lambda failure: failure[0])[1]
        if len(nearest) == 1:
            raise nearest[0]
        raise UnreachableError("; ".join(str(error) for error in nearest))

    def _position(self, isocenter_m: Array, wigwag: float, tilt: float, orbital: float) -> Array:
        arm = rotation_about("z", wigwag) @ np.array([0.0, -self.column_to_isocenter_m, 0.0])
        column = isocenter_m - arm - np.array([0.0, self.column_to_isocenter_m, self.isocenter_height_m])
        return np.array([*column, wigwag, tilt, orbital])

    def _orientations(
        self, primary: float, secondary: float, wigwag: float, tilt_now: float
    ) -> list[tuple[float, float]]:
        """Return all (tilt, orbital) with tilt in ±3 pi/2 that give the beam direction."""
        cs = math.cos(secondary)
        direction = np.array([math.sin(secondary), -cs * math.sin(primary), cs * math.cos(primary)])
        head, right, up = rotation_about("z", -wigwag) @ direction
        base = math.asin(max(-1.0, min(1.0, -right)))
        out = []
        for orbital, sign in ((base, 1.0), (math.copysign(math.pi, base) - base, -1.0)):
            singular = math.hypot(head, up) < 1e-9
            tilt = tilt_now if singular else math.atan2(sign * head, sign * up)
            out += [(tilt + turn, orbital) for turn in (-2 * math.pi, 0.0, 2 * math.pi)]
        return out

    def _limit_errors(self, q: Array) -> list[JointLimitError]:
        return [
            JointLimitError(j.name, float(v), j.lower, j.upper, j.unit)
            for j, v in zip(self.joints, q, strict=True)
            if not j.lower - _LIMIT_SLACK <= v <= j.upper + _LIMIT_SLACK
        ]

    def jacobian(self, positions: ArrayLike) -> Array:
        """Geometric Jacobian (6, 6) in frame ``table``: rows 0-2 velocity of the isocenter, rows 3-5 angular velocity.

        Args:
            positions: (6,), m and rad.
        """
        _, _, _, wigwag, tilt, _ = np.asarray(positions, dtype=np.float64)
        turn = rotation_about("z", wigwag)
        arm = turn @ np.array([0.0, -self.column_to_isocenter_m, 0.0])
        axes = np.array([[0.0, 0, 1], turn[:, 1], turn @ rotation_about("y", tilt)[:, 0]])
        out = np.zeros((6, 6))
        out[:3, :3] = np.eye(3)
        out[:3, 3] = np.cross(axes[0], arm)
        out[3:, 3:] = axes.T
        return out


def _joint(name: str, spec: dict[str, Any]) -> Joint:
    if spec["type"] not in ("prismatic", "revolute"):
        raise ValueError(f"joint {name}: type must be prismatic or revolute, not {spec['type']!r}")
    length = spec["type"] == "prismatic"
    unit = "m" if length else "deg"

    def read(key: str) -> float:
        value = float(spec[key])
        return value if length else math.radians(value)

    joint = Joint(
        name,
        spec["type"],
        read(f"lower_{unit}"),
        read(f"upper_{unit}"),
        read(f"velocity_{unit}_s"),
        read(f"acceleration_{unit}_s2"),
        read(f"jerk_{unit}_s3"),
    )
    if not joint.lower < joint.upper or min(joint.velocity, joint.acceleration, joint.jerk) <= 0:
        raise ValueError(f"joint {name}: limits must be in order and positive")
    return joint
