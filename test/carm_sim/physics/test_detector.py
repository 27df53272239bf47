# SPDX-License-Identifier: Apache-2.0
"""The panel: each effect against a closed form, alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_sim.drr.parallel import Bands
from carm_sim.physics.beam import beam
from carm_sim.physics.blur import CELL_MM, coarse_grid, smoothed, taps
from carm_sim.physics.detector import DetectorModel, Panel, Pulse
from carm_sim.physics.scatter import ScatterModel
from carm_sim.physics.tube import Tube, fluence_per_mm2

IDEAL = DetectorModel.ideal()
PITCH_MM = 0.5
DISTANCE_MM = 1020.0


def source(kv=80.0, hardening=True):
    return beam(kv, Tube(beam_hardening=hardening), IDEAL.scintillator_g_cm2)


def slab(water_mm=0.0, bone_mm=0.0, metal_mm=0.0, shape=(200, 300)):
    paths = np.empty((3 if metal_mm else 2, *shape), np.float32)
    paths[:2] = np.array([water_mm, bone_mm])[:, None, None]
    paths[2:] = metal_mm
    return paths


def charge_for(adu, model=IDEAL, kv=80.0):
    """Charge whose open beam gives a signal, mAs."""
    return adu / model.open_adu(source(kv), 1.0, DISTANCE_MM)


def image(paths, model=IDEAL, charge_mas=0.05, pitch_mm=PITCH_MM, kv=80.0, **pulse):
    raw = np.empty(paths.shape[1:], np.uint16)
    Panel(model, Bands(1)).expose(paths, pitch_mm, Pulse(source(kv), charge_mas, DISTANCE_MM, **pulse), raw)
    return raw


@pytest.mark.parametrize("kv", [60.0, 80.0, 110.0])
@pytest.mark.parametrize(("water_mm", "bone_mm"), [(0, 0), (200, 0), (203.7, 0), (151.3, 22.6), (30, 70.5)])
def test_signal_is_the_integral_over_the_spectrum(kv, water_mm, bone_mm):
    beam_ = source(kv)
    behind = beam_.transmission(np.array([[water_mm], [bone_mm]]))[0]
    charge = charge_for(30000 / behind, kv=kv)
    raw = image(slab(water_mm, bone_mm, shape=(4, 5)), charge_mas=charge, kv=kv)
    np.testing.assert_allclose(raw, 30000, rtol=1e-3)


@pytest.mark.parametrize("voltage_kv", [40.0, 60.0, 125.0])
def test_groups_of_energies_stand_for_the_spectrum_behind_thick_metal(voltage_kv):
    found = beam(voltage_kv, Tube(), DetectorModel.scintillator_g_cm2)
    water, metal = (grid.ravel() for grid in np.meshgrid([0.0, 100, 300], [0.5, 2, 5, 10, 20, 30]))
    share, _, in_water, _, in_metal = found.groups.astype(float).T
    grouped = np.exp(-np.outer(water, in_water) - np.outer(metal, in_metal)) @ share
    np.testing.assert_allclose(grouped, found.transmission(np.stack([water, 0 * water, metal])), rtol=0.004)


@pytest.mark.parametrize("metal_mm", [0.05, 1.0, 5.0, 20.0])
@pytest.mark.parametrize(("water_mm", "bone_mm"), [(50, 0), (200, 20)])
def test_signal_behind_metal_is_the_integral_over_the_spectrum(metal_mm, water_mm, bone_mm):
    behind = source().transmission(np.array([[water_mm], [bone_mm], [metal_mm]]))[0]
    raw = image(slab(water_mm, bone_mm, metal_mm, (4, 5)), charge_mas=charge_for(30000 / behind))
    np.testing.assert_allclose(raw, 30000, rtol=0.004)


@pytest.mark.parametrize("water_mm", [0.0, 200.0])
@pytest.mark.parametrize("pitch_mm", [0.194, 0.582])
def test_noise_variance_is_the_spectrum_s_second_moment(water_mm, pitch_mm):
    """Poisson counts of each energy: the variance of their energies' sum is sum E² N(E)."""
    model = replace(IDEAL, quantum_noise=True, electronic_noise_adu=3.0, adu_per_kev_mm2=0.02)
    beam_, charge = source(), 0.02
    photons = fluence_per_mm2(80.0, charge, DISTANCE_MM) * pitch_mm**2
    assert photons > 100
    behind = beam_.shares * np.exp(-water_mm * beam_.mu[0]) / beam_.energy_kev  # absorbed counts of each energy
    behind *= beam_.open_kev_mm2_mas * charge * (1000 / DISTANCE_MM) ** 2 * pitch_mm**2
    gain = model.adu_per_kev_mm2 / pitch_mm**2
    mean, variance = gain * behind @ beam_.energy_kev, gain**2 * behind @ beam_.energy_kev**2
    raw = image(slab(water_mm, shape=(900, 1000)), model, charge, pitch_mm, key=7).astype(float)
    clipped = mean < 3 * math.sqrt(variance)  # the distribution meets 0
    assert raw.mean() == pytest.approx(mean, rel=0.03 if clipped else 0.003)
    if not clipped:
        assert raw.var() == pytest.approx(variance + model.electronic_noise_adu**2 + 1 / 12, rel=0.015)


