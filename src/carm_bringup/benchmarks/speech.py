# SPDX-License-Identifier: Apache-2.0
"""``carm bench speech``: how many sentences the console's recognizer understands, said by a speech synthesizer.

A synthesizer is no person: it speaks clearly and without an accent. The figures compare versions of the grammar.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_agent.dialogue.stop_words import is_stop
from carm_core.cli import results_file
from carm_core.cli.arguments import number, output_file
from carm_core.errors import CarmError

SENTENCES = (
    *("stop", "stop now", "please stop", "stop the arm", "halt", "freeze", "don't move", "emergency", "wait"),
    *("yes", "no", "okay", "go ahead", "no the other side", "look again", "where are we", "go back"),
    *("take an image", "take another image", "show me the left shoulder", "center the carina", "go to T12"),
    *("show me L4", "find the right hip", "navigate to the left knee", "show me the skull", "center the right elbow"),
    *("show me the sacral promontory", "please show me the left wrist", "move a bit left"),
    *("ten millimeters to the right", "two centimeters towards the head", "a touch lower"),
    *("move twenty millimeters up", "a lot to the patient's left", "LAO thirty", "RAO forty five cranial twenty"),
    *("lateral view", "spider view", "AP", "rotate ten degrees towards LAO", "stop moving"),
)
OTHERS = (
    *("what did you have for lunch today", "the weather is quite nice outside", "could somebody hand me the scissors"),
    *("I think his blood pressure is dropping", "yesterday we saw a movie", "please pass the scalpel to the nurse"),
    *("how many patients are still on the list", "turn on the radio", "my brother bought a new car"),
    *("let us close the wound now", "is the next case ready", "open the second drawer"),
)
"""Talk in the room, which must not become a command."""
VOICES = ("slt", "rms", "kal16")
"""Of flite."""
_RATE_HZ = 16000
_PAUSE_S = 0.3
_LOUD = 9000.0
_FIRST_S, _STEP_S, _LAST_S = 0.6, 0.4, 2.0


class SynthesizerError(CarmError):
    """No sentence can be said."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--noise", type=number(0, 60), default=30.0, metavar="DB", help="speech over noise, dB (30)")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write the figures to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the bench.

    Returns:
        Exit code 0.

    Raises:
        CarmError: There is no synthesizer or no recognizer.
    """
    from carm_bringup.console.speech.decoder import SpeechDecoder, why_not

    results_file.check_file(args.json)
    if why_not():
        raise SynthesizerError(why_not())
    decoder = SpeechDecoder()
    results = {}
    for voice in VOICES:
        results[voice] = figures = bench(decoder, voice, args.noise)
        print(
            f"{voice}: {figures['understood']} of {figures['sentences']} sentences understood,"
            f" {figures['asked_again']} not, {figures['wrong']} wrongly; {figures['stops_heard']} of {figures['stops']}"
            f" stops heard, {figures['needless_stops']} needless; {figures['others_taken']} of {figures['others']}"
            f" others taken for a sentence; {1e3 * figures['cpu_s']:.0f} ms of CPU for one"
        )
        for said, heard in figures["errors"]:
            print(f"    {said!r}: {heard!r}")
    if args.json is not None:
        command = f"carm bench speech --noise {args.noise:g}"
        results_file.write(args.json, results_file.document(command, 0, {"speech": results}))
    return 0


def bench(decoder: Any, voice: str, noise_db: float) -> dict[str, Any]:
    """Return counts and errors of one voice.

    Args:
        decoder: Recognizes.
        voice: Of flite.
        noise_db: Power of the speech over that of white noise, dB.
    """
    counts = dict.fromkeys(("understood", "asked_again", "wrong", "stops", "stops_heard", "needless_stops"), 0)
    errors, spent_s, taken = [], 0.0, 0
    for seed, sentence in enumerate((*SENTENCES, *OTHERS)):
        samples = say(sentence, voice, noise_db, seed)
        began_s = time.process_time()
        heard = decoder.hear(samples)
        spent_s += time.process_time() - began_s
        early = any(decoder.hear(part).is_stop for part in _beginnings(samples))
        stops = is_stop(sentence)
        counts["needless_stops"] += not stops and (early or heard.is_stop)
        if sentence in OTHERS:
            taken += bool(heard.text)
            continue
        counts["stops"] += stops
        counts["stops_heard"] += stops and heard.is_stop
        right = heard.text.lower() == sentence.lower() or (stops and heard.is_stop)
        counts["understood" if right else "wrong" if heard.text else "asked_again"] += 1
        if not right:
            errors.append([sentence, heard.text or f"({heard.guess})"])
    total = len(SENTENCES) + len(OTHERS)
    more = {"sentences": len(SENTENCES), "others": len(OTHERS), "others_taken": taken, "cpu_s": spent_s / total}
    return counts | more | {"errors": errors}


def _beginnings(samples: bytes) -> list[bytes]:
    """Return what is looked at for a stop while somebody still speaks."""
    whole_s = len(samples) / (2 * _RATE_HZ)
    ends_s = np.arange(_FIRST_S, min(whole_s, _LAST_S), _STEP_S)
    return [samples[: 2 * int(end_s * _RATE_HZ)] for end_s in ends_s]


def say(sentence: str, voice: str, noise_db: float, seed: int) -> bytes:
    """Return a sentence as int16, little-endian, 16 kHz, with a pause before and after.

    Raises:
        SynthesizerError: flite is not installed, or fails.
    """
    if shutil.which("flite") is None:
        raise SynthesizerError("flite, which says the sentences, is not installed: apt-get install flite")
    apart = " ".join(" ".join(word) if word.isupper() else word for word in sentence.split() if word)
    text = apart.replace("T 1 2", "T 12") if sentence != apart else sentence
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "said.wav"
        done = subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(file)], capture_output=True, check=False)
        if done.returncode or not file.exists():
            raise SynthesizerError(f"flite cannot speak with the voice {voice}")
        with wave.open(str(file)) as spoken:
            if spoken.getframerate() != _RATE_HZ:
                raise SynthesizerError(f"the voice {voice} has {spoken.getframerate()} samples per second")
            signal = np.frombuffer(spoken.readframes(spoken.getnframes()), "<i2").astype(np.float64)
    signal *= _LOUD / max(np.abs(signal).max(), 1.0)
    pause: NDArray[np.float64] = np.zeros(int(_PAUSE_S * _RATE_HZ))
    power = float(np.sqrt(np.mean(signal**2)))
    whole = np.concatenate([pause, signal, pause])
    whole += np.random.default_rng(seed).normal(0.0, power / 10 ** (noise_db / 20), len(whole))
    return bytes(whole.clip(-32768, 32767).astype("<i2").tobytes())
