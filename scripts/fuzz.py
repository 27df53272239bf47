# SPDX-License-Identifier: Apache-2.0
"""Feed the parsers with damaged inputs: ``python scripts/fuzz.py --inputs 100000 [--target NAME ...] [--seed S]``.

Each input follows from seed, target and number alone. A target (``fuzz_targets.py``) takes bytes and may raise nothing
but the project's own errors. It runs in a process of its own with a bound on time and memory, so that a crash of an
extension is found as well. Inputs that failed are written to ``--output``; the small ones go into
``test/scripts/test_fuzz.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_targets import TARGETS, Target

from carm_core.errors import CarmError

LIMIT_S = 10.0
"""Longest computing time for one input, s."""
LIMIT_BYTES = 2 << 30
"""Memory that a target may take beside what it has at the start."""
_MOST_FAILURES = 20
_LARGEST_INPUT = 1 << 16
_NUMBERS = (
    *(b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"),
    *(b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\x80\x00\x00\x00"),
    *(b"0", b"-1", b"99999999999", b"1e999", b"nan", b"-0", b"\xe2\x80\x8b", b"\xc2\xb2", b"\xed\xa0\x80", b"\x1b["),
)


class TooSlowError(Exception):
    """An input took too long."""


@dataclass
class Outcome:
    """What a target did.

    Attributes:
        name: The target.
        inputs: How many inputs it had.
        refused: Those that ended in an error of the project.
        failures: Number of the input and what went wrong.
        seconds: How long it took.
    """

    name: str
    inputs: int = 0
    refused: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0


def mutated(target: Target, seed: int, number: int) -> bytes:
    """Return an input: a sample with some damage, or two of them in one."""
    rng = random.Random(f"{target.name} {seed} {number}")
    samples = target.samples()
    data = bytearray(rng.choice(samples))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5, 8))):
        _damage(data, rng, samples, target.words)
    return bytes(data[:_LARGEST_INPUT])


def _damage(data: bytearray, rng: random.Random, samples: Sequence[bytes], words: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    if target_header := rng.random() < 0.3:
        at = min(at, rng.randrange(400))
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 40, 400)))
    kind = rng.randrange(8)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:end]
    elif kind == 2:
        data[at:at] = data[at:end] * rng.choice((1, 2, 20))
    elif kind == 3:
        word = rng.choice(_NUMBERS)
        data[at : at + (len(word) if rng.random() < 0.7 else 0)] = word
    elif kind == 4:
        data[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(words or _NUMBERS)
    elif kind == 5:
        other = rng.choice(samples)
        start = rng.randrange(len(other) + 1)
        data[at:] = other[start:]
    elif kind == 6:
        data[at:end] = rng.randbytes(end - at)
    elif not target_header:
        del data[at:]


def _alarm(number: int, frame: object) -> None:
    del number, frame
    raise TooSlowError(f"not done after {LIMIT_S:g} s")


def run_one(target: Target, data: bytes, allowed: tuple[type[BaseException], ...] = (CarmError,)) -> bool:
    """Run a target on an input; returns whether it was refused.

    Raises:
        Exception: What the target should not have raised.
    """
    previous = signal.signal(signal.SIGPROF, _alarm)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        target.run(data)
    except allowed as error:
        text = str(error)
        if "\n" in text or len(text) > 4000:
            raise AssertionError(f"an error of {len(text)} characters: {text[:80]!r}") from error
        return True
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    return False


def _work(name: str, seed: int, first: int, last: int, place: Any, pipe: Any) -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    target = TARGETS[name]
    with contextlib.suppress(CarmError):
        for sample in target.samples():  # what is loaded and kept once
            target.run(sample)
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT_BYTES,) * 2)
    refused, failures = 0, []
    for number in range(first, last):
        place.value = number
        try:
            refused += run_one(target, mutated(target, seed, number))
        except Exception as error:  # whatever a target should not raise is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            failures.append((number, f"{type(error).__name__}: {error}"[:200] + f" ({where.filename}:{where.lineno})"))
            if len(failures) >= _MOST_FAILURES:
                break
    pipe.send((refused, failures))


def run_target(name: str, inputs: int, seed: int) -> Outcome:
    """Run a target on many inputs, in processes of its own."""
    outcome, begin, first = Outcome(name), time.monotonic(), 0
    context = multiprocessing.get_context("fork")
    while first < inputs and len(outcome.failures) < _MOST_FAILURES:
        place, (receiver, sender) = context.Value("q", first), context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(name, seed, first, inputs, place, sender))
        process.start()
        sender.close()
        try:
            refused, failures = receiver.recv()
            outcome.refused += refused
            outcome.failures += failures
        except EOFError:
            process.join()
            outcome.failures.append((int(place.value), f"the process ended with {process.exitcode}"))
        process.join()
        first = int(place.value) + 1
    outcome.inputs, outcome.seconds = first, time.monotonic() - begin
    return outcome


def main(words: Sequence[str] | None = None, write: Callable[[str], None] = print) -> int:
    """Run the targets and print a table; returns 1 when an input failed."""
    parser = argparse.ArgumentParser(description="Feed the parsers with damaged inputs.")
    parser.add_argument("--inputs", type=int, default=1000, help="inputs for each target (1000)")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="seed (0)")
    parser.add_argument("--output", type=Path, default=Path("fuzz_failures"), help="folder for inputs that failed")
    options = parser.parse_args(words)
    total = failed = 0
    write(f"{'target':<20} {'inputs':>9} {'refused':>9} {'failed':>7} {'inputs/s':>9}")
    for name in options.target or TARGETS:
        outcome = run_target(name, options.inputs, options.seed)
        rate = outcome.inputs / max(outcome.seconds, 1e-9)
        counts = f"{outcome.inputs:>9} {outcome.refused:>9} {len(outcome.failures):>7} {rate:>9.0f}"
        write(f"{name:<20} {counts}")
        for number, what in outcome.failures:
            options.output.mkdir(parents=True, exist_ok=True)
            (options.output / f"{name}_{options.seed}_{number}").write_bytes(
                mutated(TARGETS[name], options.seed, number)
            )
            write(f"    {number}: {what}")
        total, failed = total + outcome.inputs, failed + len(outcome.failures)
    write(f"{total} inputs, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
