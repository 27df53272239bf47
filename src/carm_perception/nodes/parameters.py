# SPDX-License-Identifier: Apache-2.0
"""Parameters of the localizer node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from carm_core.parameters import FRAME_PREFIX, parameter
from carm_perception.localizers.openai.options import ServerOptions
from carm_perception.localizers.registry import LocalizerOptions
from carm_perception.uncertainty.abstention import DEFAULT_RISK


def _abstains_less(old: float, new: float) -> bool:
    """Return whether a bound above which a localizer abstains is raised, or given up (0)."""
    return old > 0 and (new == 0 or new > old)


@dataclass(frozen=True)
class LocalizerParameters:
    """Declared on the node; defaults as in ``config/localizer.yaml``."""

    localizer: str = parameter(
        "fused",
        "fused, registered (to the patient's CT), compact, regression, a Hugging Face id or folder, openai (a server),"
        " or oracle",
        read_only=True,
    )
    autostart: bool = parameter(
        True, "configure and activate automatically; false: wait for a lifecycle manager", read_only=True
    )
    ct: str = parameter(
        "", "the patient's CT with landmarks.yaml, for registered and fused; empty: none is known", read_only=True
    )
    patient: str = parameter("chest_ct", "patient of the oracle; other localizers ignore it", read_only=True)
    frame_prefix: str = parameter(
        "",
        "prefix of every frame id, such as left_arm/ if two arms share /tf",
        pattern=FRAME_PREFIX,
        read_only=True,
    )
    model_folder: str = parameter(
        "", "model folder of fused, compact and regression; empty: the one in the package", read_only=True
    )
    adapter: str = parameter("", "PEFT adapter of a Hugging Face model; empty: none", read_only=True)
    device: str = parameter("auto", "auto, cpu or cuda", read_only=True)
    load_in_4bit: bool = parameter(False, "quantize a Hugging Face model to 4 bits (CUDA)", read_only=True)
    max_new_tokens: int = parameter(
        256, "maximum answer of a large model without a grammar", lower=8, upper=4096, read_only=True
    )
    threads: int = parameter(
        2, "CPU threads of a Hugging Face model; the others use one", lower=0, upper=256, read_only=True
    )
    constrain: bool = parameter(True, "a Hugging Face model decodes under the grammar of each question", read_only=True)
    server_url: str = parameter(
        "http://127.0.0.1:8000/v1", "localizer openai: address of the API, including /v1", read_only=True
    )
    server_model: str = parameter("", "name of the server's model; empty: the first one", read_only=True)
    server_api_key_env: str = parameter(
        "CARM_API_KEY", "environment variable with the server's key; if not set, no key is sent", read_only=True
    )
    server_timeout_s: float = parameter(
        20.0,
        "maximum wait for the server's answer, including all attempts",
        unit="s",
        lower=0.1,
        upper=600.0,
        read_only=True,
    )
    server_retries: int = parameter(
        3, "number of retries if the server cannot be reached or is busy", lower=0, upper=20, read_only=True
    )
    server_image_px: int = parameter(
        1024, "longest side of the image that is sent", unit="px", lower=64, upper=4096, read_only=True
    )
    server_image_format: str = parameter("png", "png or jpeg", read_only=True)
    server_verify_tls: bool = parameter(True, "check the server's certificate", read_only=True)
    server_ca_file: str = parameter(
        "", "certificates (PEM) to check it against; empty: those of this machine", read_only=True
    )
    server_constrain: str = parameter(
        "none",
        "how the request carries the grammar: structured_outputs, guided_regex, response_format or none",
        read_only=True,
    )
    source_isocenter_m: float = parameter(0.530, "source to isocenter", unit="m", lower=0.1, upper=2.0, read_only=True)
    source_detector_m: float = parameter(1.020, "source to detector", unit="m", lower=0.2, upper=3.0, read_only=True)
    each_frame: bool = parameter(True, "localize each new frame without a request")
    target: str = parameter("", "landmark to localize in each frame until a task names one; empty: all")
    maximum_std_m: float = parameter(
        0.0, "abstain above this standard deviation; 0: never", unit="m", lower=0.0, upper=1.0, guard=_abstains_less
    )
    maximum_risk: float = parameter(
        DEFAULT_RISK,
        "abstain so that at most this share of the answers is wrong, and on images without landmarks; 0: never",
        lower=0.0,
        upper=1.0,
        guard=_abstains_less,
    )
    overlay: bool = parameter(True, "publish landmarks/image while there is a subscriber")
    frame_timeout_s: float = parameter(
        2.0, "maximum wait of a request for its image", unit="s", lower=0.0, upper=60.0, read_only=True
    )

    def options(self) -> LocalizerOptions:
        """Return the options for ``carm_perception.localizers.registry.make_localizer``."""
        return LocalizerOptions(
            folder=Path(self.model_folder) if self.model_folder else None,
            adapter=self.adapter,
            device=self.device,
            load_in_4bit=self.load_in_4bit,
            max_new_tokens=self.max_new_tokens,
            maximum_std_mm=1000 * self.maximum_std_m,
            maximum_risk=self.maximum_risk,
            threads=self.threads,
            ct=self.ct,
            patient=self.patient,
            constrain=self.constrain,
            server=ServerOptions(
                url=self.server_url,
                model=self.server_model,
                api_key_env=self.server_api_key_env,
                timeout_s=self.server_timeout_s,
                retries=self.server_retries,
                image_px=self.server_image_px,
                image_format=self.server_image_format,
                verify_tls=self.server_verify_tls,
                ca_file=self.server_ca_file,
                constrain=self.server_constrain,
                max_tokens=self.max_new_tokens,
            ),
        )
