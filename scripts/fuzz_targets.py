# SPDX-License-Identifier: Apache-2.0
"""What ``fuzz.py`` feeds: each target takes bytes, and may raise nothing but the project's own errors."""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
import importlib
import io
import json
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        name: Its name.
        run: Takes an input.
        samples: Makes valid inputs, once.
        words: What its inputs are made of.
    """

    name: str
    run: Callable[[bytes], Any]
    samples: Callable[[], Sequence[bytes]]
    words: Sequence[bytes] = ()


TARGETS: dict[str, Target] = {}


def target(samples: Callable[[], Sequence[bytes]], words: str = "") -> Callable[[Callable[[bytes], Any]], Any]:
    """Register a function as a target under its name."""

    def register(run: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        listed = tuple(word.encode() for word in words.split(" ")) if words else ()
        TARGETS[run.__name__] = Target(run.__name__, run, functools.cache(samples), listed)
        return run

    return register


@functools.cache
def _folder(process: int) -> Path:
    del process
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="carm_fuzz_", dir=memory if memory.is_dir() else None))


def file_with(data: bytes, name: str) -> Path:
    """Return a file with this content, of this process."""
    path = _folder(os.getpid()) / name
    path.write_bytes(data)
    return path


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass" if b"\xed\xa0\x80" in data else "replace")


def _words(data: bytes) -> str:
    try:
        return _text(data)
    except UnicodeDecodeError:
        return data.decode("latin-1")


_ANSWERS = (
    '{"target": 11, "dx_mm": -42, "dy_mm": 118}',
    "[11: Carina, 10: T1, 12: Right hemidiaphragm]",
    "[10,11]",
    "```json\n[10, 11]\n```",
    "<output><step1><context>chest</context></step1><step2><x>LEFT</x><extent_x>SMALL</extent_x><reason_x>a</reason_x>"
    "<y>CENTER</y><extent_y>NONE</extent_y><reason_y>b</reason_y></step2></output>",
    "<response><visual_reasoning>Carina at 3 by -4 mm; T1 at 0 by 60 mm</visual_reasoning>"
    "<landmarks>[11,10]</landmarks></response>",
    '{"intent": "rotate", "primary_deg": 30, "secondary_deg": -10, "relative": 1}',
    '{"intent": "navigate", "target": 11}',
    "[" * 3000,
)


@target(lambda: [text.encode() for text in _ANSWERS], '[ ] { } < > , : " 11 -0 ` \n <x> </x> target intent LEFT')
def answers(data: bytes) -> None:
    """Answers of a model in each text protocol."""
    from carm_core.localization import Protocol, Query
    from carm_perception.protocols.estimates import estimates_of
    from carm_perception.protocols.parsing import ReevaluationAnswer, parse
    from carm_perception.protocols.reevaluation import earlier_list, reasoned

    text = _words(data)
    earlier_list(text)
    errors = []
    for protocol in Protocol:
        try:
            answer = parse(text, Query(protocol, 11))
        except Exception as error:  # told at the end, after all protocols had their turn
            errors.append(error)
            continue
        estimates_of(answer, 11)
        if isinstance(answer, ReevaluationAnswer):
            reasoned(answer)
    from carm_core.errors import CarmError

    for refusal in sorted(errors, key=lambda e: isinstance(e, CarmError)):
        raise refusal


_SENTENCES = (
    "stop", "go to the carina please", "two centimeters to the left and a bit up", "no, the other side",
    "rotate to LAO 30 degrees and cranial fifteen", "take an image", "yes", "not T1, further down",
    "show me the right shoulder, then the left one", "halt!!", "fahr nicht weiter", "move -20 mm", "x" * 300,
)  # fmt: skip


@target(
    lambda: [text.encode() for text in _SENTENCES],
    "stop not left right two and a of to T1 carina , . ! ? mm cm degrees \u200b minus twenty other side",
)
def sentences(data: bytes) -> None:
    """Sentences of a clinician, and remarks on an answer."""
    from carm_agent.dialogue.parser import Heard, chosen, doubted
    from carm_perception.protocols.remarks import read_remark

    text = _words(data)
    heard = Heard(text)
    heard.is_stop  # noqa: B018
    heard.intent  # noqa: B018
    chosen(text)
    doubted(text)
    read_remark(text, (11, 10))


_REPLY = {
    "choices": [{"message": {"content": "x", "tool_calls": [
        {"id": "1", "function": {"name": "expose", "arguments": "{}"}}]}}],
    "usage": {"total_tokens": 12},
}  # fmt: skip


@target(
    lambda: [json.dumps(_REPLY).encode(), b'{"choices":[{"message":{"content":"[10,11]"}}]}', b"[" * 4000],
    '{ } [ ] , : " null true NaN 1e999 "choices" "message" "function" "arguments" "id"',
)
def model_server(data: bytes) -> None:
    """Bodies of a model server, as the LLM head reads them."""
    from carm_agent.llm.client import _reply
    from carm_core.data_files import parse_json
    from carm_core.language.chat_client import ChatError, _reason

    _reason(data)
    body = parse_json(data)
    try:
        body["choices"][0]["message"].items()
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ChatError("no message") from None
    for call in _reply(body, [{"role": "user", "content": "x"}]).calls:
        tool_call(json.dumps([call.name, call.arguments]).encode())


@target(
    lambda: [
        b'["view", "{\\"primary_deg\\": 3, \\"secondary_deg\\": 4}"]',
        b'["report", "{\\"text\\": \\"a\\", \\"success\\": true}"]',
        b'["expose", "{}"]', b'["navigate", "{\\"landmark\\": \\"carina\\"}"]', b'["move", "{\\"dx_mm\\": 11.0}"]',
    ],
    '{ } [ ] , : \\" null true NaN 1e999 11.0 "expose" "move" "navigate" "stop"',
)  # fmt: skip
def tool_call(data: bytes) -> None:
    """Tool calls of a language model."""
    from carm_agent.llm.tools import checked_arguments
    from carm_core.data_files import parse_json

    call = parse_json(data)
    if isinstance(call, list) and len(call) == 2 and all(isinstance(part, str) for part in call):
        checked_arguments(*call)


@target(
    lambda: [
        b'{"type": "stop"}', b'{"type": "say", "text": "show me the carina"}',
        b'{"type": "point", "image": "3", "pixel": [512, 40.5]}', b'{"type": "run", "text": "plan 7"}',
    ],
    '{ } [ ] , : "type" "stop" "pixel" "text" "point" "say" null true NaN 1e999 -1',
)  # fmt: skip
def console_messages(data: bytes) -> None:
    """Messages of a page of the operator console."""
    from carm_bringup.console.commands import read_command

    assert read_command(_words(data)).line


def _png(mode: str = "L", kind: str = "PNG") -> bytes:
    from PIL import Image

    shade = Image.fromarray((np.add.outer(np.arange(20), np.arange(24)) * 5).astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    shade.save(buffer, kind)
    return buffer.getvalue()


def _pictures() -> list[bytes]:
    return [_png(), _png("RGB"), _png("1"), _png("P"), _png("L", "JPEG"), _png("RGB", "WEBP"), _png("L", "BMP"),
            _png("L", "TIFF"), _png("I;16")]  # fmt: skip


@target(_pictures, "IHDR IDAT IEND PLTE tRNS zTXt eXIf acTL")
def pictures(data: bytes) -> None:
    """Image files and compressed image messages."""
    from carm_core.imaging.display import open_picture, shallow
    from carm_ros.image_messages import display_pixels

    formats = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
    message = SimpleNamespace(format="mono8; png compressed", data=np.frombuffer(data, np.uint8))
    shallow(open_picture(data, formats, 4096))
    display_pixels(message)


def _request() -> dict[str, Any]:
    url = f"data:image/png;base64,{base64.b64encode(_png()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Where?"}]
    return {
        "model": "carm-compact",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["a"],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
        "seed": 3,
    }


_JSON_WORDS = '{ } [ ] , : " null true NaN 1e999 -1 "content" "role" "messages" "stop" "regex" "user" "url" "n" 1'


@target(lambda: [json.dumps(_request()).encode(), b'{"messages":[{"role":"user","content":"x"}]}'], _JSON_WORDS)
def requests(data: bytes) -> None:
    """JSON bodies of ``carm serve``."""
    from carm_core.data_files import parse_json
    from carm_perception.serving.chat import read_request

    read_request(parse_json(data), 512)


def _http() -> list[bytes]:
    body = json.dumps(_request()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    chunked = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    return [head + body, chunked, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\r\n" * 2]


@functools.cache
def _server() -> tuple[Any, Any, Any]:
    import uvicorn
    from uvicorn.server import ServerState

    from carm_perception.serving.app import Limits, make_app
    from carm_perception.serving.connections import BoundedProtocol

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app = make_app(SimpleNamespace(name="x", batch=1), Limits(body_bytes=10_000, upload_s=0.01), "key")  # type: ignore[arg-type]
    config = uvicorn.Config(app, http=BoundedProtocol, ws="none", lifespan="off", log_config=None)
    config.load()
    return loop, lambda: BoundedProtocol(config, ServerState(), {}, loop), asyncio


class _Transport(asyncio.Transport):
    """Takes what a server sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


