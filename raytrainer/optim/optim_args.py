"""How the string ``optim_args`` is read: ``"key=value, key=value"``, with the types that an optimizer declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import did_you_mean

_BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes"), True),
    **dict.fromkeys(("0", "false", "no"), False),
}


def parse_options(name: str, known: Mapping[str, type], optim_args: str | None) -> dict[str, Any]:
    """Parse ``optim_args`` and check it against the options of an optimizer.

    Args:
        name: The optimizer's name, for error messages.
        known: Its keys, with their types.
        optim_args: The string as given in the arguments.

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
                f"optim_args={optim_args!r} has the part {part.strip()!r}, which is not of the form `key=value`. "
                'Write it as in "momentum=0.9, nesterov=true".'
            )
        if key not in known:
            raise ConfigurationError(
                f"optim_args has {key!r}, which optim={name!r} does not take; it takes "
                f"{sorted(known) or 'no options at all'}.{did_you_mean(key, known)} Correct the name, or remove it."
            )
        options[key] = _convert(key, value, known[key])
    return options


def _convert(key: str, value: str, kind: type) -> Any:
    try:
        return _BOOLEANS[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError) as error:
        expected = {bool: "true or false", int: "an integer", float: "a number"}.get(kind, kind.__name__)
        raise ConfigurationError(f"optim_args has {key}={value}, but {expected} was expected.") from error
