# SPDX-License-Identifier: Apache-2.0
"""A larger language model that makes the agent's decisions: it reads texts and calls a few typed tools under budgets.

Every tool uses the same ports as the agent's own policy, so that planning, checks, limits, stop and supervision are
the same. Optional; it runs only with a server address.
"""

from carm_agent.llm.client import ChatServer, HeadOptions
from carm_agent.llm.session import Budget, HeadCode, HeadResult, Session
from carm_agent.llm.tools import TOOLS, HeadHands
from carm_agent.llm.transcript import Transcript

__all__ = [
    "TOOLS",
    "Budget",
    "ChatServer",
    "HeadCode",
    "HeadHands",
    "HeadOptions",
    "HeadResult",
    "Session",
    "Transcript",
]
