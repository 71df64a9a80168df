"""Which callbacks every run has: the default flow, and the reporters that ``report_to`` names.

When to log, evaluate, save and stop is decided by transformers' own ``DefaultFlowCallback``. It is reused, not
copied: it reads only ``args`` and ``state``, subclasses of it must keep working, and users remove it by its class.

The progress bar and the printed logs are not callbacks here, because they belong to the driver's terminal while
callbacks run on the workers (see ``telemetry.console``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.trainer_callback import DefaultFlowCallback, TrainerCallback

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["DefaultFlowCallback", "default_callbacks"]


def default_callbacks(args: TrainingArguments) -> list[type[TrainerCallback] | TrainerCallback]:
    """List the callbacks that come before the user's, in the order of transformers.

    Args:
        args: The training arguments; ``report_to`` and ``logging_dir`` are read.

    Returns:
        ``DefaultFlowCallback`` and one reporter for each name.

    Raises:
        ConfigurationError: If the package of a reporter is not installed.
    """
    if not args.report_to:
        return [DefaultFlowCallback]
    # Imported late: the integrations probe for every tracker that is installed.
    from raytrainer.callbacks.reporters import make_reporters

    return [DefaultFlowCallback, *make_reporters(args)]
