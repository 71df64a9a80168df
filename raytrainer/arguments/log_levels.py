"""How much a process says: INFO on the main process and WARNING on the others, unless it is told otherwise.

``passive``, the default, changes nothing of what a user chose before, for instance with
``transformers.utils.logging.set_verbosity_error()`` or the variable ``TRANSFORMERS_VERBOSITY``.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import transformers
from transformers.training_args import trainer_log_levels

PASSIVE = -1


def process_log_level(args: Any) -> int:
    """The level of this process, as the module logging counts.

    Args:
        args: ``log_level`` counts where ``should_log`` is true (rank 0; with ``log_on_each_node`` the first rank of
            each node), ``log_level_replica`` elsewhere.
    """
    asked = trainer_log_levels[args.log_level if args.should_log else args.log_level_replica]
    if asked != PASSIVE:
        return asked
    current = transformers.utils.logging.get_verbosity()
    is_chosen = current != logging.WARNING or "TRANSFORMERS_VERBOSITY" in os.environ
    return logging.INFO if args.should_log and not is_chosen else current


def apply_log_level(args: Any) -> None:
    """Set the level of transformers' own loggers in this process; ``passive`` leaves it as it is."""
    if trainer_log_levels[args.log_level if args.should_log else args.log_level_replica] != PASSIVE:
        transformers.utils.logging.set_verbosity(process_log_level(args))
