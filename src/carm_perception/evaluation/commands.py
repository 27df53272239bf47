# SPDX-License-Identifier: Apache-2.0
"""Options and bodies of ``carm eval``. Heavy imports wait until a body runs."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from carm_core.cli import results_file as figure_file
from carm_core.cli.arguments import count, output_file, output_folder, seed
from carm_core.errors import ConfigurationError
from carm_perception.evaluation.suites.suites import (
    DEFAULT_SUITES,
    GROUPS,
    NOMINAL,
    SUITE_NAMES,
    Suite,
    resolve,
    suite,
)
from carm_perception.localizers import registry

_FORMS = ("auto", "localization", "retrieval", "re-evaluation", "body-parts")


def _length(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a length from 0")
    return value


def _share(text: str) -> float:
    value = _length(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return value


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    _add_localizer_arguments(parser)
    parser.add_argument("--patients", type=count, default=0, help="patients of each suite (as defined by the suite)")
    parser.add_argument("--views", type=count, default=0, help="views of each suite (in proportion to the patients)")
    parser.add_argument("--workers", type=count, default=1, help="processes that render (1)")


def _add_localizer_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--localizer",
        action="append",
        help="compact, regression, fused, registered (with --ct), openai (a server), or a Hugging Face id or folder;"
        " repeat (compact)",
    )
    parser.add_argument(
        "--model", type=Path, help="model folder of compact, regression, fused (the one in the package)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="random seed (0)")
    parser.add_argument("--threads", type=count, default=2, help="CPU threads of a Hugging Face model (2)")
    parser.add_argument(
        "--maximum-std",
        type=_length,
        default=0.0,
        metavar="MM",
        help="abstain from pointing above this standard deviation (0: never)",
    )
    parser.add_argument(
        "--maximum-risk",
        type=_share,
        metavar="SHARE",
        help="abstain so that at most this share of the answers is wrong; 0: never (the localizer's default)",
    )
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all figures to FILE")
    registry.add_arguments(parser)


def add_localize_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm eval localize``."""
    names = ", ".join((*SUITE_NAMES, *GROUPS))
    parser.add_argument("--suite", action="append", help=f"{names}; repeat ({', '.join(DEFAULT_SUITES)})")
    parser.add_argument(
        "--ct",
        action="append",
        default=[],
        metavar="PATH",
        help="the views of suite chest-ct on this CT, as patient:= takes it, with landmarks.yaml; repeat for several."
        " Localizer registered is given the CT (of half the resolution, with other noise)",
    )
    parser.add_argument(
        "--images",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="your own images, with a CSV file of labels in the folder, as carm localize takes them; repeat",
    )
    parser.add_argument(
        "--fourteen", action="store_true", help="--ct: ask for the fourteen landmarks only, not for all that a CT has"
    )
    parser.add_argument("--ct-known", action="store_true", help="localizer fused is given the CT, too")
    _add_model_arguments(parser)
    parser.add_argument(
        "--report", type=output_folder, metavar="DIR", help="write a page with tables, plots, worst cases"
    )


def run_localize(args: argparse.Namespace) -> int:
    """Evaluate localizers on suites, print a table, write figures and report.

    Raises:
        ConfigurationError: An option is out of range or a file cannot be written.
        UnknownNameError: There is no such localizer or suite.
    """
    figure_file.check_file(args.json)
    names = list(dict.fromkeys(args.localizer or ("compact",)))
    plain = args.suite or (() if args.ct or args.images else DEFAULT_SUITES)
    suites = [suite(name, args.patients, args.views) for name in resolve(plain)]
    _check_ct(names, suites, args)
    from tqdm import tqdm

    from carm_perception.evaluation.report import write_report
    from carm_perception.evaluation.scoring.judge import Evaluation, evaluate
    from carm_perception.evaluation.suites.cache import cases
    from carm_perception.evaluation.suites.known_ct import ct_suites

    suites += ct_suites(args.ct, args.views, args.fourteen)
    evaluations: list[Evaluation] = []
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        for ct, own in _by_ct(suites, name == registry.REGISTERED or args.ct_known):
            localizer = _localizer(name, args, ct)
            for chosen in own:
                with tqdm(total=chosen.views, desc=f"{name} {chosen.name}", unit="view") as bar:
                    images = cases(chosen, args.seed, args.workers)
                    done = evaluate(localizer, chosen, args.seed, images, _advance(bar))
                done.localizer = name
                evaluations.append(done)
                results[done.name] = done.figures()
                print(line(done.name, results[done.name]), flush=True)
            localizer.close()
        results |= _on_images(name, args)
        _compare(name, results)
    document = _document(args.seed, results)
    _write(args.json, document)
    if args.report is not None:
        print(f"report in {write_report(args.report, evaluations, document)}")
    return 0


