# SPDX-License-Identifier: Apache-2.0
"""The reference bag replayed: identical as it is, a readable difference when something is changed, robust otherwise."""

import copy
import dataclasses
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys.store import Typestore

from carm_agent.navigation.task import Doubt, NavigationGoal
from carm_bringup.cli.app import run
from carm_bringup.recording.bag import message_definitions
from carm_bringup.recording.bag.reader import Bag, Recorded, read_bag
from carm_bringup.recording.errors import BagError
from carm_bringup.recording.replay import tasks
from carm_bringup.recording.replay.comparison import Report
from carm_bringup.recording.replay.frames import as_mono8, find_frames
from carm_bringup.recording.replay.replay import Pace, ReplayOptions
from carm_bringup.recording.replay.replay import run as replay_nodes
from carm_core.imaging.projection import display_from_raw
from carm_core.localization import Localization, Localizer, Query
from carm_core.robot.kinematics import CArm
from carm_perception.nodes.parameters import LocalizerParameters

REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference_bag"
AGAIN = "record it anew: python scripts/make_reference_bag.py"
LIMIT_BYTES = 3_000_000


@pytest.fixture(scope="module")
def reference() -> Bag:
    return read_bag(REFERENCE)


@pytest.fixture
def bag(reference: Bag) -> Bag:
    """A copy that a test may change."""
    return copy.deepcopy(reference)


def reports(bag: Bag, *nodes: str, localizer: Localizer | None = None) -> list[Report]:
    frames = find_frames(bag, "/carm/", CArm.from_config())
    return list(replay_nodes(ReplayOptions(bag.path, nodes), bag, frames, localizer))


class Echo(Localizer):
    """Answers as recorded, for tests that need no model."""

    name = "echo"

    def __init__(self, bag: Bag) -> None:
        self.model_version = bag.records["model"]["version"]
        self.by_stamp = {}
        for message in (recorded.message for recorded in bag.of("/carm/landmarks")):
            stamp = message.header.stamp
            self.by_stamp[round(stamp.sec + 1e-9 * stamp.nanosec, 4), message.target_id] = message

    def localize(self, frame: Any, query: Query) -> Localization:
        conversions = importlib.import_module("carm_agent.nodes.conversions")
        message = self.by_stamp[round(frame.stamp_s, 4), query.target_id or 0]
        result = SimpleNamespace(landmarks=message, error_code=0, error_msg="")
        reply: Localization = conversions.localization_from_result(result, query)
        return reply


def test_the_reference_bag_is_small_and_whole(reference: Bag) -> None:
    assert sum(file.stat().st_size for file in REFERENCE.iterdir()) <= LIMIT_BYTES
    assert reference.complete
    assert reference.notes == []
    assert {"session", "carm.yaml", "model", "parameters /carm/agent_node"} <= set(reference.records)
    assert any(m.message.feedback.stage == "moving" for m in reference.of("/carm/navigate/_action/feedback")), AGAIN


def test_perception_says_the_same_again(reference: Bag) -> None:
    """The weights that ship, on the recorded frames."""
    from carm_bringup.recording.replay.perception_replay import open_localizer, recorded_settings

    localizer = open_localizer(recorded_settings(reference))
    recorded = reference.records["model"]["version"]
    assert localizer.model_version == recorded, f"the reference bag belongs to weights {recorded}; {AGAIN}"
    (report,) = reports(reference, "perception", localizer=localizer)
    assert report.identical, "\n".join([*report.differences, AGAIN])
    assert report.compared >= 2


def test_agent_decides_the_same_again(reference: Bag) -> None:
    (report,) = reports(reference, "agent")
    assert report.identical, "\n".join([*report.differences, f"if the new decisions are wanted, {AGAIN}"])
    assert report.compared == 1


def test_the_verb_tells_and_writes_the_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "outcome.json"
    assert run(["replay", str(REFERENCE), "--node", "agent", "--rate", "max", "--json", str(file)]) == 0
    assert "agent: 1 tasks replayed, identical to the recording" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert content["results"]["agent"]["identical"] is True
    assert content["results"]["bag"]["complete"] is True


def recorded_with(**values: Any) -> Bag:
    record = {name: json.dumps(value) for name, value in values.items()}
    return Bag(Path("bag"), records={"parameters /carm/localizer_node": record})


