"""The string ``optim_args``: ``"key=value, key=value"``, in the types that an optimizer takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import did_you_mean

_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


def parse_options(name: str, known: Mapping[str, type], optim_args: str | None) -> dict[str, Any]:
    """Parse ``optim_args`` and check it against what an optimizer takes.

    Args:
        name: Of the optimizer.
        known: Its keys, with their types.
        optim_args: As the arguments have it.

    Raises:
        ConfigurationError: For a malformed string, a key that this optimizer does not take, or a value of another type.
    """
    options: dict[str, Any] = {}
    for part in (optim_args or "").split(","):
        if not part.strip():
            continue
        key, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator:
            raise ConfigurationError(
                f"optim_args={optim_args!r} has the part {part.strip()!r}, which is no `key=value`. "
                'Write it as in "momentum=0.9, nesterov=true".'
            )
        if key not in known:
            raise ConfigurationError(
                f"optim_args has {key!r}, which optim={name!r} does not take; it takes "
                f"{sorted(known) or 'no options at all'}.{did_you_mean(key, known)} Correct the name, or remove it."
            )
        options[key] = _read(key, value, known[key])
    return options


def _read(key: str, value: str, kind: type) -> Any:
    try:
        if kind is bool:
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[value.lower()]
        return kind(value)
    except (ValueError, KeyError) as error:
        raise ConfigurationError(
            f"optim_args has {key}={value}, where {'true or false' if kind is bool else f'an {kind.__name__}'} was "
            "expected."
        ) from error
