"""Which arguments of this package stand for those that a Trainer was given."""

from __future__ import annotations

from dataclasses import fields

import transformers

from raytrainer.config.arguments import TrainingArguments
from raytrainer.config.seq2seq_arguments import Seq2SeqTrainingArguments
from raytrainer.errors import ConfigurationError


def adopt(args: transformers.TrainingArguments | None) -> TrainingArguments:
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
    known = {
        transformers.TrainingArguments: TrainingArguments,
        transformers.Seq2SeqTrainingArguments: Seq2SeqTrainingArguments,
    }
    return known.get(theirs)


def adopt_seq2seq(args: transformers.TrainingArguments | None) -> Seq2SeqTrainingArguments:
    """Return arguments of this package for whatever was passed as ``args=`` to a ``Seq2SeqTrainer``.

    Raises:
        ConfigurationError: If it is something else, such as plain ``TrainingArguments``.
    """
    if args is None:
        return Seq2SeqTrainingArguments(output_dir="tmp_trainer")
    adopted = adopt(args)
    if not isinstance(adopted, Seq2SeqTrainingArguments):
        raise ConfigurationError(
            f"args= got a {type(args).__name__}, which has no predict_with_generate and no other field about "
            "generating. Pass raytrainer.Seq2SeqTrainingArguments to a Seq2SeqTrainer."
        )
    return adopted
