# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from carm_core.errors import ConfigurationError
from carm_perception.training.checkpoint_file import load_checkpoint, save_checkpoint


class _Code:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_what_is_saved_comes_back_whole(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "optimizer": optimizer.state_dict(),
        "tied": [model.weight, model.weight],
        "half": torch.ones(2, dtype=torch.bfloat16),
        "other": (None, True, 3, 0.1 + 0.2, "µ", {"a/b": {}}),
    }
    save_checkpoint(tmp_path / "new" / "x.safetensors", content)
    read = load_checkpoint(tmp_path / "new" / "x.safetensors")
    assert read is not None
    assert str(read) == str({**content, "tied": [model.weight.detach()] * 2})
    assert read["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert list(read["optimizer"]["state"]) == [0, 1]
    torch.optim.AdamW(model.parameters()).load_state_dict(read["optimizer"])


def test_no_checkpoint(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "x.safetensors") is None


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_pickle_is_not_opened(tmp_path: Path, name: str) -> None:
    torch.save({"module": _Code(tmp_path / "ran")}, tmp_path / name)
    for asked in ("x.pt", "x.safetensors"):
        if name == "x.safetensors" and asked == "x.pt":
            continue
        with pytest.raises(ConfigurationError, match="delete it to begin again"):
            load_checkpoint(tmp_path / asked)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"format": "carm-checkpoint-1"},
        {"format": "carm-checkpoint-1", "content": "["},
        {"format": "carm-checkpoint-1", "content": "[" * 250_000},
        {"format": "carm-checkpoint-1", "content": '["dict", [["a", ["tensor", "../a"]]]]'},
        {"format": "carm-checkpoint-1", "content": '["dict", [[["a"], ["value", 1]]]]'},
        {"format": "carm-checkpoint-1", "content": '["code", "1"]'},
        {"format": "carm-checkpoint-1", "content": '["value", 1]'},
    ],
)
def test_damaged_checkpoints(tmp_path: Path, metadata: dict[str, str]) -> None:
    save_file({"0": torch.zeros(1)}, tmp_path / "x.safetensors", metadata)
    with pytest.raises(ConfigurationError, match="is damaged"):
        load_checkpoint(tmp_path / "x.safetensors")
