# SPDX-License-Identifier: Apache-2.0
"""The X-ray system on made-up patients: which way things move, what is dosed, what repeats."""

from __future__ import annotations

import threading
from dataclasses import fields, replace

import numpy as np
import pytest
import yaml

from carm_core.errors import ConfigurationError
from carm_core.imaging.projection import raw_from_display
from carm_core.parameters import parameter_defaults
from carm_core.paths import config_file
from carm_core.robot.joint_history import JointHistory, JointStatesMissingError
from carm_core.robot.kinematics import CArm
from carm_sim.drr.solids import Material, Solid, SolidSet, sphere
from carm_sim.nodes.parameters import XrayParameters
from carm_sim.patient.patient import make_patient
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import load_patient
from carm_sim.physics.beam import beam
from carm_sim.physics.detector import DetectorModel
from carm_sim.physics.dose import DoseAlarm
from carm_sim.physics.tube import Tube, air_kerma_gy
from carm_sim.xray import Request, XrayConfig, XraySystem, field_region, read_out

CARM = CArm.from_config()
SHAPE, SPACING_MM = (151, 75, 101), 2.0
QUIET = DetectorModel.ideal()
KERMA_80_KV = 35.755e-6  # SpekPy 2.5.4, Gy/mAs at 1 m


def slab(beads_mm=(), thickness_mm=100.0):
    """A slab of water on the table, with dense beads at positions (head, right, up) from its center, mm."""
    hu = np.full(SHAPE, -1000, np.int16)
    layers = int(thickness_mm / SPACING_MM)
    low = (SHAPE[1] - layers) // 2
    hu[:, low : low + layers] = 0
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = -SPACING_MM * (np.array(SHAPE) - 1) / 2
    for head, right, up in beads_mm:
        left, posterior, superior = -right, -up, head
        index = np.round((np.array([left, posterior, superior]) - affine[:3, 3]) / SPACING_MM).astype(int)
        hu[tuple(slice(i - 1, i + 2) for i in index)] = 3000
    return make_patient("slab", Volume(hu, affine), None, "test")


def center_m(patient):
    """Center of the volume in frame table, m."""
    return patient.transform_lps_to_table.apply(patient.volume.center_mm) / 1000


def joints(patient, primary_deg=0.0, secondary_deg=0.0, shift_m=(0, 0, 0)):
    return CARM.inverse(center_m(patient) + shift_m, *np.radians((primary_deg, secondary_deg)))[0]


def bead_position(patient, bead_mm, primary_deg=0.0, secondary_deg=0.0):
    """Center (column, row) of one bead in the display image, from images with and without it."""
    quiet = XrayConfig(binning=6, threads=1, detector=QUIET)
    request = Request(voltage_kv=80, charge_mas=0.05)
    q = joints(patient, primary_deg, secondary_deg)
    images = [
        np.log(np.maximum(XraySystem(p, CARM, quiet).expose(q, request).raw, 1.0)) for p in (slab(), slab([bead_mm]))
    ]
    shadow = raw_from_display(np.maximum(images[0] - images[1] - 0.02, 0))
    rows, columns = np.indices(shadow.shape)
    return np.array([(columns * shadow).sum(), (rows * shadow).sum()]) / shadow.sum()


MIDDLE = (256 - 1) / 2


def test_left_is_right_and_the_head_is_up_at_0_0():
    patient = slab()
    left_bead = bead_position(patient, (0, -40, 0))  # y points to the patient's right
    assert left_bead[0] > MIDDLE + 40
    assert left_bead[1] == pytest.approx(MIDDLE, abs=1)
    head_bead = bead_position(patient, (40, 0, 0))
    assert head_bead[1] < MIDDLE - 40
    assert head_bead[0] == pytest.approx(MIDDLE, abs=1)


@pytest.mark.parametrize("up_mm", [40.0, -40.0])
@pytest.mark.parametrize("angle_deg", [25.0, -25.0])
def test_lao_and_rao_move_near_and_far_beads_apart(angle_deg, up_mm):
    """LAO brings the detector to the patient's left.

    What is near the detector (anterior) then falls towards the patient's right, which is left on the display;
    what is far from it (posterior), for example the spine, towards the patient's left, right on the display.
    RAO: reversed.
    """
    column, row = bead_position(slab(), (0, 0, up_mm), primary_deg=angle_deg)
    expected = -np.sign(angle_deg) * np.sign(up_mm)
    assert np.sign(column - MIDDLE) == expected
    assert abs(column - MIDDLE) > 15
    assert row == pytest.approx(MIDDLE, abs=1)


