# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON from files and other programs: bounded in bytes, in depth, and in what aliases expand to.

The only place that parses either, so that no input can fill the memory or reach Python's recursion limit later on.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from carm_core.errors import CarmError

MOST_BYTES = 4 << 20
"""Largest file, bytes, unless a reader says otherwise."""
MOST_DEPTH = 64
"""Deepest nesting of lists and mappings."""
MOST_NODES = 1_000_000
"""Most values in a document, with each alias of YAML counted as often as it stands for something."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class DataFileError(CarmError, ValueError):
    """A text is no YAML or JSON, or a larger one than is read."""


class _BoundedLoader(_Base):  # type: ignore[misc]
    """PyYAML's safe loader, which counts before it constructs: a merge key (``<<``) copies what it names."""

    def construct_document(self, node: Any) -> Any:
        _check_nodes(node)
        return super().construct_document(node)


def read_yaml(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Return the content of a YAML file.

    Args:
        path: The file.
        most_bytes: Largest file, bytes.

    Raises:
        OSError: It cannot be read.
        DataFileError: It is no YAML, or too large.
    """
    return parse_yaml(_text(path, most_bytes))


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        DataFileError: It is no YAML, nests too deeply, or its aliases expand to too much.
    """
    try:
        _check_nesting(text)
        return yaml.load(text, _BoundedLoader)
    except DataFileError:
        raise
    except Exception as error:  # PyYAML raises many unrelated types for scalars that are none
        raise DataFileError(f"no YAML that can be read ({_one_line(error)})") from error


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Return the content of a JSON file.

    Args:
        path: The file.
        most_bytes: Largest file, bytes.

    Raises:
        OSError: It cannot be read.
        DataFileError: It is no JSON, or too large.
    """
    return parse_json(_text(path, most_bytes))


def parse_json(
    text: str | bytes | bytearray,
    parse_constant: Callable[[str], Any] | None = None,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return the content of a JSON text.

    Args:
        text: The text.
        parse_constant: As of ``json.loads``.
        object_pairs_hook: As of ``json.loads``.

    Raises:
        DataFileError: It is no JSON, has too many values, or nests too deeply.
    """
    _check_count(text)
    try:
        content = json.loads(text, parse_constant=parse_constant, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        raise DataFileError(f"it nests deeper than {MOST_DEPTH} levels") from None
    except DataFileError:
        raise
    except ValueError as error:
        raise DataFileError(f"no JSON ({_one_line(error)})") from error
    _check_depth(content)
    return content


def _check_count(text: str | bytes | bytearray) -> None:
    """Refuse a text whose values would take many times its size in memory, before any is made."""
    signs = map(text.count, ",[{") if isinstance(text, str) else map(text.count, b",[{")
    if sum(signs) > MOST_NODES:
        raise DataFileError(f"it has more than {MOST_NODES} values")


def shown(value: Any) -> str:
    """Return what a file holds in place of what is needed, for a message: its start, in one line."""
    return _short.repr(value)


_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 3, 60, 60


def _text(path: Path, most_bytes: int) -> str:
    with path.open("rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise DataFileError(f"the file has more than {most_bytes} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFileError(f"no text in UTF-8 ({error.reason} at byte {error.start})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _check_depth(content: Any) -> None:
    level: list[Any] = [content]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level if isinstance(outer, list | dict) for inner in _children(outer)]
        if not level:
            return
    raise DataFileError(f"it nests deeper than {MOST_DEPTH} levels")


def _children(outer: list[Any] | dict[str, Any]) -> Any:
    return (item for item in (outer.values() if isinstance(outer, dict) else outer) if isinstance(item, list | dict))


def _check_nesting(text: str) -> None:
    """Refuse deep nesting before anything is composed: libyaml's composer recurses in C, to the end of the stack."""
    depth = 0
    for event in yaml.parse(text, _Base):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise DataFileError(f"it nests deeper than {MOST_DEPTH} levels")


def _check_nodes(root: Any) -> None:
    """Count the values of a document and its depth as if each alias were written out."""
    sizes: dict[int, tuple[int, int]] = {}
    open_nodes: set[int] = set()
    todo = [(root, False)]
    while todo:
        node, done = todo.pop()
        inner = [] if isinstance(node, yaml.ScalarNode) else _inner(node)
        if done or not inner:
            open_nodes.discard(id(node))
            sizes[id(node)] = (
                1 + sum(sizes[id(child)][0] for child in inner),
                1 + max((sizes[id(child)][1] for child in inner), default=0),
            )
            if sizes[id(node)][0] > MOST_NODES:
                raise DataFileError(f"its aliases expand to more than {MOST_NODES} values")
            if sizes[id(node)][1] > MOST_DEPTH + 1:
                raise DataFileError(f"it nests deeper than {MOST_DEPTH} levels")
        elif id(node) in open_nodes:
            raise DataFileError("an alias stands for something that holds it")
        elif id(node) not in sizes:
            open_nodes.add(id(node))
            todo.append((node, True))
            todo += [(child, False) for child in inner if id(child) not in sizes]


def _inner(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)
