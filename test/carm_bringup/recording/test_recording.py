# SPDX-License-Identifier: Apache-2.0
"""Bags: written, cut off anywhere, read back by us and by others."""

import errno
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader

from carm_bringup.cli.app import run
from carm_bringup.recording.bag import message_definitions, topics
from carm_bringup.recording.bag.provenance import parameters_of, parameters_record
from carm_bringup.recording.bag.reader import read_bag, remapped
from carm_bringup.recording.bag.writer import BagWriter
from carm_bringup.recording.errors import BagError, BagWriteError, SchemaError

STRING = "std_msgs/msg/String"


def cdr(text: str) -> bytes:
    """A std_msgs/String as it is on the wire."""
    data = text.encode() + b"\0"
    return b"\x00\x01\x00\x00" + struct.pack("<I", len(data)) + data


def write_numbers(folder: Path, count: int, close: bool = True, flush_each: int = 10) -> BagWriter:
    bag = BagWriter(folder)
    channel = bag.add_topic(
        "/carm/count", STRING, message_definitions.definition(STRING), [], message_definitions.type_hash(STRING)
    )
    for number in range(count):
        bag.write(channel, cdr(str(number)), 1_000_000 * (number + 1), 1_000_000 * number + 1)
        if number % flush_each == flush_each - 1:
            bag.flush()
    if close:
        bag.close()
    return bag


def numbers(path: Path) -> list[int]:
    return [int(recorded.message.data) for recorded in read_bag(path).of("/carm/count")]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    bag = BagWriter(tmp_path / "bag")
    channel = bag.add_topic("/carm/count", STRING, message_definitions.definition(STRING))
    bag.add_record("parameters /carm/agent_node", parameters_record({"rate": 2.5, "names": ["a"], "on": True}))
    bag.describe("model", "fused abc")
    bag.write(channel, cdr("7"), 5_000, 4_000)
    bag.close()
    read = read_bag(tmp_path / "bag")
    assert read.complete
    assert read.notes == []
    (message,) = read.of("/carm/count")
    assert (message.message.data, message.time_ns, message.sent_ns) == ("7", 5_000, 4_000)
    assert parameters_of(read.records, "agent_node") == {"rate": 2.5, "names": ["a"], "on": True}
    assert read.before("/carm/count", 4_000) is message
    assert read.before("/carm/count", 3_999) is None


@pytest.mark.parametrize("close", [True, False])
def test_the_file_alone_keeps_what_metadata_yaml_says(tmp_path: Path, close: bool) -> None:
    """The metadata record of rosbag2_storage_mcap; a recorder that is killed leaves the first one."""
    write_numbers(tmp_path / "bag", 25, close=close)
    (tmp_path / "bag" / "bag_0.mcap").rename(tmp_path / "alone.mcap")
    said = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text(encoding="utf-8"))
    bag = read_bag(tmp_path / "alone.mcap")
    kept = yaml.safe_load(bag.records["rosbag2"]["serialized_metadata"])
    assert set(kept) == set(said["rosbag2_bagfile_information"])
    if close:
        assert kept == said["rosbag2_bagfile_information"]
        assert kept["message_count"] == len(bag.of("/carm/count")) == 25


def test_metadata_is_that_of_rosbag2_jazzy(tmp_path: Path) -> None:
    """Keys as in rosbag2_storage/bag_metadata.hpp and yaml.hpp, version 9."""
    write_numbers(tmp_path / "bag", 25)
    text = (tmp_path / "bag" / "metadata.yaml").read_text(encoding="utf-8")
    assert "&" not in text  # no anchors
    content = yaml.safe_load(text)["rosbag2_bagfile_information"]
    assert set(content) == {
        "version",
        "storage_identifier",
        "duration",
        "starting_time",
        "message_count",
        "topics_with_message_count",
        "compression_format",
        "compression_mode",
        "relative_file_paths",
        "files",
        "custom_data",
        "ros_distro",
    }
    assert (content["version"], content["storage_identifier"], content["message_count"]) == (9, "mcap", 25)
    (topic,) = content["topics_with_message_count"]
    assert topic["message_count"] == 25
    assert topic["topic_metadata"]["type_description_hash"].startswith("RIHS01_")
    assert content["relative_file_paths"] == [file["path"] for file in content["files"]] == ["bag_0.mcap"]
    assert content["duration"]["nanoseconds"] == 24_000_000


def test_others_can_read_it(tmp_path: Path) -> None:
    write_numbers(tmp_path / "bag", 25)
    with AnyReader([tmp_path / "bag"]) as reader:
        found = [reader.deserialize(data, c.msgtype).data for c, _, data in reader.messages()]  # type: ignore[attr-defined]
    assert found == [str(number) for number in range(25)]


