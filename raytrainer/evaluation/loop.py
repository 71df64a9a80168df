"""The evaluation and prediction loop over one data loader.

``<prefix>_loss`` is the mean over all target items of the dataset, whatever the batch size and the number of ranks:
each batch's loss counts as often as the batch has targets.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from transformers.trainer_pt_utils import find_batch_size
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, denumpify_detensorize, has_length

from raytrainer.backends.base import Backend
from raytrainer.data.loader import RankDataLoader
from raytrainer.data.target_count import count_items
from raytrainer.evaluation.nest import mark_objects, tensors_only, without_marks
from raytrainer.evaluation.results import Results
from raytrainer.evaluation.rows import first_rows, gather_rows
from raytrainer.evaluation.spill import PADDING
from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry.events import PredictionDone, PredictionStep
from raytrainer.trainer_protocol import TrainerProtocol

logger = logging.getLogger(__name__)


def with_last(batches: Any) -> Iterator[tuple[Any, bool]]:
    """Pairs of an item and whether it is the last."""
    iterator = iter(batches)
    try:
        current = next(iterator)
    except StopIteration:
        return
    for following in iterator:
        yield current, False
        current = following
    yield current, True


class LossMean:
    """Weighted mean of batch losses over batches and ranks.

    Args:
        device: Of the losses.
        leaves_out_bad: Batches whose loss is NaN or infinite do not count (``logging_nan_inf_filter``).
    """

    def __init__(self, device: torch.device, *, leaves_out_bad: bool = False) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._leaves_out_bad = leaves_out_bad
        self.seen = False

    def add(self, loss: torch.Tensor, weight: float) -> None:
        self.seen = True
        if weight <= 0:
            return
        mean = loss.detach().double().mean()
        both = torch.stack([mean * weight, torch.full_like(mean, weight)])
        self._sums += torch.where(mean.isfinite(), both, 0.0) if self._leaves_out_bad else both

    def value(self, backend: Backend) -> float:
        """All ranks: the mean; NaN when no batch had a target."""
        total, weight = backend.sum_over_ranks(self._sums).tolist()
        return total / weight if weight > 0 else float("nan")


class PredictionLoop:
    """One pass over a loader."""

    def __init__(
        self,
        trainer: TrainerProtocol,
        *,
        backend: Backend,
        runtime: Runtime,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None,
    ) -> None:
        args = trainer.args
        self.trainer = trainer
        self.args = args
        self.backend = backend
        self.runtime = runtime
        self.loader = dataloader
        self.description = description
        self.loss_only = prediction_loss_only
        self.ignore_keys = ignore_keys
        # A plain loader of the user's own gives every rank the whole dataset: nothing is gathered then.
        self.is_sharded = isinstance(dataloader, RankDataLoader) or hasattr(dataloader, "end_of_dataloader")
        self.loss = LossMean(args.device, leaves_out_bad=args.logging_nan_inf_filter)
        self.kept = [
            Results(runtime, joins=args.eval_do_concat_batches, is_shared=self.is_sharded, padding=padding)
            for padding in (PADDING, self.prediction_padding(), PADDING, PADDING)
        ]
        self.losses, self.predictions, self.labels, self.inputs = self.kept
        self.num_samples = 0
        self.metrics: dict[str, Any] | None = None

    def run(self) -> None:
        """All ranks: go through the loader."""
        trainer, args = self.trainer, self.args
        model = trainer._evaluation_model()
        model.eval()
        if callable(getattr(trainer.optimizer, "eval", None)):
            trainer.optimizer.eval()
        trainer.callback_handler.eval_dataloader = self.loader
        total = len(self.loader) if has_length(self.loader) else None
        for step, (inputs, is_last) in enumerate(with_last(self.batches())):
            batch, num_real = inputs
            self.one_batch(model, batch, num_real, is_last=is_last)
            trainer.control = trainer.callback_handler.on_prediction_step(
                args, trainer.state, trainer.control
            )
            if self.runtime.rank == 0:
                self.runtime.emit(PredictionStep(description=self.description, done=step + 1, total=total))
            every = args.eval_accumulation_steps
            if every is not None and (step + 1) % every == 0:
                for results in self.kept:
                    results.to_host()
        if self.runtime.rank == 0:
            self.runtime.emit(PredictionDone(description=self.description))

    def batches(self) -> Iterator[tuple[Any, int]]:
        """Batches, and how many of their rows are real samples."""
        for inputs in self.loader:
            batch_size = find_batch_size(inputs) or self.args.eval_batch_size
            yield inputs, self.count_real(batch_size)

    def count_real(self, batch_size: int) -> int:
        """Rows of the batch that was yielded last which are no fill-up, on this rank."""
        if isinstance(self.loader, RankDataLoader):
            return min(self.loader.num_real(), batch_size)
        if getattr(self.loader, "end_of_dataloader", False) and getattr(self.loader, "remainder", -1) > 0:
            before = self.runtime.rank * batch_size
            return max(0, min(batch_size, self.loader.remainder - before))
        return batch_size

    def one_batch(self, model: Any, inputs: Any, num_real: int, *, is_last: bool) -> None:
        """All ranks: predict on one batch and keep what is asked for."""
        trainer, args = self.trainer, self.args
        batch_size = find_batch_size(inputs)
        if batch_size is not None and num_real < batch_size:
            # A rank without a real sample still takes part in what the others do, with one row that counts nothing.
            inputs = first_rows(inputs, max(num_real, 1), batch_size)
        weight = self.weight_of(inputs) if num_real > 0 else 0.0
        trainer._process.predicts_stand_in = num_real == 0
        loss, logits, labels = trainer.prediction_step(
            model, inputs, self.loss_only, ignore_keys=self.ignore_keys
        )
        trainer._process.predicts_stand_in = False
        counts = self.real_counts(num_real)
        self.num_samples += sum(counts)
        if loss is not None:
            self.loss.add(loss, weight)
        kept_losses = kept_inputs = None
        if "loss" in args.include_for_metrics and loss is not None:
            kept_losses = self.gather(loss.detach().reshape(-1)[:1].repeat(max(num_real, 1)), counts)
        if "inputs" in args.include_for_metrics:
            name = getattr(trainer.model, "main_input_name", "input_ids")
            kept_inputs = self.gather(trainer._prepare_input(inputs[name]), counts)
        if labels is not None and logits is not None and trainer.preprocess_logits_for_metrics is not None:
            logits = trainer.preprocess_logits_for_metrics(logits, labels)
        num_rows = find_batch_size(inputs) or max(num_real, 1)
        logits = self.gather(
            self.checked(logits, num_rows, "predictions"), counts, padding=self.prediction_padding()
        )
        labels = self.gather(self.checked(labels, num_rows, "labels"), counts)
        if args.batch_eval_metrics:
            self.batch_metrics(logits, labels, kept_losses, kept_inputs, is_last=is_last)
            if self.description != "Prediction":
                return
        for results, part in zip(self.kept, (kept_losses, logits, labels, kept_inputs), strict=True):
            if part is not None:
                results.add(part)

    def checked(self, data: Any, num_rows: int, source: str) -> Any:
        """A nest whose leaves can be gathered."""
        if self.args.eval_use_gather_object:
            return mark_objects(data, num_rows)
        return tensors_only(data, source=source)

    def weight_of(self, inputs: Any) -> float:
        """How often a batch's loss counts: its target items, or its samples where labels are no class indices."""
        trainer = self.trainer
        if (
            "labels" in inputs
            and torch.is_tensor(inputs["labels"])
            and not inputs["labels"].is_floating_point()
        ):
            items = count_items([inputs], loss_shifts_labels=trainer._process.loss_shifts_labels)
            if items is not None:
                return float(items)
        return float(find_batch_size(inputs) or 1)

    def real_counts(self, num_real: int) -> list[int]:
        """All ranks: how many rows of each rank count."""
        if self.runtime.world_size == 1 or not self.is_sharded:
            return [num_real]
        counts = torch.zeros(self.runtime.world_size, dtype=torch.int64, device=self.args.device)
        counts[self.runtime.rank] = num_real
        return self.backend.sum_over_ranks(counts).tolist()

    def prediction_padding(self) -> int:
        return self.trainer._prediction_padding()

    def gather(self, data: Any, counts: list[int], *, padding: int = PADDING) -> Any:
        if not self.is_sharded:
            return data
        return gather_rows(self.trainer.accelerator, data, counts, padding=padding)

    def close(self) -> None:
        """Remove temporary files."""
        for results in self.kept:
            results.close()

    def batch_metrics(self, logits: Any, labels: Any, losses: Any, inputs: Any, *, is_last: bool) -> None:
        trainer = self.trainer
        if trainer.compute_metrics is None or logits is None or labels is None:
            return
        logits, labels = without_marks(logits), without_marks(labels)
        self.metrics = trainer.compute_metrics(
            EvalPrediction(predictions=logits, label_ids=labels, losses=losses, inputs=inputs),
            compute_result=is_last,
        )

    def result(self, metric_key_prefix: str) -> EvalLoopOutput:
        """All ranks: metrics and predictions of the whole dataset."""
        trainer = self.trainer
        predictions: Any = self.predictions.result()
        labels: Any = self.labels.result()
        metrics: Any = self.metrics or {}
        if (
            trainer.compute_metrics is not None
            and not self.args.batch_eval_metrics
            and predictions is not None
            and labels is not None
        ):
            losses: Any = self.losses.result()
            inputs: Any = self.inputs.result()
            metrics = trainer.compute_metrics(
                EvalPrediction(predictions=predictions, label_ids=labels, losses=losses, inputs=inputs)
            )
        metrics = denumpify_detensorize(dict(metrics or {}))
        if self.loss.seen:
            metrics[f"{metric_key_prefix}_loss"] = self.loss.value(self.backend)
        prefix = f"{metric_key_prefix}_"
        metrics = {key if key.startswith(prefix) else prefix + key: value for key, value in metrics.items()}
        return EvalLoopOutput(
            predictions=predictions,  # pyright: ignore[reportArgumentType]
            label_ids=labels,
            metrics=metrics,
            num_samples=self.num_samples,
        )
