"""Which arguments of this package a Trainer uses for what it was given as ``args=``.

Whatever comes out is checked, exactly once: by its constructor if it is constructed here, else here.
"""

from __future__ import annotations

from dataclasses import fields

import transformers

import raytrainer
from raytrainer.arguments.ray_objects import merge_ray_objects
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError


def as_training_arguments(
    args: transformers.TrainingArguments | None, scaling_config: object = None, run_config: object = None
) -> TrainingArguments:
    """Return checked arguments of this package for what a Trainer was given.

    Args:
        args: Arguments of this package, which are returned themselves; plain ones of transformers; or None for
            defaults.
        scaling_config: A ``ray.train.ScalingConfig`` to fold into them, or None.
        run_config: A ``ray.train.RunConfig`` to fold into them, or None.

    Raises:
        ConfigurationError: If they are something else, contradict each other, or ask for what is not available here.
    """
    given = convert(args)
    merge_ray_objects(given, scaling_config, run_config)
    # Arguments that were constructed a moment ago have been checked; others may have been changed since they were.
    if given is args or scaling_config is not None or run_config is not None:
        given.check()
    return given


def convert(args: transformers.TrainingArguments | None) -> TrainingArguments:
    """Return arguments of this package for what a Trainer was given, without checking those that it returns as is.

    Raises:
        ConfigurationError: If they are something else, or ask for what is not available here.
    """
    if args is None:
        return TrainingArguments(output_dir="tmp_trainer")
    if isinstance(args, TrainingArguments):
        return args
    ours = _counterpart(type(args))
    if ours is None:
        raise ConfigurationError(
            f"args= got a {type(args).__module__}.{type(args).__name__}; a raytrainer.TrainingArguments was expected. "
            "Import TrainingArguments from raytrainer, and derive your own arguments from it; for a library that has "
            "arguments of its own, call raytrainer.patch_transformers() before you import it."
        )
    values = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    if values["logging_nan_inf_filter"] is True:
        del values["logging_nan_inf_filter"]  # the default of transformers, which hides a NaN; ours does not
    return ours(**values)


def _counterpart(theirs: type) -> type[TrainingArguments] | None:
    """Our class of the same name as a class of arguments of transformers; public names are resolved when read."""
    # By its module: a patch may let the name in transformers stand for our class.
    is_of_transformers = theirs.__module__.partition(".")[0] == "transformers"
    found = getattr(raytrainer, theirs.__name__, None) if is_of_transformers else None
    return found if isinstance(found, type) and issubclass(found, TrainingArguments) else None
