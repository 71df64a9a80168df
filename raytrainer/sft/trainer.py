"""``SFTTrainer``: supervised fine-tuning of causal language models, with the interface of TRL's class of that name.

The Trainer does the training. What is added here is what comes before it (a tokenizer, examples with targets, blocks of
them, an adapter) and what is logged besides (``mean_token_accuracy``, ``num_tokens``). Datasets are prepared where the
trainer is constructed, once; a model that is given by name is loaded on the workers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from raytrainer.arguments.aliases import trainer_keyword
from raytrainer.layout.tensor_layout import full_shape
from raytrainer.preflight.facts import overrides_of
from raytrainer.sft.adapter import add_adapter, is_adapted
from raytrainer.sft.block_isolation import check_isolation
from raytrainer.sft.collator import CausalCollator, collator_for
from raytrainer.sft.config import SFTConfig, as_sft_config
from raytrainer.sft.loss import loss_function
from raytrainer.sft.metrics import TokenTally, num_tokens_of
from raytrainer.sft.model import check_model, load_causal_model
from raytrainer.sft.packing import LENGTHS, PackingReport
from raytrainer.sft.preparation import Preparation
from raytrainer.sft.quantization import take_quantization
from raytrainer.sft.tokenizer import load_tokenizer, set_tokens
from raytrainer.trainer import Trainer
from raytrainer.user_types import DatasetLike

logger = logging.getLogger(__name__)


class SFTTrainer(Trainer):
    """Fine-tunes a causal language model on texts, on completions of prompts, or on conversations.

    Args:
        model: An instance, with or without an adapter of peft, or a hub id or path that the workers load with
            ``args.model_init_kwargs``.
        args: An ``SFTConfig``; plain ``TrainingArguments`` are taken too, and keep all that they say.
        data_collator: Makes batches of examples; by default one that pads, and keeps packed examples apart.
        train_dataset: A ``datasets`` dataset or a list of rows: a text, prompt and completion, ``messages``, or tokens.
        eval_dataset: The same, or a dict of them.
        processing_class: The tokenizer; that of the model's ``config._name_or_path`` by default.
        compute_loss_func: As the Trainer's.
        compute_metrics: As the Trainer's.
        callbacks: As the Trainer's.
        optimizers: As the Trainer's.
        optimizer_cls_and_kwargs: As the Trainer's.
        preprocess_logits_for_metrics: As the Trainer's.
        quantization_config: For a model that is given by name; the same as in ``args.model_init_kwargs``.
        peft_config: A ``peft.PeftConfig``: train an adapter; checkpoints hold the adapter alone.
        formatting_func: Makes a text of a row.
        model_init: Makes the model on the workers, anew for each ``train()``.
        tokenizer: Earlier name of ``processing_class``.
        scaling_config: Ray's own ``ScalingConfig``.
        run_config: Ray's own ``RunConfig``.
        **earlier: Keywords that are fields of ``SFTConfig`` today: ``dataset_text_field``, ``max_seq_length``, ...

    Raises:
        ConfigurationError: If something is missing, contradicts something, or cannot be trained with.
    """

    args: SFTConfig

    _evaluates = Trainer._evaluates | {"mean_token_accuracy"}

    def __init__(
        self,
        model: nn.Module | str | None = None,
        args: Any = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        formatting_func: Callable[[Any], Any] | None = None,
        model_init: Callable[..., nn.Module] | None = None,
        tokenizer: Any = None,
        scaling_config: Any = None,
        run_config: Any = None,
        **earlier: Any,
    ) -> None:
        options = as_sft_config(args, earlier)
        take_quantization(options, quantization_config)
        check_model(options, model, peft_config)
        self.peft_config = peft_config
        self._tally: TokenTally | None = None
        self._eval_tally: TokenTally | None = None
        self._is_isolated = False
        tokenizer = trainer_keyword(tokenizer, processing_class)
        if tokenizer is None and (options.prepares_datasets or data_collator is None):
            tokenizer = load_tokenizer(model, options)
        if tokenizer is not None:
            set_tokens(tokenizer, options)
        self.preparation = Preparation(options, tokenizer, formatting_func)
        if isinstance(model, nn.Module):
            model = add_adapter(model, peft_config, seed=options.seed)
        super().__init__(
            model=model,
            args=options,
            data_collator=collator_for(options, data_collator, tokenizer),
            train_dataset=self._prepared(train_dataset, "train", packing=options.packs_training),
            eval_dataset=self._prepared(eval_dataset, "eval", packing=options.packs_evaluation),
            processing_class=tokenizer,
            model_init=model_init,
            compute_loss_func=loss_function(options, compute_loss_func),
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            scaling_config=scaling_config,
            run_config=run_config,
        )

    @property
    def packing_reports(self) -> dict[str, PackingReport]:
        """What packing gave, for each dataset by name ("train", "eval"): blocks, tokens, places that hold none."""
        return self.preparation.reports

    # ---- data -------------------------------------------------------------------------------------------------------

    def _prepared(self, dataset: Any, name: str, *, packing: bool) -> Any:
        if dataset is None or isinstance(dataset, str) or not self.preparation.args.prepares_datasets:
            return dataset
        if isinstance(dataset, Mapping):
            datasets = cast("Mapping[str, Any]", dataset)
            return {key: self._prepared(one, str(key), packing=packing) for key, one in datasets.items()}
        return self.preparation.prepare(dataset, name, packing=packing)

    def _launch(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # Once, here, and not on each worker; there it is ready.
        keyword = {"evaluate": "eval_dataset", "predict": "test_dataset"}.get(method)
        if keyword is not None:
            packing = self.args.packs_evaluation
            if args:
                args = (self._prepared(args[0], "eval", packing=packing), *args[1:])
            else:
                kwargs = {**kwargs, keyword: self._prepared(kwargs.get(keyword), "eval", packing=packing)}
        return super()._launch(method, args, kwargs)

    def get_train_dataloader(self) -> Any:
        """Return this rank's loader, after a look at whether the model keeps packed examples apart."""
        collator = self.data_collator
        if isinstance(collator, CausalCollator) and collator.restarts_positions and not self._is_isolated:
            # Before training nothing gathers parameters that do not show their full shape.
            if any(full_shape(one) != one.shape for one in self.model.parameters()):
                logger.warning(
                    "The model is cut over the workers, so it is not tried whether it keeps examples apart."
                )
            else:
                check_isolation(self.model, self.args.device, is_flat=self._is_flat())
            self._is_isolated = True
        return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return this rank's loader of evaluation data, which may be given as rows."""
        dataset = self._prepared(eval_dataset, "eval", packing=self.args.packs_evaluation)
        return super().get_eval_dataloader(dataset)

    def get_test_dataloader(self, test_dataset: DatasetLike) -> Any:
        """Return this rank's loader of a dataset to predict on, which may be given as rows."""
        dataset = self._prepared(test_dataset, "test", packing=self.args.packs_evaluation)
        return super().get_test_dataloader(dataset)

    def _get_dataloader(
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        *args: Any,
        is_training: bool = False,
        **kwargs: Any,
    ) -> Any:
        collator = self.data_collator
        if isinstance(collator, CausalCollator) and collator.restarts_positions:
            collator.is_flat = self._is_flat()
            if collator.is_flat and not is_training:
                batch_size = 1  # a flat batch is one row, of which evaluation could not tell what fills it up
        return super()._get_dataloader(
            dataset, description, batch_size, *args, is_training=is_training, **kwargs
        )

    def _is_flat(self) -> bool:
        attention = str(getattr(self.model.config, "_attn_implementation", None))
        return self.args.padding_free or "flash" in attention

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns or []
        if isinstance(self.data_collator, CausalCollator) and LENGTHS not in columns:
            self._signature_columns = [*columns, LENGTHS]

    def _overrides(self) -> frozenset[str]:
        # Columns that only the collator knows may be there.
        return overrides_of(type(self), SFTTrainer) | {"_set_signature_columns_if_needed"}

    # ---- the model --------------------------------------------------------------------------------------------------

    def _load_named_model(self, name: str) -> Any:
        device = self.args.device if self.args.is_resolved else None
        model = load_causal_model(name, self.args, device=device)
        return add_adapter(model, self.peft_config, seed=self.args.seed)

    def call_model_init(self, trial: object = None) -> nn.Module:
        """Make a model with ``model_init``, and put the adapter on it."""
        return add_adapter(super().call_model_init(trial), self.peft_config, seed=self.args.seed)

    def _export_weights(self) -> dict[str, Any]:
        weights = super()._export_weights()
        if not is_adapted(self.model):
            return weights
        # The driver has what was not trained.
        moved = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        moved |= {name for name, _ in self.model.named_buffers()}
        return {name: value for name, value in weights.items() if name in moved}

    def _take_weights(self, weights: dict[str, Any]) -> None:
        self.model.load_state_dict(weights, strict=not is_adapted(self.model))

    # ---- the loss and what is logged --------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the loss of a micro-batch, as the Trainer does, and count what is logged."""
        labels = inputs.get("labels")
        loss, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        tally = self._tally if model.training else self._eval_tally
        logits = cast("Mapping[str, Any]", outputs).get("logits") if isinstance(outputs, Mapping) else None
        if self._computes_stand_in(is_training=model.training):
            tally = None
        if tally is not None and labels is not None and logits is not None:
            tally.add(logits, labels, num_tokens_of(inputs))
        return (loss, outputs) if return_outputs else loss

    def _computes_stand_in(self, *, is_training: bool) -> bool:
        """Whether the micro-batch only makes this rank take part, because it has no sample of its own."""
        scaling = self._process.loss_scaling
        if is_training:
            return scaling is not None and scaling.weight == 0
        return self._process.predicts_stand_in

    def _compute_loss_override(self) -> Any | None:
        override = type(self).compute_loss
        return None if override is SFTTrainer.compute_loss else override

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record logs; a row of training says how many targets were met, and how many tokens were seen."""
        # All ranks are here for this row, and for no other can that be known.
        if (
            self._process.run is not None
            and self._tally is not None
            and {"loss", "learning_rate"} <= logs.keys()
        ):
            logs.update(self._tally.close(self._backend))
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader: DataLoader[Any], *args: object, metric_key_prefix: str = "eval", **kwargs: object
    ) -> Any:
        """All ranks: predict on a whole loader; metrics have ``<prefix>_mean_token_accuracy``."""
        self._eval_tally = TokenTally(self.args.device)
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        accuracy = self._eval_tally.close(self._backend)["mean_token_accuracy"]
        self._eval_tally = None
        if not math.isnan(accuracy) and output.metrics is not None:
            output.metrics[f"{metric_key_prefix}_mean_token_accuracy"] = accuracy
        return output

    def _task_state(self) -> dict[str, Any]:
        return {} if self._tally is None else {"tokens": self._tally.state(self._backend)}

    def _restore_task_state(self, state: dict[str, Any]) -> None:
        self._tally = TokenTally(self.args.device)
        if "tokens" in state:
            self._tally.restore(state["tokens"], rank=self._runtime.rank)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_tally": None, "_eval_tally": None}

    def _user_attributes(self) -> dict[str, Any]:
        own = {"preparation", "peft_config", "_tally", "_eval_tally", "_is_isolated"}
        return {name: value for name, value in super()._user_attributes().items() if name not in own}
