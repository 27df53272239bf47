# SPDX-License-Identifier: Apache-2.0
"""What a localizer says about one's own images, and how right it is where they are labeled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_core.errors import ConfigurationError, ImageError
from carm_core.localization import Localization, Localizer, Protocol, Query
from carm_perception.evaluation.scoring.published import landmark_figures_of, read_targets
from carm_perception.evaluation.scoring.records import ListRecord, Status, status_of
from carm_perception.images.reader import ImageFile, image_files, read_images


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found in an image.

    Attributes:
        image: The image.
        places: Landmarks with their places; the target alone where one was asked for.
        closest: The two landmarks closest to the center; None where a target was asked for.
    """

    image: ImageFile
    places: Localization
    closest: Localization | None


def labels_in(paths: Sequence[Path]) -> Path | None:
    """Return the CSV file in a single folder; None: there is none.

    Raises:
        ConfigurationError: There are several.
    """
    if len(paths) != 1 or not paths[0].is_dir():
        return None
    found = sorted(paths[0].glob("*.csv"))
    if len(found) > 1:
        raise ConfigurationError(f"{paths[0]}: several CSV files; say which holds the labels: --labels FILE")
    return found[0] if found else None


def answers_to(
    localizer: Localizer,
    files: Sequence[Path],
    target: int | None = None,
    mm_per_px: float = math.nan,
    invert: bool = False,
) -> Iterator[Answer | str]:
    """Yield the answer to each image, or in one line why there is none.

    Args:
        localizer: Who answers.
        files: Images, as ``read_images`` takes them.
        target: Landmark asked for; None: all.
        mm_per_px: As for ``read_images``.
        invert: As for ``read_images``.
    """
    for file in files:
        try:
            for image in read_images(file, mm_per_px, invert):
                closest = None if target else localizer.localize(image.frame, Query(Protocol.LOCALIZATION))
                places = localizer.localize(image.frame, Query(Protocol.POINTING, target))
                error = places.error or (closest.error if closest else None)
                if error and not places.estimates and not (closest and closest.estimates):
                    yield f"{image.name}: {localizer.name} failed ({places.message or error})"
                else:
                    yield Answer(image, places, closest)
        except ImageError as error:
            yield str(error)


def score(answers: Sequence[Answer], labels: Path) -> dict[str, Any]:
    """Return the figures of the answers with a label, as ``carm eval published`` makes them.

    Args:
        answers: With the closest landmarks.
        labels: CSV file, as for ``read_targets``.

    Raises:
        ConfigurationError: The labels cannot be read, or name none of the images.
    """
    targets = read_targets(labels)
    if targets.body_parts:
        raise ConfigurationError(f"{labels}: the labels are body parts; localizers answer with landmarks")
    records = []
    for number, answer in enumerate(answers):
        key = targets.find(answer.image.name) or targets.find(str(answer.image.path))
        if key in targets.ids and answer.closest is not None:
            reply = answer.closest
            ids = tuple(estimate.id for estimate in reply.estimates)
            told = status_of(reply), targets.ids[key], ids, reply.latency_s
            records.append(ListRecord(number, Protocol.LOCALIZATION, *told))
    if not records:
        raise ConfigurationError(f"{labels}: names none of the {len(answers)} images")
    abstained = sum(record.status is Status.ABSTAINED for record in records) / len(records)
    return landmark_figures_of(records) | {"abstained": round(abstained, 4), "unlabeled": len(answers) - len(records)}


def score_folder(localizer: Localizer, folder: Path) -> dict[str, Any]:
    """Return the figures of a localizer on a folder of images with a CSV file of labels; unreadable images count none.

    Raises:
        ConfigurationError: There are no images or no labels.
    """
    labels = labels_in([folder])
    if labels is None:
        raise ConfigurationError(f"{folder}: needs images and a CSV file of labels (filename, landmark)")
    try:
        files = image_files(folder)
    except ImageError as error:
        raise ConfigurationError(str(error)) from error
    found = list(answers_to(localizer, files))
    answers = [answer for answer in found if isinstance(answer, Answer)]
    return score(answers, labels) | {"unreadable": len(found) - len(answers)}
