# SPDX-License-Identifier: Apache-2.0
"""One renderer as a process: ``python -m carm_bringup.benchmarks.drr.worker`` reads a job, prints figures as JSON."""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.imaging.projection import Detector, XrayView
from carm_sim.patient.volume import AIR_HU, Volume

DETECTOR_MM = 298.0
SOURCE_DETECTOR_MM = 1020.0
SOURCE_ISOCENTER_MM = 530.0
STEEPEST_DEG = (44.0, 25.0)
MOST_FRAME_S = 60.0
"""A size is left out where a frame is expected to take longer."""
REFERENCE_STEP_MM = 0.2
NOISE_HU = 30.0
"""Of thin slices: about that of a chest CT of normal dose at 0.5 mm."""


@dataclass(frozen=True)
class Job:
    """What a worker does.

    Attributes:
        renderer: Name in ``carm_bringup.benchmarks.drr.renderers.CANDIDATES``.
        patient: As for ``carm_sim.patient_loader.load_patient``.
        threads: Threads.
        sizes: Image sizes, pixels.
        frames: Most frames per size and pose.
        budget_s: Time per size and pose, at least two frames.
        rays: Rays per view that are compared with the reference.
        sweep: Views of the error sweep; 0: the two poses that are timed.
        seed: Seed of rays, sweep and noise.
        slices: Interpolate the volume to so many slices, with noise of their own; 0: as it is.
    """

    renderer: str
    patient: str = "chest_ct"
    threads: int = 2
    sizes: tuple[int, ...] = (512, 1024, 1536)
    frames: int = 30
    budget_s: float = 30.0
    rays: int = 1000
    sweep: int = 0
    seed: int = 0
    slices: int = 0


def resliced(volume: Volume, slices: int, seed: int) -> Volume:
    """Return a volume as a scanner would have made it with other slices: interpolated, with noise of 30 HU.

    Args:
        volume: The volume.
        slices: Number of slices of the result.
        seed: Of the noise.
    """
    rng, hu = np.random.default_rng(seed), volume.hu
    places = np.linspace(0, hu.shape[2] - 1, slices)
    below = np.minimum(places.astype(int), hu.shape[2] - 2)
    result = np.empty((*hu.shape[:2], slices), np.int16, order="F")
    for k, (low, weight) in enumerate(zip(below, places - below, strict=True)):
        plane = (1 - weight) * hu[:, :, low] + weight * hu[:, :, low + 1] + rng.normal(0, NOISE_HU, hu.shape[:2])
        result[:, :, k] = np.clip(plane, AIR_HU, 3000)
    transform = volume.transform_voxel_to_lps.copy()
    transform[:3, 2] *= places[1]
    return Volume(result, transform)


def view_of(center_mm: NDArray[np.float64], primary_deg: float, secondary_deg: float, size_px: int) -> XrayView:
    """Return a view in LPS of a supine patient.

    Args:
        center_mm: Isocenter (3,) in LPS.
        primary_deg: DICOM positioner primary angle, LAO positive.
        secondary_deg: DICOM positioner secondary angle, cranial positive.
        size_px: Rows and columns of the detector.
    """
    primary, secondary = np.radians((primary_deg, secondary_deg))
    sideways, front = np.cos(secondary) * np.sin(primary), -np.cos(secondary) * np.cos(primary)
    forward = np.array([sideways, front, np.sin(secondary)])
    down = -(np.array([0.0, 0.0, 1.0]) - forward * forward[2])
    down /= np.linalg.norm(down)
    rotation = np.stack([np.cross(down, forward), down, forward], 1)
    source = center_mm - SOURCE_ISOCENTER_MM * forward
    detector = Detector(size_px, size_px, DETECTOR_MM / size_px)
    return XrayView(source, rotation, detector, SOURCE_DETECTOR_MM, SOURCE_ISOCENTER_MM)


def work(job: Job) -> dict[str, Any]:
    """Measure one renderer.

    Returns:
        Metrics; a value of None was not measured.
    """
    from carm_bringup.benchmarks.drr.renderers import CANDIDATES
    from carm_sim.drr.hu_mapping import water_equivalent
    from carm_sim.patient_loader import load_patient

    kind = CANDIDATES[job.renderer]
    volume = load_patient(job.patient).volume
    volume = resliced(volume, job.slices, job.seed) if job.slices else volume
    center = volume.center_mm
    candidate = kind(volume, job.threads)
    metrics: dict[str, Any] = {"version": kind.version()}
    seconds: dict[str, float | None] = {}
    for name, pose in (("", (0.0, 0.0)), ("_worst", STEEPEST_DEG)):
        expected_s = 0.0
        for size in job.sizes:
            if name and size == 1536:
                continue
            took = None
            if size <= kind.largest_px and expected_s <= MOST_FRAME_S:
                took = _median_s(candidate, center, pose, size, job)
                expected_s = 2.25 * took if size == 1024 else 4 * took
            seconds[f"fps_{size}{name}"] = took
            print(f"progress {job.renderer} {size}{name}", file=sys.stderr, flush=True)
    metrics |= {key: None if took is None else 1 / took for key, took in seconds.items()}
    metrics["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    mu = water_equivalent(volume.hu.astype(np.float32)).astype(np.float32)
    errors = _errors(candidate, mu, volume.transform_voxel_to_lps, center, job)
    metrics |= {"error_percent": float(np.mean(errors)), "error_worst_percent": float(np.max(errors))}
    return metrics


def _median_s(candidate: Any, center: NDArray[np.float64], pose: tuple[float, float], size: int, job: Job) -> float:
    """Return the median time of a frame; each view differs a little from the one before."""
    begin = time.perf_counter()
    candidate.render(view_of(center, *pose, size))
    times: list[float] = []
    while len(times) < job.frames and (not times or time.perf_counter() - begin < job.budget_s):
        turn = 0.25 * (len(times) % 8)
        view = view_of(center, pose[0] - turn, pose[1] + turn / 2, size)
        start = time.perf_counter()
        candidate.render(view)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _errors(
    candidate: Any, mu: NDArray[np.float32], transform: NDArray[np.float64], center: NDArray[np.float64], job: Job
) -> list[float]:
    """Return the mean relative error of the line integrals of each view, per cent."""
    from carm_sim.drr.reference import march

    rng = np.random.default_rng(job.seed)
    poses = [(0.0, 0.0), STEEPEST_DEG]
    poses += [(float(rng.uniform(-180, 180)), float(rng.uniform(-50, 50))) for _ in range(job.sweep - 2)]
    errors = []
    for pose in poses:
        view = view_of(center, *pose, job.sizes[0])
        pixels = rng.integers(0, job.sizes[0], (job.rays, 2))
        expected = march(mu, transform, view, pixels.astype(float), REFERENCE_STEP_MM)
        got = candidate.line_integrals(candidate.render(view))[pixels[:, 1], pixels[:, 0]]
        errors.append(float(100 * np.abs(got - expected).mean() / expected.mean()))
        print(f"progress {job.renderer} error", file=sys.stderr, flush=True)
    return errors


def main() -> int:
    """Read a job from standard input, print the figures.

    Returns:
        0, or 3 when the renderer's package is missing: its name is printed instead.
    """
    fields = json.loads(sys.stdin.read())
    job = Job(**{**fields, "sizes": tuple(fields["sizes"])})
    try:
        print(json.dumps(work(job)))
    except ImportError as error:
        print(json.dumps({"missing": error.name or str(error)}))
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
