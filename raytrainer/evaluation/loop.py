"""The evaluation and prediction loop over one data loader.

``<prefix>_loss`` is the mean over all target items of the dataset, whatever the batch size and the number of ranks:
the loss of each batch is weighted by its number of targets. ``transformers`` weights it by its number of samples; where
the two differ noticeably, that mean is reported too, as ``<prefix>_loss_batch_mean``.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from transformers import trainer_utils
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, has_length

from raytrainer.backends.base import Backend
from raytrainer.data.loader import RankDataLoader
from raytrainer.data.micro_batches import MicroBatches
from raytrainer.data.target_count import count_items
from raytrainer.data.undivided import is_divided, is_evened
from raytrainer.errors import ConfigurationError
from raytrainer.evaluation.failed_batch import told_batch, told_metrics, told_place
from raytrainer.evaluation.nested import require_tensors, unwrap_objects, wrap_objects
from raytrainer.evaluation.results import Results
from raytrainer.evaluation.rows import batch_size_of, gather_rows, truncate_batch
from raytrainer.evaluation.spill import PADDING
from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry import run_lines
from raytrainer.telemetry.events import Busy, PredictionDone, PredictionStep
from raytrainer.trainer_protocol import TrainerProtocol

logger = logging.getLogger(__name__)


def flag_last(batches: Any) -> Iterator[tuple[Any, bool]]:
    """Yield each item, and whether it is the last one."""
    iterator = iter(batches)
    try:
        current = next(iterator)
    except StopIteration:
        return
    for following in iterator:
        yield current, False
        current = following
    yield current, True


NOTICEABLE = 0.01
"""By how much of it the mean that transformers reports differs from the loss before it is reported too."""


class LossMean:
    """Weighted means of batch losses over batches and ranks, in float64.

    Args:
        device: The device of the losses.
        skips_nonfinite: Leave out batches whose loss is NaN or infinite (``logging_nan_inf_filter``).
    """

    def __init__(self, device: torch.device, *, skips_nonfinite: bool = False) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)
        self._skips_nonfinite = skips_nonfinite
        self.has_batches = False

    def add(self, loss: torch.Tensor, weight: float, num_samples: int) -> None:
        """Add the loss of a batch.

        Args:
            loss: One loss ``[]``, or several ``[n]`` that are averaged first.
            weight: Number of targets in the batch; a batch of weight 0 does not count.
            num_samples: Samples in the batch.
        """
        self.has_batches = True
        if weight <= 0:
            return
        mean = loss.detach().double().mean()
        weights = [torch.full_like(mean, weight), torch.full_like(mean, num_samples)]
        terms = torch.stack([*(mean * one for one in weights), *weights])
        self._sums += torch.where(mean.isfinite(), terms, 0.0) if self._skips_nonfinite else terms

    def values(self, backend: Backend) -> tuple[float, float]:
        """All ranks: the mean over targets, and over samples that of the means of their batches; NaN without any."""
        sums = backend.sum_over_ranks(self._sums)
        means = torch.where(sums[2:] > 0, sums[:2] / sums[2:], float("nan"))
        return float(means[0]), float(means[1])


class PredictionLoop:
    """One pass over a data loader.

    Args:
        trainer: Its hooks predict, and its arguments say what is kept.
        backend: Sums over ranks.
        runtime: The runtime of this rank.
        dataloader: The batches of this rank, or a loader of the user's own, which gives every rank all batches.
        description: Shown beside the progress.
        prediction_loss_only: Keep neither predictions nor labels.
        ignore_keys: Outputs of the model that are left out of the predictions.
    """

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
        # A user's plain loader gives every rank the whole dataset, so nothing is gathered.
        self.is_sharded = is_divided(dataloader)
        # Others are as long on every rank.
        self.may_end_apart = self.is_sharded and runtime.world_size > 1 and not is_evened(dataloader)
        self.loss = LossMean(args.device, skips_nonfinite=args.logging_nan_inf_filter)
        concatenates = args.eval_do_concat_batches
        self.results = [
            Results(runtime, concatenates=concatenates, is_shared=self.is_sharded, padding=padding)
            for padding in (PADDING, self.prediction_padding(), PADDING, PADDING)
        ]
        self.losses, self.predictions, self.labels, self.inputs = self.results
        self.num_samples = 0
        self.metrics: dict[str, Any] | None = None

    def run(self) -> None:
        """All ranks: predict on every batch of the loader."""
        trainer, args = self.trainer, self.args
        model = trainer._evaluation_model()
        model.eval()
        if callable(getattr(trainer.optimizer, "eval", None)):
            trainer.optimizer.eval()
        trainer.callback_handler.eval_dataloader = self.loader
        is_sized = has_length(self.loader)
        if run_lines.are_wanted():
            num_examples = trainer.num_examples(self.loader) if is_sized else "unknown"
            facts: dict[str, object] = {"Num examples": num_examples, "Batch size": args.eval_batch_size}
            run_lines.say(f"Running {self.description}", facts)
        total = len(self.loader) if is_sized else None
        if self.runtime.rank == 0:
            self.runtime.emit(Busy(what=self.description.lower()))
        for step, ((batch, num_real), is_last) in enumerate(flag_last(self.batches())):
            with self.told_place(), told_batch(trainer, self.loader, step, batch):
                self.predict_batch(model, batch, num_real, is_last=is_last)
            self.fire_prediction_step()
            if self.runtime.rank == 0:
                self.runtime.emit(PredictionStep(description=self.description, done=step + 1, total=total))
            interval = args.eval_accumulation_steps
            if interval is not None and (step + 1) % interval == 0:
                for results in self.results:
                    results.to_cpu()
        if self.runtime.rank == 0:
            self.runtime.emit(PredictionDone(description=self.description))

    def fire_prediction_step(self) -> None:
        """Call the callbacks' ``on_prediction_step``."""
        trainer = self.trainer
        handler: Any = trainer.callback_handler
        trainer.control = handler.on_prediction_step(self.args, trainer.state, trainer.control)

    def batches(self) -> Iterator[tuple[Any, int]]:
        """Yield each batch with the number of its rows that are real samples."""
        batches, last = iter(self.loader), None
        if isinstance(batches, MicroBatches):
            batches.keep_no_state()
        while True:
            with self.told_place():
                inputs = next(batches, None)
            is_own = inputs is not None
            if self.may_end_apart:
                inputs = self.until_all_end(inputs, last)
            if inputs is None:
                return
            last = inputs
            batch_size = batch_size_of(inputs) or self.args.eval_batch_size
            yield inputs, self.num_real_rows(batch_size) if is_own else 0

    def until_all_end(self, inputs: Any, last: Any) -> Any:
        """All ranks: this rank's batch, or its last one again as a stand-in as long as another rank has batches.

        Args:
            inputs: The next batch of this rank; None at its end.
            last: The batch before.

        Returns:
            None when all ranks are at their end.

        Raises:
            ConfigurationError: On all ranks, if one of them has no batch at all and others have some.
        """
        some_have, some_lack = self.runtime.agree(
            [int(inputs is not None), int(inputs is None and last is None)]
        )
        if not some_have:
            return None
        if some_lack:
            raise ConfigurationError(
                f"The loader for the {self.description.lower()} gives some of the {self.runtime.world_size} ranks no "
                "batch at all. Give every rank at least one sample, or leave the loader to the trainer."
            )
        return last if inputs is None else inputs

    def told_place(self) -> AbstractContextManager[None]:
        """While it lasts, an error is told where it was raised."""
        return told_place(self.trainer, self.runtime, self.description)

    def num_real_rows(self, batch_size: int) -> int:
        """Count the rows of this rank's latest batch that are not duplicates from filling up an uneven dataset."""
        if isinstance(self.loader, RankDataLoader):
            return min(self.loader.num_real(), batch_size)
        if getattr(self.loader, "end_of_dataloader", False) and getattr(self.loader, "remainder", -1) > 0:
            rows_before = self.runtime.rank * batch_size
            return max(0, min(batch_size, self.loader.remainder - rows_before))
        return batch_size

    def predict_batch(self, model: Any, inputs: Any, num_real: int, *, is_last: bool) -> None:
        """All ranks: predict on one batch, and accumulate what the arguments ask for.

        Args:
            model: The model that evaluates, in eval mode.
            inputs: The batch of this rank.
            num_real: Rows of it that are real samples; may be 0.
            is_last: Whether it is the last batch of the loader.
        """
        trainer, args = self.trainer, self.args
        batch_size = batch_size_of(inputs)
        if batch_size is not None and num_real < batch_size:
            # A rank without a real sample still takes part in the collectives of the others, with one row of weight 0.
            inputs = truncate_batch(inputs, max(num_real, 1), batch_size)
        weight = self.loss_weight(inputs) if num_real > 0 else 0.0
        trainer._process.predicts_stand_in = num_real == 0
        loss, logits, labels = trainer.prediction_step(
            model, inputs, self.loss_only, ignore_keys=self.ignore_keys
        )
        trainer._process.predicts_stand_in = False
        counts = self.real_counts(num_real)
        self.num_samples += sum(counts)
        if loss is not None:
            self.loss.add(loss, weight, num_real)
        losses = main_inputs = None
        if "loss" in args.include_for_metrics and loss is not None:
            losses = self.gather(loss.detach().reshape(-1)[:1].repeat(max(num_real, 1)), counts)
        if "inputs" in args.include_for_metrics:
            name = getattr(trainer.model, "main_input_name", "input_ids")
            main_inputs = self.gather(trainer._prepare_input(inputs[name]), counts)
        if labels is not None and logits is not None and trainer.preprocess_logits_for_metrics is not None:
            logits = trainer.preprocess_logits_for_metrics(logits, labels)
        num_rows = batch_size_of(inputs) or max(num_real, 1)
        logits = self.gather(
            self.as_gatherable(logits, num_rows, "predictions"), counts, padding=self.prediction_padding()
        )
        labels = self.gather(self.as_gatherable(labels, num_rows, "labels"), counts)
        if args.batch_eval_metrics:
            self.batch_metrics(logits, labels, losses, main_inputs, is_last=is_last)
            if self.description != "Prediction":
                return
        for results, part in zip(self.results, (losses, logits, labels, main_inputs), strict=True):
            if part is not None:
                results.add(part)

    def as_gatherable(self, data: Any, num_rows: int, source: str) -> Any:
        """Turn the leaves of a nested structure into what can be gathered.

        Args:
            data: The predictions or labels of a batch.
            num_rows: Samples in the batch.
            source: "predictions" or "labels", for error messages.

        Raises:
            ConfigurationError: If a leaf is not a tensor, and ``eval_use_gather_object`` is not set.
        """
        if self.args.eval_use_gather_object:
            return wrap_objects(data, num_rows)
        return require_tensors(data, source=source)

    def loss_weight(self, inputs: Any) -> float:
        """Weight of a batch's loss: its number of targets, or of samples if its labels are not class indices."""
        trainer = self.trainer
        if (
            "labels" in inputs
            and torch.is_tensor(inputs["labels"])
            and not inputs["labels"].is_floating_point()
        ):
            items = count_items([inputs], loss_shifts_labels=trainer._process.loss_shifts_labels)
            if items is not None:
                return float(items)
        return float(batch_size_of(inputs) or 1)

    def real_counts(self, num_real: int) -> list[int]:
        """All ranks: the number of real rows on each rank, ``[world_size]``."""
        if self.runtime.world_size == 1 or not self.is_sharded:
            return [num_real]
        counts = torch.zeros(self.runtime.world_size, dtype=torch.int64, device=self.args.device)
        counts[self.runtime.rank] = num_real
        summed = self.backend.sum_over_ranks(counts)
        return cast("list[int]", summed.tolist())

    def prediction_padding(self) -> int:
        """Value that pads predictions; a generating trainer pads with its padding token."""
        return self.trainer._prediction_padding()

    def gather(self, data: Any, counts: list[int], *, padding: int = PADDING) -> Any:
        """All ranks: the real rows of all ranks.

        Args:
            data: A nested structure of this rank's rows.
            counts: Number of real rows on each rank, ``[world_size]``.
            padding: Value that fills a dimension that is shorter than on another rank.
        """
        if not self.is_sharded:
            return data
        return gather_rows(self.trainer.accelerator, data, counts, padding=padding)

    def close(self) -> None:
        """Remove temporary files."""
        for results in self.results:
            results.close()

    def batch_metrics(self, logits: Any, labels: Any, losses: Any, inputs: Any, *, is_last: bool) -> None:
        """Call ``compute_metrics`` on one batch (``batch_eval_metrics``).

        Args:
            logits: Predictions of all ranks.
            labels: Labels of all ranks.
            losses: Losses ``[rows]`` if ``include_for_metrics`` has "loss".
            inputs: The model's main input if ``include_for_metrics`` has "inputs".
            is_last: Whether the metrics of the whole dataset are due.
        """
        trainer = self.trainer
        if trainer.compute_metrics is None or logits is None or labels is None:
            return
        logits, labels = unwrap_objects(logits), unwrap_objects(labels)
        self.metrics = trainer.compute_metrics(
            EvalPrediction(predictions=logits, label_ids=labels, losses=losses, inputs=inputs),
            compute_result=is_last,
        )

    def result(self, metric_key_prefix: str) -> EvalLoopOutput:
        """All ranks: the metrics and predictions of the whole dataset.

        Args:
            metric_key_prefix: Metrics are named ``<prefix>_<name>``.
        """
        trainer = self.trainer
        predictions: Any = self.predictions.result()
        labels: Any = self.labels.result()
        metrics: dict[str, Any] = self.metrics or {}
        if (
            trainer.compute_metrics is not None
            and not self.args.batch_eval_metrics
            and predictions is not None
            and labels is not None
        ):
            losses: Any = self.losses.result()
            inputs: Any = self.inputs.result()
            given = EvalPrediction(predictions=predictions, label_ids=labels, losses=losses, inputs=inputs)
            with self.told_place(), told_metrics(self.num_samples, predictions=predictions, labels=labels):
                metrics = trainer.compute_metrics(given)
        to_python = cast(
            "Callable[[dict[str, Any]], dict[str, Any]]",
            trainer_utils.denumpify_detensorize,
        )
        metrics = to_python(dict(metrics or {}))
        if self.loss.has_batches:
            mean, batch_mean = self.loss.values(self.backend)
            metrics[f"{metric_key_prefix}_loss"] = mean
            if abs(batch_mean - mean) > NOTICEABLE * abs(mean):
                metrics[f"{metric_key_prefix}_loss_batch_mean"] = batch_mean
        prefix = f"{metric_key_prefix}_"
        metrics = {key if key.startswith(prefix) else prefix + key: value for key, value in metrics.items()}
        return EvalLoopOutput(
            predictions=predictions,  # pyright: ignore[reportArgumentType]
            label_ids=labels,
            metrics=metrics,
            num_samples=self.num_samples,
        )