def _on_images(name: str, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Score a localizer on the user's own images; return the figures by localizer and folder."""
    from carm_perception.images.scoring import score_folder

    results: dict[str, dict[str, Any]] = {}
    if args.images:
        localizer = _localizer(name, args)
        for folder in args.images:
            key = f"{name}/{folder.resolve().name}"
            results[key] = score_folder(localizer, folder)
            print(line(key, results[key]), flush=True)
        localizer.close()
    return results


def _check_ct(names: Sequence[str], suites: Sequence[Suite], args: argparse.Namespace) -> None:
    """Check that who needs the CT can be given one."""
    if args.ct_known and not args.ct:
        raise ConfigurationError("--ct-known needs the CT: --ct PATH")
    if registry.REGISTERED in names and (suites or not args.ct):
        raise ConfigurationError("localizer registered needs the patient's CT: --ct PATH, without --suite")
    for name in names:
        if args.ct_known and len(names) == 1:
            registry.refuse_unused(name, registry.LocalizerOptions(ct="known"))


def _by_ct(suites: Sequence[Suite], known: bool) -> Iterator[tuple[str, Sequence[Suite]]]:
    """Yield the suites that one localizer answers, and the CT that it knows; empty: none."""
    if plain := [one for one in suites if not (known and one.ct)]:
        yield "", plain
    for one in suites:
        if known and one.ct:
            yield one.ct, [one]


def _compare(name: str, results: dict[str, dict[str, Any]]) -> None:
    """Put the difference to the nominal suite beside the figures of the others of one localizer."""
    from carm_perception.evaluation.scoring.figures import to_nominal

    nominal = results.get(f"{name}/{NOMINAL}")
    for suite_name in SUITE_NAMES:
        figures = results.get(f"{name}/{suite_name}")
        if nominal is not None and figures is not None and figures is not nominal and "hit_1" in figures:
            figures["to_nominal"] = to_nominal(figures, nominal)


def _localizer(name: str, args: argparse.Namespace, ct: str = "") -> Any:
    from carm_perception.evaluation.suites.known_ct import another_scan
    from carm_sim.patient_loader import load_patient

    options = registry.LocalizerOptions(folder=args.model, threads=args.threads, maximum_std_mm=args.maximum_std)
    options = registry.with_arguments(options, args)
    if args.maximum_risk is not None:
        options = replace(options, maximum_risk=args.maximum_risk)
    if ct:
        options = replace(options, ct=another_scan(load_patient(ct), args.seed))
    if len(args.localizer or ()) > 1:  # the others may take what this one does not
        options = replace(options, **registry.unused(name, options))
    return registry.make_localizer(name, options)


def line(name: str, figures: dict[str, Any]) -> str:
    """Return one line of the table on the terminal."""
    shown = ("hit_1", "hit_2", "p_at_1", "p_at_3", "mirror_swap", "abstained", "malformed")
    parts = [f"{key} {figures[key]:.3f}" for key in shown if figures.get(key) is not None]
    if figures.get("error_mean_mm") is not None:
        parts.append(f"error {figures['error_mean_mm']:.1f} mm (p95 {figures['error_p95_mm']:.0f})")
    if figures.get("latency_p50_ms") is not None:
        parts.append(f"latency {figures['latency_p50_ms']:.0f} ms (p99 {figures['latency_p99_ms']:.0f})")
    return f"{name}: {'  '.join(parts)}"


def add_published_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm eval published``."""
    parser.add_argument(
        "outputs", type=Path, nargs="+", metavar="CSV", help="filename or file_path, output, [time]; or pred, target"
    )
    parser.add_argument(
        "--targets", type=Path, metavar="CSV", help="file and landmarks or body parts (column target of the outputs)"
    )
    parser.add_argument("--target-column", default="", help="column of the landmarks (found by its name)")
    parser.add_argument("--protocol", choices=_FORMS, default="auto", help="form of the outputs (as they look)")
    parser.add_argument("--seed", type=seed, default=0, help="not used")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all figures to FILE")


def run_published(args: argparse.Namespace) -> int:
    """Score the outputs of other models.

    Raises:
        ConfigurationError: A file cannot be read or written, or lacks a column.
    """
    figure_file.check_file(args.json)
    from carm_perception.evaluation.scoring.published import read_targets, score

    targets = None if args.targets is None else read_targets(args.targets, args.target_column)
    if targets is not None and targets.conflicting:
        shown = ", ".join(targets.conflicting[:3])
        print(f"left out, targets contradict each other: {len(targets.conflicting)} images ({shown})", file=sys.stderr)
    results = {_name(path, args.outputs): score(path, targets, args.protocol) for path in args.outputs}
    for name, figures in results.items():
        print(line(name, figures))
    _write(args.json, _document(args.seed, results))
    return 0


def _name(path: Path, paths: list[Path]) -> str:
    """Return the name of a file in reports: with its folder where another one has the same."""
    return path.stem if sum(other.stem == path.stem for other in paths) == 1 else f"{path.parent.name}/{path.stem}"


def add_correction_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm eval correction``."""
    parser.add_argument("--suite", action="append", help="where the cases come from; repeat (phantom-nominal)")
    _add_model_arguments(parser)
    parser.add_argument(
        "--second", metavar="NAME", help="localizer for the second answer (the one that answered first)"
    )
    parser.add_argument("--cases", type=count, default=200, help="maximum number of wrong and of right answers (200)")


def run_correction(args: argparse.Namespace) -> int:
    """Ask again after wrong and right answers, alone and with a sentence from a simulated clinician.

    Raises:
        ConfigurationError: An option is out of range or the file cannot be written.
        UnknownNameError: There is no such localizer or suite.
    """
    figure_file.check_file(args.json)
    suites = [suite(name, args.patients, args.views) for name in resolve(args.suite or (NOMINAL,))]
    from tqdm import tqdm

    from carm_perception.evaluation.dialogue.correction import correct
    from carm_perception.evaluation.suites.cache import cases

    results: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(args.localizer or ("compact",)):
        localizer = _localizer(name, args)
        second = _localizer(args.second, args) if args.second else None
        both = f"{name}+{args.second}" if args.second else name
        for chosen in suites:
            with tqdm(total=chosen.views, desc=f"{both} {chosen.name}", unit="view") as bar:
                images = cases(chosen, args.seed, args.workers)
                figures = correct(localizer, images, args.seed, args.cases, _advance(bar), second)
            results[f"{both}/{chosen.name}"] = figures
            shown = ("wrong", "n", "fixed_alone", "broken_alone", "fixed_told", "broken_told", "no_answer_told")
            print(f"{both}/{chosen.name}: {'  '.join(f'{key} {figures[key]}' for key in shown)}", flush=True)
        localizer.close()
        if second is not None:
            second.close()
    _write(args.json, _document(args.seed, results))
    return 0


def add_sentences_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm eval sentences``."""
    _add_localizer_arguments(parser)
    parser.add_argument("--sentences", type=count, default=1000, help="how many (1000)")
    parser.add_argument(
        "--split", choices=("test", "train"), default="test", help="words that are not used in training (test)"
    )


def run_sentences(args: argparse.Namespace) -> int:
    """Ask localizers what clinicians' sentences mean.

    Raises:
        ConfigurationError: An option is out of range or the file cannot be written.
        UnknownNameError: There is no such localizer.
    """
    figure_file.check_file(args.json)
    from tqdm import tqdm

    from carm_perception.evaluation.dialogue.sentences import read_sentences

    results: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(args.localizer or ("compact",)):
        localizer = _localizer(name, args)
        with tqdm(total=args.sentences, desc=name, unit="sentence") as bar:
            figures = read_sentences(localizer, args.sentences, args.seed, args.split, _advance(bar))
        localizer.close()
        results[f"{name}/{args.split}"] = figures
        shown = ("right", "same_way", "other", "not_understood", "malformed", "failed", "latency_p50_ms")
        print(f"{name}/{args.split}: {'  '.join(f'{key} {figures[key]}' for key in shown)}", flush=True)
    _write(args.json, _document(args.seed, results))
    return 0


def _advance(bar: Any) -> Callable[[int], None]:
    """Move a progress bar to a number of cases."""

    def advance(done: int) -> None:
        bar.update(done - bar.n)

    return advance


def _write(file: Path | None, document: dict[str, Any]) -> None:
    if file is not None:
        figure_file.write(file, document, allow_nan=False)


def _document(seed: int, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return figure_file.document("carm " + " ".join(sys.argv[1:]), seed, results)
