# SPDX-License-Identifier: Apache-2.0
"""Tube, attenuation, detector and dose against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.errors import ConfigurationError
from carm_sim.display import Window, display_image
from carm_sim.drr.bands import Bands
from carm_sim.physics import attenuation, tube
from carm_sim.physics.detector import DetectorModel, read_out
from carm_sim.physics.exposure_control import (
    ExposureControl,
    energy_fluence_kev_mm2,
    energy_fluence_of_kerma_kev_mm2,
)

BANDS = Bands(1)
QUIET = DetectorModel(electronic_noise_adu=0.0, quantum_noise=False)


@given(hu=st.floats(-949, 3000))
def test_materials_attenuate_as_the_ct_number_says(hu):
    weights = attenuation.material_weights(attenuation.CT_ENERGY_KEV)
    shares = float(attenuation.water_of_hu(np.array(hu))), float(attenuation.bone_of_hu(np.array(hu)))
    mixed = np.dot(weights, shares)
    assert min(shares) >= 0
    assert mixed == pytest.approx(weights[0] * (1 + hu / 1000), rel=1e-9)


def test_known_coefficients_at_their_nodes():
    assert attenuation.mu_water(60) == pytest.approx(0.02059)
    assert attenuation.mu_bone(60) == pytest.approx(0.3148 * 1.92 / 10)
    assert 1200 < attenuation.CORTICAL_BONE_HU < 2000


@given(kv=st.floats(40, 124), distance=st.floats(200, 2000))
def test_output_rises_with_voltage_and_falls_with_the_square_of_distance(kv, distance):
    assert tube.air_kerma_gy(kv + 1, 1, distance) > tube.air_kerma_gy(kv, 1, distance)
    assert tube.effective_energy_kev(kv + 1) > tube.effective_energy_kev(kv)
    near, far = tube.air_kerma_gy(kv, 1, distance), tube.air_kerma_gy(kv, 1, 2 * distance)
    assert near == pytest.approx(4 * far)
    assert tube.air_kerma_gy(kv, 3, distance) == pytest.approx(3 * near)


@given(first=st.floats(200, 2000), second=st.floats(200, 2000))
def test_dose_area_product_is_the_same_in_every_plane(first, second):
    area = 300.0**2
    there = tube.dose_area_product_gym2(80, 0.5, area, first)
    here = tube.dose_area_product_gym2(80, 0.5, area * (second / first) ** 2, second)
    assert here == pytest.approx(there)
    assert there == pytest.approx(35.755e-6 * 0.5 * (1000 / first) ** 2 * 0.09)


def test_the_spectrum_s_kerma_and_its_effective_energy_s_agree():
    for kv in (60, 80, 100, 120):  # the beam is not monoenergetic: its soft part adds kerma
        joule_m2 = energy_fluence_kev_mm2(kv, 1, 1000) * 1.602176634e-16 * 1e6
        kerma = joule_m2 * float(attenuation.air_absorption(tube.effective_energy_kev(kv)))
        ratio = kerma / tube.air_kerma_gy(kv, 1, 1000)
        assert 0.7 < ratio <= 1.0


@pytest.mark.parametrize("length_mm", [0.0, 100.0, 250.0])
def test_signal_is_beer_lambert_of_the_energy_absorbed(length_mm):
    energy, fluence = 55.0, 4e4
    integrals = np.full((4, 5), length_mm * attenuation.mu_water(energy), np.float32)
    raw = read_out(integrals, fluence, energy, 0.5, QUIET, 1, BANDS)
    expected = fluence * QUIET.absorption * energy * QUIET.adu_per_kev_mm2
    expected *= np.exp(-length_mm * attenuation.mu_water(energy))
    assert np.abs(raw - expected).max() <= 0.51 + 1e-5 * expected


@pytest.mark.parametrize("photons_mm2", [200.0, 2e3, 2e4])
@pytest.mark.parametrize("pitch_mm", [0.194, 0.582])
def test_noise_variance_follows_the_photon_count(photons_mm2, pitch_mm):
    energy, model = 55.0, DetectorModel(electronic_noise_adu=3.0, adu_per_kev_mm2=0.02)
    raw = read_out(np.zeros((900, 1000), np.float32), photons_mm2, energy, pitch_mm, model, 7, BANDS).astype(float)
    photons = photons_mm2 * pitch_mm**2 * model.absorption
    gain = model.adu_per_kev_mm2 * energy / pitch_mm**2
    variance = gain**2 * photons + model.electronic_noise_adu**2 + 1 / 12
    clipped = photons < 8  # the distribution meets 0
    assert raw.mean() == pytest.approx(gain * photons, rel=0.02 if clipped else 0.003)
    assert raw.var() == pytest.approx(variance, rel=0.05 if clipped else 0.015)


def test_noise_has_the_skewness_of_counts_and_no_neighbors():
    model = DetectorModel(electronic_noise_adu=0.0, adu_per_kev_mm2=1.0)
    raw = read_out(np.zeros((1000, 1000), np.float32), 50.0 / model.absorption, 10.0, 1.0, model, 3, BANDS)
    z = (raw - raw.mean()) / raw.std()
    assert (z**3).mean() == pytest.approx(1 / np.sqrt(50), rel=0.1)
    for shifted in (z[:, 1:] * z[:, :-1], z[1:] * z[:-1]):
        assert abs(shifted.mean()) < 0.005


def test_bytes_depend_on_the_key_alone():
    def draw(key, threads):
        return read_out(np.full((300, 200), 2.0, np.float32), 1e4, 60.0, 0.5, DetectorModel(), key, Bands(threads))

    assert draw(5, 1).tobytes() == draw(5, 3).tobytes()
    assert draw(5, 1).tobytes() != draw(6, 1).tobytes()


def test_bare_beam_saturates():
    raw = read_out(np.zeros((3, 3), np.float32), 1e9, 60.0, 0.5, DetectorModel(), 0, BANDS)
    assert (raw == 65535).all()


@given(water=st.floats(20, 350), bone=st.floats(0, 40))
def test_exposure_control_brings_the_detector_signal_to_its_target(water, bone):
    control = ExposureControl(lowest_mas=0.0, highest_mas=1e9)
    technique = control.choose(np.array([[water], [bone]]), 1020)
    energy = tube.effective_energy_kev(technique.voltage_kv)
    behind = energy_fluence_kev_mm2(technique.voltage_kv, technique.charge_mas, 1020)
    behind *= np.exp(-np.dot(attenuation.material_weights(energy), (water, bone)))
    assert behind == pytest.approx(energy_fluence_of_kerma_kev_mm2(control.detector_dose_gy))
    assert control.lowest_kv <= technique.voltage_kv <= control.highest_kv
    assert technique.current_ma <= control.highest_ma * (1 + 1e-9)


def test_out_of_range_techniques_are_refused_with_their_limits():
    control, paths = ExposureControl(), np.ones((2, 4))
    with pytest.raises(ConfigurationError, match=r"300.* kV is outside \[40, 125\]"):
        control.choose(paths, 1020, voltage_kv=300.0)
    with pytest.raises(ConfigurationError, match=r"50.* mAs is outside \[0.005, 20.0\]"):
        control.choose(paths, 1020, charge_mas=50.0)
    assert control.choose(paths, 1020, 70.0, 3.0).charge_mas == pytest.approx(3.0)


def test_display_shows_bone_bright_and_is_the_mirror_of_raw():
    raw = np.full((64, 64), 4000, np.uint16)
    raw[:, :20] = 500  # dense, on the left of the raw image
    raw[:10] = 20000
    shown = display_image(raw, Window())
    assert shown[40, -5] > shown[40, 5] > shown[5, 5]
    assert (shown.dtype, shown.shape) == (np.uint8, raw.shape)


def test_outside_the_field_the_display_is_black_and_does_not_set_the_window():
    raw = np.zeros((100, 100), np.uint16)
    rng = np.random.default_rng(0)
    raw[20:80, 10:40] = rng.integers(500, 5000, (60, 30))
    shown = display_image(raw, Window(), (10, 20, 40, 80))
    assert not shown[:, :60].any()
    assert not shown[:20].any()
    assert shown[20:80, 60:90].min() < 10
    assert shown[20:80, 60:90].max() > 245


def test_a_flat_image_does_not_fail():
    assert display_image(np.zeros((8, 8), np.uint16), Window()).shape == (8, 8)
    assert display_image(np.full((8, 8), 65535, np.uint16), Window()).shape == (8, 8)
