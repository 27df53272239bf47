# SPDX-License-Identifier: Apache-2.0
"""Message definitions as text, to go into a bag: with them a bag can be read where the packages are missing.

The texts are the installed ``.msg`` and ``.action`` files, comments (units!) included.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from carm_bringup.recording.errors import SchemaError
from carm_core.errors import quoted
from carm_ros.distribution import distribution

_SEPARATOR = "=" * 80
_TYPE_NAME = re.compile(r"[A-Za-z]\w*(/[A-Za-z]\w*){1,2}", re.ASCII)
_FIELD_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
_LONGEST_TEXT = 1 << 20
_LONGEST_ARRAY = 1 << 24
_MOST_UNROLLED = 64
"""Elements of an array of fixed length for each of which ``rosbags`` writes lines of code."""
_FEEDBACK_MESSAGE = "unique_identifier_msgs/UUID goal_id\n{package}/action/{name}_Feedback feedback\n"


def definition(type_name: str) -> str:
    """Return the text of a message type followed by those of all types that it uses, in the form ``ros2msg``.

    Args:
        type_name: For example ``"sensor_msgs/msg/Image"`` or ``"carm_interfaces/action/Navigate_FeedbackMessage"``.

    Raises:
        SchemaError: No installed package defines the type.
    """
    texts = {type_name: _text(type_name)}
    waiting = [type_name]
    while waiting:
        name = waiting.pop()
        for used in _used_types(texts[name], name):
            if used not in texts:
                texts[used] = _text(used)
                waiting.append(used)
    first, *others = texts.items()
    parts = [first[1]] + [f"{_SEPARATOR}\nMSG: {_short(name)}\n{text}" for name, text in others]
    return "".join(part if part.endswith("\n") else f"{part}\n" for part in parts)


def add_types(store: Typestore, type_name: str, text: str) -> None:
    """Add the types of a definition to a type store; known types do not change.

    Args:
        store: From ``standard_types``.
        type_name: The first type of the text.
        text: As ``definition`` makes it.

    Raises:
        SchemaError: The definition is of no use; ``rosbags`` raises several more types for texts that are none.
    """
    register(store, get_types_from_msg(_bounded(text), type_name))


def add_idl_types(store: Typestore, text: str) -> None:
    """Add the types of a definition in IDL to a type store; known types do not change.

    Raises:
        SchemaError: As ``add_types``.
    """
    register(store, get_types_from_idl(_bounded(text)))


def register(store: Typestore, types: Typesdict) -> None:
    """Add types to a type store, of which ``rosbags`` makes Python code: names must be names, arrays not too long.

    Raises:
        SchemaError: A type is of no use.
    """
    for name, (constants, fields) in types.items():
        names = [*(constant[0] for constant in constants), *(field[0] for field in fields)]
        if not _TYPE_NAME.fullmatch(name) or not all(map(_FIELD_NAME.fullmatch, names)):
            raise SchemaError(f"{quoted(name)} is no message type")
        for field, description in fields:
            _check_array(f"{name}.{field}", description)
    store.register({name: fields for name, fields in types.items() if name not in store.fielddefs})


def _check_array(field: str, description: Any) -> None:
    kind, inner = description
    if kind is Nodetype.ARRAY:
        (element_kind, element), count = inner
        unrolled = element_kind is not Nodetype.BASE or element[0] == "string"
        if not 0 < count <= (_MOST_UNROLLED if unrolled else _LONGEST_ARRAY):
            raise SchemaError(f"{field} is an array of {count}")


def _bounded(text: str) -> str:
    if len(text) > _LONGEST_TEXT:
        raise SchemaError(f"a definition of {len(text)} characters")
    return text


def standard_types() -> Typestore:
    """Return a type store with the standard messages of this ROS 2 distribution."""
    return get_typestore(Stores[f"ROS2_{distribution().name.upper()}"])


def type_hash(type_name: str) -> str:
    """Return the hash of a type (REP-2011), ``RIHS01_...``; empty when it cannot be computed."""
    store = standard_types()
    try:
        add_types(store, type_name, definition(type_name))
        return str(store.hash_rihs01(type_name))
    except (SchemaError, KeyError, ValueError):
        return ""


def _used_types(text: str, type_name: str) -> Iterator[str]:
    for _, (_, description) in get_types_from_msg(text, type_name)[type_name][1]:
        while isinstance(description, tuple) and isinstance(description[0], tuple):
            description = description[0][1]  # element of an array or sequence
        if isinstance(description, str):
            yield description


def _short(type_name: str) -> str:
    """Return the name as ``.msg`` files use it: ``std_msgs/Header``."""
    return type_name.replace("/msg/", "/")


@cache
def _text(type_name: str) -> str:
    package, kind, name = type_name.split("/")
    if kind == "msg":
        return _file(package, kind, f"{name}.msg") or _standard_text(type_name)
    action, _, part = name.rpartition("_")
    if part == "FeedbackMessage":
        return _FEEDBACK_MESSAGE.format(package=package, name=action)
    if part in ("Goal", "Result", "Feedback"):
        text = _file(package, kind, f"{action}.action")
        if text:
            return _sections(text)[("Goal", "Result", "Feedback").index(part)]
    raise SchemaError(f"no installed package defines {type_name}")


def _sections(text: str) -> list[str]:
    """Split an action's definition at its lines ``---``."""
    sections = [""]
    for line in text.splitlines(keepends=True):
        if line.strip() == "---":
            sections.append("")
        else:
            sections[-1] += line
    return sections


def _file(package: str, kind: str, name: str) -> str:
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    for prefix in filter(None, prefixes):
        file = Path(prefix) / "share" / package / kind / name
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return ""


def _standard_text(type_name: str) -> str:
    store = standard_types()
    if type_name not in store.fielddefs:
        raise SchemaError(f"no installed package defines {type_name}: is carm_interfaces built? Run `make setup`")
    text: str = store.generate_msgdef(type_name, ros_version=2)[0]
    return text.partition(_SEPARATOR)[0]
