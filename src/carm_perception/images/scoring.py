# SPDX-License-Identifier: Apache-2.0
"""What a localizer says about one's own images, and how right it is where they are labeled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_core.errors import ConfigurationError, ImageError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Localization, Localizer, Protocol, Query
from carm_perception.classifiers.classifier import Classification
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
        part: The body part; None: not asked for.
    """

    image: ImageFile
    places: Localization
    closest: Localization | None
    part: Classification | None = None


class Later(Localizer):
    """A localizer that is made when the first question comes: loading a language model takes seconds."""

    def __init__(self, name: str, make: Callable[[], Localizer]) -> None:
        """Remember how it is made."""
        self.name, self._make = name, make
        self._made: Localizer | None = None

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Make it, once, and ask it.

        Raises:
            CarmError: It cannot be made.
        """
        if self._made is None:
            self._made = self._make()
        return self._made.localize(frame, query)

    def close(self) -> None:
        """Close it, if it was made."""
        if self._made is not None:
            self._made.close()


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
    classify: Callable[[ImageFile], Classification] | None = None,
) -> Iterator[Answer | str]:
    """Yield the answer to each image, or in one line why there is none.

    Args:
        localizer: Who answers.
        files: Images, as ``read_images`` takes them.
        target: Landmark asked for; None: all.
        mm_per_px: As for ``read_images``.
        invert: As for ``read_images``.
        classify: Says which body part an image shows, before the localizer is asked; None: nobody does.
    """
    for file in files:
        try:
            for image in read_images(file, mm_per_px, invert):
                part = classify(image) if classify else None
                closest = None if target else localizer.localize(image.frame, Query(Protocol.LOCALIZATION))
                places = localizer.localize(image.frame, Query(Protocol.POINTING, target))
                error = places.error or (closest.error if closest else None)
                if error and not places.estimates and not (closest and closest.estimates):
                    yield f"{image.name}: {localizer.name} failed ({places.message or error})"
                else:
                    yield Answer(image, places, closest, part)
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
