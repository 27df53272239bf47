# SPDX-License-Identifier: Apache-2.0
"""The ``carm`` command. A verb's module is imported only when the verb is used."""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from carm_bringup import __version__
from carm_bringup.cli.verbs import VERBS, Verb
from carm_core.cli.arguments import namespace
from carm_core.errors import plain_line, quoted
from carm_ros.entry import missing

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
_NEGATIVE_POINT = re.compile(r"-[\d.][^,]*,")


class Parser(argparse.ArgumentParser):
    """Ends bad input in one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {plain_line(message)} (see {self.prog} --help)\n")


def load(reference: str) -> Callable[..., Any]:
    """Return what ``module:function`` names."""
    module, _, name = reference.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def overview() -> str:
    """Return the help of the command as a whole."""
    width = max(len(verb.name) for verb in VERBS)
    lines = [f"  {verb.name:<{width}}  {verb.summary}" for verb in VERBS]
    return "\n".join(
        [
            "usage: carm VERB ...",
            "",
            "An autonomous, collaborative X-ray C-arm: simulation, localization, navigation.",
            "",
            *lines,
            "",
            "example: carm navigate carina",
            "`carm VERB --help` shows a verb's options and an example.",
        ]
    )


def select(words: Sequence[str]) -> tuple[Verb, list[str]] | None:
    """Return the verb that the words start with, and the other words; None when there is none."""
    for verb in VERBS:
        parts = verb.name.split()
        if list(words[: len(parts)]) == parts:
            return verb, list(words[len(parts) :])
    return None


def reject(words: Sequence[str]) -> int:
    """Print in one line why the words name no verb; return exit code 2."""
    parts = [verb.name for verb in VERBS if verb.name.split()[0] == words[0]]
    if parts:
        reason = f"choose one of: {', '.join(f'carm {name}' for name in parts)}"
    else:
        names = [verb.name for verb in VERBS]
        near = [name for name in names if words[0] and name.startswith(words[0])]
        near = near or difflib.get_close_matches(words[0], names, n=1)
        reason = f"unknown verb {quoted(words[0])}" + (f"; did you mean {near[0]}?" if near else "")
    print(f"carm: {reason} (see carm --help)", file=sys.stderr)
    return EXIT_BAD_INPUT


def parse(verb: Verb, words: Sequence[str]) -> argparse.Namespace:
    """Parse a verb's options; exits with code 2 on bad input."""
    parser = Parser(
        prog=f"carm {verb.name}",
        description=verb.summary,
        epilog=f"example: {verb.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options = load(verb.options) if isinstance(verb.options, str) else verb.options
    add_options(parser)
    if verb.namespaced:
        parser.add_argument("--namespace", type=namespace, default="/carm", help="ROS namespace of the graph (/carm)")
    options = parser.parse_args(_joined(words))
    options.verb = verb.name
    return options


def _joined(words: Sequence[str]) -> list[str]:
    """Write ``--point -1,2,3`` as ``--point=-1,2,3``: argparse takes such a value for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and _NEGATIVE_POINT.match(word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def run_sim(options: argparse.Namespace) -> int:
    """Start the graph: by ``ros2 launch`` where it is installed, else by the launcher."""
    return _start("sim", options.arguments)


def run_hardware(options: argparse.Namespace) -> int:
    """Start the graph on real motors, as ``run_sim`` does on the simulator."""
    return _start("hardware", options.arguments)


def _start(kind: str, words: list[str]) -> int:
    from carm_bringup.graph import description as graph
    from carm_bringup.graph import launcher

    try:
        has_launch = shutil.which("ros2") is not None and importlib.util.find_spec("launch_ros") is not None
        return (launcher.launch_by_ros2 if has_launch else launcher.launch)(words, kind)
    except graph.ArgumentError as error:
        print(f"carm {kind}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def run(words: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if words else EXIT_BAD_INPUT
    if words[0] == "--version":
        print(f"carm {__version__}")
        return 0
    selected = select(words)
    if selected is None:
        group = [v for v in VERBS if v.name.split()[0] == words[0]]
        if group and set(words[1:]) & {"-h", "--help"}:
            print("\n".join(f"carm {v.name}: {v.summary}\n  example: {v.example}" for v in group))
            return 0
        return reject(words)
    verb, rest = selected
    from carm_core.errors import CarmError, ConfigurationError, GoalError, PatientError, UnknownNameError

    try:
        options = parse(verb, rest)  # before the body is loaded: bad input is told at once, and on any machine
        return int(load(verb.body)(options))
    except (ConfigurationError, GoalError, PatientError, UnknownNameError) as error:
        print(f"carm {verb.name}: {plain_line(str(error))}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except CarmError as error:
        print(f"carm {verb.name}: {plain_line(str(error))}", file=sys.stderr)
        return EXIT_FAILED
    except ModuleNotFoundError as error:
        print(f"carm {verb.name}: {missing(error)}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{quoted(str(error.filename), 200)}: " if error.filename else ""
        print(f"carm {verb.name}: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def main() -> None:
    """Entry point of the console script."""
    os.environ["PYTHONSAFEPATH"] = "1"  # no Python that is started here runs a file out of the working folder
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILED
    sys.exit(code)
