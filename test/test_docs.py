# SPDX-License-Identifier: Apache-2.0
"""The documentation is whole: links and images resolve, every page is in the navigation, modules and files exist."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
LINE_LENGTH = 120


class _Configuration(yaml.SafeLoader):
    """Reads ``mkdocs.yml``, whose Python names only mkdocs resolves."""


_Configuration.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda _loader, suffix, _node: suffix)


def pages_in_navigation(entry: object) -> list[str]:
    """Return the paths of all pages below an entry of ``nav``."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    assert not isinstance(parts, str | int)
    return [page for part in parts for page in pages_in_navigation(part)]  # type: ignore[attr-defined]


def without_code(text: str) -> str:
    """Return the text without its fenced blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_images_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page if not path else page.parent / path
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_is_in_the_navigation() -> None:
    configuration = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Configuration)
    listed = pages_in_navigation(configuration["nav"])
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_every_image_is_shown() -> None:
    shown = {name for page in TEXTS for name in re.findall(r"images/(\w+\.\w+)", page.read_text(encoding="utf-8"))}
    assert shown == {image.name for image in (DOCS / "images").iterdir()}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_prose_are_short(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    long = [line for line in prose.splitlines() if len(line) > LINE_LENGTH and not line.startswith(("|", "    ", "!["))]
    assert not long


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_and_sources_named_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?:`|^::: )(carm_[a-z]+(?:\.\w+)+)", text, re.MULTILINE):
        assert is_defined(name), name
    folders = "carm_[a-z]+|src|test|config|scripts|docs|moveit|worlds"
    for name in re.findall(rf"`((?:{folders})/[\w/.]+\.\w+)`", text):
        assert (ROOT / name).exists() or (ROOT / "src" / name).exists(), name


def is_defined(name: str) -> bool:
    """Return whether a dotted name is a module of the sources, or occurs in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT / "src" / Path(*parts[:count])
        sources = [path.with_suffix(".py"), path / "__init__.py"]
        source = next((candidate for candidate in sources if candidate.is_file()), None)
        if source is not None:
            text = source.read_text(encoding="utf-8")
            return count == len(parts) or re.search(rf"\b{parts[count]}\b", text) is not None
    return False
