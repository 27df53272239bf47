# SPDX-License-Identifier: Apache-2.0
"""A compact model folder, loaded: weights, tokenizer, processor, landmark reader."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from carm_core.errors import LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_perception.networks.landmark_reader import LandmarkReader, Reading
from carm_perception.networks.model_folder import COMPACT_FOLDER, ONLY_DATA, REQUIRED, check_model_folder, weights_hash
from carm_perception.networks.preprocessing import model_gray


class LoadedModel:
    """Weights, tokenizer and processor of a compact model folder, on the CPU in single precision.

    The language model is loaded when it is first asked for: ``transformers`` takes seconds to import, and the
    deep-learning localizer needs but the tower.

    Attributes:
        version: Short hash of the weights.
    """

    def __init__(self, folder: Path | None = None, threads: int = 1) -> None:
        """Load the tower.

        Args:
            folder: Model folder; None: the one that ships.
            threads: CPU threads of torch; 0: leave as they are.

        Raises:
            LocalizerError: The folder is incomplete or its content is no such model.
        """
        self.folder = Path(folder) if folder else COMPACT_FOLDER
        check_model_folder(self.folder, REQUIRED)
        import torch

        from carm_perception.networks.image_tower import ImageTower

        if threads:
            torch.set_num_threads(threads)
        self._tower = ImageTower.load(self.folder)
        self.version = weights_hash(self.folder)
        self._reader: LandmarkReader | None = None
        self._tokens: tuple[XrayFrame, Any] | None = None
        self._last: tuple[XrayFrame, Reading] | None = None

    @cached_property
    def model(self) -> Any:
        """``FastVlmForConditionalGeneration``.

        Raises:
            LocalizerError: The folder's content is no such model.
        """
        import torch
        from transformers import AutoModelForImageTextToText
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            return AutoModelForImageTextToText.from_pretrained(
                self.folder, dtype=torch.float32, local_files_only=True, **ONLY_DATA
            ).eval()
        except Exception as error:  # transformers raises many unrelated types for a damaged folder
            raise self._damaged(error) from error

    @cached_property
    def processor(self) -> Any:
        """Its processor.

        Raises:
            LocalizerError: The folder's content is no such model.
        """
        from transformers import AutoProcessor

        try:
            return AutoProcessor.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise self._damaged(error) from error

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.processor.tokenizer

    def _damaged(self, error: Exception) -> LocalizerError:
        return LocalizerError(f"model folder {self.folder} cannot be loaded: {_first_line(error)}")

    def require_reader(self) -> LandmarkReader:
        """Load the deep-learning localizer of the same folder, once.

        Raises:
            LocalizerError: Its file is missing or damaged.
        """
        if self._reader is None:
            self._reader = LandmarkReader.load(self.folder, self._tower.width)
        return self._reader

    def read(self, frame: XrayFrame) -> Reading:
        """Return what the deep-learning localizer says about a frame; the last one is remembered.

        Raises:
            LocalizerError: The image cannot be read, or the localizer's file is missing or damaged.
        """
        if self._last is None or self._last[0] is not frame:
            self._last = frame, self.require_reader().read(frame, self.image_tokens(frame))
        return self._last[1]

    def image_tokens(self, frame: XrayFrame) -> Any:
        """Return the projected image tokens (1, tokens, width) of a frame; the last ones are remembered.

        Raises:
            LocalizerError: The image cannot be read.
        """
        import torch

        if self._tokens is None or self._tokens[0] is not frame:
            gray = torch.tensor(model_gray(frame), dtype=torch.float32)[None] / 255
            with torch.inference_mode():
                self._tokens = frame, self._tower(gray)
        return self._tokens[1]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