@target(
    _http, "\r\n : HTTP/1.1 GET POST Content-Length: Transfer-Encoding: chunked Expect: 100-continue Host: x Upgrade:"
)
def http(data: bytes) -> None:
    """Connections of ``carm serve``, byte by byte; the model is not reached, since the key is wrong."""
    loop, make, _ = _server()

    async def talk() -> None:
        protocol, transport = make(), _Transport()
        protocol.connection_made(transport)
        for start in range(0, len(data), 700):
            if not transport.closed:
                protocol.data_received(data[start : start + 700])
        tasks = list(protocol.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=2)
        protocol.connection_lost(None)
        protocol._unset_keepalive_if_required()
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise AssertionError(repr(task.exception()))
        if b" 500 " in transport.sent[:40]:
            raise AssertionError(transport.sent[:80].decode(errors="replace"))

    loop.run_until_complete(talk())


def _yaml_samples() -> list[bytes]:
    from carm_core.paths import config_file

    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join('*' + chr(97 + i) for _ in range(10))}]\n" for i in range(9)
    )
    shipped = [config_file(name).read_bytes() for name in ("carm.yaml", "drives.yaml", "motion.yaml")]
    return [b"a: &x {b: [1, 2.5, .inf, 2001-01-01]}\nc: {<<: *x}\n", bomb.encode(), *shipped]


