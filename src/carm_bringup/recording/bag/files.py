# SPDX-License-Identifier: Apache-2.0
"""The files of a bag and the records in them, told by what the files hold: their names and ``metadata.yaml`` may err.

Whatever the storage, records are those of mcap: schemas, channels, messages, metadata.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import os
import re
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path, PurePath
from typing import IO, Any

import lz4.frame
import zstandard
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, Message, Schema
from mcap.stream_reader import StreamReader

from carm_bringup.recording.errors import BagError, one_line
from carm_core.data_files import read_yaml

LARGEST_BYTES = 256 << 20
"""Largest record, and most that a chunk or a message may unpack to, bytes."""

METADATA = "metadata.yaml"
_LARGEST_METADATA_BYTES = 16 << 20
_ZSTD, _LZ4 = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
_FED_BYTES = 1024  # a compressed block of 4 bytes gives up to 128 KiB
_PART = re.compile(r"_(\d+)$")  # rosbag2 numbers the files of a bag
_COPIED_BYTES = 1 << 20


class Storage(Enum):
    """How messages are stored, by the first bytes of the file."""

    MCAP = b"\x89MCAP0\r\n"
    SQLITE = b"SQLite format 3\0"
    ROS1 = b"#ROSBAG V2"


def storage_of(file: Path) -> Storage | None:
    """Return how a file stores messages, compressed as a whole or not; None when it is no bag's file."""
    try:
        with _opened(file) as stream:
            start = stream.read(16)
    except (OSError, EOFError, RuntimeError, zstandard.ZstdError):
        return None
    return next((storage for storage in Storage if start.startswith(storage.value)), None)


def bag_files(path: Path, notes: list[str]) -> list[tuple[Path, Storage]]:
    """Return the files of a bag, in order.

    Args:
        path: The file itself, or a folder: the files that its ``metadata.yaml`` lists, else all that are bags.
        notes: Told what is missing or was assumed.

    Raises:
        BagError: There are none, or it is not clear which of them are the bag.
    """
    if path.name == METADATA:
        path = path.parent
    if not path.is_dir():
        if not os.access(path, os.R_OK):
            raise BagError(f"{path} cannot be read by this user")
        storage = storage_of(path)
        if storage is None:
            raise BagError(f"{path} is not a bag: neither mcap, nor SQLite, nor ROS 1")
        return [(path, storage)]
    found = {file: storage for file in sorted(_regular_files(path)) if (storage := storage_of(file))}
    if not found:
        raise BagError(f"{path}: there is no bag in this folder")
    listed = _listed(path, notes)
    if listed:
        here = [file for name in listed if (file := _same_file(path / name)) is not None]
        damaged = [file for file in here if file not in found]
        if damaged:
            raise BagError(f"{damaged[0]} is damaged: neither mcap, nor SQLite, nor ROS 1")
        if len(here) < len(listed):
            notes.append(f"{METADATA} lists {len(listed)} files, {len(listed) - len(here)} of which are missing")
        if here:
            return [(file, found[file]) for file in here]
    bags = {(storage, _PART.sub("", _bare(file.name))) for file, storage in found.items()}
    if len(bags) > 1:
        raise BagError(f"{path} holds several bags: choose a file ({', '.join(file.name for file in found)})")
    return sorted(found.items(), key=lambda item: _part_number(item[0]))


def _regular_files(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if entry.is_file()]
    except OSError as error:
        raise BagError(f"{folder} cannot be read: {error.strerror}") from error


def _bare(name: str) -> str:
    """Return a file's name without its suffixes."""
    return PurePath(name.removesuffix(".zstd")).stem


def _part_number(file: Path) -> int:
    part = _PART.search(_bare(file.name))
    return int(part[1]) if part else 0


