# SPDX-License-Identifier: Apache-2.0
"""A larger language model as the agent's head: it sees texts, and acts by a few typed tools under budgets.

Every tool leads to the same ports as the agent's own policy, so that planning, checks, limits, stop and supervision are
the same. Optional; without a server's address nothing of it runs.
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
