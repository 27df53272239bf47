# SPDX-License-Identifier: Apache-2.0
"""The parts of the console that know ROS, without a graph."""

import math
from collections import Counter, OrderedDict
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from carm_core.robot.kinematics import CArm

pytest.importorskip("rclpy")
CARM = CArm.from_config()


def view(primary_deg: float, secondary_deg: float) -> Any:
    isocenter_m = np.array([0.0, 0.0, 0.12])
    return CARM.view(CARM.inverse(isocenter_m, math.radians(primary_deg), math.radians(secondary_deg))[0])


@pytest.mark.parametrize(
    ("angles", "letters"),
    [
        ((0, 0), {"left": "R", "right": "L", "top": "H", "bottom": "F"}),
        ((90, 0), {"left": "A", "right": "P", "top": "H", "bottom": "F"}),
        ((30, 20), {"left": "R", "right": "L", "top": "H", "bottom": "F"}),
        ((-40, 0), {"left": "R", "right": "L", "top": "H", "bottom": "F"}),
    ],
)
def test_the_sides_of_the_patient_are_named(angles: tuple[float, float], letters: dict[str, str]) -> None:
    """At LAO 90 the detector is on the patient's left, so the front is on the left of the display image."""
    from carm_bringup.nodes.console_images import side_letters

    assert side_letters(view(*angles)) == letters


@pytest.mark.parametrize("angles", [(0, 0), (30, -15)])
def test_a_pixel_comes_to_the_center(angles: tuple[float, float]) -> None:
    """The new isocenter lies on the ray of the pixel, at the depth of the old one."""
    from carm_bringup.nodes.console_images import centered_isocenter_m

    seen = view(*angles)
    pixel = (100.0, 400.0)
    target_mm = 1000 * centered_isocenter_m(seen, pixel)
    assert seen.pixel_display(target_mm) == pytest.approx(pixel)
    assert (target_mm - seen.isocenter_mm) @ seen.forward == pytest.approx(0.0, abs=1e-9)
    center = ((seen.detector.columns - 1) / 2, (seen.detector.rows - 1) / 2)
    assert centered_isocenter_m(seen, center) * 1000 == pytest.approx(seen.isocenter_mm)


def test_sentences_are_remembered_until_they_have_ended() -> None:
    from carm_bringup.nodes.console_tasks import Tasks

    sentences = OrderedDict({"carina": 1, "status?": 1, "LAO 30": 2})
    tasks: Any = SimpleNamespace(sentences=sentences, _begun=Counter())
    Tasks.heard(tasks, "answer", "status?")
    assert list(tasks.sentences) == ["carina", "LAO 30"]
    assert Tasks.forget(tasks, 1)
    assert not Tasks.forget(tasks, 1)
    Tasks.heard(tasks, "result", "anything")
    assert not tasks.sentences


@pytest.mark.parametrize("words", ["L3", "T12"])
@pytest.mark.parametrize("ended", ["T12", ""])
def test_the_result_of_what_a_sentence_breaks_off_does_not_end_the_sentence(words: str, ended: str) -> None:
    """Else its page could leave, and what the sentence moves would go on."""
    from carm_bringup.nodes.console_tasks import Tasks

    tasks: Any = SimpleNamespace(sentences=OrderedDict(), _begun=Counter())
    if ended:  # else it is a goal that is broken off
        tasks.sentences[ended] = 1
        Tasks.heard(tasks, "info", ended)
    tasks.sentences[words] = 1
    Tasks.heard(tasks, "info", words)
    Tasks.heard(tasks, "result", ended)
    assert list(tasks.sentences) == [words]
    Tasks.heard(tasks, "result", words)
    assert not Tasks.forget(tasks, 1)


def test_a_reset_that_has_waited_does_not_release_a_stop_that_came_after_it() -> None:
    from carm_bringup.console.commands import Command
    from carm_bringup.nodes.console_node import ConsoleNode

    waiting: list[Any] = []
    obeyed: list[str] = []
    told: list[str] = []
    node: Any = ConsoleNode.__new__(ConsoleNode)  # without the middleware
    node._stops, node._later = 0, waiting.append
    node._stop_side, node._beam = SimpleNamespace(do=lambda work: None), SimpleNamespace(end=lambda why: None)
    node._tasks = SimpleNamespace(obey=lambda command, number: obeyed.append(command.kind))
    node.server = SimpleNamespace(tell_one=lambda number, message: told.append(message["text"]))
    node.get_logger = lambda: SimpleNamespace(info=lambda text: None)
    node.command(Command("reset"), 1, "one")
    node.stop("two")
    waiting.pop()()
    assert obeyed == []
    assert "asked for a stop" in told[0]
    node.command(Command("reset"), 1, "one")
    waiting.pop()()
    assert obeyed == ["reset"]


