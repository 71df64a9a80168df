"""The log level of a process: by default INFO on the main process and WARNING on the others.

``passive``, the default, keeps what the user chose before, for instance with
``transformers.utils.logging.set_verbosity_error()`` or the variable ``TRANSFORMERS_VERBOSITY``.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import transformers
from transformers.training_args import trainer_log_levels

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


PASSIVE = -1


def process_log_level(args: TrainingArguments) -> int:
    """The log level of this process, as a number of the module ``logging``.

    Args:
        args: ``log_level`` applies where ``should_log`` is true (rank 0; with ``log_on_each_node`` the first rank of
            each node), ``log_level_replica`` elsewhere.
    """
    asked = _asked(args)
    if asked != PASSIVE:
        return asked
    current = transformers.utils.logging.get_verbosity()
    is_chosen = current != logging.WARNING or "TRANSFORMERS_VERBOSITY" in os.environ
    return logging.INFO if _is_main(args) and not is_chosen else current


def apply_log_level(args: TrainingArguments) -> None:
    """Set the level of transformers' loggers in this process; ``passive`` leaves it unchanged."""
    if _asked(args) != PASSIVE:
        transformers.utils.logging.set_verbosity(process_log_level(args))


def _is_main(args: TrainingArguments) -> bool:
    return bool(args.should_log)  # pyright: ignore[reportUnknownArgumentType]


def _asked(args: TrainingArguments) -> int:
    return trainer_log_levels[args.log_level if _is_main(args) else args.log_level_replica]
