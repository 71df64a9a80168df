"""Which arguments of this package stand for those that a Trainer was given."""

from __future__ import annotations

from dataclasses import fields

import transformers

import raytrainer
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError


def as_training_arguments(args: transformers.TrainingArguments | None) -> TrainingArguments:
    """Return arguments of this package for whatever was passed as ``args=`` to a Trainer.

    Args:
        args: Arguments of this package, plain ones of transformers, or None for defaults.

    Raises:
        ConfigurationError: If it is something else, or asks for what is not available here.
    """
    if args is None:
        return TrainingArguments(output_dir="tmp_trainer")
    if isinstance(args, TrainingArguments):
        return args
    ours = _counterpart(type(args))
    if ours is None:
        raise ConfigurationError(
            f"args= got a {type(args).__module__}.{type(args).__name__}, where a "
            "raytrainer.TrainingArguments was expected. Import TrainingArguments from raytrainer, and "
            "derive your own arguments from it."
        )
    values = {f.name: getattr(args, f.name) for f in fields(args) if f.init}
    if values["logging_nan_inf_filter"] is True:
        del values["logging_nan_inf_filter"]  # the anchor's default, which hides a NaN; ours does not
    return ours(**values)


def _counterpart(theirs: type) -> type[TrainingArguments] | None:
    """Our arguments of the same name as a class of transformers; the public names are resolved when read."""
    is_of_transformers = getattr(transformers, theirs.__name__, None) is theirs
    found = getattr(raytrainer, theirs.__name__, None) if is_of_transformers else None
    return found if isinstance(found, type) and issubclass(found, TrainingArguments) else None
