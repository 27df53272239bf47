# SPDX-License-Identifier: Apache-2.0
"""Decoded CTs are read once, and again when their file changes."""

from __future__ import annotations

import numpy as np
import pytest

from carm_sim.patient.ct import cache
from carm_sim.patient.ct.cache import cached_ct
from carm_sim.patient.volume import Volume


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WORTH_VOXELS", 1)
    file = tmp_path / "ct.nii"
    file.write_text("a")
    return file


class Reader:
    """Counts how often it reads."""

    def __init__(self):
        self.count = 0
        self.volume = Volume(np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)), np.diag([1, 2, 3, 1.0]))

    def __call__(self):
        self.count += 1
        return self.volume


def test_an_unchanged_file_is_read_once(source):
    reader = Reader()
    first, second = (cached_ct([source], "", reader) for _ in range(2))
    assert reader.count == 1
    np.testing.assert_array_equal(first.hu, second.hu)
    np.testing.assert_array_equal(first.transform_voxel_to_lps, second.transform_voxel_to_lps)
    assert second.hu.flags.f_contiguous
    assert not second.hu.flags.writeable


def test_a_changed_file_or_setting_is_read_again(source):
    reader = Reader()
    cached_ct([source], "", reader)
    cached_ct([source], "spacing=2", reader)
    source.write_text("ab")
    cached_ct([source], "", reader)
    assert reader.count == 3


def test_a_damaged_cache_file_is_replaced(source, tmp_path):
    reader = Reader()
    cached_ct([source], "", reader)
    (entry,) = (f for f in (tmp_path / "cache/carm/ct").glob("*.npy") if "affine" not in f.name)
    entry.write_bytes(b"\x93NUMPY")
    np.testing.assert_array_equal(cached_ct([source], "", reader).hu, reader.volume.hu)
    cached_ct([source], "", reader)
    assert reader.count == 2


def test_old_entries_go(source, monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "MOST_ENTRIES", 2)
    for setting in "abcd":
        cached_ct([source], setting, Reader())
    assert len(list((tmp_path / "cache/carm/ct").iterdir())) == 4


def test_without_a_cache_folder_the_ct_is_read(source, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    reader = Reader()
    assert cached_ct([source], "", reader) is reader.volume


def test_small_cts_are_not_kept(source, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "WORTH_VOXELS", 25)
    cached_ct([source], "", Reader())
    assert not (tmp_path / "cache").exists()