@settings(max_examples=60)
@given(share=st.floats(0.0, 1.0))
def test_a_bag_cut_off_anywhere_gives_what_came_before(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    folder = tmp_path_factory.mktemp("cut") / "bag"
    whole = write_numbers(folder, 60).file.read_bytes()
    part = folder.parent / "part.mcap"
    part.write_bytes(whole[: int(share * len(whole))])
    try:
        found = numbers(part)
    except BagError:
        assert share < 0.3
        return
    assert found == list(range(len(found)))
    assert len(found) % 10 == 0
    assert read_bag(part).complete == (share == 1.0) or len(found) == 60


def test_a_bag_without_its_end_has_all_that_was_flushed(tmp_path: Path) -> None:
    write_numbers(tmp_path / "bag", 37, close=False)
    read = read_bag(tmp_path / "bag")
    assert len(read.of("/carm/count")) == 30
    assert not read.complete
    assert "ends early" in read.notes[0]


def test_a_damaged_chunk_ends_the_reading_with_a_note(tmp_path: Path) -> None:
    file = write_numbers(tmp_path / "bag", 60).file
    data = bytearray(file.read_bytes())
    place = data.rfind(b"\x28\xb5\x2f\xfd")  # magic of the last zstd frame
    data[place : place + 4] = b"\0\0\0\0"
    file.write_bytes(data)
    read = read_bag(tmp_path / "bag")
    assert len(read.of("/carm/count")) == 50
    assert any("damaged" in note for note in read.notes)


FULL_DISK = """
import os, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_recording import STRING, message_definitions, BagWriter, BagWriteError
from test_recording import cdr
bag = BagWriter(Path(sys.argv[1]))
channel = bag.add_topic("/carm/count", STRING, message_definitions.definition(STRING))
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    for number in range(10_000):
        bag.write(channel, cdr(os.urandom(500).hex()), number + 1)
        if number % 10 == 9:
            bag.flush()
except BagWriteError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_leaves_a_readable_bag_and_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path / "bag"), str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "recording ended: cannot write" in line
    read = read_bag(tmp_path / "bag")
    count = len(read.of("/carm/count"))
    assert count >= 50
    assert f"the {count} messages before stay readable" in line


def test_a_device_without_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write_numbers(tmp_path / "bag", 10, close=False)
    monkeypatch.setattr("time.monotonic", lambda: 1e9)

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BagWriteError, match="No space left on device; the 10 messages before stay readable"):
        bag.flush()


def test_a_bag_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(BagWriteError, match="File exists"):
        BagWriter(tmp_path)
    assert run(["record", "--output", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("type_name", "expected"),
    [
        ("carm_interfaces/msg/LandmarkArray", "# What a localizer says about one frame"),
        ("carm_interfaces/action/Navigate_FeedbackMessage", "MSG: carm_interfaces/action/Navigate_Feedback\n"),
        ("tf2_msgs/msg/TFMessage", "MSG: geometry_msgs/Transform\n"),
    ],
)
def test_definitions_bring_all_types_and_comments(type_name: str, expected: str) -> None:
    text = message_definitions.definition(type_name)
    assert expected in text
    store = message_definitions.standard_types()
    message_definitions.add_types(store, type_name, text)
    assert store.get_msgdef(type_name).cls is not None


def test_hash_is_the_one_that_the_generator_wrote() -> None:
    """The hash beside the installed interface, made by rosidl_generator_type_description."""
    import json
    import os

    prefixes = os.environ["AMENT_PREFIX_PATH"].split(os.pathsep)
    files = [Path(p) / "share" / "carm_interfaces" / "msg" / "LandmarkArray.json" for p in prefixes]
    file = next(file for file in files if file.is_file())
    hashes = {entry["type_name"]: entry["hash_string"] for entry in json.loads(file.read_text())["type_hashes"]}
    assert (
        message_definitions.type_hash("carm_interfaces/msg/LandmarkArray")
        == hashes["carm_interfaces/msg/LandmarkArray"]
    )


def test_unknown_type_is_refused() -> None:
    with pytest.raises(SchemaError, match="nowhere_msgs/msg/Nothing"):
        message_definitions.definition("nowhere_msgs/msg/Nothing")
    assert message_definitions.type_hash("nowhere_msgs/msg/Nothing") == ""


@pytest.mark.parametrize(
    ("topic", "wanted"),
    [
        ("/carm/xray/image_raw", True),
        ("/carm/navigate/_action/feedback", True),
        ("/tf_static", True),
        ("/carm/xray/image/compressed", False),
        ("/carm/landmarks/image", False),
        ("/lab/camera", False),
        ("/carmen/state", False),
    ],
)
def test_topics(topic: str, wanted: bool) -> None:
    assert topics.is_wanted(topic, "/carm") == wanted
    assert topics.is_wanted(topic, "/carm", include=".")
    assert not topics.is_wanted(topic, "/carm", include=".", exclude="/")


def test_strictest_profile_that_hears_everybody() -> None:
    reliable = {"reliability": "reliable", "durability": "transient_local"}
    loose = {"reliability": "best_effort", "durability": "volatile"}
    assert topics.hears_all([reliable]) == (True, True)
    assert topics.hears_all([reliable, loose]) == (False, False)


def test_remapping() -> None:
    rules = {"/lab/": "/carm/", "/lab/cam": "/carm/xray/image"}
    assert remapped("/lab/joint_states", rules) == "/carm/joint_states"
    assert remapped("/lab/cam", rules) == "/carm/xray/image"
    assert remapped("/other", rules) == "/other"


@pytest.fixture
def no_bags(tmp_path: Path) -> list[Path]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mcap").write_text("this is no bag")
    (tmp_path / "nothing.mcap").touch()
    return [tmp_path / "missing", tmp_path / "empty", tmp_path / "text.mcap", tmp_path / "nothing.mcap"]


def test_what_is_no_bag_ends_in_one_line_and_code_2(no_bags: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for path in no_bags:
        assert run(["replay", str(path)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert str(path) in line
