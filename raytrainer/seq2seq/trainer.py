"""``Seq2SeqTrainer``: evaluates and predicts with generated sequences.

Training is that of ``Trainer``. With ``predict_with_generate`` predictions are rows of tokens of equal length, padded
with the padding token and never with -100, so that a tokenizer can decode them; labels are padded with -100. The loss
is still that of ``compute_loss``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import GenerationConfig
from transformers.trainer_utils import PredictionOutput, has_length

from raytrainer.arguments.seeding import data_seed
from raytrainer.data.sample_lengths import sample_lengths
from raytrainer.errors import ConfigurationError
from raytrainer.preflight.facts import overrides_of
from raytrainer.seq2seq.arguments import Seq2SeqTrainingArguments, as_seq2seq_training_arguments
from raytrainer.seq2seq.generate import fill_up, generate, prompt_length
from raytrainer.seq2seq.generation_config import (
    GenerationSettings,
    check_call,
    check_generates,
    load_generation_config,
)
from raytrainer.seq2seq.sortish_sampler import SortishSampler
from raytrainer.trainer import Trainer
from raytrainer.user_types import Batch, DatasetLike

logger = logging.getLogger(__name__)

_OWN_KEYWORDS = frozenset({"eval_dataset", "test_dataset", "ignore_keys", "metric_key_prefix"})


class Seq2SeqTrainer(Trainer):
    """A Trainer with the API of ``transformers.Seq2SeqTrainer`` whose loop runs on Ray workers.

    Takes the arguments of ``Trainer``, with ``Seq2SeqTrainingArguments``.

    Raises:
        ConfigurationError: Also if the model cannot generate, or the generation config cannot be read.
    """

    args: Seq2SeqTrainingArguments
    _supports = frozenset({"predict_with_generate", "sortish_sampler"})

    def __init__(
        self,
        model: nn.Module | str | None = None,
        args: Seq2SeqTrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        **more: Any,
    ) -> None:
        self._gen_kwargs: dict[str, Any] | None = None
        self._generation_config: GenerationConfig | None = None
        super().__init__(
            model=model,
            args=as_seq2seq_training_arguments(args),
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            **more,
        )
        if self.args.generation_config is not None:
            self._generation_config = self.load_generation_config(self.args.generation_config)
        self._prepare_to_generate(model)

    @staticmethod
    def load_generation_config(gen_config_arg: object) -> GenerationConfig:
        """Return a generation config from an object, a dict, a directory, a JSON file or a hub id.

        Raises:
            ConfigurationError: If it cannot be read, or is invalid.
        """
        return load_generation_config(gen_config_arg)

    # ---- what a user calls --------------------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: DatasetLike | dict[str, DatasetLike] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        **gen_kwargs: object,
    ) -> dict[str, float]:
        """Evaluate as ``Trainer`` does, with keyword arguments for ``generate``.

        Args:
            eval_dataset: A dataset, a dict of them, or None for the trainer's own.
            ignore_keys: Outputs of the model to ignore.
            metric_key_prefix: Prefix of the names of metrics.
            gen_kwargs: For instance ``max_length`` and ``num_beams``; defaults come from the arguments, then from the
                model's generation config.
        """
        with self._generating(gen_kwargs):
            return super().evaluate(
                eval_dataset, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix
            )

    def predict(
        self,
        test_dataset: DatasetLike,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
        **gen_kwargs: object,
    ) -> PredictionOutput:
        """Predict as ``Trainer`` does, with keyword arguments for ``generate`` as in ``evaluate``.

        Returns:
            Tokens ``[samples, length]`` padded with the padding token, labels padded with -100, and metrics.
        """
        with self._generating(gen_kwargs):
            return super().predict(test_dataset, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix)

    # ---- what a user overrides ----------------------------------------------------------------------------------

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **gen_kwargs: object,
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """All ranks: generate sequences for one batch, and compute its loss if it has labels.

        Returns:
            Loss (a scalar), tokens and labels (``[batch, length]``) of this rank's batch; each may be None.
        """
        if not self.args.predict_with_generate or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys=ignore_keys)
        keywords = self._keywords_of_generate(gen_kwargs or self._gen_kwargs or {})
        inputs = self._prepare_inputs(inputs)
        labels = inputs.get("labels")
        begin = {name: value for name, value in inputs.items() if name not in _made_of_labels(inputs)}
        tokens = generate(self.model, begin, keywords)
        settings = GenerationSettings(self.model.generation_config, keywords)
        longest = settings.longest(prompt_length(self.model, begin))
        if tokens.shape[-1] < longest:
            tokens = self._pad_tensors_to_max_len(tokens, longest)
        if labels is None:
            return None, tokens, None
        with torch.no_grad():
            loss, _ = self._predict_batch(model, inputs, True)
        return loss, tokens, fill_up(labels, longest, -100)

    def _pad_tensors_to_max_len(self, tensor: torch.Tensor, max_length: int) -> torch.Tensor:
        return fill_up(tensor, max_length, self._padding_token())

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not self.args.sortish_sampler or dataset is None or not has_length(dataset):
            return super()._get_train_sampler(train_dataset)
        args = self.args
        # The model does not take the column with the lengths, so it was removed from `dataset`.
        lengths = sample_lengths(
            self.train_dataset if has_length(self.train_dataset) else dataset,
            column=args.length_column_name,
            input_name=getattr(self.model, "main_input_name", None),
            argument="sortish_sampler=True",
        )
        step = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        return SortishSampler(lengths, batch_size=step, seed=data_seed(args))

    # ---- the model ----------------------------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The model, with the generation config of the arguments."""
        before = self._own_model
        model = super().model
        if model is not before:
            self._prepare_to_generate(model)
        return model

    @model.setter
    def model(self, model: nn.Module) -> None:
        is_new = model is not self._own_model
        self._own_model = model
        if is_new:
            self._prepare_to_generate(model)

    def _prepare_to_generate(self, model: Any) -> None:
        if self.args.predict_with_generate:
            check_generates(model)
        if self._generation_config is not None and isinstance(model, nn.Module):
            model.generation_config = self._generation_config  # pyright: ignore[reportArgumentType]

    # ---- inside -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _generating(self, gen_kwargs: dict[str, Any]) -> Generator[None, None, None]:
        """Use the keyword arguments of a call for ``generate`` inside it, also for each of several datasets."""
        before = self._gen_kwargs
        if gen_kwargs and not self.args.predict_with_generate:
            logger.warning(
                "%s configure generation, but with predict_with_generate=False nothing is generated.",
                ", ".join(sorted(gen_kwargs)),
            )
        self._gen_kwargs = gen_kwargs if gen_kwargs or before is None else before
        try:
            yield
        finally:
            self._gen_kwargs = before

    def _keywords_of_generate(self, given: dict[str, Any]) -> dict[str, Any]:
        keywords = {name: value for name, value in given.items() if value is not None}
        args = self.args
        if not keywords.keys() & {"max_length", "max_new_tokens"} and args.generation_max_length is not None:
            keywords["max_length"] = args.generation_max_length
        if args.generation_num_beams is not None:
            keywords.setdefault("num_beams", args.generation_num_beams)
        return keywords

    def _prediction_padding(self) -> int:
        return self._padding_token() if self.args.predict_with_generate else super()._prediction_padding()

    def _padding_token(self) -> int:
        processor = self.processing_class
        sources = (
            processor,
            getattr(processor, "tokenizer", None),
            getattr(self.model, "generation_config", None),
            getattr(self.model, "config", None),
        )
        for source in sources:
            for name in ("pad_token_id", "eos_token_id"):
                found: Any = getattr(source, name, None)
                if isinstance(found, list | tuple) and found:
                    found = cast("Sequence[Any]", found)[0]
                if isinstance(found, int):
                    return found
        raise ConfigurationError(
            "Generated sequences differ in length, but neither the processing class nor the model has a padding or "
            "end token to pad them with. Pass processing_class=, or set model.generation_config.pad_token_id."
        )

    def _check_call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super()._check_call(method, args, kwargs)
        if method == "train" and self.args.sortish_sampler and not has_length(self.train_dataset):
            raise ConfigurationError(
                f"sortish_sampler=True sorts samples by length, but train_dataset is a "
                f"{type(self.train_dataset).__name__} without a length, which can only be read in order. Leave "
                "sortish_sampler out, or pass a map-style dataset."
            )
        # An override may have its own keyword arguments.
        if method in ("evaluate", "predict") and getattr(type(self), method) is getattr(
            Seq2SeqTrainer, method
        ):
            check_call(self._own_model, kwargs.keys() - _OWN_KEYWORDS)

    def _overrides(self) -> frozenset[str]:
        return overrides_of(type(self), Seq2SeqTrainer)


def _made_of_labels(inputs: Batch) -> set[str]:
    """Return the names of inputs that contain the labels, which generation must not see."""
    labels, begun = inputs.get("labels"), inputs.get("decoder_input_ids")
    if labels is None:
        return set()
    is_copy = begun is not None and begun.shape == labels.shape
    return {"labels", "decoder_input_ids", "decoder_attention_mask"} if is_copy else {"labels"}
