# SPDX-License-Identifier: Apache-2.0
"""The console in a real browser, on a real graph."""

import io
import json
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
import cv2
import numpy as np
from browser import CHROMIUM, Browser

from carm_core.paths import share_dir

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]
OVERLAYS = Path(__file__).resolve().parents[1] / "fakes" / "overlays.py"
GRAPH = {
    "carm_control.nodes.motion_node": ("supervised:=false",),
    "carm_sim.nodes.xray_node": ("patient:=phantom:7",),
    "carm_agent.nodes.agent_node": ("wait_for_all:=false",),
}
PATIENCE_S = 90.0
MICROPHONE = (
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
    f"--use-file-for-fake-audio-capture={Path(__file__).resolve().parents[2] / 'data' / 'speech' / 'stop.wav'}",
)
"""Which says "stop" again and again (synthesized)."""
NOTICE = "document.getElementById('notice')"
MODE = "document.getElementById('mode-text').textContent"
ANGLE = "Number(document.getElementById('primary').textContent.replace(/[^0-9.]/g, ''))"
NEWEST = "document.body.dataset.image"
SAID = "document.getElementById('lines').innerText"
ANSWERS = f"({SAID}.match(/exposure: /g) ?? []).length"
BEAM = "document.getElementById('beam').textContent"
KEPT = "document.getElementById('strip').children.length"
LIBRARY = share_dir() / "web/node_modules/three/build/three.module.js"

Spawn = Callable[..., "subprocess.Popen[str]"]


RUN = "document.getElementById('confirm-yes')"
HIDDEN = "document.getElementById('confirm').hidden"


def start(spawn: Spawn, module: str, *settings: str) -> "subprocess.Popen[str]":
    words = [word for one in settings for word in ("-p", one)]
    return spawn([sys.executable, "-m", module, "--ros-args", "-r", "__ns:=/carm", *words], stderr=subprocess.DEVNULL)


def start_console(spawn: Spawn, *settings: str) -> str:
    """Start a console node and return its address."""
    console = start(spawn, "carm_bringup.nodes.console_node", *settings)
    assert console.stdout is not None
    said = console.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", said)
    assert address is not None, said
    return address[0]


def plan_view(page: Browser, name: str) -> None:
    """Plan a view, again where the console has not found the agent yet, and look at the plan."""
    deadline = time.monotonic() + PATIENCE_S
    press = f"[...document.querySelectorAll('#views button')].find(b => b.textContent === '{name}').click()"
    page.run(press)
    while page.run(HIDDEN):
        assert time.monotonic() < deadline, page.text()
        page.wait(f"!{HIDDEN} || !{NOTICE}.hidden", PATIENCE_S)
        if page.run(f"!{NOTICE}.hidden && ({NOTICE}.hidden = true)"):
            page.run(press)
    assert "clearance" in page.run("document.getElementById('confirm-text').textContent")
    page.wait("document.getElementById('confirm-picture').naturalWidth > 100")
    assert page.run("document.getElementById('room').dataset.ghost") == "true"


def run_view(page: Browser, name: str) -> None:
    """Plan a view, run it, wait until the arm moves."""
    plan_view(page, name)
    page.click("#confirm-yes")
    page.wait(f"{MODE} === 'moving' && {ANGLE} > 1")


def asks(title: str) -> str:
    """Whether the page asks something now."""
    return f"document.getElementById('confirm-title').textContent === '{title}' && !{HIDDEN}"


def plan_saved(page: Browser) -> None:
    """Plan to the saved position, in place of what has been planned before."""
    page.wait(f"(document.getElementById('confirm-no').click(), {HIDDEN})")
    page.wait("!document.getElementById('saved-plan').disabled")
    page.run("document.getElementById('saved-plan').click()")  # what comes and goes above it moves it
    page.wait(asks("Plan: my view"), PATIENCE_S)


def run_saved(page: Browser) -> None:
    """Plan to the saved position and run it until the agent asks; plans of before it knew the patient are refused."""
    refused = f"{SAID}.includes('preview again')"
    deadline = time.monotonic() + PATIENCE_S
    while not page.run(asks("The agent asks")):
        assert time.monotonic() < deadline, page.text()
        page.run("document.getElementById('lines').replaceChildren()")
        plan_saved(page)
        page.click("#confirm-yes")
        page.wait(f"{asks('The agent asks')} || {refused}", PATIENCE_S)