_YAML_WORDS = "[ ] { } : - & * | > ! !! << ? \n  ' \" # % ~ .inf .nan 0x 1:1 !!int !!float !!binary !!timestamp &a *a"


@target(_yaml_samples, _YAML_WORDS)
def yaml_and_json(data: bytes) -> None:
    """YAML and JSON of any content."""
    from carm_core.data_files import DataFileError, parse_json, parse_yaml, shown

    errors = []
    for parse in (parse_yaml, parse_json):
        try:
            shown(parse(_words(data)))
        except DataFileError as error:
            errors.append(error)
    for refusal in errors:
        raise refusal


@target(lambda: _yaml_samples()[2:], _YAML_WORDS)
def configuration(data: bytes) -> None:
    """Files that users copy and change: kinematics, shapes, masses, drives."""
    from carm_control.canopen.config import load_drives
    from carm_core.errors import CarmError
    from carm_core.robot.inertia import Dynamics
    from carm_core.robot.kinematics import CArm
    from carm_core.robot.shapes import RobotGeometry

    path = file_with(data, "carm.yaml")
    joints = _carm().joints
    last: CarmError | None = None
    for read in (CArm.from_config, RobotGeometry.from_config, Dynamics.from_config, lambda p: load_drives(joints, p)):
        try:
            read(path)
        except CarmError as error:
            last = error
    if last is not None:
        raise last


