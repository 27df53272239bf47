# SPDX-License-Identifier: Apache-2.0
"""``calibration.json`` of a model folder: results on calibration patients, bound to one set of weights."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from carm_core.data_files import read_json, shown
from carm_core.errors import ConfigurationError, LocalizerError
from carm_core.landmarks import ROWS
from carm_core.localization import LandmarkEstimate
from carm_perception.uncertainty.abstention import RISKS
from carm_perception.uncertainty.conformal import CASES, RadiusTable, case_index
from carm_perception.uncertainty.out_of_distribution import Familiarity

FILE = "calibration.json"
FORMAT = 2

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CaseCalibration:
    """One case of one localizer, see ``carm_perception.uncertainty.conformal.CASES``.

    Attributes:
        table: Conformal radii.
        thresholds: For each of ``RISKS``, the largest doubt
            (``carm_perception.uncertainty.abstention.doubt``) with which an answer is given; infinite: all answers
            are, minus infinity: none is.
    """

    table: RadiusTable
    thresholds: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        shown = ["all" if t == math.inf else "none" if t == -math.inf else round(t, 4) for t in self.thresholds]
        return {"radii": self.table.as_dict(), "thresholds": shown}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> CaseCalibration:
        """Read what ``as_dict`` wrote."""
        words = {"all": math.inf, "none": -math.inf}
        limits = tuple(words[t] if isinstance(t, str) else float(t) for t in content["thresholds"])
        if len(limits) != len(RISKS):
            raise ValueError(f"{len(limits)} thresholds for {len(RISKS)} risks")
        return cls(RadiusTable.from_dict(content["radii"]), limits)


@dataclass(frozen=True, eq=False)
class LocalizerCalibration:
    """One localizer.

    Attributes:
        cases: One for each of ``carm_perception.uncertainty.conformal.CASES``.
    """

    cases: tuple[CaseCalibration, ...]

    def case(self, estimate: LandmarkEstimate, seen: bool) -> CaseCalibration:
        """Return the case of an answer."""
        place = np.array(estimate.displacement_mm, dtype=np.float64)
        return self.cases[int(case_index(np.array(seen), place))]

    def with_radii(self, estimate: LandmarkEstimate, seen: bool) -> LandmarkEstimate:
        """An estimate with its conformal radii; without them when it states no place or no standard deviation."""
        row = ROWS.get(estimate.id)
        if row is None or not estimate.std_mm > 0 or not np.isfinite(estimate.displacement_mm).all():
            return estimate
        radii = self.case(estimate, seen).table.radius_mm(row, estimate.std_mm)
        r90, r95, r97 = (radius if math.isfinite(radius) else math.nan for radius in radii)
        return replace(estimate, radius_90_mm=r90, radius_95_mm=r95, radius_97_mm=r97)

    def limit(self, estimate: LandmarkEstimate, seen: bool, risk: float) -> float:
        """Return the largest doubt with which an answer may be given at a risk of ``tabulated_risk``."""
        return self.case(estimate, seen).thresholds[RISKS.index(risk)]


def tabulated_risk(maximum_risk: float) -> float:
    """Return the largest risk with a threshold that does not exceed the one asked for.

    Raises:
        ConfigurationError: It is no fraction, or below the smallest for which there is a threshold.
    """
    if not 0 < maximum_risk <= 1 or maximum_risk < RISKS[0]:
        raise ConfigurationError(f"the maximum risk must be 0 (never abstain) or {RISKS[0]} to 1, not {maximum_risk}")
    return max(risk for risk in RISKS if risk <= maximum_risk)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Content of ``calibration.json``.

    Attributes:
        model_version: Hash of the weights that it was made with.
        localizers: By name.
        familiarity: Which images are like those of the calibration patients.
        patients: Their names.
        views: Views of each.
        fusion: How the fused localizer joins its two opinions, from ``carm_perception.localizers.fused.Fusion``.
        held_out: Figures on patients that were left out in turn.
    """

    model_version: str
    localizers: dict[str, LocalizerCalibration]
    familiarity: Familiarity
    patients: tuple[str, ...] = ()
    views: int = 0
    fusion: dict[str, Any] = field(default_factory=dict)
    held_out: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write into a model folder.

        Raises:
            ConfigurationError: The folder cannot be written.
        """
        content = {
            "format": FORMAT,
            "model_version": self.model_version,
            "patients": list(self.patients),
            "views": self.views,
            "risks": list(RISKS),
            "localizers": {
                name: {case: part.as_dict() for case, part in zip(CASES, one.cases, strict=True)}
                for name, one in self.localizers.items()
            },
            "familiarity": self.familiarity.as_dict(),
            "fusion": self.fusion,
            "held_out": self.held_out,
        }
        path = folder / FILE
        try:
            path.write_text(json.dumps(content, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error
        return path


def read_calibration(folder: Path) -> Calibration:
    """Read the calibration of a model folder, whatever weights it belongs to.

    Raises:
        LocalizerError: It is missing or damaged.
    """
    path = folder / FILE
    try:
        content = read_json(path)
        if content["format"] != FORMAT or tuple(content["risks"]) != RISKS:
            raise ValueError(f"format {shown(content['format'])} with risks {shown(content['risks'])}")
        localizers = {
            name: LocalizerCalibration(tuple(CaseCalibration.from_dict(one[case]) for case in CASES))
            for name, one in content["localizers"].items()
        }
        return Calibration(
            str(content["model_version"]),
            localizers,
            Familiarity.from_dict(content["familiarity"]),
            tuple(content["patients"]),
            int(content["views"]),
            dict(content["fusion"]),
            dict(content["held_out"]),
        )
    except OSError as error:
        raise LocalizerError(f"{path} cannot be read: {error.strerror or error}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise LocalizerError(f"{path} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from error


def load_calibration(folder: Path, model_version: str) -> Calibration | None:
    """Return the calibration of a model folder, if it fits the weights.

    Args:
        folder: Model folder.
        model_version: Hash of the weights in it.

    Returns:
        None when there is none, or when it is damaged or belongs to other weights, which is logged as a warning.
    """
    if not (folder / FILE).is_file():
        return None
    try:
        calibration = read_calibration(folder)
    except LocalizerError as error:
        _logger.warning("%s; radii are not calibrated: run carm calibrate", error)
        return None
    if calibration.model_version != model_version:
        _logger.warning(
            "%s belongs to the weights %s, not %s; radii are not calibrated: run carm calibrate",
            folder / FILE,
            calibration.model_version,
            model_version,
        )
        return None
    return calibration
