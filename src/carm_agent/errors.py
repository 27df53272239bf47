# SPDX-License-Identifier: Apache-2.0
"""Errors of the agent."""

from carm_core.errors import CarmError


class AgentError(CarmError):
    """Base of everything that ends a task of the agent."""


class InterruptedTaskError(AgentError):
    """The task was interrupted from outside; whoever raises it has brought the arm to rest."""


class CanceledError(InterruptedTaskError):
    """The client canceled the task."""


class StoppedError(InterruptedTaskError):
    """Stop is latched; nothing moves until it is reset."""


class LostPartError(InterruptedTaskError):
    """Something that the task depends on is gone.

    Attributes:
        cause: What is gone; the task ends with the code of this kind of error.
    """

    def __init__(self, cause: CarmError) -> None:
        """Keep the cause.

        Args:
            cause: What is gone.
        """
        super().__init__(str(cause))
        self.cause = cause


class ImagingError(AgentError):
    """No X-ray image came, or came in time."""


class MotionError(AgentError):
    """The arm did not follow a trajectory; it is at rest, unless ``NotAtRestError``."""


class NotAtRestError(MotionError):
    """Nobody says that the arm is at rest."""


class RejectedTrajectoryError(MotionError):
    """The trajectory controller refused the trajectory; nothing moved."""


class NoJointStatesError(MotionError):
    """The joint positions of the arm are unknown."""