@functools.cache
def _carm() -> Any:
    from carm_core.robot.kinematics import CArm

    return CArm.from_config()


_LANDMARKS = b"ct_sha256: '" + b"0" * 64 + b"'\nlandmarks:\n- {id: 11, name: Carina, position_mm: [1, 2.5, -3]}\n"


@target(lambda: [_LANDMARKS], _YAML_WORDS + " id: position_mm: landmarks:")
def landmark_file(data: bytes) -> None:
    """Landmarks beside a CT."""
    from carm_sim.patient.ct.files import read_landmarks

    read_landmarks(file_with(data, "landmarks.yaml"))


def _block() -> Any:
    hu = np.full((12, 11, 10), -1000, np.int16)
    hu[3:9, 3:9] = 40
    hu[5, 5, 5] = 1200
    return hu


def _volumes() -> list[bytes]:
    import nibabel

    affine = np.diag([5.0, 6, 6, 1])
    found = []
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        image = kind(_block(), affine)
        image.set_qform(affine, 1)
        image.set_sform(affine, 1)
        image.header.set_xyzt_units("mm")
        found += [image.to_bytes(), gzip.compress(image.to_bytes())]
    raw = _block().tobytes(order="F")
    nrrd = (
        "NRRD0004\ntype: int16\ndimension: 3\nspace: RAS\nsizes: 12 11 10\nspace directions: (5,0,0) (0,6,0) (0,0,6)\n"
        "space origin: (0,0,0)\nendian: little\nencoding: {}\n\n"
    )
    found += [nrrd.format("raw").encode() + raw, nrrd.format("gzip").encode() + gzip.compress(raw)]
    meta = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 5 6 6\nDimSize = 12 11 10\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    return [*found, meta.encode() + raw]


@target(
    _volumes, "sizes: DimSize = space: ( ) , nan inf 99999 encoding: gzip bzip2 data file: ../x LIST % NRRD0004 \n\n"
)
def volumes(data: bytes) -> None:
    """NIfTI, NRRD and MetaImage."""
    from carm_sim.patient.ct.files import _checked_volume, open_ct

    source = open_ct(file_with(data, "ct"))
    values, affine = source.read()
    _checked_volume(values, affine, source.path)


def _dicoms() -> list[bytes]:
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import (
        UID,
        CTImageStorage,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGLSLossless,
        RLELossless,
    )

    found = []
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
    for syntax in (*syntaxes, RLELossless, JPEGLSLossless, JPEG2000Lossless):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax if syntax in syntaxes else ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
        data.Modality, data.PatientName, data.PatientID, data.ImageType = "CT", "A^B", "1", ["ORIGINAL", "AXIAL"]
        data.StudyInstanceUID, data.SeriesInstanceUID, data.InstanceNumber = "1.2", "1.3", 1
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness, data.Rows, data.Columns = [6, 5], 6, 33, 36
        data.SamplesPerPixel, data.PhotometricInterpretation, data.NumberOfFrames = 1, "MONOCHROME2", 1
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
        data.PixelData = np.kron(_block()[:, :, 5].T + 1024, np.ones((3, 3))).astype("<u2").tobytes()
        if syntax not in syntaxes:
            data.compress(syntax)
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, data, enforce_file_format=True)
        found.append(buffer.getvalue())
    return found


