# SPDX-License-Identifier: Apache-2.0
"""The how-to pages name verbs, options, launch arguments and files that exist."""

import re
import shlex
from pathlib import Path

import pytest

from carm_bringup.cli import app as cli
from carm_bringup.graph import description as graph

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
KINDS = {"sim": "sim", "hardware": "hardware"}


def commands(page: Path) -> list[list[str]]:
    """Words of each line of the page's shell blocks, comments taken off, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_well_formed(page: Path) -> None:
    for words in commands(page):
        if words[0] == "make":
            arguments = dict(word.split("=", 1) for word in words[2:])
            graph.resolve(shlex.split(arguments["ARGS"]))
        elif words[0] == "carm" and words[1] in KINDS:
            graph.resolve(words[2:], KINDS[words[1]])
        elif words[0] == "carm":
            found = cli.select(words[1:])
            assert found is not None, words
            cli.parse(*found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "howto" / "README.md").read_text(encoding="utf-8")
    assert all(f"]({page.name})" in index for page in PAGES if page.name != "README.md")
