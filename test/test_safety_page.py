# SPDX-License-Identifier: Apache-2.0
"""The safety page names tests that exist, one for each measure."""

import ast
import re
from pathlib import Path

import pytest

from carm_control import OperatingState

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(test/[\w/]+\.py)::(\w+)`", PAGE)))
SECTION = PAGE.partition("## Hazards")[2].partition("\n## ")[0]
ROWS = [line for line in SECTION.splitlines() if line.startswith("| ") and not line.startswith("| hazard")]


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_the_test_exists(path: str, name: str) -> None:
    assert (ROOT / path).is_file()
    assert name in functions(ROOT / path)


def test_every_measure_names_its_test() -> None:
    assert len(ROWS) > 30
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, row
        assert all(cells[1:3]), row
        assert re.fullmatch(r"`test/[\w/]+\.py::test_\w+`", cells[3]), row


def test_all_states_are_told() -> None:
    for state in OperatingState:
        assert state.name in PAGE


def test_the_page_says_what_hardware_must_add() -> None:
    assert "emergency stop that is wired" in PAGE
