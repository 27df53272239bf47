# SPDX-License-Identifier: Apache-2.0
"""``carm localize``: body part and landmarks in one's own images, without a graph."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carm_core.body_parts import part_names
from carm_core.cli import results_file
from carm_core.cli.arguments import number, output_file, output_folder
from carm_core.errors import ConfigurationError, ImageError, plain_line
from carm_core.landmarks import find_landmark
from carm_perception.images.overlay import draw, in_view, pixel_of
from carm_perception.localizers import registry

if TYPE_CHECKING:
    from carm_core.localization import LandmarkEstimate
    from carm_perception.classifiers.classifier import Classification
    from carm_perception.images.reader import ImageFile
    from carm_perception.images.scoring import Answer

_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="PNG, JPEG, TIFF or DICOM (CR, DX, RF, XA), or a folder of these; with a CSV file of labels in it, the"
        " answers are scored too",
    )
    parser.add_argument("--target", metavar="NAME", help="where is this landmark? (all that are seen)")
    parser.add_argument(
        "--localizer", default=registry.REGRESSION, help="who answers; fused asks the language model, too (regression)"
    )
    parser.add_argument(
        "--model", type=Path, help="model folder of compact, regression, fused (the one in the package)"
    )
    parser.add_argument(
        "--mm-per-px",
        type=number(1e-3, 100.0),
        default=math.nan,
        metavar="MM",
        help="millimeters per pixel at the depth of the body, where the file does not say it",
    )
    parser.add_argument("--invert", action="store_true", help="bones are dark in the images")
    parser.add_argument("--labels", type=Path, metavar="CSV", help="score the answers: file, landmark")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all answers to FILE")
    parser.add_argument(
        "--overlay", type=output_folder, metavar="DIR", help="write each image with its landmarks to DIR"
    )
    registry.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Recognize body parts and localize landmarks in images; print, write and score the answers.

    Returns:
        0; 1 when an image could not be read or the localizer failed on one.

    Raises:
        ConfigurationError: An option is wrong, or no image was found.
    """
    from carm_perception.classifiers.compact import CompactClassifier
    from carm_perception.images.reader import image_files
    from carm_perception.images.scoring import Later, answers_to, labels_in, score

    results_file.check_file(args.json)
    target = find_landmark(args.target).id if args.target else None
    registry.check_name(args.localizer)
    labels = args.labels or labels_in(args.images)
    if labels is not None and target is not None:
        raise ConfigurationError("--target and labels exclude each other: labels name the closest landmarks")
    try:
        files = list(dict.fromkeys(file for path in args.images for file in image_files(path)))
    except ImageError as error:
        raise ConfigurationError(str(error)) from error
    options = registry.with_arguments(registry.LocalizerOptions(folder=args.model), args)
    localizer = Later(args.localizer, lambda: registry.make_localizer(args.localizer, options))
    classifier = CompactClassifier()

    def classify(image: ImageFile) -> Classification:
        part = classifier.classify(image.frame.image)
        print(shown_part(image, part), flush=True)
        return part

    failed = 0
    answers: list[Answer] = []
    try:
        for answer in answers_to(localizer, files, target, args.mm_per_px, args.invert, classify):
            if isinstance(answer, str):
                failed += 1
                print(f"carm localize: {plain_line(answer)}", file=sys.stderr)
                continue
            answers.append(answer)
            print(report(answer), flush=True)
            if args.overlay is not None:
                _write_overlay(answer, args.overlay, len(answers))
    finally:
        localizer.close()
    figures = {} if labels is None or not answers else {args.localizer: score(answers, labels)}
    for name, values in figures.items():
        print(f"{name}: {values['n']} labeled images, Hit@1 {values['hit_1']:.3f}, Hit@2 {values['hit_2']:.3f}")
    if args.json is not None:
        document = results_file.document("carm " + " ".join(sys.argv[1:]), 0, figures)
        results_file.write(args.json, document | {"images": [as_dict(answer) for answer in answers]}, allow_nan=False)
    return int(failed > 0)


