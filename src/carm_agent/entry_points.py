# SPDX-License-Identifier: Apache-2.0
"""Entry point of the agent node."""

from typing import NoReturn

from carm_ros.entry import run


def main() -> NoReturn:
    """Run the agent node."""
    run("carm_agent.nodes.agent_node")


if __name__ == "__main__":
    main()