def test_noise_variance_is_in_proportion_to_the_dose():
    model = replace(IDEAL, quantum_noise=True)
    first, second = (image(slab(150, shape=(500, 500)), model, mas, key=3).astype(float) for mas in (0.5, 2.0))
    assert second.mean() == pytest.approx(4 * first.mean(), rel=0.002)
    assert second.var() == pytest.approx(4 * first.var(), rel=0.02)


def test_noise_has_the_skewness_of_counts_and_no_neighbors():
    model = replace(IDEAL, quantum_noise=True, adu_per_kev_mm2=1.0)
    mono = source(hardening=False)
    charge = 50.0 / (mono.open_kev_mm2_mas / mono.energy_kev[0] * (1000 / DISTANCE_MM) ** 2)
    raw = np.empty((1000, 1000), np.uint16)
    Panel(model, Bands(1)).expose(slab(shape=raw.shape), 1.0, Pulse(mono, charge, DISTANCE_MM, key=3), raw)
    z = (raw - raw.mean()) / raw.std()
    assert raw.std() / raw.mean() == pytest.approx(1 / np.sqrt(50), rel=0.01)
    assert (z**3).mean() == pytest.approx(1 / np.sqrt(50), rel=0.1)
    for shifted in (z[:, 1:] * z[:, :-1], z[1:] * z[:-1]):
        assert abs(shifted.mean()) < 0.005


def test_electronic_noise_is_normal_and_without_pattern():
    model = replace(IDEAL, electronic_noise_adu=20.0)
    raw = image(slab(shape=(1000, 1000)), model, charge_for(1000.0), key=5).astype(float)
    z = (raw - 1000) / 20
    assert abs(z.mean()) < 0.03
    assert z.std() == pytest.approx(1, rel=0.02)
    for shifted in (z[:, 1:] * z[:, :-1], z[1:] * z[:-1]):
        assert abs(shifted.mean()) < 0.01
    other = image(slab(shape=(1000, 1000)), model, charge_for(1000.0), key=6)
    assert abs(((other - 1000.0) / 20 * z).mean()) < 0.01


def test_bytes_depend_on_the_key_alone():
    paths = np.random.default_rng(0).uniform(0, 200, (2, 301, 203)).astype(np.float32)
    paths[1] /= 5

    def draw(key, threads):
        panel, raw = Panel(DetectorModel(), Bands(threads)), np.empty(paths.shape[1:], np.uint16)
        for since_s in (1.0, 0.07):
            panel.expose(paths, PITCH_MM, Pulse(source(), 0.3, DISTANCE_MM, 0.16, key, since_s), raw)
        return raw.tobytes()

    assert draw(5, 1) == draw(5, 3)
    assert draw(5, 1) != draw(6, 1)


