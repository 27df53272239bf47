# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images/preview.png: the way from home to the spider view at the carina of the chest CT."""

from pathlib import Path

from carm_agent.planning.planner import Planner
from carm_agent.planning.preview import preview
from carm_agent.planning.standard_views import find_view
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, Surface, staff_zones
from carm_core.landmarks import find_landmark
from carm_core.robot.kinematics import CArm
from carm_sim.patient.surface import patient_surface
from carm_sim.patient_loader import load_patient

STAFF = "-0.8 -1.5 -0.95 0.0 -0.80 0.9"


def main() -> None:
    """Draw the picture."""
    carm, patient = CArm.from_config(), load_patient("chest_ct")
    mesh = patient_surface(patient)
    model = CollisionModel(carm, Obstacles(Surface(mesh.vertices_m, mesh.triangles), staff=staff_zones(STAFF)))
    isocenter_m = patient.landmarks_table_mm[find_landmark("carina").id] / 1000.0
    plan = Planner(carm, collision=model).to_view(carm.home, isocenter_m, find_view("spider").angles_rad)
    file = Path(__file__).resolve().parents[1] / "docs/images/preview.png"
    file.write_bytes(preview(model, plan).png)


if __name__ == "__main__":
    main()
