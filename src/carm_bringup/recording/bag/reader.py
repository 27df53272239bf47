# SPDX-License-Identifier: Apache-2.0
"""Reads bags, broken and foreign ones too: everything that can be read, and a note on what cannot.

Files are read from front to back, so that one without its end (a killed recorder, a full disk, a broken copy) still
gives all that is whole. Messages are decoded by the definitions that the bag brings along. Bags of ROS 1 are left to
``rosbags``.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from mcap.records import Channel, Footer, Message, Metadata, Schema
from rosbags.highlevel import AnyReader
from rosbags.rosbag1.reader import decompressors
from rosbags.typesys.store import Typestore

from carm_bringup.recording.bag import message_definitions
from carm_bringup.recording.bag.files import (
    Storage,
    bag_files,
    mcap_records,
    plain_file,
    sqlite_records,
    unpacked,
    unpacked_bz2,
)
from carm_bringup.recording.errors import BagError, one_line

NANOSECONDS = 1_000_000_000
_MEMORY_SHARE = 0.5
_OBJECT_BYTES = 400
"""Memory of a decoded message beside its data."""
_NOTES_TOLD = 3


@dataclass(frozen=True)
class Recorded:
    """A message of a bag.

    Attributes:
        topic: Full topic name.
        time_ns: When it was received, ns.
        sent_ns: When it was sent, ns; as received where the bag does not tell.
        message: Its content, with the fields of the message type; arrays are NumPy arrays.
    """

    topic: str
    time_ns: int
    sent_ns: int
    message: Any


@dataclass
class Bag:
    """What a bag holds.

    Attributes:
        path: Where it was read from.
        types: Topic to message type.
        messages: Topic to its messages in the order in which they were sent.
        records: Metadata records of the ``.mcap`` file by name; the last one of each name.
        notes: What could not be read, one line each.
        complete: The file has its end.
        size_bytes: Memory of the messages.
    """

    path: Path
    types: dict[str, str] = field(default_factory=dict)
    messages: dict[str, list[Recorded]] = field(default_factory=dict)
    records: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    complete: bool = True
    size_bytes: int = 0

    @property
    def start_ns(self) -> int:
        """Time of the first message, ns; 0 when there is none."""
        return min((m.time_ns for messages in self.messages.values() for m in messages), default=0)

    @property
    def end_ns(self) -> int:
        """Time of the last message, ns; 0 when there is none."""
        return max((m.time_ns for messages in self.messages.values() for m in messages), default=0)

    @property
    def duration_s(self) -> float:
        """From the first message to the last, s."""
        return (self.end_ns - self.start_ns) / NANOSECONDS

    def of(self, topic: str) -> list[Recorded]:
        """Return the messages of a topic; empty when there is no such topic."""
        return self.messages.get(topic, [])

    def before(self, topic: str, time_ns: int) -> Recorded | None:
        """Return the last message of a topic that was sent at a time or earlier."""
        messages = self.of(topic)
        place = bisect.bisect_right(messages, time_ns, key=lambda recorded: recorded.sent_ns)
        return messages[place - 1] if place else None


def read_bag(path: Path, remappings: dict[str, str] | None = None, skip: Collection[str] = ()) -> Bag:
    """Read a bag into memory.

    Args:
        path: Folder of a bag, or one of its files: mcap, SQLite (``.db3``) or ROS 1; also compressed as a whole.
        remappings: Topic in the bag to the name it is to have; a trailing slash remaps a whole namespace.
        skip: Topics, by their new names, that are left out: a long session does not fit into memory with all images.

    Raises:
        BagError: There is no bag, nothing in it can be read, or it does not fit into memory.
    """
    if not path.exists():
        raise BagError(f"{path}: no such bag")
    bag = Bag(path)
    files = bag_files(path, bag.notes)

    def wanted(topic: str) -> bool:
        return remapped(topic, remappings or {}) not in skip

    for file, storage in files:
        read = _ros1_messages if storage is Storage.ROS1 else _ros2_messages
        for recorded, type_name in read(file, storage, bag, wanted):
            topic = remapped(recorded.topic, remappings or {})
            bag.types[topic] = type_name
            bag.messages.setdefault(topic, []).append(recorded)
    for messages in bag.messages.values():
        messages.sort(key=lambda recorded: recorded.sent_ns)
    if not bag.messages:
        why = "; ".join(bag.notes[:_NOTES_TOLD]) or "it is empty"
        raise BagError(f"{path}: no message can be read: {why}")
    return bag


def remapped(topic: str, remappings: dict[str, str]) -> str:
    """Return a topic's new name; a rule for the topic itself outranks one for its namespace."""
    if topic in remappings:
        return remappings[topic]
    for source, target in remappings.items():
        if source.endswith("/") and topic.startswith(source):
            return target.rstrip("/") + "/" + topic[len(source) :]
    return topic