@pytest.mark.parametrize("up_mm", [40.0, -40.0])
@pytest.mark.parametrize("angle_deg", [25.0, -25.0])
def test_cranial_and_caudal_move_near_and_far_beads_apart(angle_deg, up_mm):
    """Cranial brings the detector towards the head.

    What is near the detector (anterior) falls towards the feet, down on the display; what is far, towards the
    head.
    Caudal: reversed.
    """
    column, row = bead_position(slab(), (0, 0, up_mm), secondary_deg=angle_deg)
    assert np.sign(row - MIDDLE) == np.sign(angle_deg) * np.sign(up_mm)
    assert abs(row - MIDDLE) > 15
    assert column == pytest.approx(MIDDLE, abs=1)


def test_the_isocenter_is_in_the_middle_and_projection_agrees_with_the_geometry():
    patient, bead = slab(), (30, -20, 24)
    got = bead_position(patient, bead, 30, -15)
    view = CARM.view(joints(patient, 30, -15), 6)
    at = patient.transform_lps_to_table.apply(patient.volume.center_mm) + np.array(bead)
    np.testing.assert_allclose(got, view.pixel_display(at), atol=1.0)
    np.testing.assert_allclose(view.pixel_display(view.isocenter_mm), (MIDDLE, MIDDLE))


@pytest.mark.parametrize("kv", [60.0, 80.0, 110.0])
def test_signal_behind_a_water_slab_is_the_spectrum_s(kv):
    patient, thickness = slab(thickness_mm=100.0), 100.0
    system = XraySystem(patient, CARM, XrayConfig(binning=6, threads=1, detector=QUIET))
    result = system.expose(joints(patient), Request(voltage_kv=kv, charge_mas=0.5))
    source = beam(kv, Tube(), QUIET.scintillator_g_cm2)
    expected = QUIET.open_adu(source, 0.5, 1020.0) * source.transmission(np.array([[thickness], [0.0]]))[0]
    assert result.raw[126:130, 126:130].mean() == pytest.approx(expected, rel=2e-3, abs=0.5)
    assert result.scatter_to_primary == 0


def test_dose_matches_the_tube_and_adds_up():
    patient = slab()
    system = XraySystem(patient, CARM, XrayConfig(binning=6, threads=1))
    first = system.expose(joints(patient), Request(80, 0.5))
    assert first.air_kerma_gy == pytest.approx(air_kerma_gy(80, 0.5, 380.0))  # 530 mm - 150 mm
    assert first.air_kerma_gy == pytest.approx(KERMA_80_KV * 0.5 / 0.38**2, rel=0.01)
    area_m2 = (0.194e-3 * 1536) ** 2
    assert first.dose_area_product_gym2 == pytest.approx(air_kerma_gy(80, 0.5, 1020.0) * area_m2)
    small = system.expose(joints(patient), Request(80, 0.5, (0.05, 0.05)))
    assert small.dose_area_product_gym2 == pytest.approx(
        KERMA_80_KV * 0.5 / 0.53**2 * 0.05**2, rel=0.03
    )  # at isocenter depth
    assert small.sequence == 2
    assert small.cumulative_air_kerma_gy == pytest.approx(2 * first.air_kerma_gy)
    assert small.cumulative_dose_area_product_gym2 == pytest.approx(
        first.dose_area_product_gym2 + small.dose_area_product_gym2
    )


def test_collimation_leaves_only_the_field():
    patient = slab()
    system = XraySystem(patient, CARM, XrayConfig(binning=6, threads=1))
    result = system.expose(joints(patient), Request(80, 0.5, (0.08, 0.04)))
    left, top, right, bottom = result.field_px
    assert (right - left) / (bottom - top) == pytest.approx(2, rel=0.03)
    assert (left + right, top + bottom) == (256, 256)
    outside = np.ones((256, 256), bool)
    outside[top:bottom, left:right] = False
    assert not result.display[outside].any()
    assert not raw_from_display(result.raw)[outside].any()
    assert raw_from_display(result.raw)[~outside].min() > 0