def check_window(page: Browser) -> None:
    """A window is applied to 16 bits, which look as the 8 bits did; those were corrected for scatter."""
    gray = "[...document.getElementById('image').getContext('2d').getImageData(0, 0, 512, 512).data]"
    plain = np.array(page.run(gray))
    page.run("document.getElementById('stage').focus()")
    page.press("ArrowLeft")
    page.wait(f"document.body.dataset.deep === {NEWEST}")
    page.press("ArrowRight")
    deep = np.array(page.run(gray))
    assert 0 < np.abs(deep - plain).mean() < 4
    assert np.corrcoef(deep[::4], plain[::4])[0, 1] > 0.98


def check_overlays(page: Browser) -> None:
    """Each is there, and can be switched off and on; contours go with their image."""
    drawn = "document.querySelector('#overlay circle').getAttribute('cx')"
    page.wait(drawn)
    if page.run(drawn) != "101":
        page.click("#expose")
        page.wait(f"{drawn} === '101'")
    parts = {"KeyL": "#overlay circle", "KeyG": "#overlay path.target", "KeyB": "#overlay path.bones"}
    for selector in parts.values():
        page.wait(f"document.querySelector('{selector}')")
    assert "M10 50 20 50 30 50M60 50 70 50" in page.run("document.querySelector('.bones').getAttribute('d')")
    assert "mm to the center" in page.run("document.querySelector('#overlay text.target').textContent")
    page.run("document.getElementById('stage').focus()")
    for key, selector in parts.items():
        page.press(key)
        page.wait(f"!document.querySelector('{selector}')")
        page.press(key)
        page.wait(f"document.querySelector('{selector}')")
    page.click("#expose")
    page.wait(f"{drawn} === '100'")
    assert not page.run("Boolean(document.querySelector('#overlay path.bones'))")
    if LIBRARY.is_file():
        page.wait("document.getElementById('room').dataset.clearance === '! 150 mm'", PATIENCE_S)


def settle(page: Browser) -> None:
    """Wait until the page controls and has drawn the room: held up by loading that, it would lose what it began."""
    page.wait("document.getElementById('holder').textContent === 'You control'")
    if LIBRARY.is_file():
        page.wait("document.getElementById('room').dataset.drawn > 0", PATIENCE_S)


def check_tabs(page: Browser) -> None:
    """A row of buttons is one stop of the Tab key; arrows go on in it."""
    focused = "(document.activeElement.textContent || document.activeElement.id)"
    page.run("document.activeElement.blur(), getSelection().removeAllRanges(), document.body.focus()")
    stops = [page.press("Tab") or page.run(focused) for _ in range(25)]
    assert "AP" in stops[:20], stops
    assert "lateral" not in stops
    page.run("document.querySelector('#views button').focus()")
    page.press("ArrowRight")
    assert page.run(focused) == "lateral"
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert page.run(focused) == "Back"


def hold_to_move(page: Browser) -> None:
    """A motion goes on while the button or Enter is held, ends when it is let go, and when the page is held up."""
    settle(page)
    let_go, silent = (f"{SAID}.includes('{why}')" for why in ("the button was let go", "was silent for 0.5 s"))
    deadline = time.monotonic() + PATIENCE_S
    while not page.run(let_go):  # a page that is held up has to press anew
        assert time.monotonic() < deadline, page.text()
        page.run("document.getElementById('lines').replaceChildren()")
        plan_view(page, "RAO 30" if page.run(ANGLE) < 10 else "AP")
        assert page.run(f"{RUN}.textContent") == "Hold to run"
        begin = page.run(ANGLE)
        page.mouse("#confirm-yes", True)
        dropped = f"!{RUN}.textContent.includes('HELD')"
        page.wait(f"{MODE} === 'moving' && Math.abs({ANGLE} - {begin}) > 3 || {silent} || {dropped}")
        page.mouse("#confirm-yes", False)
        page.wait(f"{MODE} === 'idle' && document.getElementById('task').hidden", PATIENCE_S)
    page.run("document.getElementById('lines').replaceChildren()")
    rest = page.run(ANGLE)
    page.wait(f"{RUN}.textContent === 'Hold to run' && document.getElementById('task').hidden", PATIENCE_S)  # the rest
    assert page.run(ANGLE) == pytest.approx(rest, abs=0.2)

    page.run(f"{RUN}.focus()")
    page.key("Enter", True)
    page.wait(f"{MODE} === 'moving' && Math.abs({ANGLE} - {rest}) > 1 || {silent}")
    page.run("(t => { while (performance.now() - t < 800); })(performance.now())")
    page.wait(f"{silent} && {MODE} === 'idle'")
    page.key("Enter", False)
    page.run("document.getElementById('sentence').value = 'center the carina'")
    page.run("document.getElementById('say').requestSubmit()")
    page.wait(f"{NOTICE}.textContent.includes('have to be held')")