@target(_dicoms, "SQ UL OB \\ 1.2.840.10008.1.2.1.99 DICM nan 1e400")
def dicom(data: bytes) -> None:
    """A slice of a DICOM series: header and pixels."""
    from carm_sim.patient.ct.dicom import _TAGS, Image, Series, _choose, _slices
    from carm_sim.patient.ct.pixels import PixelReader, read_dataset

    path = file_with(data, "000.dcm")
    dataset = read_dataset(path, _TAGS)
    if "Rows" in dataset and "Columns" in dataset:
        images = [Image(path, dataset)] * 8
        chosen = _choose(path, images, None)
        for one in _slices(path, Series("", chosen.images))[:1]:
            if max(one.matrix) <= 4096:
                PixelReader().stored(path, 0)


def _bags() -> list[bytes]:
    from mcap.writer import CompressionType, Writer

    found = []
    for compression in (CompressionType.NONE, CompressionType.ZSTD, CompressionType.LZ4):
        stream = io.BytesIO()
        writer = Writer(stream, chunk_size=200, compression=compression)
        writer.start(profile="ros2", library="x")
        text = b"string data\nint32[2] a\nx/P[] p\n" + b"=" * 80 + b"\nMSG: x/P\nfloat64 x\n"
        schema = writer.register_schema("x/msg/Y", "ros2msg", text)
        channel = writer.register_channel("/y", "cdr", schema)
        cdr = (
            b"\0\1\0\0" + struct.pack("<I", 2) + b"1\0\0\0" + struct.pack("<iiII", 1, 2, 1, 0) + struct.pack("<d", 1.5)
        )
        for number in range(4):
            writer.add_message(channel, 1000 * number, cdr, 1000 * number)
        writer.add_metadata("parameters /carm/localizer_node", {"threads": "2", "localizer": '"compact"'})
        writer.finish()  # type: ignore[no-untyped-call]
        found.append(stream.getvalue())
    return found


@target(_bags, "\x05 \x06 string x/msg/Y [9999] [] = MSG: zstd lz4 ros2idl cdr")
def bags(data: bytes) -> None:
    """Recordings: the file, the definitions and the messages in it."""
    from carm_bringup.recording.bag.reader import read_bag
    from carm_bringup.recording.replay.perception_replay import recorded_settings

    recorded_settings(read_bag(file_with(data, "a.mcap")))


@functools.cache
def _typestore() -> Any:
    from carm_bringup.recording.bag import message_definitions

    return message_definitions.standard_types()


def _messages() -> list[bytes]:
    store = _typestore()

    def image(encoding: str, size: int) -> Any:
        header = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](1, 2), "detector")
        return store.types["sensor_msgs/msg/Image"](header, 8, 6, encoding, 0, 6 * size, np.zeros(48 * size, np.uint8))

    point = store.types["geometry_msgs/msg/Point"]
    triangle = store.types["shape_msgs/msg/MeshTriangle"](np.array([0, 1, 2], np.uint32))
    mesh = store.types["shape_msgs/msg/Mesh"](
        [triangle], [point(0.0, 0.0, 0.0), point(1.0, 0.0, 0.0), point(0.0, 1.0, 0.0)]
    )
    found = [
        (b"I", store.serialize_cdr(image(e, s), "sensor_msgs/msg/Image"))
        for e, s in (("mono8", 1), ("rgb8", 3), ("mono16", 2))
    ]
    found.append((b"M", store.serialize_cdr(mesh, "shape_msgs/msg/Mesh")))
    return [kind + bytes(data) for kind, data in found]


@target(_messages, "mono8 mono16 rgb8 16UC1 8UC3")
def messages(data: bytes) -> None:
    """CDR of the messages with arrays, and what the nodes make of any content."""
    from carm_ros.image_messages import display_pixels, signal_pixels
    from carm_ros.patient_surface import surface_from_message

    kind = "shape_msgs/msg/Mesh" if data[:1] == b"M" else "sensor_msgs/msg/Image"
    try:
        message: Any = _typestore().deserialize_cdr(data[1:], kind)
    except Exception:  # malformed CDR is refused by ROS itself
        return
    if data[:1] == b"M":
        surface_from_message(message)
    else:
        for read in (display_pixels, signal_pixels):
            read(message)


