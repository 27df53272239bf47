# SPDX-License-Identifier: Apache-2.0
"""Tube, attenuation, beam, exposure control, dose and display against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.errors import ConfigurationError
from carm_core.imaging.display import Window
from carm_sim.display import display_image
from carm_sim.physics import attenuation, tube
from carm_sim.physics.beam import BONE_STEP_MM, WATER_STEP_MM, beam
from carm_sim.physics.detector import DetectorModel
from carm_sim.physics.dose import DoseAlarm, DoseMeter
from carm_sim.physics.exposure_control import ExposureControl, Field
from carm_sim.physics.scatter import ScatterModel
from carm_sim.physics.tube import Technique, Tube

IDEAL = DetectorModel.ideal()
CSI = IDEAL.scintillator_g_cm2
ALL_STOPPED = 1e4  # g/cm² of CsI

# SpekPy 2.5.4 with its own (PENELOPE) coefficients in steps of 0.5 keV, 3 mm Al and 0.1 mm Cu, behind 200 mm of water:
# kV: energy fluence behind / in front, the same absorbed in 0.2 g/cm² of CsI, variance / mean there (keV); air kerma at
# 1 m (µGy/mAs).
SPEKPY = {
    60: (0.0063605, 0.0063127, 47.44, 16.695),
    80: (0.01134, 0.010569, 57.19, 35.755),
    110: (0.016892, 0.014637, 67.28, 75.782),
}


@given(hu=st.floats(-949, 3000))
def test_materials_attenuate_as_the_ct_number_says(hu):
    weights = attenuation.material_weights(attenuation.CT_ENERGY_KEV)[:2]
    shares = float(attenuation.water_of_hu(np.array(hu))), float(attenuation.bone_of_hu(np.array(hu)))
    mixed = np.dot(weights, shares)
    assert min(shares) >= 0
    assert mixed == pytest.approx(weights[0] * (1 + hu / 1000), rel=1e-9)


def test_coefficients_are_those_of_nist():
    """Hubbell and Seltzer, NISTIR 5632."""
    nist = {
        "water": {30: 0.3756, 60: 0.2059, 100: 0.1707},
        "bone": {30: 1.331, 60: 0.3148, 100: 0.1855},
        "titanium": {40: 2.214, 60: 0.766, 100: 0.2721},
        "aluminum": {30: 1.128, 60: 0.2778, 100: 0.1704},
        "copper": {30: 10.92, 60: 1.593, 100: 0.4584},
        "air_absorption": {30: 0.1537, 60: 0.03041, 100: 0.02325},
    }
    for material, values in nist.items():
        for energy, value in values.items():
            got = float(attenuation.mass_attenuation_cm2_g(material, energy))
            assert got == pytest.approx(value, rel=0.025 if material == "air_absorption" else 0.01), (material, energy)
    assert 1200 < attenuation.CORTICAL_BONE_HU < 2000


@given(kv=st.floats(40, 124), distance=st.floats(200, 2000))
def test_output_rises_with_voltage_and_falls_with_the_square_of_distance(kv, distance):
    assert tube.air_kerma_gy(kv + 1, 1, distance) > tube.air_kerma_gy(kv, 1, distance)
    assert tube.effective_energy_kev(kv + 1) > tube.effective_energy_kev(kv)
    near, far = tube.air_kerma_gy(kv, 1, distance), tube.air_kerma_gy(kv, 1, 2 * distance)
    assert near == pytest.approx(4 * far)
    assert tube.air_kerma_gy(kv, 3, distance) == pytest.approx(3 * near)


@pytest.mark.parametrize("kv", SPEKPY)
def test_air_kerma_is_the_spectrum_s_own_integral(kv):
    spectrum = tube.spectrum(kv)
    joule_m2 = spectrum.energy_kev * 1.602176634e-16 * spectrum.fluence_mm2_mas * 1e6
    kerma = float((joule_m2 * attenuation.air_absorption(spectrum.energy_kev)).sum())
    assert tube.air_kerma_gy(kv, 2.5, 500.0) == pytest.approx(kerma * 2.5 * 4, rel=1e-12)
    assert 1e6 * kerma == pytest.approx(SPEKPY[kv][3], rel=0.01)
    assert tube.air_kerma_gy(kv, 1, 1000, Tube(beam_hardening=False)) == tube.air_kerma_gy(kv, 1, 1000)
    assert tube.air_kerma_gy(kv, 1, 1000, Tube(copper_mm=0.3)) < tube.air_kerma_gy(kv, 1, 1000)


@given(aluminum=st.floats(0, 5), copper=st.floats(0, 0.5))
def test_filtration_attenuates_as_beer_and_lambert_say(aluminum, copper):
    usual, more = tube.spectrum(80.0), tube.spectrum(80.0, Tube(3.0 + aluminum, 0.1 + copper))
    energy = usual.energy_kev
    depth = aluminum * attenuation.mu("aluminum", energy) + copper * attenuation.mu("copper", energy)
    left = np.isin(energy, more.energy_kev)  # the softest photons may be gone
    np.testing.assert_allclose(more.fluence_mm2_mas, (usual.fluence_mm2_mas * np.exp(-depth))[left], atol=1e-290)
    assert more.effective_energy_kev >= usual.effective_energy_kev - 1e-9


@given(first=st.floats(200, 2000), second=st.floats(200, 2000))
def test_dose_area_product_is_the_same_in_every_plane(first, second):
    area = 300.0**2
    there = tube.dose_area_product_gym2(80, 0.5, area, first)
    here = tube.dose_area_product_gym2(80, 0.5, area * (second / first) ** 2, second)
    assert here == pytest.approx(there)
    assert there == pytest.approx(SPEKPY[80][3] * 1e-6 * 0.5 * (1000 / first) ** 2 * 0.09, rel=0.01)


@pytest.mark.parametrize("kv", SPEKPY)
def test_transmission_of_200_mm_of_water_is_the_independent_integral(kv):
    water = np.array([[200.0], [0.0]])
    assert beam(kv, Tube(), ALL_STOPPED).transmission(water)[0] == pytest.approx(SPEKPY[kv][0], rel=0.02)
    assert beam(kv, Tube(), CSI).transmission(water)[0] == pytest.approx(SPEKPY[kv][1], rel=0.02)
    assert beam(kv, Tube(), CSI).quantum_kev(water)[0] == pytest.approx(SPEKPY[kv][2], rel=0.02)


@given(kv=st.sampled_from([50.0, 81.5, 125.0]), water=st.floats(0, 500), bone=st.floats(0, 120))
def test_the_beam_hardens(kv, water, bone):
    hard, mono = beam(kv, Tube(), CSI), beam(kv, Tube(beam_hardening=False), CSI)
    paths = np.array([[water, water + 20], [bone, bone]])
    near, far = hard.transmission(paths)
    again = hard.transmission(paths + 20)
    assert far < near
    assert again[1] / again[0] > far / near  # the next 20 mm take less away
    one = np.array([[water], [bone]])
    energy = tube.effective_energy_kev(kv)
    depth = np.dot(attenuation.material_weights(energy)[:2], (water, bone))
    assert mono.transmission(one)[0] == pytest.approx(np.exp(-depth))
    assert mono.open_kev_mm2_mas > 0


@given(kv=st.sampled_from([50.0, 81.5, 125.0]), water=st.floats(0, 790), bone=st.floats(0, 190))
def test_the_table_interpolates_to_a_thousandth(kv, water, bone):
    source = beam(kv, Tube(), CSI)
    (i, u), (j, v) = ((int(x // step), x / step % 1) for x, step in ((water, WATER_STEP_MM), (bone, BONE_STEP_MM)))
    cell = source.log2_table[i : i + 2, j : j + 2].astype(float)
    octaves = np.array([1 - u, u]) @ cell @ np.array([1 - v, v])
    exact = source.transmission(np.array([[water], [bone]]))[0]
    assert 2**-octaves == pytest.approx(exact, rel=1e-3)
    assert source.quantum_table[i, j] == pytest.approx(source.quantum_kev(np.array([[water], [bone]]))[0], rel=0.01)


def control_field(water, bone, cells=8):
    paths = np.zeros((2, cells, cells))
    paths[0], paths[1] = water, bone
    return Field(paths, 300 / cells, 1020.0)


@given(water=st.floats(20, 350), bone=st.floats(0, 40), scatter=st.booleans())
def test_exposure_control_brings_the_detector_signal_to_its_target(water, bone, scatter):
    control = ExposureControl(lowest_mas=1e-9, highest_mas=1e9)
    model = DetectorModel() if scatter else IDEAL
    technique = control.choose(control_field(water, bone), model)
    source = beam(technique.voltage_kv, Tube(), model.scintillator_g_cm2)
    primary = source.transmission(np.array([water, bone])[:, None])[0]
    middle = primary + np.median(model.scatter.scatter(np.full((8, 8), -primary * np.log(primary)), 300 / 8)[2:6, 2:6])
    signal = model.open_adu(source, technique.charge_mas, 1020.0) * middle
    assert signal == pytest.approx(control.target_adu(model), rel=1e-6)
    assert (middle > primary) == scatter
    assert control.lowest_kv <= technique.voltage_kv <= control.highest_kv
    assert technique.current_ma <= control.highest_ma * (1 + 1e-9)


def test_the_target_is_the_signal_of_its_kerma():
    photons_mm2 = 1e-6 / (60 * 1.602176634e-16 * 1e6 * float(attenuation.air_absorption(60)))
    absorbed = 1 - np.exp(-CSI * 7.92)
    expected = photons_mm2 * 60 * absorbed * IDEAL.adu_per_kev_mm2
    assert ExposureControl(detector_dose_gy=1e-6).target_adu(IDEAL) == pytest.approx(expected, rel=0.01)


def test_out_of_range_techniques_are_refused_with_their_limits():
    control, field = ExposureControl(), control_field(100, 0)
    with pytest.raises(ConfigurationError, match=r"300.* kV is outside \[40, 125\]"):
        control.choose(field, IDEAL, voltage_kv=300.0)
    with pytest.raises(ConfigurationError, match=r"50.* mAs is outside \[0.005, 20.0\]"):
        control.choose(field, IDEAL, charge_mas=50.0)
    with pytest.raises(ConfigurationError, match="needs the thickness"):
        control.choose(None, IDEAL, charge_mas=3.0)
    assert control.choose(None, IDEAL, Tube(), 70.0, 3.0).charge_mas == pytest.approx(3.0)


def test_dose_adds_up_and_warns_from_the_level_on():
    meter = DoseMeter(DoseAlarm(air_kerma_gy=1e-3, dose_area_product_gym2=1e-5))
    technique = Technique(80.0, 50.0, 0.01)
    area, once = 300.0**2, tube.air_kerma_gy(80, 0.5, 380)
    count = int(np.ceil(1e-3 / once))
    for _ in range(count - 1):
        assert meter.add(technique, Tube(), 530.0, area, 1020.0)[0] == pytest.approx(once)
        assert "air kerma" not in meter.warning
    meter.add(technique, Tube(), 530.0, area, 1020.0)
    assert meter.air_kerma_gy == pytest.approx(count * once)
    assert "air kerma" in meter.warning
    assert "of 0.001 Gy" in meter.warning
    product = tube.dose_area_product_gym2(80, 0.5, area, 1020) * count
    assert meter.dose_area_product_gym2 == pytest.approx(product)
    assert ("dose-area product" in meter.warning) == (product >= 1e-5)
    never = DoseMeter(DoseAlarm(0.0, 0.0), 100.0, 100.0)
    assert never.warning == ""


@given(fraction=st.floats(0.05, 0.6), water=st.floats(50, 300), slope=st.floats(0.2, 1.0))
def test_scatter_is_found_again_in_the_image(fraction, water, slope):
    model = ScatterModel(fraction=fraction)
    source = beam(80.0, Tube(), CSI)
    paths = np.zeros((2, 30, 30))
    paths[0] = water * np.linspace(slope, 1, 30)
    primary = source.transmission(paths)
    scatter = model.scatter(-primary * np.log(primary), 10.0)
    np.testing.assert_allclose(model.estimate(primary + scatter, 10.0), scatter, rtol=0.02)


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
