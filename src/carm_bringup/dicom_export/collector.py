# SPDX-License-Identifier: Apache-2.0
"""Joins the messages of each exposure by their stamp and writes them as DICOM files."""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict, deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_bringup.dicom_export.dose_report import IrradiationEvent, dose_report
from carm_bringup.dicom_export.exposure import XrayExposure
from carm_bringup.dicom_export.study import Study, new_uid
from carm_bringup.dicom_export.xa_image import xa_image
from carm_core.data_files import read_yaml
from carm_core.errors import CarmError, ConfigurationError, ImageError
from carm_core.imaging.projection import display_from_raw
from carm_core.paths import config_file
from carm_core.robot.kinematics import CArm
from carm_ros.image_messages import signal_pixels

TOPICS = ("xray/image_raw", "xray/camera_info", "xray/exposure", "joint_states")
REPORT_FILE = "dose_report.dcm"
_REPORT_S = 5.0
"""Time between two writings of the dose report, s."""
_KEPT = 32
_KEPT_JOINT_STATES = 400
_RUN_GAP_S = 2.0
_RUN_FRAMES = 200
_OLDEST_JOINTS_NS = 500_000_000


class DicomWriteError(CarmError):
    """A DICOM file cannot be written."""


class ExposureCollector:
    """Writes an image for each exposure and each run, and a dose report, which is written anew as exposures come.

    Every file is whole or absent: a session that is killed leaves images that can be read, and a report of all but the
    last seconds.

    Attributes:
        folder: Where the files go.
        events: Irradiation events so far.
        skipped: Exposures without an image: where they were taken is not known, or the image is of another detector.
    """

    def __init__(self, folder: Path, carm: CArm | None = None) -> None:
        """Begin a session.

        Args:
            folder: Made when it is not there.
            carm: The arm; the one of ``config/carm.yaml`` when left out.

        Raises:
            ConfigurationError: The folder holds a session already, or cannot be made.
        """
        self.folder, self.events, self.skipped = folder, list[IrradiationEvent](), 0
        self._carm = carm or CArm.from_config()
        self._model_name = str(read_yaml(config_file("carm.yaml"))["model"])
        self._study: Study | None = None
        self._images: OrderedDict[int, Any] = OrderedDict()
        self._cameras: OrderedDict[int, Any] = OrderedDict()
        self._exposures: OrderedDict[int, Any] = OrderedDict()
        self._joints: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=_KEPT_JOINT_STATES)
        self._run: list[XrayExposure] = []
        self._reported_s = -math.inf
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{folder} cannot be made: {error.strerror}") from error
        if any(folder.glob("*.dcm")):
            raise ConfigurationError(f"{folder} holds DICOM files already; choose another folder")

    def wants(self, topic: str) -> bool:
        """Return whether messages of a topic (without namespace) are of use."""
        return topic in TOPICS

    def add(self, topic: str, message: Any) -> None:
        """Add a message; write what is complete.

        Args:
            topic: One of ``TOPICS``.
            message: ROS message.

        Raises:
            DicomWriteError: A file cannot be written.
        """
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if topic == "joint_states":
            index = {name: place for place, name in enumerate(message.name)}
            if all(name in index for name in self._carm.joint_names):
                positions = np.array([message.position[index[name]] for name in self._carm.joint_names])
                self._joints.append((stamp_ns, positions))
        else:
            stores = {"xray/image_raw": self._images, "xray/camera_info": self._cameras}
            store = stores.get(topic, self._exposures)
            store[stamp_ns] = message
            while len(store) > _KEPT:
                store.popitem(last=False)
        self._join(self._joints[-1][0] if self._joints else 0)

    def close(self) -> None:
        """Write what is left, and the dose report when there was any exposure.

        Raises:
            DicomWriteError: A file cannot be written.
        """
        self._join(2**63 - 1)
        self._end_run()
        self._report()
        self.events.clear()

    def _join(self, until_ns: int) -> None:
        """Write the exposures whose joint states have all come."""
        complete = self._images.keys() & self._cameras.keys() & self._exposures.keys()
        for stamp_ns in sorted(stamp_ns for stamp_ns in complete if stamp_ns <= until_ns):
            image, camera = self._images.pop(stamp_ns), self._cameras.pop(stamp_ns)
            self._take(stamp_ns, image, camera, self._exposures.pop(stamp_ns))

    def _take(self, stamp_ns: int, image: Any, camera: Any, message: Any) -> None:
        nearest = min(self._joints, key=lambda joints: abs(joints[0] - stamp_ns), default=None)
        if nearest is None or abs(nearest[0] - stamp_ns) > _OLDEST_JOINTS_NS:
            self.skipped += 1
            return
        positions = nearest[1]
        try:
            raw = signal_pixels(image)
            view = self._carm.view_of_image(positions, image.width, image.height, float(camera.k[0]))
        except (ConfigurationError, ImageError):
            self.skipped += 1
            return
        primary, secondary = self._carm.angles(positions)
        exposure = XrayExposure(
            pixels=display_from_raw(raw),
            view=view,
            primary_rad=primary,
            secondary_rad=secondary,
            time=datetime.fromtimestamp(0, UTC) + timedelta(microseconds=stamp_ns // 1000),
            fluoroscopy=bool(message.fluoroscopy),
            voltage_kv=float(message.tube_voltage_kv),
            current_ma=float(message.tube_current_ma),
            pulse_s=float(message.exposure_time_s),
            air_kerma_gy=float(message.air_kerma_gy),
            dose_area_product_gym2=float(message.dose_area_product_gym2),
            field_px=tuple(int(edge) for edge in message.field_px),  # type: ignore[arg-type]
        )
        self._add(exposure)

    def _add(self, exposure: XrayExposure) -> None:
        if self._study is None:
            self._study = Study(exposure.time, self._model_name)
        if self._run:
            last = self._run[-1]
            gap_s = (exposure.time - last.time).total_seconds()
            same = exposure.fluoroscopy and exposure.pixels.shape == last.pixels.shape and gap_s < _RUN_GAP_S
            if not same or len(self._run) >= _RUN_FRAMES:
                self._end_run()
        self._run.append(exposure)
        if not exposure.fluoroscopy:
            self._end_run()

    def _end_run(self) -> None:
        if not self._run or self._study is None:
            return
        frames, self._run = tuple(self._run), []
        number, event_uid = len(self.events) + 1, new_uid()
        image = xa_image(self._study, frames, number, event_uid)
        self._save(image, self.folder / f"image_{number:04d}.dcm")
        bare = tuple(replace(frame, pixels=np.empty((0, 0), np.uint16)) for frame in frames)
        self.events.append(IrradiationEvent(event_uid, str(image.SOPInstanceUID), bare))
        if monotonic() - self._reported_s >= _REPORT_S:
            self._report()

    def _report(self) -> None:
        if self._study is not None and self.events:
            self._save(dose_report(self._study, self.events, datetime.now(UTC)), self.folder / REPORT_FILE)
            self._reported_s = monotonic()

    def _save(self, dataset: Any, file: Path) -> None:
        temporary = file.with_suffix(".part")
        try:
            dataset.save_as(temporary, enforce_file_format=True)
            temporary.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise DicomWriteError(f"cannot write {file}: {error.strerror}") from error