def reset(page: Browser) -> None:
    page.click("#reset")
    page.click("#reset-yes")
    page.wait(f"{MODE} === 'idle'")


def say_stop(page: Browser) -> None:
    """Hold the key for push to talk until the arm has stopped; again where nothing was understood, as people do."""
    stopped = f"document.getElementById('stop').dataset.state === 'stopped' && {MODE} === 'stopped'"
    for _ in range(3):
        page.run("window.dispatchEvent(new KeyboardEvent('keydown', { code: 'KeyT' }))")
        page.wait(f"{stopped} || document.getElementById('talk').textContent === 'Talk'")
        page.run("window.dispatchEvent(new KeyboardEvent('keyup', { code: 'KeyT' }))")
        if page.run(stopped):
            break
    page.wait(stopped)
    page.wait("document.getElementById('lines').textContent.includes('stop (spoken)')")
    page.wait("document.getElementById('talk').textContent === 'Talk'")


def check_export(page: Browser, folder: Path) -> None:
    """The session as a file, while the graph runs: its DICOM files can be read."""
    page.downloads(folder)
    page.click("#export")
    deadline = time.monotonic() + PATIENCE_S
    while not (found := list(folder.glob("carm_session_*.zip"))):  # a name of its own until it is whole
        assert time.monotonic() < deadline, page.text()
        time.sleep(0.05)
    with zipfile.ZipFile(found[0]) as content:
        names = {name.partition("/")[2]: name for name in content.namelist()}
        image = pydicom.dcmread(io.BytesIO(content.read(names["dicom/image_0001.dcm"])))
        dose = pydicom.dcmread(io.BytesIO(content.read(names["dicom/dose_report.dcm"])))
        about = json.loads(content.read(names["session.json"]))
        report = content.read(names["report.html"]).decode()
    assert image.pixel_array.std() > 100
    assert list(image.PatientOrientation) == ["L", "F"]
    assert float(image.PositionerPrimaryAngle) == pytest.approx(0.0, abs=0.1)
    assert dose.Modality == "SR"
    assert about["exposures"][0]["voltage_kv"] > 40
    assert {"who": "operator 1 (127.0.0.1)", "text": "expose"}.items() <= about["events"][0].items()
    assert "data:image/jpeg" in report


def comes_to_rest(page: Browser, script: str, for_s: float = 0.6) -> None:
    """Wait until a value in the page has stayed as it is for some time; images that are under way may still come."""
    last, since_s, deadline = page.run(script), time.monotonic(), time.monotonic() + 20.0
    while time.monotonic() - since_s < for_s:
        assert time.monotonic() < deadline, f"{script} goes on changing"
        now = page.run(script)
        if now != last:
            last, since_s = now, time.monotonic()


def hold_fluoroscopy(page: Browser, press: Callable[[bool], None], images: int = 3) -> None:
    """Press something and keep it pressed until some images have come; a page that is held up has to press anew."""
    page.run("document.getElementById('stage').focus()")
    seen: set[str] = set()
    kept = page.run(KEPT)
    deadline = time.monotonic() + PATIENCE_S
    press(True)
    while len(seen) <= images or "X-RAY ON" not in page.run(BEAM):
        assert time.monotonic() < deadline, page.text()
        seen.add(page.run(NEWEST))
        if "hold" in page.run(BEAM):
            press(False)
            press(True)
    assert page.run(KEPT) == kept  # images of a series are not kept


def room(page: Browser) -> "np.ndarray":
    """What is seen of the room, gray."""
    return cv2.imdecode(np.frombuffer(page.seen("#room-canvas"), np.uint8), cv2.IMREAD_GRAYSCALE)


