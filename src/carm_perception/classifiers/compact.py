# SPDX-License-Identifier: Apache-2.0
"""The compact classifier of body parts: one small network, a few milliseconds on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from carm_perception.classifiers.classifier import Classifier
from carm_perception.networks.body_part_reader import BODY_PART_FOLDER, model_square
from carm_perception.protocols.body_parts import PartForm
from carm_perception.protocols.parsing import BodyPartAnswer

if TYPE_CHECKING:
    from carm_perception.networks.body_part_network import BodyPartNetwork

SECOND = 0.5
"""Probability from which a second part is named beside the first, where the answer may name one or two."""


class CompactClassifier(Classifier):
    """Answers by the probabilities of a ``BodyPartNetwork``."""

    name = "compact"

    def __init__(self, folder: Path | None = None, threads: int = 1) -> None:
        """Load the weights.

        Args:
            folder: Folder with ``body_part.safetensors``; None: the one that ships.
            threads: CPU threads of torch; 0: leave as they are.

        Raises:
            LocalizerError: There are no such weights, or they are of another network.
        """
        import torch

        from carm_perception.networks.body_part_network import load_network

        if threads:
            torch.set_num_threads(threads)
        self._network: BodyPartNetwork = load_network(folder or BODY_PART_FOLDER)

    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the probability (22,) of each body part in an image and its mirror image, independently."""
        import torch

        gray = model_square(image)
        copies = np.stack([gray, gray[:, ::-1]])
        with torch.inference_mode():
            logits = self._network(torch.tensor(copies, dtype=torch.float32) / 255)
        return np.asarray(logits.double().sigmoid().mean(0).numpy())

    def _answer(self, image: NDArray[np.uint8], form: PartForm) -> tuple[str, float]:
        found = self.probabilities(image)
        first, second = (int(index) for index in np.argsort(-found)[:2])
        pair = form is PartForm.PAIR
        ids = (first, second) if pair or found[second] >= SECOND else (first,)
        return BodyPartAnswer(ids, pair).text(), float(found[first])
