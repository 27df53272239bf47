# SPDX-License-Identifier: Apache-2.0
"""Forwards log records of the ROS-free parts to the node's log, on the terminal and on /rosout."""

from __future__ import annotations

import logging
from typing import Any


class RosLogHandler(logging.Handler):
    """Hands log records of ``carm_sim``, from warnings up, to a node's logger until it is closed."""

    def __init__(self, logger: Any) -> None:
        """Start to listen.

        Args:
            logger: What ``Node.get_logger()`` returns.
        """
        super().__init__(logging.WARNING)
        self._ros = logger
        logging.getLogger("carm_sim").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record; rclpy wants one place in the code for each severity."""
        if record.levelno >= logging.ERROR:
            self._ros.error(record.getMessage())
        else:
            self._ros.warning(record.getMessage())

    def close(self) -> None:
        """Stop listening."""
        logging.getLogger("carm_sim").removeHandler(self)
        super().close()
