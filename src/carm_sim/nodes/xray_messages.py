# SPDX-License-Identifier: Apache-2.0
"""Messages of the X-ray node. Millimeters become meters here and nowhere else."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from carm_interfaces.msg import Exposure as ExposureMessage
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from shape_msgs.msg import Mesh, MeshTriangle
from std_msgs.msg import Header

from carm_core.imaging.projection import XrayView
from carm_sim.surface import SurfaceMesh
from carm_sim.xray import Exposure

FRAME = "xray_optical"


def exposure_header(stamp: Time, frame_prefix: str = "") -> Header:
    """Header of everything that belongs to one exposure."""
    return Header(stamp=stamp, frame_id=frame_prefix + FRAME)


def image(pixels: NDArray[Any], header: Header) -> Image:
    """Image message of uint16 (``mono16``) or uint8 (``mono8``) pixels (rows, columns)."""
    rows, columns = pixels.shape
    message = Image(header=header, height=rows, width=columns, is_bigendian=0)
    message.encoding = "mono16" if pixels.dtype == np.uint16 else "mono8"
    message.step = columns * pixels.itemsize
    message.data = _bytes(pixels)
    return message


def compressed_image(
    pixels: NDArray[np.uint8], header: Header, image_format: str, jpeg_quality: int
) -> CompressedImage:
    """Compressed display image, ``png`` or ``jpeg``."""
    import cv2

    if image_format == "png":
        _, data = cv2.imencode(".png", pixels, (cv2.IMWRITE_PNG_COMPRESSION, 1))
    else:
        _, data = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, jpeg_quality))
    message = CompressedImage(header=header)
    message.format = f"mono8; {image_format} compressed "
    message.data = _bytes(data)
    return message


def camera_info(view: XrayView, header: Header) -> CameraInfo:
    """Camera model of ``image_raw``, without distortion."""
    message = CameraInfo(header=header, height=view.detector.rows, width=view.detector.columns)
    message.distortion_model = "plumb_bob"
    message.d = [0.0] * 5
    message.k = view.intrinsics.ravel().tolist()
    message.r = np.eye(3).ravel().tolist()
    message.p = np.hstack([view.intrinsics, np.zeros((3, 1))]).ravel().tolist()
    return message


def exposure(result: Exposure, header: Header, fluoroscopy: bool) -> ExposureMessage:
    """Technique and dose of an exposure."""
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
    """Dose since the start and the share of scatter, for the diagnostics."""
    return {
        "cumulative air kerma (mGy)": f"{1e3 * result.cumulative_air_kerma_gy:.4g}",
        "cumulative dose-area product (µGy·m²)": f"{1e6 * result.cumulative_dose_area_product_gym2:.4g}",
        "scatter-to-primary ratio": f"{result.scatter_to_primary:.2f}",
    }


def diagnostics(name: str, level: bytes, text: str, values: dict[str, str], stamp: Time) -> DiagnosticArray:
    """One diagnostic status."""
    status = DiagnosticStatus(level=level, name=name, message=text)
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def _bytes(pixels: NDArray[Any]) -> array[int]:
    data = array("B")
    data.frombytes(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data)
    return data


def surface_message(surface: SurfaceMesh) -> Mesh:
    """Report the patient's outer surface, frame `table`, m."""
    return Mesh(
        vertices=[Point(x=x, y=y, z=z) for x, y, z in surface.vertices_m.tolist()],
        triangles=[MeshTriangle(vertex_indices=indices) for indices in surface.triangles.astype(np.uint32)],
    )
