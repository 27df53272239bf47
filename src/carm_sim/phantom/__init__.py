# SPDX-License-Identifier: Apache-2.0
"""Generated patients: random bodies around the ``myo-sim`` skeleton, with exact landmarks."""

from carm_sim.phantom.cache import cached_phantom
from carm_sim.phantom.crop import crop_to_ct_field
from carm_sim.phantom.generator import PhantomBody, generate_phantom, sample_extra_landmarks, sample_landmarks
from carm_sim.phantom.record import BodyRecord

__all__ = [
    "BodyRecord",
    "PhantomBody",
    "cached_phantom",
    "crop_to_ct_field",
    "generate_phantom",
    "sample_extra_landmarks",
    "sample_landmarks",
]
