# SPDX-License-Identifier: Apache-2.0
"""Parameters of the localizer node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carm_core.parameters import parameter
from carm_perception.registry import LocalizerOptions


@dataclass(frozen=True)
class LocalizerParameters:
    """Declared on the node; defaults as in ``config/localizer.yaml``."""

    localizer: str = parameter(
        "fused", "fused, compact, regression, a Hugging Face id or folder, or oracle", read_only=True
    )
    patient: str = parameter("chest_ct", "patient that the oracle knows; other localizers ignore it", read_only=True)
    model_folder: str = parameter(
        "", "model folder of fused, compact and regression; empty: the one that ships", read_only=True
    )
    adapter: str = parameter("", "PEFT adapter of a Hugging Face model; empty: none", read_only=True)
    device: str = parameter("auto", "auto, cpu or cuda", read_only=True)
    load_in_4bit: bool = parameter(False, "quantize a Hugging Face model to 4 bits (CUDA)", read_only=True)
    max_new_tokens: int = parameter(256, "longest answer of a Hugging Face model", lower=8, upper=4096, read_only=True)
    threads: int = parameter(
        2, "CPU threads of a Hugging Face model; the others use one", lower=0, upper=256, read_only=True
    )
    source_isocenter_m: float = parameter(0.530, "source to isocenter", unit="m", lower=0.1, upper=2.0, read_only=True)
    source_detector_m: float = parameter(1.020, "source to detector", unit="m", lower=0.2, upper=3.0, read_only=True)
    each_frame: bool = parameter(True, "localize each new frame without being asked")
    target: str = parameter("", "landmark to look for in each frame until a task names one; empty: all")
    maximum_std_m: float = parameter(
        0.0, "abstain above this standard deviation; 0: never", unit="m", lower=0.0, upper=1.0, read_only=True
    )
    overlay: bool = parameter(True, "publish landmarks/image while somebody listens")
    frame_timeout_s: float = parameter(
        2.0, "how long a request waits for its image", unit="s", lower=0.0, upper=60.0, read_only=True
    )

    def options(self) -> LocalizerOptions:
        """Options for :func:`carm_perception.registry.make_localizer`."""
        return LocalizerOptions(
            folder=Path(self.model_folder) if self.model_folder else None,
            adapter=self.adapter,
            device=self.device,
            load_in_4bit=self.load_in_4bit,
            max_new_tokens=self.max_new_tokens,
            maximum_std_mm=1000 * self.maximum_std_m,
            threads=self.threads,
            patient=self.patient,
        )
