"""Hooks about data: loaders, samplers, columns, and the micro-batches of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers.trainer_utils import has_length

from raytrainer.arguments.accelerator_config import dispatches_batches
from raytrainer.data.batch_split import without_stand_ins
from raytrainer.data.columns import drop_unused_columns, signature_columns, strip_in_collator
from raytrainer.data.dataset_kinds import as_dataset
from raytrainer.data.loader import KeptLoader, RankDataLoader, build_loader, to_device
from raytrainer.data.sampling_strategies import train_sampler
from raytrainer.data.target_count import has_labels, own_items
from raytrainer.errors import ConfigurationError
from raytrainer.trainer_protocol import TrainerParts
from raytrainer.user_types import Batch, DatasetLike


def is_hf_dataset(dataset: Any) -> bool:
    """Whether a dataset is a ``datasets.Dataset``, found without importing the library."""
    return type(dataset).__module__.startswith("datasets.") and hasattr(dataset, "column_names")


class DataHooks(TrainerParts):
    """Loaders, samplers and columns."""

    def get_train_dataloader(self) -> Any:
        """Return this rank's loader of the training data.

        An override returns any iterable of batches; one that is sharded over ranks must be so by itself, for instance
        by ``self.accelerator.prepare(loader)``.
        """
        if self.train_dataset is None:
            raise ConfigurationError(
                "Training needs a train_dataset, and the Trainer was given none. Pass train_dataset=."
            )
        return self._get_dataloader(
            self.train_dataset,
            description="Training",
            batch_size=self.args.train_batch_size,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return this rank's loader of the evaluation data.

        Args:
            eval_dataset: A dataset, the name of one in the trainer's dict of datasets, or None for the trainer's own.
        """
        if eval_dataset is None and self.eval_dataset is None:
            raise ConfigurationError(
                "Evaluation needs an eval_dataset, and none was given. Pass eval_dataset=."
            )
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, str):
            dataset = self.eval_dataset[eval_dataset]
        key = eval_dataset if isinstance(eval_dataset, str) else "eval"
        kept = self._process.eval_loaders.get(key)
        if kept is not None and kept.is_for(dataset, self.data_collator, self.args.eval_batch_size):
            return kept.loader
        loader = self._get_dataloader(
            dataset,
            description="Evaluation",
            batch_size=self.args.eval_batch_size,
            sampler_fn=self._get_eval_sampler,
        )
        if self.args.dataloader_persistent_workers:
            kept = KeptLoader(loader, dataset, self.data_collator, self.args.eval_batch_size)
            self._process.eval_loaders[key] = kept
        return loader

    def get_test_dataloader(self, test_dataset: DatasetLike) -> Any:
        """Return this rank's loader of a dataset to predict on."""
        return self._get_dataloader(
            test_dataset,
            description="test",
            batch_size=self.args.eval_batch_size,
            sampler_fn=self._get_eval_sampler,
        )

    def _get_dataloader(
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Any], Sampler[int] | None] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> RankDataLoader:
        collate, dataset = self.data_collator, as_dataset(dataset)
        # On a driver there is nobody to deal out to.
        runtime = self._process.runtime
        scatter = runtime.scatter if runtime is not None and dispatches_batches(self.args) else None
        # Before columns are dropped: one of them may hold the lengths.
        sampler = sampler_fn(dataset) if sampler_fn is not None and has_length(dataset) else None
        if is_hf_dataset(dataset) and hasattr(dataset, "remove_columns") and has_length(dataset):
            dataset = self._remove_unused_columns(dataset, description=description)
        else:
            collate = self._get_collator_with_removed_columns(collate, description=description)
        return build_loader(
            dataset,  # pyright: ignore[reportArgumentType]
            args=self.args,
            collate=collate,
            batch_size=batch_size,
            sampler=sampler,
            training=is_training,
            scatter=scatter,
        )

    def _get_train_sampler(self, train_dataset: DatasetLike | None = None) -> Sampler[int] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if dataset is None or not has_length(dataset):
            return None
        names = getattr(self.processing_class, "model_input_names", None)
        return train_sampler(dataset, self.args, input_name=names[0] if names else None)

    def _get_eval_sampler(
        self, eval_dataset: DatasetLike | dict[str, DatasetLike] | str | None
    ) -> Sampler[int] | None:
        return SequentialSampler(eval_dataset) if has_length(eval_dataset) else None

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = signature_columns(self.model, self.label_names)

    def _columns_of_model(self) -> list[str]:
        self._set_signature_columns_if_needed()
        return self._signature_columns or []

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        if not self.args.remove_unused_columns:
            return dataset
        return drop_unused_columns(
            dataset, self._columns_of_model(), description=description, model_name=type(self.model).__name__
        )

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        if not self.args.remove_unused_columns:
            return data_collator
        return strip_in_collator(
            data_collator,
            self._columns_of_model(),
            description=description,
            model_name=type(self.model).__name__,
        )

    def num_examples(self, dataloader: Any) -> int:
        """Samples of a loader's dataset; estimated from its length where the dataset has none."""
        dataset = getattr(dataloader, "dataset", None)
        inner = getattr(dataset, "dataset", dataset)
        if inner is not None and has_length(inner):
            return len(inner)
        return len(dataloader) * self.args.train_batch_size

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch the micro-batches of one step, and count their target items over all ranks.

        Returns:
            The micro-batches (fewer than asked for at the end of the data), and the number of items as a scalar
            tensor; None where nobody divides by it.
        """
        batches: list[Any] = []
        for _ in range(num_batches):
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        return batches, self._get_num_items_in_batch(batches, device)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        run = self._process.run
        if (
            not batch_samples
            or run is None
            or not run.scaling.needs_count
            or not has_labels(batch_samples[0])
        ):
            return None
        known = run.count_ahead.take(batch_samples)
        if known is not None:
            return known
        own = without_stand_ins(self.callback_handler.train_dataloader, batch_samples)
        count = own_items(batch_samples, own, self._process.loss_shifts_labels)
        if count is None:
            return None
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            return self._backend.sum_over_ranks(count.to(device))
        return count if count.device == device else count.to(device)

    def _prepare_input(self, data: object) -> Any:
        return to_device(data, self.args.device)

    def _prepare_inputs(self, inputs: Batch) -> Any:
        prepared = self._prepare_input(inputs)
        if len(prepared) == 0:
            raise ConfigurationError(
                f"A batch is empty: none of the dataset's keys is taken by {type(self.model).__name__}.forward, which "
                f"takes {self._signature_columns}. Rename the keys, or set remove_unused_columns=False."
            )
        return prepared
