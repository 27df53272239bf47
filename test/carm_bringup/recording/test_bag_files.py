# SPDX-License-Identifier: Apache-2.0
"""Bags in the forms that people have: read by what the files hold, bounded, refused with one line when damaged."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import yaml
import zstandard
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

from carm_bringup.recording.bag import files as bag_files
from carm_bringup.recording.bag import message_definitions, reader
from carm_bringup.recording.bag.files import unpacked
from carm_bringup.recording.bag.reader import read_bag
from carm_bringup.recording.errors import BagError

STRING = "std_msgs/msg/String"
NUMBERS = list(range(1, 21))


def cdr(text: str) -> bytes:
    data = text.encode() + b"\0"
    return b"\x00\x01\x00\x00" + struct.pack("<I", len(data)) + data


def ros2_bag(folder: Path, plugin: StoragePlugin, numbers: list[int] = NUMBERS) -> Path:
    with Ros2Writer(folder, version=8, storage_plugin=plugin) as writer:
        connection = writer.add_connection("/count", STRING, typestore=message_definitions.standard_types())
        for number in numbers:
            writer.write(connection, 1000 * number, cdr(str(number)))
    return folder


def mcap_file(
    path: Path, numbers: list[int] = NUMBERS, chunks: Any = CompressionType.ZSTD, pack: Callable[[bytes], bytes] = bytes
) -> Path:
    with path.open("wb") as stream:
        writer = McapWriter(stream, chunk_size=256, compression=chunks, use_chunking=chunks is not None)
        writer.start(profile="ros2", library="test")
        schema = writer.register_schema(STRING, "ros2msg", message_definitions.definition(STRING).encode())
        channel = writer.register_channel("/count", "cdr", schema)
        for number in numbers:
            writer.add_message(channel, 1000 * number, pack(cdr(str(number))), 1000 * number)
        writer.finish()
    return path


def database(folder: Path, numbers: list[int] = NUMBERS) -> Path:
    (file,) = ros2_bag(folder, StoragePlugin.SQLITE3, numbers).glob("*.db3")
    return file


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zstd_stream(data: bytes) -> bytes:
    """Without its size in the header, as streams are written."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.flush()


def numbers_of(path: Path) -> list[int]:
    return [int(recorded.message.data) for recorded in read_bag(path).of("/count")]