def brightness(page: Browser, x: float, y: float) -> float:
    """Mean gray of 20 x 20 pixels of the X-ray, about a share of its width and height."""
    script = """((x, y, c) => {
        const data = c.getContext('2d').getImageData(x * c.width - 10, y * c.height - 10, 20, 20).data;
        return data.reduce((sum, value, index) => sum + (index % 4 ? 0 : value), 0) / 400;
    })"""
    return float(page.run(f"{script}({x}, {y}, document.getElementById('image'))"))


def test_open_see_move_stop_reset_and_lose_the_connection(spawn: Spawn, tmp_path: Path) -> None:
    """One test, since each start of a graph takes seconds."""
    *_, agent = [start(spawn, module, *settings) for module, settings in GRAPH.items()]
    spawn([sys.executable, str(OVERLAYS)])
    address = start_console(spawn)
    clean, _, token = address.partition("?token=")
    assert httpx2.get(f"{clean}?token={token[::-1]}", trust_env=False).status_code == 403

    with Browser(tmp_path / "browser", options=MICROPHONE) as page:
        page.open(f"{clean}?token=wrong")
        page.wait("document.body.innerText.includes('carm sim')")
        page.open(address)
        page.wait("document.getElementById('holder').textContent === 'You control'")
        assert page.run("location.href") == clean

        deadline = time.monotonic() + PATIENCE_S
        while not page.run("document.body.dataset.image"):  # until the patient is loaded, exposures are refused
            assert time.monotonic() < deadline, page.text()
            answers = page.run(f"{NOTICE}.hidden = true, {ANSWERS}")
            page.click("#expose")
            page.wait(f"{ANSWERS} > {answers} || !{NOTICE}.hidden")
        gray = "[...document.getElementById('image').getContext('2d').getImageData(0, 0, 512, 512).data]"
        assert page.run(f"new Set({gray}).size") > 100
        page.wait("document.getElementById('side-right').textContent === 'L'")
        page.wait("document.querySelector('#strip img')?.naturalWidth > 0")

        check_window(page)
        check_export(page, tmp_path / "downloads")
        check_overlays(page)

        if LIBRARY.is_file():
            page.wait("document.getElementById('room').dataset.drawn > 0", PATIENCE_S)
        else:
            page.wait("document.getElementById('room-text').textContent.includes('not installed')")

        # Fluoroscopy comes while the key is held, and ends when it is released, and when the page is held up.
        comes_to_rest(page, KEPT)
        key = partial(page.key, "KeyF")
        for press in (key, partial(page.mouse, "#beam"), partial(page.touch, "#beam")):
            hold_fluoroscopy(page, press, 1)
            press(False)
            page.wait(f"!{BEAM}.includes('ON')")
            comes_to_rest(page, NEWEST)
        hold_fluoroscopy(page, key)
        page.run("(t => { while (performance.now() - t < 800); })(performance.now())")
        page.wait(f"{SAID}.includes('silent for 0.5 s') && !{BEAM}.includes('ON')")
        comes_to_rest(page, NEWEST)  # the key is still down
        key(False)

        # The field is dragged; what is outside it is dark, and what is before it is shown beside it.
        assert brightness(page, 0.1, 0.5) > 20
        page.click("#collimate")
        page.drag("#layers", (0.6, 0.6), (0.7, 0.65))
        page.wait("document.querySelector('#field .edges') && !document.getElementById('whole').hidden")
        assert "mm" in page.run("document.getElementById('field').textContent")
        kept = page.run(KEPT)
        page.click("#expose")
        page.wait(f"{KEPT} > {kept}")
        page.wait(f"document.querySelector('#strip li:last-child button').dataset.id === {NEWEST}")
        assert brightness(page, 0.1, 0.5) < 5
        assert brightness(page, 0.5, 0.9) < 5
        assert brightness(page, 0.5, 0.5) > 20
        page.click("#compare")
        page.wait("!document.getElementById('previous-image').hidden")
        page.wait("document.getElementById('previous-left').textContent === 'R'")
        page.click("#compare")
        page.click("#whole")
        page.wait("document.getElementById('whole').hidden")
        page.click("#collimate")

        # The room is drawn, and drawn anew when the arm has moved.
        if LIBRARY.is_file():
            comes_to_rest(page, "document.getElementById('room').dataset.drawn", 1.0)  # nothing changes: no drawing
            before = room(page)
            assert len(np.unique(before)) > 20

        check_tabs(page)
        # A press that was meant for one plan does not run the one that has just replaced it.
        plan_view(page, "RAO 30")
        watch = "new MutationObserver((_, o) => (o.disconnect(), RUN.click())).observe(TITLE, { childList: true })"
        page.run(watch.replace("RUN", RUN).replace("TITLE", "document.getElementById('confirm-title')"))
        plan_view(page, "lateral")
        page.wait(asks("Plan: lateral"), PATIENCE_S)
        comes_to_rest(page, MODE)
        assert page.run(MODE) == "idle"
        assert "run the plan" not in page.run(SAID)
        page.wait(f"(document.getElementById('confirm-no').click(), {HIDDEN})")
        run_view(page, "LAO 30")
        assert re.search(r"Plan: [0-9.]+ s, smallest clearance \d+ mm", page.run(SAID))
        page.wait("document.getElementById('room').dataset.ghost === 'true'")
        page.press("Escape")
        page.wait(f"document.getElementById('stop').dataset.state === 'stopped' && {MODE} === 'stopped'")
        assert 0 < page.run(ANGLE) < 30
        if LIBRARY.is_file():
            page.wait("document.getElementById('room').dataset.ghost === 'false'")
            comes_to_rest(page, "document.getElementById('room').dataset.drawn", 1.0)
            assert np.mean(np.abs(room(page).astype(int) - before) > 20) > 0.002

        reset(page)
        hold_fluoroscopy(page, key)
        page.press("Escape")  # while F is held
        page.wait(f"{MODE} === 'stopped' && !{BEAM}.includes('ON')")
        comes_to_rest(page, NEWEST)
        key(False)
        reset(page)
        if find_spec("pocketsphinx"):
            say_stop(page)  # at rest: the microphone is opened
            reset(page)
            for name, goal_deg in (("lateral", 90), ("LAO 30", 30), ("lateral", 90)):
                run_view(page, name)
                say_stop(page)
                on_the_way = abs(page.run(ANGLE) - goal_deg) > 1
                reset(page)
                if on_the_way:  # else a busy machine did not understand before the arm was there
                    break
            assert on_the_way
        saved_deg = page.run(ANGLE)
        page.run("document.querySelector('details').open = true")
        for name in ("AP", "my view"):
            page.run(f"document.getElementById('save-name').value = '{name}'")
            page.click("#save")
        page.wait(f"{SAID}.includes('already') && document.getElementById('saved').value === 'my view'")
        page.open(start_console(spawn, "run_mode:=hold"))
        hold_to_move(page)
        page.open(clean)
        settle(page)
        run_view(page, "lateral")
        page.open("about:blank")  # the connection of the page that controls is lost
        page.open(clean)
        page.wait(f"{MODE} === 'idle' && document.getElementById('task').hidden")
        assert page.run(ANGLE) < 90

        # A saved position is still there after the agent, which keeps it, was started anew.
        agent.terminate()
        agent.wait(10)
        page.wait("document.getElementById('parts').textContent.includes('agent: not heard')")
        start(spawn, "carm_agent.nodes.agent_node", *GRAPH["carm_agent.nodes.agent_node"], "confirm_moves:=true")
        page.wait(
            "document.getElementById('parts').textContent.includes('agent: not ready, waits for localize')", PATIENCE_S
        )
        page.run("document.querySelector('details').open = true")
        page.wait("document.getElementById('saved').value === 'my view'")
        plan_saved(page)
        planned = re.match(r"to LAO ([0-9.]+)°", page.run("document.getElementById('confirm-text').textContent"))
        assert planned is not None
        assert float(planned[1]) == pytest.approx(saved_deg, abs=0.2)

        # Where the agent asks before each motion, the question is shown with the plan, and is answered by a button.
        run_saved(page)
        for button, then in (("#confirm-no", "said no"), ("#confirm-yes", "")):
            assert "smallest clearance" in page.run("document.getElementById('confirm-text').textContent")
            page.wait("document.getElementById('room').dataset.ghost === 'true'")
            page.click(button)
            page.wait(f"{SAID}.includes('{then}')" if then else f"{MODE} === 'moving'")
            if then:
                page.wait("document.getElementById('task').hidden")
                run_saved(page)
