"""The targets of the next step, counted over ranks together with what ranks agree on after a step.

Adding up over ranks is a message to all of them, however small the number. Where the next step's only micro-batch is
held already (``data.micro_batches``), its targets are counted in the message that ranks send each other anyway. Each
rank then finds the sum when the micro-batch is fetched. Nothing is counted ahead on GPUs, where adding up makes nobody
wait, nor where somebody's own methods fetch or count: they might, on some ranks, do something else with what is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from raytrainer.data.micro_batches import MicroBatches
from raytrainer.data.target_count import has_labels, own_items
from raytrainer.loop.run import TrainRun

_FETCH_OR_COUNT = frozenset({"get_batch_samples", "_get_num_items_in_batch"})


class CountAhead:
    """The number of targets of one micro-batch, over ranks.

    Args:
        is_possible: This run can count ahead; the same on all ranks.
    """

    def __init__(self, *, is_possible: bool) -> None:
        self.is_possible = is_possible
        self._batch: Any = None
        self._total = 0

    def keep(self, batch: Any, total: int) -> None:
        """Remember the targets of a micro-batch that is held [items]."""
        self._batch, self._total = batch, total

    def take(self, batches: Sequence[Any]) -> torch.Tensor | None:
        """The targets of a step, a scalar; None if it was not counted ahead."""
        batch, self._batch = self._batch, None
        if batch is None or len(batches) != 1 or batches[0] is not batch:
            return None
        return torch.tensor(self._total)


def can_count_ahead(run: TrainRun) -> bool:
    """All ranks, before the first step: whether this run can count ahead."""
    trainer, args = run.trainer, run.args
    return (
        run.runtime.world_size > 1
        and args.device.type == "cpu"
        and bool(args.average_tokens_across_devices)
        and not _FETCH_OR_COUNT & (trainer._overrides() | vars(trainer).keys())
    )


def held_items(run: TrainRun) -> tuple[Any, int] | None:
    """This rank, after a step: the micro-batch that is held for the next one, and its own targets in it.

    Returns:
        None where the next step takes none, or several, or where its targets cannot be counted.
    """
    batches = run.batches
    if not isinstance(batches, MicroBatches) or not run.scaling.needs_count:
        return None
    held = batches.held
    if held is None or run.plan.group_size(run.cursor.micro_batches) != 1:
        return None
    (batch, _), share = held
    if not has_labels(batch):
        return None
    is_real = run.loader.split.weight_of(share) > 0
    count = own_items([batch], [batch] if is_real else [], run.trainer._process.loss_shifts_labels)
    return None if count is None else (batch, int(count))