@pytest.mark.parametrize("field", [(0.2, 0.1), (0.1, 0.0), (-0.1, 0.1), (float("nan"), 0.1)])
def test_impossible_fields_are_refused(field):
    with pytest.raises(ConfigurationError, match=r"field (width|height)"):
        field_region(CARM.view(CARM.home), field)


def test_the_same_seed_gives_the_same_bytes():
    patient = slab([(10, 10, 10)])

    def series(seed, threads=1):
        system = XraySystem(patient, CARM, XrayConfig(binning=6, threads=threads), seed)
        return [system.expose(joints(patient)).raw.tobytes() for _ in range(2)]

    one = series(3)
    assert one == series(3, threads=2)
    assert one[0] != one[1]
    assert one[0] != series(4)[0]


def test_exposure_control_keeps_the_signal_through_thin_and_thick():
    medians = {}
    for thickness in (40.0, 100.0, 146.0):
        patient = slab(thickness_mm=thickness)
        result = XraySystem(patient, CARM, XrayConfig(binning=6, threads=1)).expose(joints(patient))
        medians[thickness] = np.median(result.raw[64:192, 64:192])
        assert 50 <= result.technique.voltage_kv <= 110
    assert max(medians.values()) < 1.2 * min(medians.values())


def test_exposure_control_holds_the_signal_with_scatter_and_hardening():
    patient = slab(thickness_mm=146.0)
    for config in (XrayConfig(binning=6, threads=1), XrayConfig(binning=6, threads=1, detector=QUIET)):
        result = XraySystem(patient, CARM, config).expose(joints(patient))
        target = config.control.target_adu(config.detector)
        assert np.median(result.raw[64:192, 64:192]) == pytest.approx(target, rel=0.05)
        assert (result.scatter_to_primary > 0.05) == (config.detector is not QUIET)


def test_exposure_control_bears_the_sharp_end_of_a_scan():
    system = XraySystem(load_patient("chest_ct"), CArm.from_config(), XrayConfig(binning=6, threads=1))
    edge = [0.19358953314344812, 0.07832259065181257, 0.21441228712713184, 0.0, 0.0477800332129901, 0.1823048707733255]
    with np.errstate(over="raise", invalid="raise"):
        exposure = system.expose(edge)
    assert exposure.technique.charge_mas > 0


def test_scatter_is_left_out_of_the_display():
    patient = slab([(0, 10 * i, 0) for i in range(-6, 7)], thickness_mm=146.0)
    scattering = replace(QUIET, scatter=DetectorModel().scatter)
    clear = replace(QUIET, scatter=replace(scattering.scatter, fraction=0.0))
    request = Request(80.0, 0.3)
    shown = {}
    for name, detector, share in (("none", clear, 0.0), ("left in", scattering, 0.0), ("out", scattering, 1.0)):
        window = replace(XrayConfig().window, scatter_correction=share)
        config = XrayConfig(binning=6, threads=1, detector=detector, window=window)
        shown[name] = XraySystem(patient, CARM, config).expose(joints(patient), request).display.astype(float)
    error = {name: np.abs(shown[name] - shown["none"])[64:192, 64:192].mean() for name in ("left in", "out")}
    assert error["out"] < 0.25 * error["left in"]


def test_a_series_has_lag_and_single_exposures_have_none():
    patient = slab()
    system = XraySystem(patient, CARM, XrayConfig(binning=6, threads=1, detector=replace(QUIET, lag_fraction=0.2)))
    bright, dark = Request(80.0, 1.0, since_last_s=1e6), Request(80.0, 0.005, since_last_s=0.05)
    alone = system.expose(joints(patient), Request(80.0, 0.005)).raw.astype(float)
    system.expose(joints(patient), bright)
    assert (system.expose(joints(patient), dark).raw > 2 * alone).mean() > 0.99
    system.expose(joints(patient), Request(80.0, 1.0))
    np.testing.assert_array_equal(system.expose(joints(patient), Request(80.0, 0.005)).raw, alone)


def test_the_dose_alarm_goes_on():
    config = XrayConfig(binning=6, threads=1, alarm=DoseAlarm(air_kerma_gy=1.5 * air_kerma_gy(80, 0.5, 380.0)))
    patient = slab()
    system = XraySystem(patient, CARM, config)
    assert system.expose(joints(patient), Request(80, 0.5)).warning == ""
    assert "air kerma" in system.expose(joints(patient), Request(80, 0.5)).warning