def test_a_bag_names_no_ct_and_asks_for_the_one_that_it_was_recorded_with() -> None:
    from carm_bringup.recording.replay.perception_replay import recorded_settings

    bag = recorded_with(localizer="fused", ct="/elsewhere/ct.nii.gz")
    with pytest.raises(BagError, match="recorded with a CT of the patient; name it by --ct"):
        recorded_settings(bag)
    with pytest.raises(BagError, match="name it by --ct"):
        recorded_settings(recorded_with(localizer="registered"))
    assert recorded_settings(bag, ct="chest_ct").ct == "chest_ct"
    assert recorded_settings(bag, "compact").ct == ""


def test_frames_of_a_ct_know_their_view_and_questions_about_points_are_asked_again(bag: Bag) -> None:
    from carm_bringup.recording.replay import perception_replay as perception

    class Points(Echo):
        """Answers questions about points as the registered localizer writes them."""

        def localize(self, frame: Any, query: Query) -> Localization:
            views.append(frame.view)
            if query.point_mm is None:
                return super().localize(frame, query)
            reply = super().localize(frame, dataclasses.replace(query, point_mm=None))
            return dataclasses.replace(reply, answer=json.dumps({"point_mm": query.point_mm, "dx_mm": 1, "dy_mm": 2}))

    views: list[Any] = []
    first = bag.of("/carm/landmarks")[0].message
    first.answer = '{"point_mm": [1.5, -2.0, 3.0], "dx_mm": 1, "dy_mm": 2}'
    settings = dataclasses.replace(perception.recorded_settings(bag), ct="chest_ct")
    frames = find_frames(bag, "/carm/", CArm.from_config())
    report = perception.replay_perception(bag, "/carm/", frames, Points(bag), settings)
    assert report.identical, report.differences
    assert report.compared >= 2
    assert all(view is not None for view in views)


def test_a_bag_chooses_no_server_no_file_and_no_secret() -> None:
    from carm_bringup.recording.replay.perception_replay import recorded_settings

    hostile = recorded_with(
        localizer="openai", server_url="http://192.0.2.1/v1", server_api_key_env="PATH", model_folder="/elsewhere"
    )
    with pytest.raises(BagError, match="name it by --localizer"):
        recorded_settings(hostile)
    settings, default = recorded_settings(hostile, "openai"), LocalizerParameters()
    assert (settings.server_url, settings.server_api_key_env) == (default.server_url, default.server_api_key_env)
    assert settings.model_folder == default.model_folder
    with pytest.raises(BagError, match="name it by --localizer"):
        recorded_settings(recorded_with(localizer="someone/model"))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"threads": "2"}, "threads = '2' has another type"),
        ({"threads": 10**6}, "outside"),
        ({"maximum_risk": float("nan")}, "is not finite"),
        ({"localizer": [[[]]]}, "has another type"),
    ],
)
def test_recorded_parameters_are_checked(values: dict[str, Any], reason: str) -> None:
    from carm_bringup.recording.replay.perception_replay import recorded_settings

    with pytest.raises(BagError, match=reason):
        recorded_settings(recorded_with(**values))
    with pytest.raises(BagError, match="no JSON"):
        recorded_settings(Bag(Path("bag"), records={"parameters /carm/localizer_node": {"threads": "["}}))


def test_another_answer_shows_as_a_difference(bag: Bag) -> None:
    localizer = Echo(bag)
    changed = localizer.by_stamp[max(localizer.by_stamp)] = copy.deepcopy(localizer.by_stamp[max(localizer.by_stamp)])
    changed.answer = '{"target": 14, "dx_mm": 99, "dy_mm": 0}'
    changed.landmarks[0].displacement = np.array([0.099, 0.0], np.float32)
    (report,) = reports(bag, "perception", localizer=localizer)
    (text,) = report.differences
    assert any(line.startswith("-") for line in text.splitlines())
    assert '+{"target": 14, "dx_mm": 99, "dy_mm": 0}' in text.splitlines()
    assert report.largest_mm > 1


def test_the_same_answers_are_identical(bag: Bag) -> None:
    (report,) = reports(bag, "perception", localizer=Echo(bag))
    assert report.identical, report.differences
    assert report.compared >= 2
    assert report.largest_mm < 1e-3


def test_other_weights_are_named(bag: Bag) -> None:
    localizer = Echo(bag)
    localizer.model_version = "another"
    (report,) = reports(bag, "perception", localizer=localizer)
    assert any("replayed with another" in note for note in report.notes)


def shift_answers(bag: Bag, shift_m: float) -> None:
    for recorded in bag.of("/carm/landmarks"):
        for mark in recorded.message.landmarks:
            mark.displacement = mark.displacement + np.float32(shift_m)


