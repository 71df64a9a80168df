"""How the arguments of ``transformers`` are made again on a worker, from the call that made them on the driver.

Such arguments belong to the process that constructs them: its device, its rank, and whatever a library computes from
the number of processes. A copy would carry the driver's values to the workers. So the call is recorded, and repeated on
each worker; what was changed afterwards is changed there too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import transformers

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError
from raytrainer.wire.hub_token import without_token

_CALL = "_constructed_with"


@dataclass(frozen=True)
class _Construction:
    """The call that made arguments."""

    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "keywords": without_token(self.keywords)}


@dataclass(frozen=True, kw_only=True)
class MadeArguments:
    """Arguments as the call that made them, and what was changed afterwards."""

    kind: type
    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]
    changes: Mapping[str, Any]
    """Field -> value."""

    def __getstate__(self) -> dict[str, Any]:
        hidden = {"keywords": without_token(self.keywords), "changes": without_token(self.changes)}
        return {**vars(self), **hidden}

    def make(self) -> Any:
        """Worker: make the arguments."""
        made = self.kind(*self.positional, **self.keywords)
        for name, value in self.changes.items():
            setattr(made, name, value)
        return made


@functools.cache
def record_constructions() -> None:
    """Remember from now on how arguments of ``transformers``, and of classes derived from them, are constructed."""

    def new(cls: type, *positional: object, **keywords: object) -> object:
        made = cast("object", object.__new__(cast("Any", cls)))
        if not issubclass(cls, TrainingArguments):  # ours travel as they are
            vars(made)[_CALL] = _Construction(positional, keywords)
        return made

    cast("Any", transformers.TrainingArguments).__new__ = new


def as_made(arguments: object) -> MadeArguments:
    """Driver: describe arguments so that a worker can make them.

    Args:
        arguments: Arguments of ``transformers`` or of a class derived from them.

    Raises:
        ConfigurationError: If they were constructed before ``record_constructions``.
    """
    kind = type(arguments)
    if _CALL not in vars(arguments):
        raise ConfigurationError(
            f"args= ({kind.__module__}.{kind.__qualname__}) was constructed before raytrainer.on_ray(...) was called. "
            "Each worker constructs its arguments again, with its own rank and device, and needs to know how. Call "
            "on_ray() first, then construct the arguments."
        )
    made: _Construction = vars(arguments)[_CALL]
    return MadeArguments(
        kind=kind,
        positional=made.positional,
        keywords=made.keywords,
        changes=_changes(arguments, kind(*made.positional, **made.keywords)),
    )


def _changes(now: Any, before: Any) -> dict[str, Any]:
    """What was changed since construction."""
    names = [one.name for one in fields(now)]
    return {
        name: getattr(now, name) for name in names if not _equal(getattr(now, name), getattr(before, name))
    }


def _equal(one: object, other: object) -> bool:
    return type(one) is type(other) and (one is other or repr(one) == repr(other))
