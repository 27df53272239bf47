# SPDX-License-Identifier: Apache-2.0
"""The verbs of ``carm``: their options and where their bodies are. Imports nothing heavy."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

from carm_bringup.graph import description as graph
from carm_core.cli.arguments import number, output_file, point, whole, words

AddOptions = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True)
class Verb:
    """A verb of the command.

    Attributes:
        name: As typed; a second word follows where a verb has parts (``bench nav``).
        summary: One line.
        example: A command line that works.
        body: ``module:function``, called with the parsed options; returns the exit code.
        options: Adds the options, or ``module:function`` which does.
        namespaced: Has the option ``--namespace``.
    """

    name: str
    summary: str
    example: str
    body: str
    options: AddOptions | str
    namespaced: bool = False


def _none(parser: argparse.ArgumentParser) -> None:
    del parser


def _sim(parser: argparse.ArgumentParser) -> None:
    _launch_arguments(parser, "sim")


def _hardware(parser: argparse.ArgumentParser) -> None:
    _launch_arguments(parser, "hardware")


def _launch_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    lines = [f"  {a.name + ':=' + a.default_text:<28}  {a.description}" for a in graph.ARGUMENTS_OF[kind]]
    parser.add_argument("arguments", nargs="*", metavar="name:=value", help="launch arguments, see below")
    parser.epilog = "launch arguments and their defaults:\n" + "\n".join(lines) + f"\n\n{parser.epilog}"


def _patience(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--wait", type=number(0, 3600), default=60.0, metavar="S", help="maximum wait for a graph that starts, s (60)"
    )


def _landmarks() -> str:
    from carm_core.landmarks import ALL_LANDMARKS

    lines = [f"  {mark.id:>2}  {', '.join((mark.name, *mark.synonyms))}" for mark in ALL_LANDMARKS]
    return "landmarks:\n" + "\n".join(lines)


def _navigate(parser: argparse.ArgumentParser) -> None:
    _patience(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "target",
        nargs="*",
        default=[],
        help="landmark: name, synonym or id, for example carina; with ct:=PATH also a name in the CT's landmarks.yaml",
    )
    target.add_argument(
        "--point", type=point, metavar="X,Y,Z", help="instead: a point of the CT (needs ct:=PATH), LPS, mm"
    )
    parser.epilog = f"{_landmarks()}\n\n{parser.epilog}"
    parser.add_argument("--tolerance", type=number(1, 200), default=0, help="mm (the agent's default)")
    parser.add_argument("--max-exposures", type=whole(0, 65535), default=0, help="(the agent's default)")
    parser.add_argument("--max-duration", type=number(0, 3600), default=0, help="s (the agent's default)")
    parser.add_argument(
        "--biplane",
        action="store_true",
        help="also find the depth (with two more views, if no CT tells it) and move the isocenter to the target",
    )


def _say(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", nargs="+", type=words, help="what to say to the agent")
    parser.add_argument(
        "--wait", type=number(0, 3600), default=120.0, metavar="S", help="maximum wait for the answer, s (120)"
    )


def _view(parser: argparse.ArgumentParser) -> None:
    _patience(parser)
    angle = number(-190, 190)
    parser.add_argument(
        "name",
        nargs="*",
        help="standard view (spider, RAO 30 CRAN 20), view of a bone (true AP of T12; needs the patient's CT), saved"
        " position, home, or before (the last motion)",
    )
    parser.add_argument(
        "--at", type=words, metavar="LANDMARK", help="bring this landmark, or point of the CT, to the center first"
    )
    parser.add_argument(
        "--primary", type=angle, metavar="DEG", help="primary angle, degrees: LAO positive, RAO negative"
    )
    parser.add_argument("--secondary", type=angle, metavar="DEG", help="secondary angle, degrees: cranial positive")
    parser.add_argument(
        "--isocenter", type=number(-10, 10), nargs=3, metavar=("X", "Y", "Z"), help="m, in the table frame"
    )
    parser.add_argument("--plan-only", action="store_true", help="plan and check, do not move")
    parser.add_argument(
        "--preview",
        type=output_file(".png"),
        metavar="FILE.png",
        help="like --plan-only, with a picture, and with the registered CT's X-ray in FILE_xray.png",
    )
    parser.add_argument("--run", type=words, metavar="ID", help="run a previewed plan, if nothing has changed since")
    parser.add_argument("--save", type=words, metavar="NAME", help="save the present position under a name")
    parser.add_argument("--forget", type=words, metavar="NAME", help="forget a saved position")
    parser.add_argument("--list", action="store_true", help="list the saved positions")


def _snapshot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", nargs="?", type=output_file(".png"), default="snapshot.png", help="PNG file (snapshot.png)"
    )
    parser.add_argument(
        "--gallery",
        action="store_true",
        help="8 phantoms and the chest CT at the same views on one sheet; needs no graph",
    )
    parser.add_argument("--seed", type=whole(0, 65535), default=1, help="first phantom of the gallery (1)")


def _wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout", type=number(0, 1e6), default=math.inf, metavar="S", help="give up after this time, s"
    )
    parser.add_argument("--patient", default="", help=argparse.SUPPRESS)
    parser.add_argument("--localizer", default="", help=argparse.SUPPRESS)
    parser.add_argument("--no-exposure", action="store_true", help="do not make a first exposure")
    parser.add_argument("--for-localizer", action="store_true", help="wait only until the localizer is loaded")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--controller",
        metavar="NAME",
        help="check a joint trajectory controller with small, slow goals (a few mm, tenths of a degree, and back)",
    )
    parser.add_argument("--joints", metavar="A,B", help="joints to move (all in the joint states)")
    parser.add_argument("--joint-states", default="joint_states", metavar="TOPIC", help="(joint_states)")
    parser.add_argument(
        "--max-stop",
        type=number(1, 60000),
        default=1000.0,
        metavar="MS",
        help="maximum stop time after a cancel, ms (1000)",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before anything moves")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write the results of the controller checks")


CLIENT = "carm_bringup.nodes.client"
COMMANDS = "carm_perception.training.commands"
CALIBRATION = "carm_perception.training.calibration.commands"
EVALUATION = "carm_perception.evaluation.commands"
BODY_PART = "carm_perception.evaluation.body_part.command"
BENCH_NAV = "carm_bringup.benchmarks.navigation.command"
BENCH_DRR = "carm_bringup.benchmarks.drr.command"
BENCH_PLAN = "carm_bringup.benchmarks.planning"
BENCH_DIALOGUE = "carm_bringup.benchmarks.dialogue"
BENCH_STREAM = "carm_bringup.benchmarks.streaming"
BENCH_CONSOLE = "carm_bringup.benchmarks.console"
BENCH_STOP = "carm_bringup.benchmarks.stopping"
BENCH_SPEECH = "carm_bringup.benchmarks.speech"
BENCH_FAULTS = "carm_bringup.benchmarks.faults.command"
BENCH_REGISTER = "carm_bringup.benchmarks.registration.command"
BENCH_VIEWS = "carm_bringup.benchmarks.views.command"
CONSOLE_ACCESS = "carm_bringup.console.access.command"
RECORDING = "carm_bringup.cli.recording_commands"
VERBS: tuple[Verb, ...] = (
    Verb(
        "sim",
        "start the whole graph on the embedded simulator",
        "carm sim patient:=phantom:7",
        "carm_bringup.cli.app:run_sim",
        _sim,
    ),
    Verb(
        "hardware",
        "start the graph on real motors, over CAN or with any FollowJointTrajectory controller",
        "carm hardware controller:=/my_robot/jtc joint_states:=/my_robot/joint_states",
        "carm_bringup.cli.app:run_hardware",
        _hardware,
    ),
    Verb(
        "navigate",
        "bring a landmark, or a point of the CT, to the image center",
        "carm navigate carina",
        f"{CLIENT}:navigate",
        _navigate,
        True,
    ),
    Verb("say", "say something to the agent", 'carm say "show me the carina"', f"{CLIENT}:say", _say, True),
    Verb("view", "move to a view", "carm view spider --at carina", f"{CLIENT}:view", _view, True),
    Verb(
        "stop",
        "bring the arm to rest and keep it there (stop category 1)",
        "carm stop",
        f"{CLIENT}:trigger",
        _none,
        True,
    ),
    Verb("reset", "release a stop; nothing moves on its own", "carm reset", f"{CLIENT}:trigger", _none, True),
    Verb(
        "home",
        "home drives with incremental encoders (drive_node)",
        "carm home",
        f"{CLIENT}:trigger",
        _none,
        True,
    ),
    Verb(
        "snapshot",
        "take an exposure and save it, or show the simulator's bodies on one sheet",
        "carm snapshot chest.png",
        "carm_bringup.cli.gallery:snapshot",
        _snapshot,
        True,
    ),
    Verb("wait", "wait until the graph is ready", "carm wait", "carm_bringup.graph.readiness:run", _wait, True),
    Verb(
        "record",
        "record a running graph as a bag (rosbag2, mcap), and optionally exposures as DICOM",
        "carm record --output my_session",
        f"{RECORDING}:run_record",
        f"{RECORDING}:add_record_arguments",
        True,
    ),
    Verb(
        "replay",
        "replay a bag through perception and agent, and compare with what was recorded",
        "carm replay my_session --rate max",
        f"{RECORDING}:run_replay",
        f"{RECORDING}:add_replay_arguments",
        True,
    ),
    Verb(
        "mcp",
        "serve the graph's tools to other agents by the Model Context Protocol",
        "carm mcp",
        "carm_bringup.mcp.server:run",
        "carm_bringup.mcp.server:add_arguments",
        True,
    ),
    Verb(
        "localize",
        "landmarks in your own images, without a graph",
        "carm localize chest.png --target carina --overlay found",
        "carm_perception.images.command:run",
        "carm_perception.images.command:add_arguments",
    ),
    Verb(
        "patient check",
        "show how the importer reads a CT, and draw it on one sheet",
        "carm patient check my_ct.nii.gz --sheet my_ct.png",
        "carm_sim.patient.check:run",
        "carm_sim.patient.check:add_arguments",
    ),
    Verb(
        "patient landmarks",
        "find the landmarks of a CT, or take them from TotalSegmentator's labels",
        "carm patient landmarks my_ct.nii.gz --sheet landmarks.png",
        "carm_perception.datasets.ct_landmarks:run",
        "carm_perception.datasets.ct_landmarks:add_arguments",
    ),
    Verb(
        "dataset",
        "make a data set of phantoms",
        "carm dataset --patients 20 --views 60",
        f"{COMMANDS}:run_dataset",
        f"{COMMANDS}:add_dataset_arguments",
    ),
    Verb(
        "train",
        "train the compact multimodal LLM on phantoms, or fine-tune a large one",
        "carm train --output my_model --minutes 75",
        f"{COMMANDS}:run_train",
        f"{COMMANDS}:add_train_arguments",
    ),
    Verb(
        "calibrate",
        "calibrate radii and abstention of a compact model on separate phantoms",
        "carm calibrate --model my_model",
        f"{CALIBRATION}:run",
        f"{CALIBRATION}:add_arguments",
    ),
    Verb(
        "eval localize",
        "localization: hits, errors, coverage and latency",
        "carm eval localize --suite phantom --json localize.json",
        f"{EVALUATION}:run_localize",
        f"{EVALUATION}:add_localize_arguments",
    ),
    Verb(
        "eval correction",
        "effect of a second question on wrong and right answers",
        "carm eval correction --patients 10 --json correction.json",
        f"{EVALUATION}:run_correction",
        f"{EVALUATION}:add_correction_arguments",
    ),
    Verb(
        "eval sentences",
        "how well a model reads a clinician's sentences",
        "carm eval sentences --sentences 500 --json sentences.json",
        f"{EVALUATION}:run_sentences",
        f"{EVALUATION}:add_sentences_arguments",
    ),
    Verb(
        "eval body-part",
        "how well a model recognizes body parts in radiographs: the UNIFESP competition, or generated bodies",
        "carm eval body-part --suite generated --json body_part.json",
        f"{BODY_PART}:run",
        f"{BODY_PART}:add_arguments",
    ),
    Verb(
        "eval published",
        "score other models' outputs from CSV files",
        "carm eval published outputs.csv --targets targets.csv",
        f"{EVALUATION}:run_published",
        f"{EVALUATION}:add_published_arguments",
    ),
    Verb(
        "serve",
        "a model behind the OpenAI chat API, for localizer:=openai and other clients",
        "carm serve --model compact --port 8000",
        "carm_perception.serving.command:run",
        "carm_perception.serving.command:add_arguments",
    ),
    Verb(
        "bench nav",
        "navigation: success, exposures, path and time over seeded episodes",
        "carm bench nav --localizer oracle --patients 2 --episodes 4 --json nav.json",
        f"{BENCH_NAV}:run",
        f"{BENCH_NAV}:add_arguments",
    ),
    Verb(
        "bench dialogue",
        "how the agent acts on a clinician's sentences",
        "carm bench dialogue --sentences 500 --json dialogue.json",
        f"{BENCH_DIALOGUE}:run",
        f"{BENCH_DIALOGUE}:add_arguments",
    ),
    Verb(
        "bench plan",
        "planning: time and smallest clearance to patient, table, floor and staff",
        "carm bench plan --plans 100 --json plan.json",
        f"{BENCH_PLAN}:run",
        f"{BENCH_PLAN}:add_arguments",
    ),
    Verb(
        "bench drr",
        "rendering: frames per second, error and memory, compared with other renderers",
        "carm bench drr --quick --json drr.json",
        f"{BENCH_DRR}:run",
        f"{BENCH_DRR}:add_arguments",
    ),
    Verb(
        "bench stream",
        "fluoroscopy through the real nodes: images per second, jitter, latency",
        "carm bench stream --binning 2 --duration 10 --json stream.json",
        f"{BENCH_STREAM}:run",
        f"{BENCH_STREAM}:add_arguments",
    ),
    Verb(
        "bench console",
        "the operator console: age of images and states, time until a stop, CPU and memory",
        "carm bench console --clients 5 --duration 30 --json console.json",
        f"{BENCH_CONSOLE}:run",
        f"{BENCH_CONSOLE}:add_arguments",
    ),
    Verb(
        "bench stop",
        "time from a stop until the arm decelerates, while others flood the graph",
        "carm bench stop --stops 20 --busy 4 --json stop.json",
        f"{BENCH_STOP}:run",
        f"{BENCH_STOP}:add_arguments",
    ),
    Verb(
        "bench speech",
        "the operator console: how many spoken sentences it understands",
        "carm bench speech --noise 30 --json speech.json",
        f"{BENCH_SPEECH}:run",
        f"{BENCH_SPEECH}:add_arguments",
    ),
    Verb(
        "bench faults",
        "what the arm does when parts of its graph freeze, die or lie, with judges of their own",
        "carm bench faults --episodes 1000 --workers 2 --traces traces --json faults.json",
        f"{BENCH_FAULTS}:run",
        f"{BENCH_FAULTS}:add_arguments",
    ),
    Verb(
        "bench register",
        "registration of the patient's CT to X-rays that it did not make, by conditions",
        "carm bench register --condition nominal --patients 4 --json register.json",
        f"{BENCH_REGISTER}:run",
        f"{BENCH_REGISTER}:add_arguments",
    ),
    Verb(
        "bench views",
        "standard views in the axes of bones: how exactly they are reached, with and without the patient's CT",
        "carm bench views --patients 4 --json views.json",
        f"{BENCH_VIEWS}:run",
        f"{BENCH_VIEWS}:add_arguments",
    ),
    Verb(
        "security init",
        "make an SROS2 keystore: who may publish, call and move what",
        "carm security init ~/carm_keystore",
        "carm_bringup.security.command:init",
        "carm_bringup.security.command:add_arguments",
    ),
    Verb(
        "console user",
        "set the password of a user of the operator console, for other machines",
        "carm console user alice",
        f"{CONSOLE_ACCESS}:user",
        f"{CONSOLE_ACCESS}:add_user_arguments",
    ),
    Verb(
        "console certificate",
        "make a certificate for the operator console, signed by itself",
        "carm console certificate ~/carm_tls lab-carm.example 192.168.1.20",
        f"{CONSOLE_ACCESS}:certificate",
        f"{CONSOLE_ACCESS}:add_certificate_arguments",
    ),
    Verb(
        "doctor",
        "check this machine, or your own motion controller",
        "carm doctor --controller /carm/joint_trajectory_controller",
        "carm_bringup.cli.doctor:run",
        _doctor,
        True,
    ),
)
