"""Which callbacks every run has: the default flow, the reporters that ``report_to`` names, and one for the terminal.

When to log, evaluate, save and stop is decided by transformers' own ``DefaultFlowCallback``. It is reused, not
copied: it reads only ``args`` and ``state``, subclasses of it must keep working, and users remove it by its class.

The progress bar and the printed logs belong to the driver's terminal, while callbacks run on the workers. So the
``ProgressCallback`` or ``PrinterCallback`` in the list, which users remove and replace, is never called: it says what
``telemetry.console`` shows. A subclass of theirs is called like any callback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers.trainer_callback import (
    DefaultFlowCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)

from raytrainer.arguments.debugging import traces_startup
from raytrainer.callbacks.startup import StartupPhases
from raytrainer.telemetry.shown import Shown

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["DefaultFlowCallback", "default_callbacks", "shown_by", "terminal_callback"]


def default_callbacks(args: TrainingArguments) -> list[type[TrainerCallback] | TrainerCallback]:
    """List the callbacks that come before the user's, in the order of transformers.

    Args:
        args: The training arguments; ``report_to`` and ``logging_dir`` are read.

    Returns:
        ``DefaultFlowCallback`` and one reporter for each name.

    Raises:
        ConfigurationError: If the package of a reporter is not installed.
    """
    callbacks: list[type[TrainerCallback] | TrainerCallback] = [DefaultFlowCallback]
    if traces_startup(args):
        callbacks.append(StartupPhases())
    if not args.report_to:
        return callbacks
    # Imported late: the integrations probe for every tracker that is installed.
    from raytrainer.callbacks.reporters import make_reporters

    return [*callbacks, *make_reporters(args)]


def terminal_callback(args: TrainingArguments) -> type[TrainerCallback]:
    """The callback that comes after the user's: a progress bar with the logs, or with ``disable_tqdm`` the logs."""
    return PrinterCallback if args.disable_tqdm else ProgressCallback


def shown_by(callbacks: Sequence[object]) -> Shown:
    """What the console shows in place of the callbacks of a list."""
    types = {type(callback) for callback in callbacks}
    return Shown(progress=ProgressCallback in types, logs=bool(types & {ProgressCallback, PrinterCallback}))