def test_metal_in_the_beam_is_darker_than_its_length_of_bone():
    class Plate:
        def __init__(self, material):
            self.material = material

        def material_integrals(self, view_lps, region, out):
            out[self.material, :, 100:120] += 5.0

    patient = slab()
    config = XrayConfig(binning=6, threads=1, detector=QUIET)
    bone, metal = (
        XraySystem(patient, CARM, config, solids=[Plate(m)]).expose(joints(patient), Request(80, 0.5)).raw
        for m in (1, 2)
    )
    assert (metal[:, 100:120] < 0.7 * bone[:, 100:120]).all()
    np.testing.assert_allclose(metal[:, :98].astype(float), bone[:, :98], atol=1)


def test_devices_of_the_patient_are_seen():
    plain = slab()
    ball = Solid.of(sphere(plain.volume.center_mm, 10.0), Material.METAL)
    config = XrayConfig(binning=6, threads=1, detector=QUIET, tube=Tube(focal_spot_mm=0.0))
    bare, dressed = (
        XraySystem(patient, CARM, config).expose(joints(patient), Request(80, 0.5)).raw.astype(float)
        for patient in (plain, replace(plain, devices=SolidSet((ball,))))
    )
    source = beam(80.0, Tube(), QUIET.scintillator_g_cm2)
    behind = source.transmission(np.array([[100.0, 100.0], [0.0, 0.0], [20.0, 0.0]]))
    assert (dressed / bare)[126:130, 126:130].mean() == pytest.approx(behind[0] / behind[1], rel=0.03)
    assert (dressed[:, :90] == bare[:, :90]).mean() > 0.99  # the sum over groups and the table round alike


def test_rays_that_miss_are_counted():
    patient = slab()
    system = XraySystem(patient, CARM, XrayConfig(binning=6, threads=1))
    assert system.expose(joints(patient)).hit_fraction == 1.0
    away = np.array([0.6, 0.3, 0.45, 0, 0, 0])
    missed = system.expose(away)
    assert missed.hit_fraction == 0.0
    assert missed.raw.min() > 0


def test_frame_carries_the_geometry():
    patient = slab()
    result = XraySystem(patient, CARM, XrayConfig(binning=6, threads=1)).expose(joints(patient, 20, 10))
    frame = result.frame(12.5)
    assert frame.stamp_s == 12.5
    assert frame.image is result.display
    assert np.degrees((frame.primary_rad, frame.secondary_rad)) == pytest.approx((20, 10))
    assert frame.mm_per_px_at_isocenter == pytest.approx(0.194 * 6 * 530 / 1020)


def test_shipped_parameters_are_the_declared_ones():
    shipped = yaml.safe_load(config_file("xray.yaml").read_text(encoding="utf-8"))["/**"]["ros__parameters"]
    assert shipped == parameter_defaults(XrayParameters)
    assert all(field.metadata["description"] for field in fields(XrayParameters))


def test_every_effect_can_be_switched_off():
    names = ("quantum_noise", "beam_hardening", "blur", "scatter", "glare", "lag")
    config = XrayParameters(electronic_noise_adu=0.0, **dict.fromkeys(names, False)).config
    ideal = DetectorModel.ideal()
    assert replace(config.detector, scatter=ideal.scatter) == replace(ideal, scatter=ideal.scatter)
    assert config.detector.scatter.fraction == 0
    assert (config.tube.focal_spot_mm, config.tube.beam_hardening) == (0.0, False)
    assert replace(XrayParameters().config, control=XrayConfig().control) == XrayConfig()


def test_filtration_technique_and_saturation_are_parameters():
    parameters = XrayParameters(
        aluminum_mm=4.5, copper_mm=0.3, saturation_adu=16383.0, fluoroscopy_voltage_kv=70.0, fluoroscopy_charge_mas=0.2
    )
    assert (parameters.config.tube.aluminum_mm, parameters.config.tube.copper_mm) == (4.5, 0.3)
    patient = slab(thickness_mm=20.0)
    system = XraySystem(patient, CARM, replace(parameters.config, binning=6, threads=1))
    result = system.expose(joints(patient), parameters.fluoroscopy)
    assert result.technique.voltage_kv == 70.0
    assert result.technique.charge_mas == pytest.approx(0.2)
    bright = system.expose(joints(patient), replace(parameters.fluoroscopy, charge_mas=20.0))
    assert bright.raw.max() == 16383


