# SPDX-License-Identifier: Apache-2.0
"""Messages of the X-ray node. Millimeters become meters here and nowhere else."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from carm_interfaces.msg import Exposure as ExposureMessage
from std_msgs.msg import Header

from carm_ros.messages import FRAME
from carm_sim.xray import Exposure


def exposure_header(stamp: Time, frame_prefix: str = "") -> Header:
    """Return the header of everything that belongs to one exposure."""
    return Header(stamp=stamp, frame_id=frame_prefix + FRAME)


def exposure(result: Exposure, header: Header, fluoroscopy: bool) -> ExposureMessage:
    """Return the technique and dose of an exposure."""
    return ExposureMessage(
        header=header,
        sequence=result.sequence,
        fluoroscopy=fluoroscopy,
        tube_voltage_kv=float(result.technique.voltage_kv),
        tube_current_ma=float(result.technique.current_ma),
        exposure_time_s=float(result.technique.time_s),
        air_kerma_gy=result.air_kerma_gy,
        dose_area_product_gym2=result.dose_area_product_gym2,
        cumulative_air_kerma_gy=result.cumulative_air_kerma_gy,
        cumulative_dose_area_product_gym2=result.cumulative_dose_area_product_gym2,
        field_px=list(result.field_px),
    )


def dose_values(result: Exposure) -> dict[str, str]:
    """Return the dose since the start and the share of scatter, for the diagnostics."""
    return {
        "cumulative air kerma (mGy)": f"{1e3 * result.cumulative_air_kerma_gy:.4g}",
        "cumulative dose-area product (µGy·m²)": f"{1e6 * result.cumulative_dose_area_product_gym2:.4g}",
        "scatter-to-primary ratio": f"{result.scatter_to_primary:.2f}",
    }