def _ros2_messages(
    file: Path, storage: Storage, bag: Bag, wanted: Callable[[str], bool]
) -> Iterator[tuple[Recorded, str]]:
    decoder = _Decoder(bag, wanted)
    ended = False
    try:
        for record in (mcap_records if storage is Storage.MCAP else sqlite_records)(file, bag.notes):
            ended = ended or isinstance(record, Footer)
            if isinstance(record, Metadata):
                bag.records[record.name] = dict(record.metadata)
            found = decoder.take(record)
            if found is not None:
                yield found
        ended = ended or storage is Storage.SQLITE
    except BagError:
        raise
    except Exception as error:  # mcap, sqlite3 and the decompressors raise many unrelated types
        if not ended:
            bag.notes.append(
                f"{file.name} ends early ({one_line(error)}); the {decoder.messages} messages before are complete"
            )
    bag.notes += decoder.notes()
    bag.complete = bag.complete and ended


class _Decoder:
    """Turns the records of one file into messages, with the definitions that the file brings along."""

    def __init__(self, bag: Bag, wanted: Callable[[str], bool]) -> None:
        self._bag, self._wanted = bag, wanted
        self._store: Typestore = message_definitions.standard_types()
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._known: dict[int, str] = {}
        self._skipped: dict[str, list[str]] = {}
        self._most_bytes = bag.size_bytes + int(psutil.virtual_memory().available * _MEMORY_SHARE)
        self.messages = 0

    def notes(self) -> list[str]:
        """Return what was skipped, one line for each topic."""
        return [
            f"{len(reasons)} messages of {topic} are skipped: {reasons[0]}" for topic, reasons in self._skipped.items()
        ]

    def take(self, record: Any) -> tuple[Recorded, str] | None:
        if isinstance(record, Schema):
            self._schemas[record.id] = record
        elif isinstance(record, Channel) and record.id not in self._channels:
            self._channels[record.id] = record
            self._known[record.id] = self._learn(record)
        elif isinstance(record, Message) and record.channel_id in self._channels:
            self.messages += 1
            return self._decode(record, self._channels[record.channel_id].topic)
        return None

    def _learn(self, channel: Channel) -> str:
        """Return the channel's type; empty when its messages are not wanted or cannot be decoded."""
        if not self._wanted(channel.topic):
            return ""
        schema = self._schemas.get(channel.schema_id)
        if schema is None or channel.message_encoding != "cdr":
            self._bag.notes.append(f"topic {channel.topic} is skipped: not a ROS 2 message")
            return ""
        text = schema.data.decode("utf-8", "replace")
        try:
            if schema.encoding == "ros2idl":
                message_definitions.add_idl_types(self._store, text)
            elif text:
                message_definitions.add_types(self._store, schema.name, text)
            self._store.get_msgdef(schema.name)
        except Exception as error:  # the parser raises several unrelated types for bad definitions
            self._bag.notes.append(f"topic {channel.topic} is skipped: definition of {schema.name} ({one_line(error)})")
            return ""
        return schema.name

    def _decode(self, message: Message, topic: str) -> tuple[Recorded, str] | None:
        type_name = self._known[message.channel_id]
        if not type_name:
            return None
        try:
            data = unpacked(message.data)  # rosbag2 may compress each message; CDR itself begins with 0
            content = self._deserialize(data, type_name)
        except Exception as error:  # the decoder raises several unrelated types for bad data
            self._skipped.setdefault(topic, []).append(one_line(error))
            return None
        self._bag.size_bytes += len(data) + _OBJECT_BYTES
        if self._bag.size_bytes > self._most_bytes:
            raise BagError(f"{self._bag.path}: the bag does not fit into memory; record without image_raw, or split it")
        return Recorded(topic, message.log_time, message.publish_time or message.log_time, content), type_name

    def _deserialize(self, data: bytes, type_name: str) -> Any:
        """Decode CDR; bytes after the message, which some serializers leave there, are ignored."""
        kind = self._store.get_msgdef(type_name)
        decode = kind.deserialize_cdr_le if data[1] else kind.deserialize_cdr_be
        return decode(data[4:], 0, kind.cls, self._store)[0]


def _ros1_messages(
    file: Path, storage: Storage, bag: Bag, wanted: Callable[[str], bool]
) -> Iterator[tuple[Recorded, str]]:
    del storage
    decompressors.update({"bz2": unpacked_bz2, "lz4": unpacked})  # its own unpack without bounds
    try:
        with (
            plain_file(file, ".bag") as plain,
            AnyReader([plain], default_typestore=message_definitions.standard_types()) as reader,
        ):
            connections = [connection for connection in reader.connections if wanted(connection.topic)]
            for connection, time_ns, data in reader.messages(connections) if connections else ():
                try:
                    content = reader.deserialize(data, connection.msgtype)
                except Exception as error:  # the decoder raises several unrelated types for bad data
                    bag.notes.append(f"a message of {connection.topic} is skipped: {one_line(error)}")
                    continue
                yield Recorded(connection.topic, time_ns, time_ns, content), connection.msgtype
    except Exception as error:  # rosbags raises many unrelated types for damaged files
        bag.notes.append(f"{file.name} is damaged ({one_line(error)})")
