# SPDX-License-Identifier: Apache-2.0
"""Entry point of the localizer node."""

from typing import NoReturn

from carm_ros.entry import run


def main() -> NoReturn:
    """Run the localizer node."""
    run("carm_perception.nodes.localizer_node")


if __name__ == "__main__":
    main()