@functools.cache
def _subscribed() -> tuple[Any, ...]:
    """Return the types of all messages that the nodes take."""
    from carm_interfaces import msg as carm
    from control_msgs import msg as control
    from control_msgs.action import FollowJointTrajectory
    from diagnostic_msgs.msg import DiagnosticArray
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
    from shape_msgs.msg import Mesh
    from std_msgs.msg import Float64, String
    from trajectory_msgs.msg import JointTrajectory

    own = carm.CArmState, carm.Exposure, carm.GoalHeartbeat, carm.LandmarkArray, carm.MotionPermit, carm.Utterance
    foreign = CameraInfo, CompressedImage, Image, JointState, Mesh, Float64, String, DiagnosticArray, Clock
    moves = JointTrajectory, control.JointTrajectoryControllerState, control.SpeedScalingFactor
    return (*own, *foreign, *moves, FollowJointTrajectory.Goal)


def _filled(kind: Any) -> Any:
    """Return a message with two elements in each list and something in each field."""
    from rosidl_parser.definition import AbstractNestedType, NamespacedType

    message = kind()
    for name, slot in zip(kind.get_fields_and_field_types(), kind.SLOT_TYPES, strict=True):
        inner, default = slot, getattr(message, name)
        if isinstance(slot, AbstractNestedType):
            inner = slot.value_type
        if isinstance(inner, NamespacedType):
            element = _filled(getattr(importlib.import_module(".".join(inner.namespaces)), inner.name))
        elif isinstance(default, str) or "string" in str(getattr(inner, "typename", type(inner).__name__)).lower():
            element = "lift"
        else:
            element = 1.0 if getattr(inner, "typename", "") in ("float", "double") else 1
        if inner is slot:
            setattr(message, name, element if isinstance(inner, NamespacedType) else type(default)(element))
        elif not len(default):
            setattr(message, name, [element, element])
    return message


def _subscription_samples() -> list[bytes]:
    from builtin_interfaces.msg import Duration
    from rclpy.serialization import serialize_message
    from trajectory_msgs.msg import JointTrajectoryPoint

    kinds, arm = _subscribed(), _carm()
    made: list[bytes] = []
    home, names = arm.home.tolist(), list(arm.joint_names)
    for kind in kinds:
        message = _filled(kind)
        if kind.__name__ == "JointState":
            message.name, message.position, message.velocity = names, home, [0.0] * len(home)
        elif kind.__name__ == "CameraInfo":
            message.width, message.height, message.k = 512, 512, [2688.0, 0.0, 256.0, 0.0, 2688.0, 256.0, 0.0, 0.0, 1.0]
        elif kind.__name__ in ("JointTrajectory", "FollowJointTrajectory_Goal"):
            message = kind()
            trajectory = message if kind.__name__ == "JointTrajectory" else message.trajectory
            trajectory.joint_names = names
            trajectory.points = [JointTrajectoryPoint(positions=home, time_from_start=Duration(sec=9))]
        made.append(bytes([len(made)]) + serialize_message(message))
    return made


@functools.cache
def _readers() -> dict[str, Callable[[Any], Any]]:
    """Return what the nodes make of a message, by the name of its type."""
    from carm_control import MotionParameters, build_controller
    from carm_control.nodes import messages as motion
    from carm_core.robot.joint_check import JointStateCheck
    from carm_ros import message_checks

    states, goals = JointStateCheck(_carm().joints), build_controller(_carm(), MotionParameters()).checker
    return {
        "CameraInfo": message_checks.camera_info,
        "Image": message_checks.image,
        "JointState": lambda message: message_checks.joint_state(message, states, 1.0),
        "CArmState": message_checks.arm_state,
        "JointTrajectory": lambda message: goals.check(motion.trajectory_goal(message), 1.0),
        "FollowJointTrajectory_Goal": lambda message: goals.check(motion.action_goal(message), 1.0),
    }


