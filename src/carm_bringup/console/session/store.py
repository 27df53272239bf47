# SPDX-License-Identifier: Apache-2.0
"""The session on disk, as it grows: it costs neither memory nor time, and an export that fails loses nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_bringup import __version__

NOTES, EXPOSURES, ABOUT = "notes.jsonl", "exposures.jsonl", "about.json"
MOST_IMAGES = 128
MOST_IMAGE_BYTES = 512 * 2**20
MOST_LINE_BYTES = 16 * 2**20
"""Of notes, and of exposures without their pixels."""


@dataclass(frozen=True)
class ExposureRecord:
    """One exposure, or one frame of a pulsed series.

    Attributes:
        time: When it came, s since 1970, by this machine's clock.
        stamp_ns: Middle of the exposure, ROS time, ns.
        fluoroscopy: A frame of a pulsed series.
        voltage_kv: Peak tube voltage, kV.
        current_ma: Tube current during the pulse, mA.
        pulse_s: Pulse width, s.
        air_kerma_gy: At the interventional reference point, Gy.
        dose_area_product_gym2: Gy m².
        cumulative_air_kerma_gy: Since the start of the X-ray system, Gy.
        cumulative_dose_area_product_gym2: Likewise, Gy m².
        field_px: Exposed field on the display image, [left, top, right, bottom), px.
        positions: Joint positions, m and rad; empty when unknown.
        size_px: Columns and rows of the image; (0, 0) when unknown.
        focal_px: ``fx`` of its camera model, px; 0 when unknown.
        pixels: File of the pixels; empty when there is none, as for pulsed series.
    """

    time: float
    stamp_ns: int
    fluoroscopy: bool
    voltage_kv: float
    current_ma: float
    pulse_s: float
    air_kerma_gy: float
    dose_area_product_gym2: float
    cumulative_air_kerma_gy: float
    cumulative_dose_area_product_gym2: float
    field_px: tuple[int, ...]
    positions: tuple[float, ...] = ()
    size_px: tuple[int, int] = (0, 0)
    focal_px: float = 0.0
    pixels: str = ""


class Session:
    """Writes down what happens, from any thread.

    Attributes:
        folder: Private to this user; deleted by ``close``.
        recording: Name of the folder of the bag that is being recorded; empty when there is none.
        recordings: The folder in which that folder is, where it is on this machine.
    """

    def __init__(self, most_images: int = MOST_IMAGES, most_line_bytes: int = MOST_LINE_BYTES) -> None:
        """Begin.

        Args:
            most_images: Images that are kept; older ones stay in the list, without pixels.
            most_line_bytes: Of notes, and of exposures without their pixels.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="carm_console_"))
        self.recording, self.recordings = "", Path("recordings")
        self._most_images, self._most_line_bytes = most_images, most_line_bytes
        self._started = time.time()
        self._left = {NOTES: most_line_bytes, EXPOSURES: most_line_bytes}
        self._lost = {NOTES: 0, EXPOSURES: 0}
        self._images: deque[tuple[str, int]] = deque()
        self._names: dict[str, str] = {}
        self._count = 0
        self._trouble = ""
        self._lock = threading.Lock()

    def note(self, message: dict[str, Any]) -> None:
        """Write down a line of the dialogue, a command or a result, as the pages are told it."""
        self._line(NOTES, {"time": time.time(), **message})

    def expose(self, record: ExposureRecord, pixels: NDArray[np.uint16] | None = None) -> None:
        """Write down an exposure.

        Args:
            record: Without ``pixels``.
            pixels: Detector signal (rows, columns), raw orientation; None: none is kept.
        """
        content = asdict(record)
        if pixels is not None:
            name = content["pixels"] = self._keep(pixels)
            with self._lock:
                self._names[str(record.stamp_ns)] = name
                while len(self._names) > self._most_images:
                    del self._names[next(iter(self._names))]
        self._line(EXPOSURES, content)

    def signal(self, key: str) -> NDArray[np.uint16] | None:
        """Return the detector signal of an exposure, raw orientation.

        Args:
            key: Its stamp, ns.

        Returns:
            (rows, columns); None where it is not kept, or not any more.
        """
        with self._lock:
            name = self._names.get(key, "")
        try:
            return np.asarray(np.load(self.folder / name, allow_pickle=False), np.uint16) if name else None
        except (OSError, ValueError):
            return None

    def snapshot(self) -> Path:
        """Return the folder, in a state that can be exported."""
        about = {
            "started": self._started,
            "exported": time.time(),
            "version": __version__,
            "recording": self.recording,
            "bag": self._bag(),
            "notes_left_out": self._lost[NOTES],
            "exposures_left_out": self._lost[EXPOSURES],
            "trouble": self._trouble,
        }
        (self.folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")
        return self.folder

    def _bag(self) -> str:
        """Return the path of the bag that is being recorded; empty when it is not on this machine."""
        folder = (self.recordings / self.recording).resolve()  # anybody on the network may have said which
        return str(folder) if folder.parent == self.recordings.resolve() and folder.is_dir() else ""

    def close(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, pixels: NDArray[np.uint16]) -> str:
        with self._lock:
            self._count += 1
            name = f"{self._count:06d}.npy"
        try:
            with (self.folder / name).open("wb") as file:
                np.save(file, pixels, allow_pickle=False)
        except OSError as error:
            self._trouble = f"an image could not be kept: {error.strerror}"
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
            return ""
        with self._lock:
            self._images.append((name, pixels.nbytes))
            while len(self._images) > 1 and (len(self._images) > self._most_images or self._bytes > MOST_IMAGE_BYTES):
                (self.folder / self._images.popleft()[0]).unlink(missing_ok=True)
        return name

    @property
    def _bytes(self) -> int:
        return sum(size for _, size in self._images)

    def _line(self, file: str, content: dict[str, Any]) -> None:
        line = json.dumps(content, allow_nan=False, separators=(",", ":")) + "\n"
        with self._lock:
            if len(line) > self._left[file]:
                self._lost[file] += 1
                return
            try:
                with (self.folder / file).open("a", encoding="utf-8") as out:
                    out.write(line)
            except OSError as error:
                self._lost[file] += 1
                self._trouble = f"a line could not be kept: {error.strerror}"
                return
            self._left[file] -= len(line)