def test_bad_parameters_are_refused():
    with pytest.raises(ConfigurationError, match="compressed_format = 'gif'"):
        XrayParameters(compressed_format="gif")
    with pytest.raises(ConfigurationError, match="set both or neither"):
        replace(XrayParameters(), field_width_m=0.1)


class TestJointHistory:
    """Where the C-arm was at the middle of an exposure."""

    def history(self, *stamps):
        history = JointHistory(("a", "b"), timeout_s=0.5)
        for stamp in stamps:
            assert history.add(stamp, {"b": 2 * stamp, "a": stamp, "other": 9.0})
        return history

    def test_interpolates(self):
        np.testing.assert_allclose(self.history(1.0, 1.02, 1.04).at(1.03), (1.03, 2.06))

    def test_waits_for_the_state_after_the_exposure(self):
        history = self.history(1.0)
        timer = threading.Timer(0.01, history.add, (1.02, {"a": 1.02, "b": 2.04}))
        timer.start()
        np.testing.assert_allclose(history.at(1.01), (1.01, 2.02))

    def test_a_clock_that_stands_still_forgets_nothing_and_one_set_back_does(self):
        history = self.history(1.0, 2.0)
        assert history.add(2.0, {"a": 9.0, "b": 9.0})
        np.testing.assert_allclose(history.at(1.0), (1.0, 2.0))
        np.testing.assert_allclose(history.at(2.0), (9.0, 9.0))
        assert history.add(0.5, {"a": 0.5, "b": 1.0})
        with pytest.raises(JointStatesMissingError):
            history.at(2.0)

    def test_waits_for_a_state_that_comes_late(self):
        history = self.history(1.0)
        timer = threading.Timer(0.3, history.add, (2.0, {"a": 2.0, "b": 4.0}))
        timer.start()
        np.testing.assert_allclose(history.at(1.8), (1.8, 3.6))

    def test_takes_the_last_state_when_none_follows(self):
        np.testing.assert_allclose(self.history(1.0).at(1.2), (1.0, 2.0))

    def test_refuses_what_is_too_old_or_missing(self):
        with pytest.raises(JointStatesMissingError, match="no joint states"):
            self.history().at(1.0)
        with pytest.raises(JointStatesMissingError, match=r"0.70 s away"):
            self.history(1.0).at(1.7)

    def test_ignores_incomplete_states_and_starts_anew_when_the_clock_goes_back(self):
        history = self.history(5.0, 5.1)
        assert not history.add(5.2, {"a": 1.0})
        assert not history.add(5.2, {"a": 1.0, "b": float("nan")})
        assert history.add(1.0, {"a": 7.0, "b": 8.0})
        np.testing.assert_allclose(history.at(1.0), (7.0, 8.0))


def test_a_readout_is_the_middle_of_the_whole_detector():
    patient = slab([(20, 10, 0), (-30, 5, 10)])
    technique = Request(80.0, 0.5)
    whole, part = (
        XraySystem(patient, CARM, XrayConfig(binning=6, readout_px=side, threads=1, detector=QUIET)).expose(
            joints(patient, 20, 10), technique
        )
        for side in (0, 100)
    )
    assert part.raw.shape == part.display.shape == (100, 100)
    assert part.field_px == (0, 0, 100, 100)
    ratio = part.raw / whole.raw[78:178, 78:178]
    assert np.abs(ratio - 1).mean() < 2e-4
    assert np.abs(ratio - 1).max() < 0.03
    assert part.view.mm_per_px_at_isocenter == pytest.approx(whole.view.mm_per_px_at_isocenter)
    np.testing.assert_allclose(
        part.view.pixel_raw(part.view.isocenter_mm), np.subtract(whole.view.pixel_raw(whole.view.isocenter_mm), 78)
    )
    area = (100 / 256) ** 2
    assert part.dose_area_product_gym2 == pytest.approx(area * whole.dose_area_product_gym2)


@pytest.mark.parametrize("side", [-2, 30, 99, 258, 1536])
def test_a_readout_that_does_not_fit_is_refused(side):
    view = CARM.view(CARM.home, 6)
    with pytest.raises(ConfigurationError, match="does not fit the detector of 256 x 256"):
        read_out(view, side)
    assert read_out(view, 0) is view