def test_another_localization_leads_to_another_decision(bag: Bag) -> None:
    shift_answers(bag, 0.03)
    (report,) = reports(bag, "agent")
    (text,) = report.differences
    assert text.splitlines()[0].startswith("navigate to ")
    assert any(line.startswith("-[") for line in text.splitlines())
    assert any(line.startswith("+[") for line in text.splitlines())


def test_a_small_change_of_distance_shows_in_the_numbers(bag: Bag) -> None:
    for recorded in bag.of("/carm/navigate/_action/feedback"):
        recorded.message.feedback.distance += np.float32(0.0005)
    (report,) = reports(bag, "agent")
    assert any("distance:" in line for line in report.differences[0].splitlines())


def test_frames_that_came_by_themselves_are_passed_over(bag: Bag) -> None:
    """As during fluoroscopy: of all frames the agent looked at the one about whose target an answer came then."""
    images = bag.of("/carm/xray/image")
    for recorded in list(images):
        earlier = copy.deepcopy(recorded)
        earlier.message.header.stamp.nanosec -= 2_000
        images.append(earlier)
    (report,) = reports(bag, "agent")
    assert report.identical, report.differences


def test_a_cancel_ends_the_replayed_task_too(bag: Bag) -> None:
    feedback = bag.of("/carm/navigate/_action/feedback")
    end_ns = feedback[0].sent_ns + 1
    (result,) = [m for m in bag.of("/carm/agent/dialogue") if m.message.kind == 4]
    result.message.reason = "canceled by the client"
    result.message.text = (
        "Canceled by the client. T12 is not confirmed in the center; the arm is at rest, after 0 exposures."
    )
    status = bag.of("/carm/navigate/_action/status")
    status[-1].message.status_list[-1].status = 5
    for topic in ("/carm/agent/dialogue", "/carm/navigate/_action/feedback", "/carm/navigate/_action/status"):
        bag.messages[topic] = [m for m in bag.of(topic) if m.sent_ns <= end_ns]
    bag.messages["/carm/agent/dialogue"] = [dataclasses.replace(result, sent_ns=end_ns)]
    bag.messages["/carm/navigate/_action/status"] = [dataclasses.replace(status[-1], sent_ns=end_ns)]
    (report,) = reports(bag, "agent")
    assert report.identical, report.differences


def test_a_fault_of_the_node_is_noted_not_replayed(bag: Bag) -> None:
    (result,) = [m for m in bag.of("/carm/agent/dialogue") if m.message.kind == 4]
    result.message.reason = "ValueError: something broke"
    result.message.text = "I gave up because of an internal error; make sure that the arm stands still."
    (report,) = reports(bag, "agent")
    assert report.identical, report.differences
    assert any("something broke" in note for note in report.notes)


def test_tasks_begun_by_a_sentence_are_compared_by_what_was_said(bag: Bag) -> None:
    """They have no feedback: the agent itself asked."""
    del bag.messages["/carm/navigate/_action/feedback"]
    (report,) = reports(bag, "agent")
    assert report.identical, report.differences
    bag.of("/carm/agent/dialogue")[0].message.text = "Something else."
    (report,) = reports(bag, "agent")
    assert "-[said] Something else." in report.differences[0].splitlines()


