"""The exceptions that raytrainer raises on purpose.

RayTrainerError
 +-- ConfigurationError   bad input that is known before any worker starts (also a ValueError)
 +-- CheckpointError      a checkpoint is missing, damaged, or belongs to something else
 +-- EngagementError      what was requested is not what runs
 +-- HubError             an upload to the Hub failed
 +-- DealingError         rank 0, which reads the data for all ranks, failed; raised on the others
 +-- TrainingFailed       a run ended by a failure; leads with the user's own exception
"""

from __future__ import annotations


class RayTrainerError(Exception):
    """Base class of every error that raytrainer raises on purpose."""


class ConfigurationError(RayTrainerError, ValueError):
    """Arguments, data, or objects that cannot be trained with, found on the driver."""


class CheckpointError(RayTrainerError):
    """A checkpoint that does not exist, does not verify, or was written for something else."""


class EngagementError(RayTrainerError):
    """A requested feature is not engaged on the workers."""


class HubError(RayTrainerError):
    """Something could not be brought to the Hub. The message says what to do, and never holds a token."""

    def __init__(self, message: str, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting
        """The same request would fail again."""


class DealingError(RayTrainerError):
    """Rank 0, which reads the data for all ranks, could not go on. Rank 0 raises what it was."""


class TrainingFailed(RayTrainerError):
    """A run ended by a failure on a worker.

    The message leads with the user's exception; ``__cause__`` is that exception when it could be brought to
    the driver.
    """
