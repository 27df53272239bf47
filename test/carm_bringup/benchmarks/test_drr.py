# SPDX-License-Identifier: Apache-2.0
"""`carm bench drr` and `carm bench stream`: jobs, ratios, tables and figures."""

from __future__ import annotations

import argparse
import importlib.util
import json

import numpy as np
import pytest

from carm_bringup.benchmarks import streaming
from carm_bringup.benchmarks.drr import command as bench_drr
from carm_bringup.benchmarks.drr import worker as drr_worker
from carm_bringup.benchmarks.drr.renderers import CANDIDATES, Rtk
from carm_bringup.nodes.stream_probe import Arrival
from carm_sim.patient.volume import Volume


def options(module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def test_the_names_are_those_of_the_renderers():
    assert set(bench_drr.NAMES) == set(CANDIDATES)


def test_jobs_are_what_a_worker_reads():
    args = options(bench_drr, "--quick", "--sweep", "--threads", "1")
    for name in bench_drr.NAMES:
        job = drr_worker.Job(**bench_drr.job_of(name, args))
        assert job.threads == 1
        assert job.sweep == (bench_drr.SWEEP_VIEWS if name == "ours" else 0)


def test_peers_are_compared_and_missing_ones_named():
    results = {"ours": {"fps_512": 100.0}, "itk_rtk": {"fps_512": 4.0}, "diffdrr": {"missing": "diffdrr"}}
    bench_drr.add_ratios(results)
    assert results["itk_rtk"]["ratio_to_ours"] == 25
    assert "ratio_to_ours" not in results["diffdrr"]
    assert "missing (diffdrr): pip install '.[peers]'" in bench_drr.table(results)


@pytest.fixture(scope="module")
def small():
    """A block of water in air."""
    hu = np.full((40, 36, 30), -1000, np.int16)
    hu[5:-5, 6:-6, 7:-7] = np.linspace(-200, 800, 30)[:, None, None]
    affine = np.diag([3.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = (-60, -54, 100)
    return Volume(hu, affine)


def test_a_volume_with_other_slices_shows_the_same_body(small):
    thin = drr_worker.resliced(small, 117, 0)
    assert thin.spacing_mm == pytest.approx([3.0, 3.0, 1.0])
    view = drr_worker.view_of(small.center_mm, 25.0, 15.0, 48)
    expected, got = (CANDIDATES["ours"](volume, 1).render(view) for volume in (small, thin))
    assert np.abs(got - expected).mean() < 2e-2 * expected.mean()
    assert drr_worker.Job(**bench_drr.job_of("ours", options(bench_drr, "--slices", "117"))).slices == 117


@pytest.mark.parametrize("name", ["itk_rtk", "nanodrr_cpu", "diffdrr"])
def test_peers_see_the_same_image(name, small):
    needed = {"itk_rtk": "itk", "nanodrr_cpu": "nanodrr", "diffdrr": "diffdrr"}[name]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: {bench_drr.INSTALL}")
    try:
        peer = CANDIDATES[name](small, 1)
    except ImportError as error:
        pytest.skip(f"{error.name} is not installed: {bench_drr.INSTALL}")
    view = drr_worker.view_of(small.center_mm, 25.0, 15.0, 48)
    expected = CANDIDATES["ours"](small, 1).render(view)
    got = peer.render(view)
    assert np.abs(got - expected).mean() < (1e-2 if isinstance(peer, Rtk) else 5e-3) * expected.mean()


def test_image_is_made_of_the_same_line_integrals(small):
    view = drr_worker.view_of(small.center_mm, 0.0, 0.0, 32)
    plain, image = (CANDIDATES[name](small, 1) for name in ("ours", "ours_image"))
    expected = plain.line_integrals(plain.render(view))
    np.testing.assert_allclose(image.line_integrals(image.render(view)), expected, atol=2e-3 * expected.max())


def test_stream_figures():
    period = 1 / 15
    arrivals = [Arrival(k * period, k * period + 0.05 + (0.03 if k == 40 else 0.0), 768) for k in range(60)]
    found = streaming.figures_of(arrivals, 15.0)
    assert found["n"] == 45
    assert found["size_px"] == 768
    assert found["fps"] == pytest.approx(15)
    assert found["latency_p50_ms"] == pytest.approx(50)
    assert 50 < found["latency_p99_ms"] <= 80
    assert 10 < found["jitter_p99_ms"] <= 30.1
    with pytest.raises(streaming.StreamError, match="only 5"):
        streaming.figures_of(arrivals[:5], 15.0)
    assert streaming.figures_of(arrivals[:9], 15.0)["n"] == 6


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (bench_drr, ["--json", "/nowhere/x.json"]),
        (streaming, ["--json", "/nowhere/x.json"]),
        (streaming, ["--rate", "0"]),
        (streaming, ["--readout", "-1"]),
        (streaming, ["--duration", "0"]),
    ],
)
def test_bad_input_is_refused_before_anything_runs(module, words):
    with pytest.raises(SystemExit) as refused:
        options(module, *words)
    assert refused.value.code == 2


def test_the_command_line_gives_the_same_run():
    args = options(bench_drr, "--quick", "--renderer", "ours", "--seed", "3")
    again = options(bench_drr, *bench_drr.command_line(args).split()[3:])
    assert vars(again) | {"json": None} == vars(args) | {"json": None}
    assert json.dumps(bench_drr.job_of("ours", again)) == json.dumps(bench_drr.job_of("ours", args))
