"""``Seq2SeqTrainingArguments``: the arguments of training, and those of generation during evaluation.

All fields are those of transformers, and all are supported. A generation config may also be a dict, or JSON on a
command line. What needs files or the model is checked by the trainer (``seq2seq.generation_config``).
"""

# No `from __future__ import annotations`: HfArgumentParser evaluates the types of the fields.
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import transformers

from raytrainer.arguments.convert import convert
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError


@dataclass(repr=False)
class Seq2SeqTrainingArguments(  # pyright: ignore[reportIncompatibleVariableOverride]
    TrainingArguments, transformers.Seq2SeqTrainingArguments
):
    """The arguments of ``transformers.Seq2SeqTrainingArguments``, and those that say how Ray runs the workers.

    Raises:
        ConfigurationError: For unknown, contradictory or unavailable arguments.
    """

    sortish_sampler: bool = field(
        default=False,
        metadata={
            "help": "Train on batches of samples of similar length, in random order; needs a dataset with a length. "
            "Evaluation keeps the order of its dataset."
        },
    )
    # HfArgumentParser reads the second type of a union from a command line: text, since a hub id is no path.
    generation_config: Path | str | dict[str, Any] | transformers.GenerationConfig | None = field(
        default=None,
        metadata={
            "help": "The generation config: a hub id, a directory, a JSON file, or JSON. It is set on the model, and "
            "saved with it."
        },
    )

    def _check_normalized(self) -> None:
        super()._check_normalized()
        for name in ("generation_max_length", "generation_num_beams"):
            _at_least_one(name, getattr(self, name))
        self.generation_config = _read_json(self.generation_config)  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.sortish_sampler and self.train_sampling_strategy != "random":
            raise ConfigurationError(
                f"sortish_sampler=True and train_sampling_strategy={self.train_sampling_strategy!r} both set the "
                "order of samples. Keep one of them."
            )


def _at_least_one(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(
            f"{name}={value!r} is not a whole number of 1 or more. Change it, or leave it out for the value of the "
            "model's generation config."
        )


def _read_json(value: object) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ConfigurationError(
                f"generation_config={value!r} looks like JSON but cannot be parsed: {error}. Correct it, or name "
                "a file."
            ) from error
    if value is None or isinstance(value, str | Path | Mapping | transformers.GenerationConfig):
        return cast("Any", value)
    raise ConfigurationError(
        f"generation_config= is a {type(value).__name__}, but a transformers.GenerationConfig, a dict, a path or a "
        "hub id was expected. Pass one of these."
    )


def as_seq2seq_training_arguments(args: transformers.TrainingArguments | None) -> Seq2SeqTrainingArguments:
    """Return arguments of this package for whatever was passed as ``args=`` to a ``Seq2SeqTrainer``.

    Raises:
        ConfigurationError: If it is something else, such as plain ``TrainingArguments``.
    """
    if args is None:
        return Seq2SeqTrainingArguments(output_dir="tmp_trainer")
    converted = convert(args)
    if not isinstance(converted, Seq2SeqTrainingArguments):
        raise ConfigurationError(
            f"args= got a {type(args).__name__}, which has no predict_with_generate and no other field about "
            "generation. Pass raytrainer.Seq2SeqTrainingArguments to a Seq2SeqTrainer."
        )
    return converted
