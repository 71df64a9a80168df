"""What ``debug`` may ask for: the check of transformers, the ledger of samples, and the trace of the start."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from transformers.debug_utils import DebugOption
from transformers.utils.generic import ExplicitEnum

from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import is_uri

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


class OwnOption(ExplicitEnum):
    """A word of ``debug`` that transformers does not have."""

    SAMPLE_LEDGER = "sample_ledger"
    STARTUP = "startup"


_OWN = [option.value for option in OwnOption]
WORDS = (DebugOption.UNDERFLOW_OVERFLOW.value, *_OWN)
"""What is available."""


def words_of(value: str | Sequence[object] | None) -> list[str]:
    """The words of ``debug``, in whatever form it was given."""
    given = value.split() if isinstance(value, str) else value or []
    return [str(one.value) if isinstance(one, Enum) else str(one) for one in given]


def normalize_debug(args: TrainingArguments) -> None:
    """Make the list of options of ``debug``, which transformers makes of text that has only words of its own."""
    options: list[Any] = [
        OwnOption(word) if word in _OWN else DebugOption(word) for word in words_of(args.debug)
    ]
    args.debug = options


def check_files(args: TrainingArguments) -> None:
    """Check that there is a place for what each process writes.

    Raises:
        ConfigurationError: If the output directory is a bucket.
    """
    wanted = [word for word in words_of(args.debug) if word in _OWN]
    if wanted and is_uri(args.output_dir or ""):
        raise ConfigurationError(
            f"debug={wanted[0]!r} has each worker append to a file below output_dir, and {args.output_dir} is a "
            "bucket, to whose objects nothing can be appended. Set output_dir to a directory that all workers share."
        )


def keeps_ledger(args: Any) -> bool:
    """Whether ``debug`` asks for the ledger of samples."""
    return OwnOption.SAMPLE_LEDGER.value in words_of(args.debug)


def traces_startup(args: Any) -> bool:
    """Whether ``debug`` asks for the trace of the start."""
    return OwnOption.STARTUP.value in words_of(args.debug)