@given(spread=st.floats(0, 2.0))
def test_taps_have_the_variance_asked_for(spread):
    kernel = taps(spread).astype(float)
    places = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert kernel @ places**2 == pytest.approx(spread**2, rel=1e-4, abs=2.1e-3)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("which", ["focal spot", "scintillator"])
def test_an_edge_spreads_with_the_blur_s_width(axis, which):
    spread_mm, pitch_mm = 0.3, 0.2
    paths = slab(shape=(60, 60))
    paths[0].swapaxes(0, axis)[:30] = 100.0
    model, focal_mm = (IDEAL, spread_mm) if which == "focal spot" else (replace(IDEAL, blur_mm=spread_mm), 0.0)
    raw = image(paths, model, charge_for(40000), pitch_mm, focal_blur_mm=focal_mm)
    edge = raw.swapaxes(0, axis)[:, 30].astype(float)
    line = np.diff(edge) / (edge[-1] - edge[0])
    places = np.arange(len(line)) + 0.5
    assert line @ places == pytest.approx(29.5, abs=0.02)
    assert line @ (places - 29.5) ** 2 * pitch_mm**2 == pytest.approx(spread_mm**2, rel=0.03)
    assert edge[0] == pytest.approx(image(paths, charge_mas=charge_for(40000)).swapaxes(0, axis)[0, 0], abs=1)


def test_the_scintillator_s_blur_makes_noise_smooth_and_the_focal_spot_s_does_not():
    quiet = replace(IDEAL, quantum_noise=True)
    raw = image(slab(100, shape=(600, 600)), quiet, 0.5, key=1).astype(float)
    focal = image(slab(100, shape=(600, 600)), quiet, 0.5, key=1, focal_blur_mm=0.3).astype(float)
    soft = image(slab(100, shape=(600, 600)), replace(quiet, blur_mm=0.3), 0.5, key=1).astype(float)
    assert focal.var() == pytest.approx(raw.var(), rel=1e-3)
    kernel = taps(0.3 / PITCH_MM).astype(float)
    assert soft[5:-5, 5:-5].var() == pytest.approx(raw.var() * (kernel @ kernel) ** 2, rel=0.02)
    assert soft.mean() == pytest.approx(raw.mean(), rel=1e-4)


def test_the_coarse_grid_interpolates_planes_and_means():
    grid = coarse_grid(130, 100, PITCH_MM)
    rows, columns = (np.arange(n) * grid.block + (grid.block - 1) / 2 for n in grid.shape)
    wide = grid.widened(2 * rows[:, None] + 3 * columns)
    below = wide[grid.low + 1]
    image_ = wide[grid.low] + grid.share[:, None] * (below - wide[grid.low])
    inside = np.s_[grid.block : -2 * grid.block, grid.block : -2 * grid.block]
    r, c = np.indices(image_.shape)
    np.testing.assert_allclose(image_[inside], (2 * r + 3 * c)[inside], rtol=1e-5)
    random = np.random.default_rng(0).integers(0, 1000, (130, 100)).astype(np.uint16)
    cell = random[grid.block : 2 * grid.block, : grid.block]
    assert grid.means(random, 1)[1, 0] == pytest.approx(cell.mean())
    assert grid.means(random, 1).shape == grid.shape


@settings(deadline=None)
@given(spread=st.floats(1.0, 3.0), row=st.integers(14, 18), column=st.integers(14, 20))
def test_wide_blurs_keep_the_sum_and_have_their_width(spread, row, column):
    cells = np.zeros((33, 35))
    cells[row, column] = 7.0
    out = smoothed(cells, spread)
    rows, columns = np.indices(cells.shape)
    assert out.sum() == pytest.approx(7.0, rel=1e-3)
    assert (out * (rows - row) ** 2).sum() / 7 == pytest.approx(spread**2 + 1 / 12, rel=0.02)
    assert (out * (columns - column)).sum() == pytest.approx(0, abs=1e-3)


