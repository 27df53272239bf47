# SPDX-License-Identifier: Apache-2.0
"""Dose of an examination and its alarms."""

from __future__ import annotations

from dataclasses import dataclass

from carm_sim.physics.tube import REFERENCE_POINT_MM, Technique, Tube, air_kerma_gy, dose_area_product_gym2


@dataclass(frozen=True)
class DoseAlarm:
    """Levels from which the operator is warned; 0: never.

    The defaults are the first notification levels of Stecker et al., J. Vasc. Interv. Radiol. 20:S263, 2009: 3 Gy and
    300 Gy cm².

    Attributes:
        air_kerma_gy: Cumulative air kerma at the interventional reference point, Gy.
        dose_area_product_gym2: Cumulative dose-area product, Gy m².
    """

    air_kerma_gy: float = 3.0
    dose_area_product_gym2: float = 0.03


@dataclass
class DoseMeter:
    """Dose since the start.

    Attributes:
        alarm: Levels.
        air_kerma_gy: Cumulative air kerma at the interventional reference point, Gy.
        dose_area_product_gym2: Cumulative dose-area product, Gy m².
    """

    alarm: DoseAlarm
    air_kerma_gy: float = 0.0
    dose_area_product_gym2: float = 0.0

    def add(
        self, technique: Technique, tube: Tube, source_isocenter_mm: float, area_mm2: float, source_detector_mm: float
    ) -> tuple[float, float]:
        """Count an exposure.

        Args:
            technique: What the tube did.
            tube: Filtration.
            source_isocenter_mm: Source-isocenter distance, mm.
            area_mm2: Area of the field on the detector, mm².
            source_detector_mm: Source-detector distance, mm.

        Returns:
            Air kerma at the reference point, Gy, and dose-area product, Gy m², of this exposure.
        """
        kv, mas = technique.voltage_kv, technique.charge_mas
        kerma = air_kerma_gy(kv, mas, source_isocenter_mm - REFERENCE_POINT_MM, tube)
        product = dose_area_product_gym2(kv, mas, area_mm2, source_detector_mm, tube)
        self.air_kerma_gy += kerma
        self.dose_area_product_gym2 += product
        return kerma, product

    @property
    def warning(self) -> str:
        """Which level is reached, with both values; empty: none."""
        parts = []
        if 0 < self.alarm.air_kerma_gy <= self.air_kerma_gy:
            parts.append(f"air kerma {self.air_kerma_gy:.3g} Gy of {self.alarm.air_kerma_gy:g} Gy")
        if 0 < self.alarm.dose_area_product_gym2 <= self.dose_area_product_gym2:
            limit = self.alarm.dose_area_product_gym2
            parts.append(f"dose-area product {self.dose_area_product_gym2:.3g} Gy·m² of {limit:g} Gy·m²")
        return f"dose alarm: {', '.join(parts)}" if parts else ""
