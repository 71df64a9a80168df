"""Which process reads a Hub token out of what driver and workers send each other: rank 0, if it uploads.

In a pickle a stand-in takes the place of the token, so no other rank has it, nor Ray's object store. Whoever reads the
stand-in gets what its process has learned: rank 0 asks the control actor before it reads what was sent, and every other
process has learned nothing, so that it gets None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

FIELDS = ("hub_token", "push_to_hub_token")
"""Fields of arguments that hold a token."""

_learned: dict[str, str] = {}


class StandIn:
    """Is pickled in place of a token."""

    def __reduce__(self) -> Any:
        return read_token, ()


def learn_token(token: str | None) -> None:
    """Let what this process reads from now on have a token, or none."""
    _learned.clear()
    if token is not None:
        _learned[FIELDS[0]] = token


def read_token() -> str | None:
    """What a stand-in becomes in this process."""
    return _learned.get(FIELDS[0])


def token_for_uploads(args: Any) -> str | None:
    """The token that rank 0 needs for a trainer with these arguments, if any; None if it uploads nothing."""
    return args.hub_token if args is not None and args.push_to_hub else None


def without_token(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of arguments by name, with a stand-in for each token."""
    return {
        name: StandIn() if name in FIELDS and value is not None else value for name, value in values.items()
    }


def has_token_field(value: object) -> bool:
    """Whether an object has a token among its fields, as all arguments of a trainer have."""
    return FIELDS[0] in getattr(type(value), "__dataclass_fields__", ())


def reduce_without_token(value: object) -> Any:
    """How arguments are pickled, with a stand-in for each token."""
    reduced = cast("tuple[Any, ...]", value.__reduce_ex__(5))
    if len(reduced) > 2 and isinstance(reduced[2], dict):
        return (*reduced[:2], without_token(cast("dict[str, Any]", reduced[2])), *reduced[3:])
    return reduced