def shown_part(image: ImageFile, part: Classification) -> str:
    """Return which body part an image shows, in a line."""
    name = plain_line(image.name)
    if part.error:
        return f"{name}: body part not recognized ({plain_line(part.message)})"
    return f"{name}: {part_names(part.part_ids)} ({100 * part.confidence:.0f} %)"


def report(answer: Answer) -> str:
    """Return what was found in an image, in a few lines."""
    lines = [plain_line(answer.image.name)]
    said = answer.closest or answer.places
    if answer.closest is not None and answer.closest.estimates:
        names = [estimate.name for estimate in answer.closest.estimates]
        lines[0] += f": closest to the center {', then '.join(names)}"
    elif not said.estimates:
        lines[0] += f": no answer ({plain_line(said.message) or 'not sure enough'})"
    seen = [estimate for estimate in answer.places.estimates if in_view(estimate, answer.image.frame)]
    lines += [f"  {_place(answer.image, estimate)}" for estimate in seen[:_SHOWN]]
    if answer.image.note:
        lines.append(f"  pixels only: {answer.image.note} (--mm-per-px)")
    return "\n".join(lines)


def _place(image: ImageFile, estimate: LandmarkEstimate) -> str:
    column, row = pixel_of(estimate, image.frame)
    scale = image.frame.mm_per_px_at_isocenter
    text = f"{estimate.name}: column {column:.0f}, row {row:.0f}"
    radius = estimate.radius_90_mm
    if math.isfinite(radius):
        text += f", within {radius / scale:.0f} px"
    if image.scale_known:
        right, up = estimate.displacement_mm
        text += f"; {right:+.0f} mm right, {up:+.0f} mm up of the center"
        text += f", within {radius:.0f} mm" if math.isfinite(radius) else ""
    return text + (" (90 %)" if math.isfinite(radius) else "")


def as_dict(answer: Answer) -> dict[str, Any]:
    """Return an answer for the JSON file: positions in pixels, and in mm where the scale is known; None: unknown."""
    image, frame = answer.image, answer.image.frame
    rows, columns = frame.image.shape

    def finite(value: float) -> float | None:
        return round(float(value), 2) if math.isfinite(value) else None

    def entry(estimate: LandmarkEstimate) -> dict[str, Any]:
        column, row = pixel_of(estimate, image.frame)
        found = {"id": estimate.id, "name": estimate.name, "column": finite(column), "row": finite(row)}
        found["radius_90_px"] = finite(estimate.radius_90_mm / frame.mm_per_px_at_isocenter)
        found["confidence"] = finite(estimate.confidence)
        if image.scale_known:
            right, up = estimate.displacement_mm
            found |= {"right_mm": finite(right), "up_mm": finite(up), "radius_90_mm": finite(estimate.radius_90_mm)}
        return found | {"in_view": in_view(estimate, frame)}

    return {
        "file": str(image.path),
        "frame": image.number,
        "rows": rows,
        "columns": columns,
        "mm_per_px": finite(frame.mm_per_px_at_isocenter) if image.scale_known else None,
        "primary_deg": finite(math.degrees(frame.primary_rad)),
        "secondary_deg": finite(math.degrees(frame.secondary_rad)),
        "closest": [estimate.id for estimate in answer.closest.estimates] if answer.closest else None,
        "landmarks": [entry(estimate) for estimate in answer.places.estimates],
        "abstained": (answer.closest or answer.places).abstained,
        "message": (answer.closest or answer.places).message,
        "body_parts": None if answer.part is None else list(answer.part.part_ids),
        "body_part_confidence": None if answer.part is None else finite(answer.part.confidence),
        "latency_s": round(answer.places.latency_s + (answer.closest.latency_s if answer.closest else 0.0), 4),
    }


def _write_overlay(answer: Answer, folder: Path, count: int) -> None:
    from PIL import Image

    image = answer.image
    name = f"{count:04d}_{image.path.stem}{'' if image.number is None else f'_{image.number:04d}'}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(image.frame, answer.places)).save(folder / name)
    except OSError as error:
        raise ConfigurationError(f"cannot write {folder / name}: {error.strerror or error}") from error