@target(_subscription_samples)
def subscriptions(data: bytes) -> None:
    """CDR of every message that a node takes, read by ROS itself, and what the nodes make of it."""
    from rclpy.serialization import deserialize_message

    kinds = _subscribed()
    kind = kinds[data[0] % len(kinds)] if data else kinds[0]
    try:
        message = deserialize_message(data[1:], kind)
    except Exception:  # malformed CDR is refused by ROS itself
        return
    if kind.__name__ in _readers():
        _readers()[kind.__name__](message)


@functools.cache
def _axis() -> tuple[Any, Any]:
    from canopen import Network

    from carm_control.canopen import cia402
    from carm_control.canopen.config import load_drives
    from carm_control.canopen.drive import Axis, Timing

    network = Network()
    network.send_message = lambda *given, **more: None
    axis = Axis(network, load_drives(_carm().joints)[0], Timing(), lambda: 0.0)
    for pdo, objects, received in (
        (axis._node.tpdo[1], cia402.TPDO1_OBJECTS, axis._on_status),
        (axis._node.tpdo[2], cia402.TPDO2_OBJECTS, axis._on_motion),
    ):
        pdo.cob_id, pdo.enabled = pdo.predefined_cob_id, True
        pdo.clear()
        for index in objects:
            pdo.add_variable(int(index))
        pdo.subscribe()
        pdo.add_callback(received)
    return network, axis


@target(lambda: [bytes([kind]) + bytes(range(8)) * 4 for kind in range(8)])
def can_frames(data: bytes) -> None:
    """Frames on the CAN bus, of a drive that is known."""
    import can

    network, axis = _axis()
    node = axis.config.node_id
    for start in range(0, len(data), 10):
        base = (0x080, 0x180, 0x280, 0x580, 0x700, 0x000, 0x100, 0x7E0)[data[start] % 8]
        frame = data[start + 1 : start + 1 + min(8, data[start] // 8 % 10)]
        for listener in network.listeners:
            listener.on_message_received(can.Message(arbitration_id=base + node, data=frame, is_extended_id=False))
        axis.state  # noqa: B018
        axis.silence(1.0)
        if not np.isfinite([axis.position, axis.velocity]).all():
            raise AssertionError("a position that is not finite")


def _checkpoints() -> list[bytes]:
    import torch

    from carm_perception.training.checkpoint_file import save_checkpoint

    path = _folder(os.getpid()) / "sample.safetensors"
    save_checkpoint(
        path, {"step": 3, "module": {"a": torch.zeros(2, 2)}, "optimizer": {"state": {0: {"x": (1, None)}}}}
    )
    return [path.read_bytes()]


@target(_checkpoints, '{ } [ ] , : " dict list tensor value F32 shape data_offsets __metadata__ content 1e999')
def checkpoints(data: bytes) -> None:
    """Checkpoints of a training."""
    from carm_perception.training.checkpoint_file import load_checkpoint

    load_checkpoint(file_with(data, "a.safetensors"))


def _calibrations() -> list[bytes]:
    from carm_perception.networks.model_folder import COMPACT_FOLDER

    return [(COMPACT_FOLDER / "calibration.json").read_bytes(), b'{"format": 1, "risks": [0.1]}']


@target(_calibrations, _JSON_WORDS)
def calibration(data: bytes) -> None:
    """Calibrations and indices of model folders."""
    from carm_perception.networks.model_folder import _shards
    from carm_perception.uncertainty.calibration_file import read_calibration

    path = file_with(data, "calibration.json")
    try:
        _shards(path)
    finally:
        read_calibration(path.parent)


def _saved() -> list[bytes]:
    joints = list(_carm().joint_names)
    return [json.dumps({"joints": joints, "positions": {"a": [0.1] * len(joints)}}).encode()]


@target(_saved, _JSON_WORDS)
def saved_positions(data: bytes) -> None:
    """Positions that were saved."""
    from carm_agent.planning.saved_positions import PositionMemory

    PositionMemory(_carm(), file_with(data, "positions.json"))
