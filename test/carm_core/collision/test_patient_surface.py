# SPDX-License-Identifier: Apache-2.0
"""Surfaces that stand for the patient, and those that do not."""

import numpy as np
import pytest

from carm_core.collision.convex_shapes import outside_m
from carm_core.collision.obstacles import Obstacles, Surface, removes_staff_zone
from carm_core.collision.patient_surface import NewestSurface, PatientSurface, both_surfaces, uncovered_m
from carm_core.errors import ConfigurationError

from .test_collision import box

BODY = box((-0.5, -0.2, 0.0), (0.5, 0.2, 0.25))
LARGER = box((-0.55, -0.22, 0.0), (0.55, 0.22, 0.27))
ERASED = Surface(
    np.array(
        [(-1, -1.5, -0.9), (-1, -1.51, -0.9), (-1, -1.5, -0.91), (1, -1.5, -0.9), (1, -1.51, -0.9), (1, -1.5, -0.91)]
    ),
    np.array([(0, 1, 2), (3, 4, 5)]),
)


def store(surface: Surface | None = BODY, **options: bool) -> PatientSurface:
    kept = PatientSurface(**options)
    if surface is not None:
        kept.keep(kept.offer(surface))
    return kept


def moved(surface: Surface, shift: tuple[float, float, float]) -> Surface:
    return Surface(surface.vertices_m + shift, surface.triangles)


@pytest.mark.parametrize(
    ("surface", "reason"),
    [
        (ERASED, "too small"),
        (Surface(np.zeros((3, 3)), np.array([[0, 1, 2]])), "too small"),
        (box((-0.02, -0.02, 0.0), (0.02, 0.02, 0.1)), "too small"),
        (moved(BODY, (0.0, -1.5, 0.0)), "not on the table"),
        (moved(BODY, (0.0, 0.0, -0.9)), "not on the table"),
    ],
)
def test_what_is_no_patient_is_refused(surface: Surface, reason: str) -> None:
    kept = store()
    with pytest.raises(ConfigurationError, match=reason) as raised:
        kept.offer(surface)
    assert "\n" not in str(raised.value)
    assert kept.surface is BODY


def test_the_first_surface_of_the_source_is_taken_and_a_larger_one_replaces_it() -> None:
    first = store(None).offer(BODY)
    assert first.surface is BODY
    assert first.accepted
    larger = store().offer(LARGER)
    assert larger.surface is LARGER
    assert not larger.message


def test_a_smaller_surface_counts_beside_the_one_before() -> None:
    kept = store()
    smaller = box((-0.5, -0.2, 0.0), (0.5, 0.2, 0.15))
    assert uncovered_m(BODY, smaller) > 0.05
    decision = kept.offer(smaller)
    assert decision.surface is not None
    assert not decision.accepted
    assert "restart" in decision.message
    assert uncovered_m(BODY, decision.surface) < 1e-6
    assert store(accept_smaller=True).offer(smaller).surface is smaller


def test_small_losses_do_not_add_up() -> None:
    kept = store()
    for height in (0.24, 0.23, 0.21, 0.19):
        decision = kept.offer(box((-0.5, -0.2, 0.0), (0.5, 0.2, height)))
        kept.keep(decision)
    assert kept.surface is not None
    assert uncovered_m(BODY, kept.surface) < 1e-6
    assert not decision.accepted


def test_a_surface_that_comes_again_changes_nothing() -> None:
    kept = store()
    assert kept.offer(BODY).surface is BODY
    smaller = box((-0.5, -0.2, 0.0), (0.5, 0.2, 0.15))
    kept.keep(kept.offer(smaller))
    both = kept.surface
    for surface, stranger in ((smaller, ""), (smaller, "/lab/stranger"), (BODY, "")):
        again = kept.offer(surface, stranger)
        assert again.surface is both
        assert ("stranger" if stranger else "2 surfaces") in again.message


def test_a_stranger_can_add_but_not_take_away() -> None:
    first = store(None).offer(BODY, "/lab/stranger")
    assert first.surface is None
    assert "/lab/stranger" in first.message
    for surface in (LARGER, box((-0.5, -0.1, 0.0), (0.5, 0.1, 0.1))):
        decision = store(accept_smaller=True).offer(surface, "/lab/stranger")
        assert decision.surface is not None
        assert not decision.accepted
        assert uncovered_m(BODY, decision.surface) < 1e-6
        assert uncovered_m(surface, decision.surface) < 1e-6
        assert decision.surface.shown_m == BODY.shown_m
    long = box((-1.0, -0.2, 0.0), (1.0, 0.2, 0.02))
    assert len(list(Obstacles(store().offer(long, "/lab/stranger").surface).patient_pieces())) > len(BODY.pieces()) + 2


def test_staff_zones_may_grow_only() -> None:
    zone, wider, other = "0 0 0 1 1 1", "-1 0 0 1 1 2", "5 5 5 6 6 6"
    assert not removes_staff_zone("", zone)
    assert not removes_staff_zone(zone, f"{other} {wider}")
    assert removes_staff_zone(zone, "")
    assert removes_staff_zone(wider, zone)
    assert removes_staff_zone(f"{zone} {other}", zone)


def test_the_registered_skin_moves_and_a_stranger_cannot_move_it() -> None:
    kept = NewestSurface()
    kept.keep(kept.offer(BODY))
    smaller = moved(BODY, (0.1, 0.0, -0.05))
    decision = kept.offer(smaller, "/carm/somebody")
    assert (decision.surface, decision.accepted) == (BODY, False)
    kept.keep(kept.offer(smaller))
    assert kept.surface is smaller
    with pytest.raises(ConfigurationError, match="too small"):
        kept.offer(ERASED)


@pytest.mark.parametrize("patient", [None, BODY])
def test_the_registered_skin_takes_nothing_away(patient: Surface | None) -> None:
    tall = box((-0.2, -0.1, 0.0), (0.2, 0.1, 0.6))
    both = both_surfaces(patient, tall)
    assert both is not None
    assert both_surfaces(patient, None) is patient
    points = np.concatenate([np.concatenate(list(Obstacles(part).patient_pieces())) for part in (patient, both)])
    before = np.concatenate(list(Obstacles(patient).patient_pieces()))
    assert outside_m(before, list(Obstacles(both).patient_pieces()), 0.05).max() <= 1e-4
    assert points[:, 2].max() == pytest.approx(0.6, abs=0.01)