def test_numbers_that_json_does_not_have_become_none() -> None:
    from carm_bringup.nodes.console_tasks import finite

    assert [finite(value) for value in (1.5, math.nan, math.inf)] == [1.5, None, None]


def test_the_target_of_a_task_is_named_as_the_localizer_names_it() -> None:
    from carm_bringup.nodes.console_overlays import joined, target_of
    from carm_core.errors import CarmError
    from carm_core.localization import POINT_NAME

    assert target_of({"target_id": 11}) == target_of({"target_id": 0, "target_name": "carina"}) == "Carina"
    assert target_of({"target_id": 0, "point_mm": [0.0, 0.0, 0.0]}) == POINT_NAME
    with pytest.raises(CarmError):
        target_of({"target_name": "spleen"})
    ends = [(1.0, 2.0), (3.0, 4.0), (3.0, 4.0), (5.0, 6.04), (7.0, 8.0), (9.0, 9.0), (0.0, 0.0)]
    assert joined(ends) == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [7.0, 8.0, 9.0, 9.0]]


def test_what_is_held_ends_when_it_is_let_go_or_its_page_is_silent() -> None:
    from carm_bringup.console.commands import Command
    from carm_bringup.console.switch import Switch
    from carm_bringup.nodes.console_tasks import LET_GO, AbsentError, Task, Tasks

    now_s = [10.0]
    canceled: list[str] = []
    tasks: Any = SimpleNamespace(_switch=Switch(lambda: now_s[0]), task=None, cancel=canceled.append)
    tasks._let_go = lambda why, number: Tasks._let_go(tasks, why, number)
    with pytest.raises(AbsentError, match="held"):
        Tasks._say(tasks, "center the carina", 1)

    def press() -> None:
        tasks.task = Task("run", 1, True, None, None)  # type: ignore[arg-type]
        tasks._switch.press(1, "")

    press()
    Tasks.obey(tasks, Command("let_go"), 2)  # another page
    assert not canceled
    Tasks.obey(tasks, Command("let_go"), 1)
    assert canceled == [LET_GO]
    press()
    now_s[0] += 0.4
    Tasks.hold(tasks, 1)
    now_s[0] += 0.4
    Tasks._look(tasks)
    assert canceled == [LET_GO]
    now_s[0] += 0.2
    Tasks._look(tasks)
    assert "silent for 0.5 s" in canceled[1]


def test_an_image_that_comes_before_its_camera_model_gets_its_sides_later(monkeypatch: pytest.MonkeyPatch) -> None:
    from sensor_msgs.msg import CompressedImage

    from carm_bringup.nodes.console_images import Images

    shown: list[Any] = []
    images: Any = Images.__new__(Images)  # without its thread
    images._show, images._lock, images._views, images._unplaced = shown.append, Lock(), OrderedDict(), None
    known: list[Any] = []
    monkeypatch.setattr(Images, "_present_view", lambda self: known[0] if known else None)
    monkeypatch.setattr(Images, "_sort", lambda self, picture: None)
    images._on_image(CompressedImage(data=b"\x89PNG\r\n\x1a\n"))
    images._on_joints(b"")
    assert ["sides" in picture.about for picture in shown] == [False]
    known.append(CARM.view(CARM.home))
    images._on_joints(b"")
    images._on_joints(b"")
    assert ["sides" in picture.about for picture in shown] == [False, True]
    assert shown[0].key == shown[1].key
    assert images.view_of(shown[1].key) is known[0]
    known.clear()
    images._on_image(CompressedImage(data=b"\x89PNG\r\n\x1a\n"))
    monkeypatch.setattr("carm_bringup.nodes.console_images._LATE_S", -1.0)
    known.append(CARM.view(CARM.home))
    images._on_joints(b"")
    assert len(shown) == 3
