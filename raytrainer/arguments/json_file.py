"""The arguments of a run in a JSON file beside its model: what ``transformers`` stores in ``training_args.bin``.

That file is a pickle, which runs code when it is read. This one is plain values under the names of the arguments;
tokens are masked, as in ``to_dict()``. A value of a subclass's own field that JSON cannot hold is left out, and the log
says so: it must not end a run in its first save.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments

logger = logging.getLogger(__name__)


def write_arguments(path: Path, args: TrainingArguments) -> None:
    """Write arguments as they were asked for, before they were bound to a process."""

    def left_out(name: str, error: Exception) -> None:
        logger.warning("%s leaves out %s, which JSON cannot hold: %s", path.name, name, error)

    kept = plain_arguments(args, left_out)
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def plain_arguments(
    args: TrainingArguments, left_out: Callable[[str, Exception], None] = lambda name, error: None
) -> dict[str, Any]:
    """Return arguments as they were asked for, as values of JSON.

    Args:
        args: The arguments.
        left_out: Called with the name of each that JSON cannot hold, and why.
    """
    kept: dict[str, Any] = {}
    for name, value in copy.copy(args).to_dict().items():
        try:
            kept[name] = json.loads(json.dumps(value))
        except (TypeError, ValueError) as error:
            left_out(name, error)
    return kept


def read_values(path: Path) -> dict[str, Any]:
    """Read the values of a file.

    Raises:
        ConfigurationError: If it cannot be read, or is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read as arguments: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError(
            f"{path} holds a {type(found).__name__}; an object with the names of arguments was expected."
        )
    return cast("dict[str, Any]", found)
