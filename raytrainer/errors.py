"""The exceptions that raytrainer raises on purpose.

Exception
 +-- RayTrainerError              base class of all of them
      +-- ConfigurationError      input that cannot be trained with, found before workers start (also a ValueError)
      |    +-- UnknownArgumentError   a keyword that no argument has (also a TypeError)
      |    +-- WrongTypeError         an object of a type that cannot be used (also a TypeError)
      |    +-- ModelError             model, model_init and optimizers do not go together (also a RuntimeError)
      |    +-- MetricError            an evaluation lacks the metric that was asked for (also a KeyError)
      |    +-- MissingPackageError    a package is not installed (also an ImportError and a RuntimeError)
      +-- CheckpointError         a checkpoint is missing, damaged, or of another model or run (also a ValueError)
      +-- PlacementError          others hold what the workers need
      +-- EngagementError         what was requested is not what runs on the workers
      +-- HubError                a request to the Hub failed
      +-- DispatchError           rank 0, which reads the data for all ranks, failed; raised on the other ranks
      +-- GroupClosedError        the workers left while they were given a task
      +-- TrainingFailed          workers failed for good; leads with the user's own exception

The classes in brackets are those that ``transformers.Trainer`` raises in the same place, so that a script that catches
them needs no change.

All of them can be imported from ``raytrainer``. An exception of the user's code, such as one in ``compute_loss``, is
never wrapped where it is raised. On the driver it is the ``__cause__`` of a ``TrainingFailed``, which is an instance of
its class too: ``except ValueError`` catches a ``ValueError`` that was raised on a worker.
"""

from __future__ import annotations


class RayTrainerError(Exception):
    """Base class of every error that raytrainer raises on purpose."""


class ConfigurationError(RayTrainerError, ValueError):
    """Arguments, data or objects that cannot be trained with, found before workers start."""


class UnknownArgumentError(ConfigurationError, TypeError):
    """A keyword that no argument has; also the ``TypeError`` that Python raises for one."""


class WrongTypeError(ConfigurationError, TypeError):
    """An object of a type that cannot be used."""


class ModelError(ConfigurationError, RuntimeError):
    """Model, ``model_init`` and optimizers are missing, or contradict each other."""


class MetricError(ConfigurationError, KeyError):
    """An evaluation does not give the metric that was asked for."""

    __str__ = Exception.__str__  # that of KeyError is the repr of the message


class MissingPackageError(ConfigurationError, ImportError, RuntimeError):
    """A package is not installed. Trackers of transformers raise RuntimeError for one, optimizers ImportError."""


class CheckpointError(RayTrainerError, ValueError):
    """A checkpoint that does not exist, does not verify, or was written for another model or run."""


class PlacementError(RayTrainerError):
    """The workers got no room: others hold what they need. The message says who."""


class EngagementError(RayTrainerError):
    """A requested feature is not in effect on the workers."""


class HubError(RayTrainerError):
    """A request to the Hub failed. The message says what to do, and never contains a token."""

    def __init__(self, message: str, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting
        """Whether the same request would fail again."""


class DispatchError(RayTrainerError):
    """Rank 0, which reads the data for all ranks, failed. Rank 0 itself raises the original exception."""


class GroupClosedError(RayTrainerError):
    """The workers left, because nothing was asked of them for a while; a new group must be started."""


class TrainingFailed(RayTrainerError):
    """A run ended because workers failed for good.

    The message leads with the user's exception; ``__cause__`` is that exception if it could be brought to the driver,
    and then the error is an instance of its class too.
    """
