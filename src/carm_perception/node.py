# SPDX-License-Identifier: Apache-2.0
"""Entry point of the localizer node."""

import sys

from carm_perception.nodes.localizer_node import LocalizerNode, main

__all__ = ["LocalizerNode", "main"]

if __name__ == "__main__":
    sys.exit(main())
