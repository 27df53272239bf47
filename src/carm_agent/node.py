# SPDX-License-Identifier: Apache-2.0
"""Entry point of the agent node."""

import sys

from carm_agent.nodes.agent_node import AgentNode, main

__all__ = ["AgentNode", "main"]

if __name__ == "__main__":
    sys.exit(main())
