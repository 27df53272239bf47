# SPDX-License-Identifier: Apache-2.0
"""`carm bench console`: figures and options; test/carm_bringup/console has the tests of what it measures."""

import argparse

import pytest

from carm_bringup.benchmarks import console


def test_figures_are_those_of_all_pages() -> None:
    one = console.Page(images_ms=[10.0] * 99, states_ms=[1.0], stops_ms=[5.0, 7.0], failed=1)
    found = console.figures_of([one, console.Page(images_ms=[1000.0], states_ms=[3.0])])
    assert (found["images"], found["states"], found["stops"], found["stops_failed"]) == (100, 2, 2, 1)
    assert found["image_age_p50_ms"] == 10.0
    assert 10.0 < found["image_age_p99_ms"] < 1000.0
    assert (found["state_age_p50_ms"], found["stop_p50_ms"]) == (2.0, 6.0)


def test_without_images_there_are_no_figures() -> None:
    with pytest.raises(console.ConsoleError, match="no images"):
        console.figures_of([console.Page(states_ms=[1.0])])


@pytest.mark.parametrize("words", [["--clients", "9"], ["--clients", "0"], ["--rate", "0"], ["--format", "gif"]])
def test_bad_options_are_refused(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    console.add_arguments(parser)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(words)
    assert ended.value.code == 2
