# SPDX-License-Identifier: Apache-2.0
"""`carm bench drr`: our renderer beside others, each in a process of its own, one after another, same CT and poses."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from typing import IO, Any

from carm_core.cli import results_file
from carm_core.cli.arguments import output_file, seed, whole
from carm_core.errors import CarmError

NAMES = ("ours", "ours_image", "itk_rtk", "nanodrr_cpu", "diffdrr")
PEERS = NAMES[2:]
INSTALL = "pip install '.[peers]'"
SPEEDS = ("fps_512", "fps_1024", "fps_1536", "fps_512_worst", "fps_1024_worst")
SWEEP_VIEWS = 200
EXIT_MISSING = 3


class BenchError(CarmError):
    """A renderer failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--renderer", action="append", choices=NAMES, help="repeat for several (all)")
    parser.add_argument("--patient", default="chest_ct", help="chest_ct, phantom:SEED or a CT (chest_ct)")
    parser.add_argument("--threads", type=whole(1, 64), default=2, metavar="N", help="threads (2)")
    parser.add_argument(
        "--slices", type=whole(2, 2000), metavar="N", help="interpolate the CT to N slices first, with noise of 30 HU"
    )
    parser.add_argument("--quick", action="store_true", help="512 x 512 only, few frames")
    parser.add_argument(
        "--sweep", action="store_true", help=f"error of our renderer at {SWEEP_VIEWS} views from all directions"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, help="seed of the rays and views at which errors are measured (0)"
    )
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all figures to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the bench.

    Returns:
        Exit code 0; missing renderers are reported as missing.

    Raises:
        CarmError: Bad input, or a renderer failed.
    """
    results_file.check_file(args.json)
    names = list(dict.fromkeys(args.renderer or NAMES))
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        results[name] = measure(name, args)
    add_ratios(results)
    print(table(results))
    if args.json is not None:
        results_file.write(args.json, results_file.document(command_line(args), args.seed, results))
    return 0


def job_of(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the job of one renderer's process; see ``carm_bringup.benchmarks.drr.worker.Job``."""
    job: dict[str, Any] = {"renderer": name, "patient": args.patient, "threads": args.threads, "seed": args.seed}
    job["sizes"] = [512] if args.quick else [512, 1024, 1536]
    if args.slices:
        job["slices"] = args.slices
    if args.quick:
        job |= {"frames": 3, "budget_s": 5.0, "rays": 300}
    if args.sweep and name == "ours":
        job["sweep"] = SWEEP_VIEWS
    return job


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one renderer in a separate process, with a progress bar.

    Returns:
        Metrics, or ``{"missing": package}``.

    Raises:
        BenchError: It failed.
    """
    from tqdm import tqdm

    job = job_of(name, args)
    steps = 2 * len(job["sizes"]) - (1536 in job["sizes"]) + max(2, job.get("sweep", 0))
    threads = str(args.threads)
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "carm_bringup.benchmarks.drr.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **limits},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    with tqdm(total=steps, desc=name, unit="step", file=sys.stderr) as bar:
        watcher = threading.Thread(target=_watch, args=(process.stderr, bar, said), daemon=True)
        watcher.start()
        try:
            process.stdin.write(json.dumps(job))
            process.stdin.close()
            answer = process.stdout.read()
            code = process.wait()
        finally:
            process.kill()
        watcher.join(1.0)
    if code not in (0, EXIT_MISSING):
        raise BenchError(f"{name} failed: {said[-1] if said else f'exit code {code}'}")
    found: dict[str, Any] = json.loads(answer.strip().splitlines()[-1])
    return found


def _watch(stream: IO[str], bar: Any, said: list[str]) -> None:
    for line in stream:
        if line.startswith("progress "):
            bar.update()
        elif line.strip():
            said.append(line.strip())


def add_ratios(results: dict[str, dict[str, Any]]) -> None:
    """Add ``ratio_to_ours`` to each peer: how often ours fits into its frame of 512 x 512 near AP."""
    ours = results.get("ours", {}).get("fps_512")
    for name in PEERS:
        theirs = results.get(name, {}).get("fps_512")
        if ours and theirs:
            results[name]["ratio_to_ours"] = ours / theirs


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the figures as a table."""
    titles: tuple[str, ...] = ("renderer", *SPEEDS, "error %", "rss MB", "ours is faster by")
    rows = [titles]
    for name, metrics in results.items():
        if "missing" in metrics:
            rows.append((name, f"missing ({metrics['missing']}): {INSTALL}"))
            continue
        speeds = [_shown(metrics.get(key), ".3g") for key in SPEEDS]
        rest = [_shown(metrics.get("error_percent"), ".4f"), _shown(metrics.get("rss_mb"), ".0f")]
        rows.append((name, *speeds, *rest, _shown(metrics.get("ratio_to_ours"), ".1f")))
    full = [row for row in rows if len(row) == len(titles)]
    widths = [max(len(row[i]) for row in full) for i in range(len(titles))]
    widths[0] = max(len(row[0]) for row in rows)
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=False)).rstrip() for row in rows)


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def command_line(args: argparse.Namespace) -> str:
    """Return the command line that gives these figures."""
    words = ["carm bench drr", *(f"--renderer {name}" for name in args.renderer or ())]
    words += [f"--patient {args.patient}", f"--threads {args.threads}", f"--seed {args.seed}"]
    words += [f"--slices {args.slices}"] if args.slices else []
    words += [f"--{name}" for name in ("quick", "sweep") if getattr(args, name)]
    return " ".join(words)
