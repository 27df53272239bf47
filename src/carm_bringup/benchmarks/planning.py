# SPDX-License-Identifier: Apache-2.0
"""``carm bench plan``: how long planning takes, among the real patient's surface, table, floor and staff."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from carm_core.cli import results_file
from carm_core.cli.arguments import output_file, seed, whole
from carm_core.errors import GoalError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from carm_agent.planning.planner import Plan, Planner

_STAFF = "-0.8 -1.5 -0.95 0.0 -0.80 0.9"
"""Someone stands at the patient's left, beside the hips."""
_LOW_M, _HIGH_M = (-0.5, -0.25, 0.05), (0.5, 0.25, 0.30)
_ANGLES_DEG = ((-45.0, 90.0), (-35.0, 35.0))
_OUTCOMES = ("direct", "detour", "refused")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--plans", type=whole(1, 100_000), default=300, help="pairs of views to plan between (300)")
    parser.add_argument("--patient", default="chest_ct", help="chest_ct, phantom:SEED or a path (chest_ct)")
    parser.add_argument("--seed", type=seed, default=0, help="of the views (0)")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write the figures to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the bench.

    Returns:
        Exit code 0.

    Raises:
        CarmError: Bad input; nothing was run.
    """
    import numpy as np
    from tqdm import tqdm

    results_file.check_file(args.json)
    planner = make_planner(args.patient)
    generator = np.random.default_rng(args.seed)
    times: dict[str, list[float]] = {name: [] for name in _OUTCOMES}
    reasons: Counter[str] = Counter()
    lowest = float("inf")
    for _ in tqdm(range(args.plans), desc="plans", unit="plan"):
        start, goal = _clear_position(planner, generator), _clear_position(planner, generator)
        began = time.perf_counter()
        try:
            plan = planner.to_view(start, planner.carm.isocenter(goal), planner.carm.angles(goal))
        except GoalError as error:
            times["refused"].append(time.perf_counter() - began)
            reasons[type(error).__name__] += 1
            continue
        times["detour" if plan.corners else "direct"].append(time.perf_counter() - began)
        lowest = min(lowest, _sampled_clearance(planner, plan))
    results = {name: _summary(values) for name, values in times.items()}
    results["all"] = {"smallest_clearance_mm": 1000.0 * lowest, "refused_reasons": dict(reasons)}
    for name in _OUTCOMES:
        own = results[name]
        print(f"{name:8} {own['n']:4d}  p50 {own['p50_ms']:.0f} ms  p99 {own['p99_ms']:.0f} ms")
    print(f"smallest clearance on any planned path: {1000 * lowest:.1f} mm")
    if args.json is not None:
        command = f"carm bench plan --plans {args.plans} --patient {args.patient} --seed {args.seed}"
        results_file.write(args.json, results_file.document(command, args.seed, results))
    return 0


def make_planner(patient: str) -> Planner:
    """Return a planner among the surface of a patient and one member of the staff.

    Raises:
        PatientError: There is no such patient.
    """
    from carm_agent.planning.planner import Planner
    from carm_core.collision.model import CollisionModel
    from carm_core.collision.obstacles import Obstacles, Surface, staff_zones
    from carm_core.robot.kinematics import CArm
    from carm_sim.patient.surface import patient_surface
    from carm_sim.patient_loader import load_patient

    mesh = patient_surface(load_patient(patient))
    obstacles = Obstacles(Surface(mesh.vertices_m, mesh.triangles), staff=staff_zones(_STAFF))
    carm = CArm.from_config()
    return Planner(carm, collision=CollisionModel(carm, obstacles))


def _clear_position(planner: Planner, generator: np.random.Generator) -> NDArray[np.float64]:
    import numpy as np

    model = planner.collision
    assert model is not None
    while True:
        angles = np.radians([generator.uniform(*limits) for limits in _ANGLES_DEG])
        try:
            position = planner.carm.inverse(generator.uniform(_LOW_M, _HIGH_M), *(float(a) for a in angles))[0]
        except GoalError:
            continue
        if model.clearance(position).distance_m > model.margins.collision_m:
            return position


def _sampled_clearance(planner: Planner, plan: Plan) -> float:
    import numpy as np

    model = planner.collision
    assert model is not None
    times = np.linspace(0.0, plan.duration_s, 25)
    return min(model.clearance(plan.trajectory.sample(float(t))[0], named=False).distance_m for t in times)


def _summary(values: list[float]) -> dict[str, Any]:
    import numpy as np

    nothing = float("nan")
    quantiles = 1000.0 * np.percentile(values, [50, 90, 99, 100]) if values else np.full(4, nothing)
    return {"n": len(values), **dict(zip(("p50_ms", "p90_ms", "p99_ms", "max_ms"), quantiles.tolist(), strict=True))}