def test_a_bag_that_ends_within_a_task_is_compared_as_far_as_it_goes(bag: Bag) -> None:
    feedback = bag.of("/carm/navigate/_action/feedback")
    end_ns = feedback[len(feedback) // 2].sent_ns
    for topic, messages in bag.messages.items():
        bag.messages[topic] = [m for m in messages if m.sent_ns <= end_ns]
    (report,) = reports(bag, "agent")
    assert report.identical, report.differences
    assert any("ends before the task" in note for note in report.notes)


@pytest.mark.parametrize(
    ("missing", "nodes"),
    [("landmarks", ("perception", "agent")), ("agent/task", ("agent",)), ("joint_states", ("agent",))],
)
def test_missing_topics_are_noted(bag: Bag, missing: str, nodes: tuple[str, ...]) -> None:
    localizer = Echo(bag)
    del bag.messages[f"/carm/{missing}"]
    found = reports(bag, *nodes[:1], localizer=localizer) if missing != "landmarks" else []
    if missing == "landmarks":
        localizer.localize = lambda frame, query: Localization("echo", "", query, "")  # type: ignore[method-assign]
        found = reports(bag, "perception", localizer=localizer)
        assert found[0].replayed >= 2
    assert found[0].compared == 0
    assert found[0].notes


def test_a_gap_in_the_frames_is_no_failure_of_perception(bag: Bag) -> None:
    localizer = Echo(bag)
    del bag.of("/carm/xray/image")[1]
    (report,) = reports(bag, "perception", localizer=localizer)
    assert report.identical


Foreign = Callable[..., Path]


@pytest.fixture
def foreign(tmp_path: Path, reference: Bag) -> Foreign:
    """A lab's own bag, SQLite: raw images and joint states in its own namespace, nothing else."""

    def write(joints: bool = True, image_topics: tuple[str, ...] = ("/lab/detector",)) -> Path:
        store: Typestore = message_definitions.standard_types()
        with Writer(tmp_path / "lab", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
            for topic in image_topics:
                copy_topic(writer, store, topic, "sensor_msgs/msg/Image", reference.of("/carm/xray/image"))
            if joints:
                states = reference.of("/carm/joint_states")
                copy_topic(writer, store, "/lab/joint_states", "sensor_msgs/msg/JointState", states)
        return tmp_path / "lab"

    return write


def copy_topic(writer: Writer, store: Typestore, topic: str, kind: str, messages: list[Recorded]) -> None:
    connection = writer.add_connection(topic, kind, typestore=store)
    for recorded in messages:
        writer.write(connection, recorded.time_ns, store.serialize_cdr(recorded.message, kind))


def test_a_foreign_bag_runs_as_far_as_it_can(foreign: Foreign, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["replay", str(foreign()), "--rate", "max", "--localizer", "regression", "--remap", "/lab/:=/carm/"]
    assert run(words) == 0
    output = capsys.readouterr().out
    assert "frames of /carm/detector" in output
    assert "no camera info" in output
    assert "nothing to compare with" in output


def test_a_foreign_bag_with_several_image_topics_asks_which(
    foreign: Foreign, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign(joints=False, image_topics=("/a/image", "/b/image"))
    assert run(["replay", str(path)]) == 2
    assert "--image-topic: /a/image, /b/image" in capsys.readouterr().err
    words = ["replay", str(path), "--node", "agent", "--rate", "max", "--image-topic", "/b/image"]
    assert run(words) == 0


def test_a_truncated_bag_still_replays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(REFERENCE, tmp_path / "bag")
    file = next((tmp_path / "bag").glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: int(0.9 * file.stat().st_size)])
    code = run(["replay", str(tmp_path / "bag"), "--node", "agent", "--rate", "max"])
    assert code in (0, 1)
    assert "ends early" in capsys.readouterr().out


def test_topics_that_are_not_wanted_are_not_read() -> None:
    read = read_bag(REFERENCE, skip={"/carm/joint_states"})
    assert "/carm/joint_states" not in read.messages
    assert read.of("/carm/xray/image")


def test_a_bag_without_images_ends_in_one_line(bag: Bag, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = message_definitions.standard_types()
    with Writer(tmp_path / "bag", version=9) as writer:
        copy_topic(writer, store, "/x", "sensor_msgs/msg/JointState", bag.of("/carm/joint_states")[:3])
    assert run(["replay", str(tmp_path / "bag")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no images in it; it holds /x" in line


@pytest.mark.parametrize("words", [["--rate", "0"], ["--rate", "soon"], ["--remap", "a:=b"], ["--node", "motor"]])
def test_bad_options_end_in_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        run(["replay", str(REFERENCE), *words])
    assert ending.value.code == 2


def test_raw_images_are_windowed_and_mirrored() -> None:
    raw = np.linspace(100, 60_000, 64 * 64).reshape(64, 64).astype(np.uint16)
    message = SimpleNamespace(header=None, encoding="mono16", is_bigendian=0, height=64, width=64, step=128)
    message.data = np.frombuffer(raw.tobytes(), np.uint8)
    shown = np.asarray(as_mono8(message).data).reshape(64, 64)
    assert shown[0, 0] > shown[-1, -1]  # little signal is bone: bright
    assert (np.diff(display_from_raw(shown).ravel().astype(int)) <= 0).all()


def test_the_bag_s_own_time_passes_as_fast_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    pace = Pace(4.0)
    for stamp_s in (10, 12, 18):
        pace.wait(stamp_s * 10**9)
    assert now[0] == pytest.approx(8 / 4)


@pytest.mark.parametrize(
    "goal", [NavigationGoal(11), NavigationGoal(3, hint="no, that is wrong", doubt=Doubt.DENIED, biplane=True)]
)
def test_recorded_goal_is_the_one_that_was_set(goal: NavigationGoal) -> None:
    assert tasks._goal(json.dumps(dataclasses.asdict(goal))) == goal
    assert tasks._goal(json.dumps(dataclasses.asdict(goal))).doubt is goal.doubt
    assert tasks._goal('{"target_id": 11}') == NavigationGoal(11)
