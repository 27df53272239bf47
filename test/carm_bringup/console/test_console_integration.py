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
from importlib.util import find_spec
from pathlib import Path

import httpx2
import pydicom
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]
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
MODE = "document.getElementById('mode-text').textContent"
ANSWERED = (
    "['done', 'failed'].includes(document.querySelector('#lines li:last-child')?.dataset.kind)"
    " || !document.getElementById('notice').hidden"
)
ANGLE = "Number(document.getElementById('primary').textContent.replace(/[^0-9.]/g, ''))"

Spawn = Callable[..., "subprocess.Popen[str]"]


def start(spawn: Spawn, module: str, *settings: str) -> "subprocess.Popen[str]":
    words = [word for one in settings for word in ("-p", one)]
    return spawn([sys.executable, "-m", module, "--ros-args", "-r", "__ns:=/carm", *words], stderr=subprocess.DEVNULL)


def run_view(page: Browser, name: str) -> None:
    """Plan a view, look at the plan, run it, wait until the arm moves."""
    page.run(f"[...document.querySelectorAll('#views button')].find(b => b.textContent === '{name}').click()")
    page.wait("!document.getElementById('confirm').hidden", PATIENCE_S)
    assert "clearance" in page.run("document.getElementById('confirm-text').textContent")
    page.wait("document.getElementById('confirm-picture').naturalWidth > 100")
    page.click("#confirm-yes")
    page.wait(f"{MODE} === 'moving' && {ANGLE} > 1")


def reset(page: Browser) -> None:
    page.click("#reset")
    page.click("#reset-yes")
    page.wait(f"{MODE} === 'idle'")


def say_stop(page: Browser) -> None:
    """Hold the key for push to talk until the arm has stopped."""
    page.run("window.dispatchEvent(new KeyboardEvent('keydown', { code: 'KeyT' }))")
    page.wait(f"document.getElementById('stop').dataset.state === 'stopped' && {MODE} === 'stopped'")
    page.run("window.dispatchEvent(new KeyboardEvent('keyup', { code: 'KeyT' }))")
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


def test_open_see_move_stop_reset_and_lose_the_connection(spawn: Spawn, tmp_path: Path) -> None:
    """One test, since each start of a graph takes seconds."""
    for module, settings in GRAPH.items():
        start(spawn, module, *settings)
    console = start(spawn, "carm_bringup.nodes.console_node")
    assert console.stdout is not None
    said = console.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", said)
    assert address is not None, said
    clean, _, token = address[0].partition("?token=")
    assert httpx2.get(f"{clean}?token={token[::-1]}", trust_env=False).status_code == 403

    with Browser(tmp_path / "browser", options=MICROPHONE) as page:
        page.open(f"{clean}?token=wrong")
        page.wait("document.body.innerText.includes('carm sim')")
        page.open(address[0])
        page.wait("document.getElementById('holder').textContent === 'You control'")
        assert page.run("location.href") == clean

        deadline = time.monotonic() + PATIENCE_S
        while not page.run("document.body.dataset.image"):  # until the patient is loaded, exposures are refused
            assert time.monotonic() < deadline, page.text()
            page.click("#expose")
            page.wait(ANSWERED)
        gray = "[...document.getElementById('image').getContext('2d').getImageData(0, 0, 512, 512).data]"
        assert page.run(f"new Set({gray}).size") > 100
        assert page.run("document.getElementById('side-right').textContent") == "L"
        page.wait("document.querySelector('#strip img')?.naturalWidth > 0")

        check_export(page, tmp_path / "downloads")

        run_view(page, "LAO 30")
        page.press("Escape")
        page.wait(f"document.getElementById('stop').dataset.state === 'stopped' && {MODE} === 'stopped'")
        assert 0 < page.run(ANGLE) < 30

        reset(page)
        if find_spec("pocketsphinx"):
            say_stop(page)  # at rest: the microphone is opened
            reset(page)
            run_view(page, "lateral")
            say_stop(page)
            assert page.run(ANGLE) < 89
            reset(page)
        run_view(page, "lateral")
        page.open("about:blank")  # the connection of the page that controls is lost
        page.open(clean)
        page.wait(f"{MODE} === 'idle' && document.getElementById('task').hidden")
        assert page.run(ANGLE) < 90
