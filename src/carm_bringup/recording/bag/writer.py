# SPDX-License-Identifier: Apache-2.0
"""Writes a rosbag2 bag (mcap) that outlives its writer: killed, it lacks at most what came after the last flush.

A bag is a folder with one ``.mcap`` file and ``metadata.yaml``, in the form that rosbag2 has had since ROS 2 Jazzy.
Messages are collected into compressed chunks; :meth:`BagWriter.flush` ends a chunk and hands it to the system.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mcap.writer import CompressionType, Writer

from carm_bringup.recording.errors import BagWriteError
from carm_ros.distribution import BAG_VERSION, distribution

INFORMATION = "rosbag2"
"""Metadata record of the ``.mcap`` file with the content of ``metadata.yaml`` (rosbag2_storage_mcap)."""
_CHUNK_BYTES = 4 << 20
_METADATA_S = 2.0
_LIBRARY = "carm record"
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass
class _Topic:
    name: str
    type: str
    qos: list[dict[str, Any]]
    type_hash: str
    messages: int = 0


class BagWriter:
    """Writes one bag. Not for several threads at once.

    Attributes:
        folder: The bag.
        file: The ``.mcap`` file in it.
        messages: Messages so far.
    """

    def __init__(self, folder: Path) -> None:
        """Create the bag.

        Args:
            folder: Made here; must not exist.

        Raises:
            BagWriteError: It cannot be created.
        """
        self.folder, self.messages = folder, 0
        self.file = folder / f"{folder.name}_0.mcap"
        self._custom: dict[str, str] = {}
        self._topics: dict[int, _Topic] = {}
        self._schemas: dict[str, int] = {}
        self._first_ns, self._last_ns = 0, 0
        self._good_size, self._good_messages = 0, 0
        self._metadata_due_s = 0.0
        try:
            folder.mkdir(parents=True)
            self._stream = self.file.open("wb")
        except OSError as error:
            raise BagWriteError(folder, _reason(error), 0) from error
        self._writer: Any = Writer(self._stream, chunk_size=_CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library=_LIBRARY)
        self._add_information()
        self.flush()

    def add_topic(
        self, name: str, type_name: str, definition: str, qos: Sequence[Mapping[str, Any]] = (), type_hash: str = ""
    ) -> int:
        """Announce a topic; return its channel for ``write``.

        Args:
            name: Full topic name.
            type_name: For example ``"sensor_msgs/msg/Image"``.
            definition: Text of the type and those it uses
                (``carm_bringup.recording.bag.message_definitions.definition``).
            qos: QoS profiles that publishers offer, in the words of ``metadata.yaml``.
            type_hash: ``RIHS01_...``; may be empty.
        """
        if type_name not in self._schemas:
            encoding = "ros2msg" if definition else ""
            self._schemas[type_name] = self._writer.register_schema(type_name, encoding, definition.encode())
        profiles = [dict(profile) for profile in qos]
        details = {
            "offered_qos_profiles": yaml.safe_dump(profiles, sort_keys=False) if profiles else "",
            "topic_type_hash": type_hash,
        }
        channel: int = self._writer.register_channel(name, "cdr", self._schemas[type_name], details)
        self._topics[channel] = _Topic(name, type_name, profiles, type_hash)
        return channel

    def write(self, channel: int, data: bytes, received_ns: int, published_ns: int | None = None) -> None:
        """Add a message.

        Args:
            channel: From ``add_topic``.
            data: CDR with its header.
            received_ns: When it came, ns since 1970.
            published_ns: When it was sent, ns since 1970; as received when left out.

        Raises:
            BagWriteError: The disk is full, or the file cannot be written for another reason.
        """
        topic = self._topics[channel]
        try:
            self._writer.add_message(
                channel, received_ns, data, received_ns if published_ns is None else published_ns, topic.messages
            )
        except OSError as error:
            raise self._failed(error) from error
        self._first_ns = min(self._first_ns or received_ns, received_ns)
        self._last_ns = max(self._last_ns, received_ns)
        topic.messages += 1
        self.messages += 1

    def add_record(self, name: str, content: Mapping[str, str]) -> None:
        """Add a metadata record, for example the parameters of a node, to the ``.mcap`` file.

        Raises:
            BagWriteError: The file cannot be written.
        """
        try:
            self._writer.add_metadata(name, dict(content))
        except OSError as error:
            raise self._failed(error) from error

    def describe(self, key: str, value: str) -> None:
        """Set an entry of ``custom_data`` in ``metadata.yaml``; ``ros2 bag info -v`` shows it."""
        self._custom[key] = value

    def flush(self) -> None:
        """Write all data so far to the operating system; update ``metadata.yaml`` every few seconds.

        Raises:
            BagWriteError: The disk is full, or the file cannot be written for another reason.
        """
        try:
            self._writer.flush()
            self._good_size, self._good_messages = self._stream.tell(), self.messages
            if time.monotonic() >= self._metadata_due_s:
                self._write_metadata()
                self._metadata_due_s = time.monotonic() + _METADATA_S
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Write the index and close the bag.

        Raises:
            BagWriteError: The file cannot be written.
        """
        if self._stream.closed:
            return
        try:
            self._writer.flush()
            self._good_size, self._good_messages = self._stream.tell(), self.messages
            self._add_information()
            self._writer.finish()
            self._stream.close()
            self._write_metadata()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> BagWriteError:
        """Cut off the partly written chunk, and stop."""
        descriptor = os.dup(self._stream.fileno()) if not self._stream.closed else None
        with contextlib.suppress(OSError):  # what the buffer still holds is what could not be written
            self._stream.close()
        if descriptor is not None:
            os.ftruncate(descriptor, self._good_size)
            os.close(descriptor)
        return BagWriteError(self.folder, _reason(error), self._good_messages)

    def _write_metadata(self) -> None:
        text = _yaml({"rosbag2_bagfile_information": self._information()})
        beside = self.folder / ".metadata.yaml"
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.folder / "metadata.yaml")

    def _add_information(self) -> None:
        """Write the content of ``metadata.yaml`` into the file, as rosbag2 does: the file alone is also a bag.

        The last such record counts: the first one is for a recorder that is killed.
        """
        self._writer.add_metadata(INFORMATION, {"serialized_metadata": _yaml(self._information())})

    def _information(self) -> dict[str, Any]:
        topics = [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": topic.qos,
                    "type_description_hash": topic.type_hash,
                },
                "message_count": topic.messages,
            }
            for topic in self._topics.values()
        ]
        return {
            "version": BAG_VERSION,
            "storage_identifier": "mcap",
            **self._span(),
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self.file.name],
            "files": [{"path": self.file.name, **self._span()}],
            "custom_data": dict(self._custom) or None,
            "ros_distro": distribution().name,
        }

    def _span(self) -> dict[str, Any]:
        return {
            "duration": {"nanoseconds": self._last_ns - self._first_ns},
            "starting_time": {"nanoseconds_since_epoch": self._first_ns},
            "message_count": self.messages,
        }


def _yaml(content: Mapping[str, Any]) -> str:
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