def test_scatter_behind_a_slab_is_the_kernel_s_integral():
    """Uniform source, field of width w: in its middle S = fraction T_s / T_p p ln(1/p) erf(w / (2 sqrt(2) sigma))²."""
    model = ScatterModel(fraction=0.4, spread_mm=40.0, grid_primary=0.7, grid_scatter=0.1)
    side, water_mm = 300, 200.0
    width_mm = side * PITCH_MM
    primary = source().transmission(np.array([[water_mm], [0.0]]))[0]
    captured = math.erf(width_mm / (2 * math.sqrt(2) * model.spread_mm)) ** 2
    expected = 0.4 * 0.1 / 0.7 * -math.log(primary) * captured
    detector = replace(IDEAL, scatter=model)
    charge = charge_for(20000 / primary, detector)
    raw = np.empty((side, side), np.uint16)
    ratio = Panel(detector, Bands(1)).expose(
        slab(water_mm, shape=raw.shape), PITCH_MM, Pulse(source(), charge, DISTANCE_MM), raw
    )
    middle = raw[145:155, 145:155].mean() / 20000 - 1
    assert middle == pytest.approx(expected, rel=0.03)
    assert 0.7 * expected < ratio < expected * 1.01  # the median of the middle half is a little less than its middle
    assert image(slab(water_mm), charge_mas=charge_for(20000 / primary)).max() <= 20020


def test_scatter_is_conserved():
    """All scatter of a small object lands on a large detector: its sum is the source's, times the factor."""
    model = ScatterModel(fraction=0.4, spread_mm=15.0, grid_primary=1.0, grid_scatter=1.0)
    paths = slab(shape=(400, 400))
    paths[0, 180:220, 190:230] = 100.0
    without, with_ = (
        image(paths, replace(IDEAL, scatter=s), charge_for(20000)).astype(float) for s in (IDEAL.scatter, model)
    )
    p = source().transmission(np.array([[100.0], [0.0]]))[0]
    expected = 20000 * 0.4 * -p * math.log(p) * 40 * 40
    assert (with_ - without).sum() == pytest.approx(expected, rel=0.02)


def test_default_scatter_ratios_are_those_said():
    """About 1.55 behind 200 mm of water in 300 mm without grid, a ninth of it with."""
    paths, pulse = slab(200.0, shape=(300, 300)), Pulse(source(), 0.5, DISTANCE_MM)
    ratios = [
        Panel(replace(IDEAL, scatter=scatter), Bands(1)).expose(paths, 1.0, pulse, np.empty((300, 300), np.uint16))
        for scatter in (ScatterModel(grid_primary=1.0, grid_scatter=1.0), ScatterModel())
    ]
    assert ratios[0] == pytest.approx(1.55, abs=0.05)
    assert ratios[1] == pytest.approx(ratios[0] * 0.08 / 0.7, rel=1e-6)


def test_glare_moves_light_and_keeps_its_sum():
    model = replace(IDEAL, glare_fraction=0.05, glare_mm=12.0)
    paths = slab(shape=(400, 400))
    paths[0] = 600.0  # dark, but for a hole
    paths[0, 150:250, 150:250] = 0.0
    plain, hazy = (image(paths, m, charge_for(40000)).astype(float) for m in (IDEAL, model))
    assert hazy.sum() == pytest.approx(plain.sum(), rel=2e-3)
    cell_mm = round(CELL_MM / PITCH_MM) * PITCH_MM
    spread = math.hypot(12, cell_mm / 2)  # the means of cells and the interpolation between them widen it a little
    captured = math.erf(50 * PITCH_MM / math.sqrt(2) / spread)
    assert hazy[200, 200] / 40000 == pytest.approx(0.95 + 0.05 * captured**2, rel=1e-3)
    for column, distance_mm in ((265, 32.5), (290, 45.0)):  # from the hole's middle; its edge is at 25 mm
        reach = [math.erf((distance_mm + side) / math.sqrt(2) / spread) for side in (-25, 25)]
        expected = 0.05 * (reach[1] - reach[0]) / 2 * captured
        assert hazy[200, column] / 40000 == pytest.approx(expected, rel=0.1)


