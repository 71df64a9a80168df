"""What ``num_workers`` says: a fixed number of workers, or the least and the most of a number that may change."""

# No `from __future__ import annotations`: HfArgumentParser evaluates `WorkerCount` in the fields that use it.
import json
from collections.abc import Sequence
from typing import cast

from raytrainer.errors import ConfigurationError

WorkerCount = int | str | tuple[int, int] | None
"""What ``num_workers`` may be; once it was read it is no text. ``str`` comes second for HfArgumentParser, which takes
that one for the type of a word on the command line."""

_ADVICE = "Give one number, num_workers=2, or the least and the most, num_workers=(1, 4)."


def read_worker_count(value: object) -> int | tuple[int, int] | None:
    """Read ``num_workers``.

    Args:
        value: A number, a pair, or either as text: ``4``, ``(1, 4)``, ``[1, 4]``, ``"4"``, ``"1,4"``, ``"[1, 4]"``.

    Returns:
        A number, ``(least, most)``, or None where the cluster decides.

    Raises:
        ConfigurationError: If it is anything else.
    """
    found = _from_text(value) if isinstance(value, str) else value
    if found is None:
        return None
    if isinstance(found, tuple | list):
        return _read_bounds(value, cast("Sequence[object]", found))
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise ConfigurationError(f"num_workers={value!r} is not a whole number of 0 or more. {_ADVICE}")
    return found


def _from_text(text: str) -> object:
    """What a command line or a YAML file says in words."""
    inner = text.strip().removeprefix("(").removesuffix(")")
    try:
        return json.loads(f"[{inner}]" if "," in inner and not inner.startswith("[") else inner)
    except ValueError:
        return text


def _read_bounds(value: object, bounds: Sequence[object]) -> tuple[int, int]:
    numbers = [one for one in bounds if isinstance(one, int) and not isinstance(one, bool)]
    if len(bounds) != 2 or len(numbers) != 2:
        raise ConfigurationError(f"num_workers={value!r} is not a pair of whole numbers. {_ADVICE}")
    least, most = numbers
    if least < 1 or most < least:
        wrong = f"at least {least} workers are none" if least < 1 else f"{least} is more than {most}"
        raise ConfigurationError(f"num_workers={value!r}: {wrong}. {_ADVICE}")
    return least, most
