# SPDX-License-Identifier: Apache-2.0
"""`carm bench register`: what it counts, and one case of its own."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carm_bringup.benchmarks.registration import command, conditions
from carm_bringup.benchmarks.registration.cases import Case
from carm_perception.registration.model import averaged
from carm_sim.patient_loader import load_patient


def case(in_view_mm: float = 0.5, accepted: bool = True) -> Case:
    return Case("p", 5.0, "landmarks", accepted, 0.9, 0.8, in_view_mm, 1.0, accepted, 0.9, 0.8, 0.4, 0.6, 0.3, 2.0, 0.4)


def test_refused_cases_count_as_failures_and_wrong_ones_are_told() -> None:
    found = command.metrics([case(), case(1.5), case(7.0), case(300.0, accepted=False)])
    assert found["accepted"] == 0.75
    assert (found["success_2mm"], found["success_5mm"]) == (0.5, 0.5)
    assert found["wrong_accepted"] == pytest.approx(1 / 8)
    assert found["in_view_median_mm"] == 1.5
    assert math.isnan(command.metrics([case(accepted=False)])["in_view_median_mm"])


def test_the_ct_is_never_what_is_imaged() -> None:
    patient = load_patient("chest_ct")
    ct = conditions.preoperative("chest_ct", conditions.CONDITIONS["nominal"], "", 3)
    assert ct.volume.shape[0] == patient.volume.shape[0] // 2
    patient = replace(patient, volume=averaged(patient.volume, 3.0))
    breathed = conditions.breathed(patient)
    moved = np.abs(breathed.hu.astype(int) - patient.volume.hu).mean((0, 1))
    assert moved.max() > 20.0
    spine = patient.volume.voxel_from_lps(patient.landmarks_mm[14] + (0, 10, 0)).round().astype(int)
    around = tuple(slice(i - 3, i + 4) for i in spine[:2])
    np.testing.assert_array_equal(breathed.hu[around][..., spine[2]], patient.volume.hu[around][..., spine[2]])


def test_one_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    file = tmp_path / "register.json"
    words = ["--condition", "low-dose", "--patient", "chest_ct", "--cases", "1", "--json", str(file)]
    assert command.run(parser.parse_args(words)) == 0
    assert "low-dose: 1 cases" in capsys.readouterr().out
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["results"]["low-dose"]["cases"] == 1
    (one,) = document["cases"]["low-dose"]
    assert not one["accepted"] or one["in_view_mm"] < 5.0
