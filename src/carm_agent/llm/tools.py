# SPDX-License-Identifier: Apache-2.0
"""The tools that a language model may call: a closed list, each with a JSON schema that its arguments must meet."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jsonschema

from carm_agent.errors import AgentError
from carm_agent.planning.anatomical_views import ANATOMICAL_VIEWS
from carm_core.data_files import parse_json
from carm_core.landmarks import ALL_LANDMARKS

LONGEST_ARGUMENTS = 2000
"""Characters of a call's arguments; longer ones are refused unread."""
LONGEST_TEXT = 500
"""Characters of a text to the clinician."""


class ToolError(AgentError):
    """A call is refused; nothing happened."""


class HeadHands(ABC):
    """What the tools do. Calls block the session's own thread and return early when the task is interrupted."""

    @abstractmethod
    def expose(self) -> dict[str, Any]:
        """Take an image; return the view in which it was taken."""

    @abstractmethod
    def localize(self, target_id: int) -> dict[str, Any]:
        """Ask the localizer for a landmark in the last image.

        Raises:
            ToolError: There is no image of the present view.
        """

    @abstractmethod
    def move_view(self, dx_mm: float, dy_mm: float) -> dict[str, Any]:
        """Move the image center over the patient: towards the patient's left and towards the head, mm."""

    @abstractmethod
    def set_angles(self, primary_deg: float, secondary_deg: float) -> dict[str, Any]:
        """Turn about the isocenter to positioner angles, degrees."""

    @abstractmethod
    def show_view(self, view: str) -> dict[str, Any]:
        """Turn to a view that is defined in the axes of a bone, and center it.

        Raises:
            ToolError: There is no such view, or something of it is not said.
        """

    @abstractmethod
    def ask(self, question: str) -> dict[str, Any]:
        """Ask the clinician and wait for the answer."""

    @abstractmethod
    def stop(self, reason: str) -> dict[str, Any]:
        """Bring everything to rest; nothing moves until a person resets."""


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        name: As it is called.
        description: For the model.
        properties: JSON schemas of the arguments; all are required, no others are allowed.
        run: Calls the hands with the checked arguments; None for the tool that ends the session.
    """

    name: str
    description: str
    properties: dict[str, Any]
    run: Callable[[HeadHands, dict[str, Any]], dict[str, Any]] | None

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        return {
            "type": "object",
            "properties": self.properties,
            "required": list(self.properties),
            "additionalProperties": False,
        }

    def declaration(self) -> dict[str, Any]:
        """Return the tool as the chat completions API wants it."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}


def _number(description: str, limit: float) -> dict[str, Any]:
    return {"type": "number", "minimum": -limit, "maximum": limit, "description": description}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": LONGEST_TEXT, "description": description}


_IDS = {
    "type": "integer",
    "enum": [mark.id for mark in ALL_LANDMARKS],
    "description": "; ".join(f"{mark.id}: {mark.name}" for mark in ALL_LANDMARKS),
}

_ALL = (
    Tool("expose", "Take one X-ray image with the arm as it stands.", {}, lambda hands, _: hands.expose()),
    Tool(
        "localize",
        "Ask the localizer where a landmark lies in the last image: displacement from the image center in mm (right and"
        " up in the image, at AP the patient's left and the head) with its uncertainty.",
        {"target": _IDS},
        lambda hands, given: hands.localize(given["target"]),
    ),
    Tool(
        "move_view",
        "Move the image center over the patient. The way is planned and checked; it may be refused.",
        {
            "dx_mm": _number("towards the patient's left", 200),
            "dy_mm": _number("towards the patient's head", 200),
        },
        lambda hands, given: hands.move_view(given["dx_mm"], given["dy_mm"]),
    ),
    Tool(
        "set_angles",
        "Turn about the isocenter to DICOM positioner angles. The way is planned and checked; it may be refused.",
        {
            "primary_deg": _number("LAO positive, RAO negative", 95),
            "secondary_deg": _number("cranial positive, caudal negative", 50),
        },
        lambda hands, given: hands.set_angles(given["primary_deg"], given["secondary_deg"]),
    ),
    Tool(
        "show_view",
        "Turn to a view defined in the axes of a bone, and center it. Needs the patient's CT. The way is planned"
        f" and checked; it may be refused. Views: {', '.join(dict.fromkeys(view.name for view in ANATOMICAL_VIEWS))}.",
        {"view": _text("view, bone and side, for example: true lateral of T12; Grashey of the left shoulder")},
        lambda hands, given: hands.show_view(given["view"]),
    ),
    Tool(
        "ask",
        "Ask the clinician and wait for the answer.",
        {"question": _text("one sentence")},
        lambda hands, given: hands.ask(given["question"]),
    ),
    Tool(
        "stop",
        "Bring everything to rest at once. Nothing moves until a person resets it. Ends the session.",
        {"reason": _text("why")},
        lambda hands, given: hands.stop(given["reason"]),
    ),
    Tool(
        "report",
        "Tell the clinician the outcome. Ends the session.",
        {"success": {"type": "boolean"}, "text": _text("one or two sentences")},
        None,
    ),
)

TOOLS: dict[str, Tool] = {tool.name: tool for tool in _ALL}
"""The whitelist."""

_VALIDATORS = {name: jsonschema.Draft202012Validator(tool.schema) for name, tool in TOOLS.items()}


def checked_arguments(name: str, text: str) -> dict[str, Any]:
    """Check a call.

    Args:
        name: Of the tool.
        text: JSON of the arguments, as the model wrote it.

    Returns:
        The arguments.

    Raises:
        ToolError: There is no such tool, or the arguments do not meet its schema; the message tells the model why.
    """
    if name not in TOOLS:
        raise ToolError(f"there is no tool {name[:40]!r}; the tools are {', '.join(TOOLS)}")
    if len(text) > LONGEST_ARGUMENTS:
        raise ToolError(f"the arguments have {len(text)} characters; at most {LONGEST_ARGUMENTS} are read")
    try:
        given = parse_json(text or "{}", parse_constant=_refuse_constant, object_pairs_hook=_unique)
        json.dumps(given, ensure_ascii=False).encode()  # half characters cannot be written
    except ValueError as error:
        raise ToolError(f"the arguments are no JSON: {str(error)[:120]}") from None
    problem = jsonschema.exceptions.best_match(_VALIDATORS[name].iter_errors(given))
    if problem is not None:
        where = "".join(f"{part}: " for part in problem.absolute_path)
        raise ToolError(f"the arguments of {name} do not fit: {where}{problem.message[:200]}")
    integers = [key for key, rule in TOOLS[name].properties.items() if rule["type"] == "integer"]
    return {**given, **{key: int(given[key]) for key in integers}}  # the schema takes 11.0 for one


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)