def refusal(path: Path) -> str:
    with pytest.raises(BagError) as caught:
        read_bag(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("chunks", [None, CompressionType.NONE, CompressionType.ZSTD, CompressionType.LZ4])
@pytest.mark.parametrize("pack", [bytes, zstd, zstd_stream, lz4.frame.compress])
def test_mcap_with_chunks_and_messages_compressed(tmp_path: Path, chunks: Any, pack: Callable[[bytes], bytes]) -> None:
    file = mcap_file(tmp_path / "a.mcap", chunks=chunks, pack=pack)
    assert numbers_of(file) == numbers_of(tmp_path) == NUMBERS


@pytest.mark.parametrize("pack", [zstd, zstd_stream, lz4.frame.compress])
def test_whole_files_compressed(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    for file in (mcap_file(tmp_path / "a_0.mcap"), database(tmp_path / "b")):
        folder = tmp_path / f"packed_{file.suffix[1:]}"
        folder.mkdir()
        (folder / f"{file.name}.zstd").write_bytes(pack(file.read_bytes()))
        assert numbers_of(folder) == numbers_of(folder / f"{file.name}.zstd") == NUMBERS


def test_sqlite_whole_alone_and_under_another_name(tmp_path: Path) -> None:
    file = database(tmp_path / "bag")
    assert numbers_of(tmp_path / "bag") == numbers_of(file) == NUMBERS
    assert numbers_of(tmp_path / "bag" / "metadata.yaml") == NUMBERS
    file.with_name("metadata.yaml").unlink()
    assert numbers_of(tmp_path / "bag") == NUMBERS
    (tmp_path / "other").mkdir()
    assert numbers_of(file.rename(tmp_path / "other" / "x.mcap")) == numbers_of(tmp_path / "other") == NUMBERS


def test_sqlite_of_humble_has_no_definitions(tmp_path: Path) -> None:
    file = database(tmp_path / "bag")
    with sqlite3.connect(file) as old:
        old.executescript("DROP TABLE message_definitions; DROP TABLE metadata; DROP TABLE schema;")
        old.execute("ALTER TABLE topics DROP COLUMN type_description_hash")
    old.close()
    assert numbers_of(file) == NUMBERS


def test_sqlite_with_rows_of_other_types(tmp_path: Path) -> None:
    file = database(tmp_path / "bag")
    with sqlite3.connect(file) as changed:
        changed.execute("UPDATE messages SET timestamp = 'soon' WHERE id = 1")
        changed.execute("UPDATE messages SET data = 'text' WHERE id = 2")
        changed.execute("UPDATE messages SET topic_id = 99 WHERE id = 3")
    changed.close()
    bag = read_bag(file)
    assert [int(recorded.message.data) for recorded in bag.of("/count")] == NUMBERS[3:]
    assert bag.notes == ["2 messages of bag.db3 are skipped: they have no time or no data"]


def test_sqlite_whose_recorder_was_killed_keeps_its_log(tmp_path: Path) -> None:
    file = database(tmp_path / "bag", NUMBERS[:5])
    writing = sqlite3.connect(file)
    writing.execute("PRAGMA journal_mode=WAL")
    for number in NUMBERS[5:]:
        row = (number, 1, 1000 * number, cdr(str(number)))
        writing.execute("INSERT INTO messages (id, topic_id, timestamp, data) VALUES (?, ?, ?, ?)", row)
    writing.commit()
    (tmp_path / "killed").mkdir()
    for part in tmp_path.glob("bag/*.db3*"):
        shutil.copy(part, tmp_path / "killed" / part.name)
    writing.close()
    assert numbers_of(tmp_path / "killed") == NUMBERS


def test_damaged_sqlite_gives_what_is_whole(tmp_path: Path) -> None:
    file = database(tmp_path / "bag", list(range(1, 2000)))
    content = bytearray(file.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8192] = b"\xff" * 8192
    file.write_bytes(content)
    bag = read_bag(file)
    assert 10 < len(bag.of("/count")) < 2000
    assert not bag.complete
    assert "ends early" in bag.notes[0]
    for damaged in (content[:16] + b"\xff" * 4000, content[: len(content) // 2], content[:100]):
        file.write_bytes(damaged)
        assert "ends early" in refusal(file)


def test_metadata_that_errs_does_no_harm(tmp_path: Path) -> None:
    folder = ros2_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    file = folder / "metadata.yaml"
    whole = yaml.safe_load(file.read_text())
    for change in (
        {"storage_identifier": "mcap"},
        {"compression_mode": "MESSAGE", "compression_format": "zstd"},
        {"version": 99},
        {"relative_file_paths": ["gone.mcap"]},
        {"relative_file_paths": []},
        {"relative_file_paths": None},
        {"relative_file_paths": ["/", "..", ".zstd", None, 3, "x" * 5000, "a\0b"]},
        {"topics_with_message_count": []},
    ):
        content = {"rosbag2_bagfile_information": {**whole["rosbag2_bagfile_information"], **change}}
        file.write_text(yaml.safe_dump(content))
        assert numbers_of(folder) == NUMBERS, change
    for text in ("", "a: [", "- 1", "rosbag2_bagfile_information: 3", "\0"):
        file.write_text(text)
        assert numbers_of(folder) == NUMBERS, text


def test_what_lies_beside_a_bag_is_not_read(tmp_path: Path) -> None:
    folder = ros2_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    stray = mcap_file(folder / "stray.mcap", [77])
    (folder / "notes.txt").write_text("nothing")
    assert numbers_of(folder) == NUMBERS
    assert numbers_of(stray) == [77]
    (folder / "metadata.yaml").unlink()
    assert "holds several bags: choose a file (bag.db3, stray.mcap)" in refusal(folder)
    (folder / "bag.db3").unlink()
    mcap_file(folder / "other.mcap", [78])
    assert "choose a file (other.mcap, stray.mcap)" in refusal(folder)


def test_files_of_one_bag_are_read_in_order(tmp_path: Path) -> None:
    for part in range(11):
        mcap_file(tmp_path / f"lab_{part}.mcap", [part])
    assert numbers_of(tmp_path) == list(range(11))


def test_file_of_the_bag_that_is_damaged_is_named(tmp_path: Path) -> None:
    folder = ros2_bag(tmp_path / "bag", StoragePlugin.MCAP)
    (file,) = folder.glob("*.mcap")
    mcap_file(folder / "stray.mcap", [77])
    file.write_bytes(b"no bag")
    assert f"{file} is damaged" in refusal(folder)


def test_damaged_chunk_is_left_out_and_told(tmp_path: Path) -> None:
    file = mcap_file(tmp_path / "a.mcap", chunks=CompressionType.NONE)
    content = bytearray(file.read_bytes())
    content[content.index(cdr("1")) + 8] ^= 1  # a digit: only the checksum can tell
    file.write_bytes(content)
    bag = read_bag(file)
    assert [int(m.message.data) for m in bag.of("/count")] == NUMBERS[-len(bag.of("/count")) :]
    assert 0 < len(bag.of("/count")) < len(NUMBERS)
    assert "a chunk of a.mcap is damaged: its checksum does not fit" in bag.notes[0]


@pytest.mark.parametrize("pack", [zstd, zstd_stream, lz4.frame.compress])
def test_what_unpacks_to_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    bomb = pack(bytes(3 << 20))
    assert unpacked(bomb) == bytes(3 << 20)
    assert unpacked(bomb + bomb) == bytes(6 << 20)
    with pytest.raises(ValueError, match="unpacks to more than 2 MiB"):
        unpacked(bomb, 2 << 20)
    for damaged in (bomb[:-6], bomb[: len(bomb) // 2]):
        with pytest.raises(ValueError, match="compressed data"):
            unpacked(damaged)
    monkeypatch.setattr(bag_files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 4096))
    file = database(tmp_path / "bag")
    packed = tmp_path / "bag.db3.zstd"
    packed.write_bytes(pack(file.read_bytes()))
    assert "half of the free disk space" in refusal(packed)


def test_chunk_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its header says so or lies."""
    monkeypatch.setattr(bag_files, "LARGEST_BYTES", 8 << 20)
    for claimed in (40, 4 << 30):
        file = mcap_file(tmp_path / "a.mcap", [])
        data = zstd_stream(bytes(9 << 20))
        start, end = file.read_bytes()[:8], file.read_bytes()[8:]
        body = struct.pack("<QQQII", 0, 0, claimed, 0, 4) + b"zstd" + struct.pack("<Q", len(data)) + data
        header = end[: 9 + struct.unpack("<Q", end[1:9])[0]]
        chunk = b"\x06" + struct.pack("<Q", len(body)) + body
        file.write_bytes(start + header + chunk + end[len(header) :])
        assert "unpacks to more than 8 MiB" in refusal(file)


def test_a_bag_larger_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_MEMORY_SHARE", 1e-12)
    assert "does not fit into memory" in refusal(mcap_file(tmp_path / "a.mcap"))


def test_bags_of_ros_1_are_read(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    with Ros1Writer(tmp_path / "old.bag") as writer:
        connection = writer.add_connection("/count", STRING, typestore=store)
        for number in NUMBERS:
            text = store.types[STRING](data=str(number))
            writer.write(connection, 1000 * number, store.serialize_ros1(text, STRING))
    assert numbers_of(tmp_path / "old.bag") == numbers_of(tmp_path) == NUMBERS
    (tmp_path / "packed.bag.zstd").write_bytes(zstd((tmp_path / "old.bag").read_bytes()))
    assert numbers_of(tmp_path / "packed.bag.zstd") == NUMBERS
    assert numbers_of((tmp_path / "old.bag").rename(tmp_path / "old.mcap")) == NUMBERS


def test_many_bad_messages_are_one_line(tmp_path: Path) -> None:
    file = mcap_file(tmp_path / "a.mcap", pack=lambda data: data[:6])
    assert "20 messages of /count are skipped" in refusal(file)


def test_many_small_messages_of_a_chunk_are_not_held_at_once(tmp_path: Path) -> None:
    """A few kilobytes unpack to millions of them."""
    file = mcap_file(tmp_path / "a.mcap", [], chunks=None)
    message = b"\x05" + struct.pack("<QHIQQ", 22, 1, 0, 0, 0)
    data = zstd_stream(message * 100_000)
    body = struct.pack("<QQQII", 0, 0, len(message) * 100_000, 0, 4) + b"zstd" + struct.pack("<Q", len(data)) + data
    content = file.read_bytes()
    file.write_bytes(content[:8] + b"\x06" + struct.pack("<Q", len(body)) + body + content[8:])
    assert len(data) < 10_000
    tracemalloc.start()
    count = sum(1 for _ in bag_files.mcap_records(file, []))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 100_000
    assert peak < 8 * len(message) * 100_000


def test_a_chunk_in_a_chunk_is_not_unpacked(tmp_path: Path) -> None:
    file = mcap_file(tmp_path / "a.mcap", [])
    inner = b"\x06" + struct.pack("<QQQQII", 40, 0, 0, 1 << 40, 0, 0) + struct.pack("<Q", 0)
    body = struct.pack("<QQQII", 0, 0, len(inner), 0, 0) + struct.pack("<Q", len(inner)) + inner
    content = file.read_bytes()
    file.write_bytes(content[:8] + b"\x06" + struct.pack("<Q", len(body)) + body + content[8:])
    refusal(file)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x/msg/Y", "string[20000] data"),
        ("x/msg/Y", "uint8[1000000000000] data"),
        ("x/msg/Y", "uint8[0] data"),
        ("x/msg/Y", "bool data\n" + "# " * 600_000),
        ("x/msg/Y:\n    pass\nprint('ran')\nclass Z", "bool data"),
    ],
)
def test_definitions_that_would_be_much_code_or_foreign_code(name: str, text: str) -> None:
    start = time.process_time()
    with pytest.raises(Exception, match="(?s).+"):  # rosbags raises several types
        message_definitions.add_types(message_definitions.standard_types(), name, text)
    assert time.process_time() - start < 2


def test_chunks_of_ros_1_bags_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    for compression in (Ros1Writer.CompressionFormat.BZ2, Ros1Writer.CompressionFormat.LZ4):
        file = tmp_path / f"{compression.name}.bag"
        writer = Ros1Writer(file)
        writer.set_compression(compression)
        with writer:
            connection = writer.add_connection("/count", STRING, typestore=store)
            writer.write(connection, 1, store.serialize_ros1(store.types[STRING](data="7" * (2 << 20)), STRING))
        monkeypatch.setattr(bag_files, "LARGEST_BYTES", 4 << 20)
        assert [len(m.message.data) for m in read_bag(file).of("/count")] == [2 << 20]
        monkeypatch.setattr(bag_files, "LARGEST_BYTES", 1 << 20)
        assert "unpacks to more than 1 MiB" in refusal(file)