def _listed(folder: Path, notes: list[str]) -> list[str]:
    """Return the file names in ``metadata.yaml``; none where there is none that can be read."""
    file = folder / METADATA
    if not file.is_file():
        return []
    try:
        content = read_yaml(file, _LARGEST_METADATA_BYTES)
        names = content["rosbag2_bagfile_information"]["relative_file_paths"]
        return [name for path in names if (name := PurePath(str(path)).name)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        notes.append(f"{METADATA} cannot be read ({type(error).__name__}): all bag files of the folder are used")
        return []


def _same_file(listed: Path) -> Path | None:
    """Return the file itself, or the same one compressed or unpacked meanwhile."""
    names = [listed.name, f"{listed.name}.zstd", listed.name.removesuffix(".zstd")]
    try:
        return next((file for name in names if name and (file := listed.parent / name).is_file()), None)
    except OSError:  # a name that no file can have
        return None


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked where the whole file is compressed."""
    with file.open("rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        if start == _ZSTD:
            reader: Any = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
            yield io.BufferedReader(reader)
        elif start == _LZ4:
            with lz4.frame.open(stream) as reader:
                yield reader
        else:
            yield stream


def unpacked(data: bytes, most_bytes: int | None = None) -> bytes:
    """Return data, decompressed when they are one or more frames of zstd or lz4.

    Raises:
        ValueError: They are damaged, break off, or unpack to too much.
    """
    makers: dict[bytes, Callable[[], Any]] = {
        _ZSTD: lambda: zstandard.ZstdDecompressor().decompressobj(),
        _LZ4: lz4.frame.LZ4FrameDecompressor,
    }
    if data[:4] not in makers:
        return data
    out, most_bytes = bytearray(), LARGEST_BYTES if most_bytes is None else most_bytes
    while data:
        decoder = makers.get(data[:4], makers[_ZSTD])()
        fed = 0
        while not decoder.eof:
            if fed >= len(data):
                raise ValueError("compressed data end early")
            try:
                out += decoder.decompress(data[fed : fed + _FED_BYTES])
            except (RuntimeError, zstandard.ZstdError) as error:
                raise ValueError(f"compressed data are damaged: {error}") from error
            fed += _FED_BYTES
            if len(out) > most_bytes:
                raise ValueError(f"it unpacks to more than {most_bytes >> 20} MiB")
        data = (decoder.unused_data or b"") + data[fed:]
    return bytes(out)


def unpacked_bz2(data: bytes) -> bytes:
    """Return data of bzip2, decompressed.

    Raises:
        ValueError: They unpack to too much, or break off.
        OSError: They are damaged.
    """
    decoder = bz2.BZ2Decompressor()
    out = decoder.decompress(data, LARGEST_BYTES + 1)
    if len(out) > LARGEST_BYTES:
        raise ValueError(f"it unpacks to more than {LARGEST_BYTES >> 20} MiB")
    if not decoder.eof:
        raise ValueError("compressed data end early")
    return out


def mcap_records(file: Path, notes: list[str]) -> Iterator[Any]:
    """Yield the records of an ``.mcap`` file from front to back, including those of its chunks.

    Args:
        file: The file.
        notes: Told which chunks are damaged.

    Raises:
        Exception: The file breaks off or is damaged; all records before were given.
    """
    yield from _summary(file)
    with _opened(file) as stream:
        for record in StreamReader(stream, emit_chunks=True, record_size_limit=LARGEST_BYTES).records:
            if not isinstance(record, Chunk):
                yield record
                continue
            try:
                yield from _inside(record)
            except GeneratorExit:
                raise
            except Exception as error:  # mcap raises several unrelated types for damaged records
                notes.append(f"a chunk of {file.name} is damaged: {one_line(error)}")


def _summary(file: Path) -> list[Any]:
    """Schemas and channels at the end of a file, where it has its end: the chunk that holds them may be damaged."""
    with file.open("rb") as stream:
        try:
            summary = SeekingReader(stream, record_size_limit=LARGEST_BYTES).get_summary()
        except Exception:  # mcap raises several unrelated types for what is compressed, cut off or damaged
            return []
    return [*summary.schemas.values(), *summary.channels.values()] if summary else []


def _inside(chunk: Chunk) -> Iterator[Any]:
    """Yield the records of a chunk one by one: a chunk of small ones takes ten times its size as objects."""
    data = _plain(chunk)
    if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise ValueError("its checksum does not fit")
    stream = io.BytesIO(data)
    records = StreamReader(stream, skip_magic=True, emit_chunks=True, record_size_limit=LARGEST_BYTES).records
    while stream.tell() < len(data):
        yield next(records)


def _plain(chunk: Chunk) -> bytes:
    """Return the content of a chunk, not compressed."""
    if chunk.compression not in ("", "zstd", "lz4"):
        raise ValueError(f"compression {chunk.compression!r} is not supported")
    data = unpacked(chunk.data, LARGEST_BYTES) if chunk.compression else chunk.data
    if len(data) != chunk.uncompressed_size:
        raise ValueError(f"it has {len(data)} bytes, not {chunk.uncompressed_size}")
    return data


def sqlite_records(file: Path, notes: list[str]) -> Iterator[Any]:
    """Yield schemas, channels and messages of a ``.db3`` file of any version of rosbag2.

    Args:
        file: The file.
        notes: Told what cannot be read.

    Raises:
        sqlite3.Error: The file is damaged; all records before were given.
        ValueError: It is no bag.
    """
    with _database(file) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            raise ValueError("it has no table of topics or messages")
        texts: dict[str, tuple[str, str]] = {}
        if "message_definitions" in tables:
            columns = "topic_type, encoding, encoded_message_definition"
            rows = database.execute(f"SELECT {columns} FROM message_definitions")
            texts = {str(kind): (str(encoding), str(text or "")) for kind, encoding, text in rows}
        channels = database.execute("SELECT id, name, type, serialization_format FROM topics").fetchall()
        for number, topic, kind, form in channels:
            encoding, text = texts.get(kind, ("", ""))
            yield Schema(id=number, name=str(kind), encoding=encoding, data=text.encode())
            yield Channel(id=number, schema_id=number, topic=str(topic), message_encoding=str(form), metadata={})
        damaged = 0
        for number, time_ns, data in database.execute("SELECT topic_id, timestamp, data FROM messages"):
            if not (isinstance(data, bytes) and isinstance(time_ns, int)):
                damaged += 1
                continue
            yield Message(channel_id=number, log_time=time_ns, data=data, publish_time=time_ns, sequence=0)
        if damaged:
            notes.append(f"{damaged} messages of {file.name} are skipped: they have no time or no data")


@contextlib.contextmanager
def _database(file: Path) -> Iterator[sqlite3.Connection]:
    """A database, opened for reading alone; with the log beside it that a killed recorder leaves."""
    log = file.with_name(f"{file.name}-wal")
    mode = "ro" if log.is_file() and log.stat().st_size else "ro&immutable=1"
    with plain_file(file) as plain, contextlib.closing(sqlite3.connect(_address(plain, mode), uri=True)) as database:
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_BYTES)
        database.text_factory = lambda data: data.decode("utf-8", "replace")
        yield database


def _address(file: Path, mode: str) -> str:
    return f"{file.resolve().as_uri()}?mode={mode}"


@contextlib.contextmanager
def plain_file(file: Path, suffix: str = "") -> Iterator[Path]:
    """A file that is not compressed and has a suffix: the file itself, or a copy of it for as long as it is needed.

    Args:
        file: The file.
        suffix: Suffix that its name must have; empty: any.

    Raises:
        ValueError: It unpacks to more than half of the free disk space.
    """
    with file.open("rb") as stream:
        compressed = stream.read(4) in (_ZSTD, _LZ4)
    if not compressed and file.suffix.endswith(suffix):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"plain{suffix}"
        if compressed:
            with _opened(file) as stream:
                _copy(stream, copy)
        else:
            copy.symlink_to(file.resolve())
        yield copy


def _copy(stream: IO[bytes], copy: Path) -> None:
    most_bytes, size = shutil.disk_usage(copy.parent).free // 2, 0
    with copy.open("wb") as out:
        while block := stream.read(_COPIED_BYTES):
            size += len(block)
            if size > most_bytes:
                raise ValueError(f"it unpacks to more than {most_bytes >> 20} MiB, half of the free disk space")
            out.write(block)
