"""Which class the error of a failed run has: ``TrainingFailed``, and that of the user's exception too.

In one process a script catches what its code raised, and in ``transformers`` too: ``except ValueError`` around
``train(resume_from_checkpoint=True)``, ``except torch.OutOfMemoryError``. On Ray the same clause must catch it.
"""

from __future__ import annotations

import functools
from typing import Any, cast

from raytrainer.errors import TrainingFailed


def failed_by(message: str, cause: BaseException | None) -> TrainingFailed:
    """Make the error of a failed run.

    Args:
        message: What a person reads.
        cause: The user's exception; None if it could not be brought here.

    Returns:
        An error with ``cause`` as its cause and with the cause's attributes. It is an instance of the cause's class
        where Python can make one: not of what ends a process, such as ``SystemExit``.
    """
    error = _made(message, cause) if isinstance(cause, Exception) else TrainingFailed(message)
    error.__cause__ = cause
    error.__suppress_context__ = True
    return error


def _made(message: str, cause: Exception) -> TrainingFailed:
    try:
        error = _class_for(type(cause))(message)
    except Exception:  # noqa: BLE001 - constructors of users' classes may raise anything
        return TrainingFailed(message)
    vars(error).update({name: value for name, value in vars(cause).items() if name != "__notes__"})
    return error


@functools.cache
def _class_for(cause: type[Exception]) -> type[TrainingFailed]:
    if issubclass(cause, TrainingFailed):
        return cause
    if issubclass(TrainingFailed, cause):
        return TrainingFailed
    own: dict[str, Any] = {
        "__init__": _init,
        "__str__": Exception.__str__,  # others format their own arguments
        "__reduce__": _reduce,
        "__module__": TrainingFailed.__module__,
        "__doc__": TrainingFailed.__doc__,
    }
    name = f"{TrainingFailed.__name__}({cause.__name__})"
    return cast("type[TrainingFailed]", type(name, (TrainingFailed, cause), own))


def _init(self: TrainingFailed, message: str) -> None:
    Exception.__init__(self, message)


def _reduce(self: TrainingFailed) -> tuple[Any, ...]:
    return failed_by, (str(self), self.__cause__)