def series(intervals_s, levels, fraction=0.1, lag_s=0.2):
    panel = Panel(replace(IDEAL, lag_fraction=fraction, lag_s=lag_s), Bands(1))
    means = []
    for since_s, level in zip(intervals_s, levels, strict=True):
        raw = np.empty((6, 6), np.uint16)
        charge = charge_for(level) if level else 0.0
        panel.expose(slab(shape=raw.shape), PITCH_MM, Pulse(source(), charge, DISTANCE_MM, since_last_s=since_s), raw)
        means.append(raw.mean())
    return np.array(means)


def test_lag_decays_exponentially_and_gives_back_what_it_took():
    interval_s, lag_s, fraction = 0.1, 0.2, 0.1
    got = series([1e6] + [interval_s] * 30, [50000] + [0] * 30, fraction, lag_s)
    stays = math.exp(-interval_s / lag_s)
    expected = 50000 * fraction * (1 - stays) * stays ** np.arange(30)
    assert got[0] == pytest.approx(50000 * (1 - fraction), abs=1)
    np.testing.assert_allclose(got[1:], expected, atol=0.51)
    assert got.sum() == pytest.approx(50000, rel=1e-3)


def test_lag_leaves_steady_frames_alone_and_single_exposures_have_none():
    assert series([1e6] + [0.05] * 60, [30000] * 61)[-1] == pytest.approx(30000, rel=1e-3)
    assert series([math.inf] * 3, [30000, 0, 0])[1:].max() == 0
    assert series([math.inf] * 2, [30000] * 2) == pytest.approx([30000] * 2, abs=1)
    assert series([1e6, 100.0], [30000, 0])[1] == 0


def test_bare_beam_saturates():
    assert (image(slab(shape=(3, 3)), charge_mas=1e3) == 65535).all()
    full = replace(IDEAL, saturation_adu=30000.0)
    paths = slab(shape=(10, 10))
    paths[0, :5] = 60.0
    raw = image(paths, full, charge_for(50000))
    assert (raw[5:] == 30000).all()
    assert (raw[:5] < 30000).all()


def test_dead_pixels_read_nothing_and_stay_where_they_are():
    model = replace(DetectorModel(), dead_pixel_fraction=0.01)

    def dead(seed, key):
        raw = np.empty((300, 400), np.uint16)
        Panel(model, Bands(1), seed).expose(
            slab(50, shape=raw.shape), PITCH_MM, Pulse(source(), 0.5, 1020.0, key=key), raw
        )
        return raw == 0

    assert dead(1, 1).mean() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_array_equal(dead(1, 1), dead(1, 2))
    assert (dead(1, 1) != dead(2, 1)).any()
    assert image(slab(50), DetectorModel()).min() > 0


def test_a_part_of_the_detector_is_filled_and_the_rest_left_alone():
    raw = np.zeros((50, 70), np.uint16)
    Panel(DetectorModel(), Bands(1)).expose(
        slab(50, shape=(20, 30)), PITCH_MM, Pulse(source(), 0.5, 1020.0), raw, (25, 10)
    )
    assert raw[10:30, 25:55].min() > 0
    raw[10:30, 25:55] = 0
    assert not raw.any()


@pytest.mark.parametrize("columns", [257, 258, 270])
def test_the_means_have_all_cells_also_a_narrow_last_one(columns: int) -> None:
    grid = coarse_grid(64, columns, PITCH_MM)
    for step in (1, 3, grid.block):
        means = grid.means(np.full((64, columns), 7, np.uint16), step)
        assert means.shape == grid.shape
        assert np.all(means == 7)
