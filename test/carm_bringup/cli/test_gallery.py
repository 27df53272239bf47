# SPDX-License-Identifier: Apache-2.0
"""The sheet of bodies beside the chest CT."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from carm_bringup.cli import gallery
from carm_bringup.cli.verbs import VERBS


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verb = next(verb for verb in VERBS if verb.name == "snapshot")
    assert callable(verb.options)
    verb.options(parser)
    return parser.parse_args(words)


def test_sheet_shows_the_same_views_of_every_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PHANTOMS", 0)
    assert gallery.snapshot(options("--gallery", str(tmp_path / "sheet.png"))) == 0
    picture = np.asarray(gallery.sheet(["chest_ct", "chest_ct"], tile_px=64))
    tiles = picture[-4 * 64 :].reshape(4, 64, 2, 64).swapaxes(1, 2)[..., 30:-2, 2:-2]
    assert np.array_equal(tiles[:, 0], tiles[:, 1])
    assert (tiles.reshape(8, -1).std(1) > 10).all()
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["sheet.jpg", "missing/sheet.png"])
def test_bad_file_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        gallery.snapshot(options("--gallery", str(tmp_path / name)))
    assert refused.value.code == 2
    assert name.split("/")[0] in capsys.readouterr().err
