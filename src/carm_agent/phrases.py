# SPDX-License-Identifier: Apache-2.0
"""What the agent says to the clinician, in words for anatomy rather than axes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import JointLimitError
from carm_core.imaging.projection import XrayView
from carm_core.landmarks import Landmark

_TOWARDS = (
    ("towards the head", "towards the feet"),
    ("towards the patient's right", "towards the patient's left"),
    ("anteriorly", "posteriorly"),
)
"""Words for the positive and the negative direction of each axis of frame ``table``."""

_JOINT_WORDS = {
    "cart_longitudinal": "cart along the table",
    "cart_lateral": "cart across the table",
    "lift": "lift",
    "wigwag": "wigwag",
    "tilt": "tilt",
    "orbital": "orbital rotation",
}


def printable(text: str) -> str:
    """Return a text without control characters and half characters, which a terminal or a message would choke on."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def called(landmark: Landmark, *, start: bool = False) -> str:
    """Return a landmark's name inside a sentence ("the carina", "T1"), or at its start."""
    if landmark.name[1:2].isdigit():
        return landmark.name
    return f"{'The' if start else 'the'} {landmark.name[0].lower()}{landmark.name[1:]}"


def direction(vector: NDArray[np.float64]) -> str:
    """Return words for the anatomical direction that is nearest to a vector (3,) in frame ``table``."""
    axis = int(np.abs(vector).argmax())
    return _TOWARDS[axis][0 if vector[axis] > 0 else 1]


def displacement(view: XrayView, displacement_mm: Sequence[float] | NDArray[np.float64]) -> str:
    """Describe a displacement (2,) in a display image, mm: "42 mm towards the patient's right and 118 mm ..."."""
    parts = []
    for amount, axis in zip(displacement_mm, view.display_axes, strict=True):
        if round(abs(amount)) >= 1:
            parts.append(f"{abs(amount):.0f} mm {direction(np.asarray(axis) * np.sign(amount))}")
    return " and ".join(parts)


def whereabouts(landmark: Landmark, view: XrayView, displacement_mm: NDArray[np.float64], radius_mm: float) -> str:
    """Say where a landmark is: "The carina is 42 mm towards the patient's right of the image center (±9 mm)"."""
    margin = f" (±{radius_mm:.0f} mm)" if np.isfinite(radius_mm) else ""
    place = displacement(view, displacement_mm)
    if not place:
        return f"{called(landmark, start=True)} is in the image center{margin}"
    return f"{called(landmark, start=True)} is {place} of the image center{margin}"


def angles(primary_deg: float, secondary_deg: float) -> str:
    """Name positioner angles as clinicians do: "LAO 30°, cranial 20°"; "AP" when both are below half a degree."""
    parts = [
        f"{names[value < 0]} {abs(value):.0f}°"
        for value, names in ((primary_deg, ("LAO", "RAO")), (secondary_deg, ("cranial", "caudal")))
        if abs(value) >= 0.5
    ]
    return ", ".join(parts) or "AP"


def refusal(error: Exception) -> str:
    """Say why a view is out of reach, with the joint, the value needed and the limit at fault."""
    if not isinstance(error, JointLimitError):
        return str(error)
    scale, unit = (1000.0, "mm") if error.unit == "m" else (float(np.degrees(1.0)), "°")
    low, high, value = error.lower * scale, error.upper * scale, error.value * scale
    words = _JOINT_WORDS.get(error.joint, error.joint)
    return (
        f"the {words} ({error.joint}) would have to go to {value:z.0f} {unit};"
        f" it reaches {low:z.0f} to {high:z.0f} {unit}"
    )
