"""The data loader of one rank: torch's own, with a start position and batches on the rank's device.

The loop and the evaluation also need to start an epoch after a number of samples, and to know how many samples of a
micro-batch are real rather than fill-ups. With ``dispatch``, only the loader of rank 0 reads, and distributes what it
reads.
"""

# Batches are the user's, and may nest containers of anything.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, SequentialSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler
from transformers.trainer_utils import seed_worker

from raytrainer.arguments.accelerator_config import fills_up
from raytrainer.arguments.launched import is_launched_rank
from raytrainer.arguments.seeding import data_seed
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.data.batch_split import BatchSplit, Share
from raytrainer.data.dealing import Dealing, Turn
from raytrainer.data.dispatch import CollateRound, Scatter, dispatch_rounds, receive_rounds
from raytrainer.data.draws import Draws, Fetched, PlacedBatches, PlacedCollate, PlacedSamples
from raytrainer.data.host_labels import note_targets
from raytrainer.data.length_samplers import BalancedBatches, LengthGrouped
from raytrainer.data.micro_batches import MicroBatches
from raytrainer.data.own_generators import OwnGenerators
from raytrainer.data.samplers import RankBatchSampler, SeededRandomSampler
from raytrainer.data.streams import CollateItems, RankStream
from raytrainer.data.unreadable import explain_unreadable
from raytrainer.errors import CheckpointError, DispatchError
from raytrainer.random_state import HostRandomState, drawing_from, seed_of


def to_device(data: object, device: torch.device, *, non_blocking: bool = False) -> Any:
    """Move the tensors of a nested batch to a device.

    Args:
        data: Tensors of any shape in mappings, tuples and lists; other values are returned as they are.
        device: The device.
        non_blocking: Whether to copy pinned memory asynchronously.

    Returns:
        The same structure.
    """
    if isinstance(data, torch.Tensor):
        return data.to(device, non_blocking=non_blocking)
    if type(data) is dict:
        return {
            key: value.to(device, non_blocking=non_blocking)
            if type(value) is torch.Tensor
            else to_device(value, device, non_blocking=non_blocking)
            for key, value in data.items()
        }
    if isinstance(data, Mapping):
        moved = {key: to_device(value, device, non_blocking=non_blocking) for key, value in data.items()}
        return type(data)(moved)  # pyright: ignore[reportCallIssue]
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(to_device(value, device, non_blocking=non_blocking) for value in data))
    if isinstance(data, tuple | list):
        return type(data)(to_device(value, device, non_blocking=non_blocking) for value in data)
    return data


class UsedSamples(NamedTuple):
    """What micro-batches were made of: indices in the dataset, of a stream positions in it."""

    samples: list[Any]
    fill_ups: list[Any]
    """Those that filled up the last round of the data."""


class RankDataLoader(DataLoader[Any]):
    """A ``DataLoader`` that yields this rank's micro-batches on this rank's device.

    Args:
        *args: Arguments of torch's loader.
        device: The device of this rank.
        keep: Number of most recent micro-batches whose shares and positions are kept.
        scatter: With it rank 0 reads for all ranks and distributes; None: each rank reads by itself.
        draws: Seed what samples and micro-batches draw.
        own: The generators of the user's dataset, collator and sampler.
        **kwargs: Keyword arguments of torch's loader.
    """

    _is_accelerate_prepared = True
    """``accelerator.prepare(loader)`` returns it as it is: it is divided over the ranks already."""

    def __init__(
        self,
        *args: Any,
        device: torch.device,
        keep: int = 1,
        scatter: Scatter | None = None,
        draws: Draws | None = None,
        own: OwnGenerators | None = None,
        **kwargs: Any,
    ) -> None:
        self._device = device
        self._non_blocking = bool(kwargs.get("pin_memory")) and device.type != "cpu"
        self._scatter = scatter
        self._draws = draws or Draws()
        self.own = own or OwnGenerators()
        """The generators of the user's dataset, collator and sampler."""
        self._epoch = 0
        self._skipped = 0
        self._first = 0
        self._position: dict[str, Any] | None = None
        self._shares: deque[Share] = deque(maxlen=keep)
        self._indices: deque[list[Any]] = deque(maxlen=keep)
        self._positions: deque[tuple[int, dict[str, Any]]] = deque(maxlen=keep)
        super().__init__(*args, **kwargs)
        self._shard = self._find_shard()
        split = self._shard.split
        self._weigh_alike = split.fills_up and split.dealing is None

    @property
    def split(self) -> BatchSplit:
        """Which samples this rank takes."""
        return self._shard.split

    @property
    def total_batch_size(self) -> int:
        """Samples of a micro-batch over all ranks, under the name that accelerate's loaders have for it."""
        return self.split.round_size

    @property
    def is_dispatched(self) -> bool:
        """Whether rank 0 reads for all ranks."""
        return self._scatter is not None

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._shard.set_epoch(epoch)

    def skip_next(self, num_samples: int, began: HostRandomState | None = None) -> None:
        """Begin the next iteration in the middle of the order.

        Args:
            num_samples: Samples of the global order to leave out.
            began: The random state of this process with which the pass over the data began, where it is known.
        """
        shard, began = self._shard, _after_torchs_draw(began)
        if isinstance(shard, RankStream):
            shard.skip_next(num_samples, max(1, self.num_workers))
            shard.began = began
            self._position = shard.start
            self._first = shard.split.num_turns(num_samples)
        else:
            self._skipped = num_samples
            shard.skip_next(num_samples, began)

    def start_next_at(
        self, position: dict[str, Any], micro_batches: int, began: HostRandomState | None = None
    ) -> None:
        """Begin the next iteration of a stream at a position, without reading what comes before it.

        Args:
            position: What ``position_after`` returned, in this or another process.
            micro_batches: Micro-batches of the epoch that were consumed before it.
            began: The random state of this process with which the pass over the data began, where it is known.

        Raises:
            CheckpointError: If the position was saved with a different number of loading processes.
        """
        assert isinstance(self.dataset, RankStream)
        kept, here = len(position["processes"]), max(1, self.num_workers)
        if kept != here:
            raise CheckpointError(
                f"The position in the stream was saved for {kept} loading process(es), each of which reads its own "
                f"part, but dataloader_num_workers={self.num_workers} starts {here}. Set dataloader_num_workers to its "
                "earlier value, or set ignore_data_skip=True to restart the epoch."
            )
        self.dataset.start_next_at(position)
        self.dataset.began = _after_torchs_draw(began)
        self._position, self._first = position, micro_batches

    def position_after(self, micro_batches: int) -> dict[str, Any] | None:
        """Return the position of the stream after a number of micro-batches of the epoch.

        Returns:
            Plain JSON values; None if the dataset is not a stream, or the position is no longer kept.
        """
        return next((position for count, position in self._positions if count == micro_batches), None)

    def _find_shard(self) -> RankBatchSampler | BalancedBatches | RankStream:
        if isinstance(self.dataset, RankStream):
            return self.dataset
        assert isinstance(self.batch_sampler, RankBatchSampler | BalancedBatches)
        return self.batch_sampler

    def num_real(self) -> int:
        """Return the number of samples of the latest micro-batch without fill-ups."""
        return self._shares[-1].num_real

    def weights(self, count: int) -> list[float]:
        """Return the weights of the latest micro-batches in a mean over ranks; fill-ups count as samples."""
        if self._weigh_alike:
            return [1.0] * min(count, len(self._shares))
        return [self.split.weight_of(share) for share in list(self._shares)[-count:]]

    def samples_used(self, count: int) -> UsedSamples:
        """Which samples of the dataset the latest micro-batches were made of, as they were read.

        Args:
            count: Number of micro-batches.
        """
        found = UsedSamples([], [])
        for indices, share in list(zip(self._indices, self._shares, strict=True))[-count:]:
            if self.split.weight_of(share) > 0:
                num_real = len(indices) if self.is_balanced else share.num_real
                found.samples.extend(indices[:num_real])
                found.fill_ups.extend(indices[num_real:])
        return found

    @property
    def is_balanced(self) -> bool:
        """Whether micro-batches have different numbers of samples, as their lengths allow."""
        return isinstance(self.batch_sampler, BalancedBatches)

    def __iter__(self) -> Iterator[Any]:
        self._shares.clear()
        self._indices.clear()
        # Now rather than at the first batch: torch's loader draws its seed here, and the loop relies on that.
        first = self._first_micro_batch()
        return MicroBatches(
            self._shared(),
            self._hand_out,
            looks_ahead=self.num_workers == 0,
            explain=partial(self._explain, first),
            own=self.own,
        )

    def _first_micro_batch(self) -> int:
        """Index in the epoch of the first micro-batch of the next iteration."""
        return self._first if isinstance(self.dataset, RankStream) else self.split.num_turns(self._skipped)

    def _explain(self, first: int, error: Exception, index: int) -> None:
        if not isinstance(error, DispatchError):  # rank 0 has read, and knows more
            explain_unreadable(error, self, first + index)

    def _hand_out(self, found: tuple[Fetched, Share]) -> Any:
        (batch, indices), share = found
        self._shares.append(share)
        self._indices.append(indices)
        if self._device.type == "cpu":
            return batch
        copied = to_device(batch, self._device, non_blocking=self._non_blocking)
        note_targets(batch, copied)
        return copied

    def _shared(self) -> Iterator[tuple[Any, Share]]:
        """This rank's micro-batches and their shares."""
        split = self.split
        if self._scatter is None:
            return _with_shares(self._read(), split)
        rounds = ((batches, num_round) for batches, (num_round, _) in self._read())
        return (
            dispatch_rounds(rounds, self._scatter, split)
            if split.rank == 0
            else receive_rounds(self._scatter)
        )

    def _read(self) -> Iterator[tuple[Any, tuple[int, Turn]]]:
        """What torch's loader yields, and the real samples of its round with this rank's turn in it."""
        shard = self._shard
        self._seed_processes()
        if isinstance(shard, RankStream):
            shard.begin_pass()
            first, self._first = self._first, 0
            position, self._position = self._position, None
            self._positions.clear()
            return self._read_stream(super().__iter__(), position, first)
        skipped, self._skipped = self._skipped, 0
        return zip(super().__iter__(), shard.rounds(skipped), strict=False)

    def _seed_processes(self) -> None:
        """Let the seeds of loading processes follow from the epoch, and draw what torch's loader draws for them."""
        if self.num_workers == 0 or self._draws.seed is None:
            return
        _draw_like_torch()
        seed = seed_of(self._draws.seed, "processes", self._epoch)
        self.generator = torch.Generator().manual_seed(seed)

    def _get_iterator(self) -> Any:
        """Torch's iterator, over places instead of indices."""
        if isinstance(self.dataset, RankStream):
            return super()._get_iterator()
        shard, collate = self._shard, PlacedCollate(self.collate_fn, self._draws)
        assert not isinstance(shard, RankStream)
        inner = copy.copy(self)
        # Past DataLoader.__setattr__: whoever looks at this loader finds the user's own dataset and collator in it.
        vars(inner).update(
            dataset=PlacedSamples(
                self.dataset, self._draws, shard.split.batch_size if shard.split.takes_rounds else None
            ),
            batch_sampler=PlacedBatches(shard),
            collate_fn=CollateRound(collate, shard.split) if shard.split.takes_rounds else collate,
        )
        return DataLoader[Any]._get_iterator(inner)

    def _read_stream(
        self, batches: Iterator[Any], position: dict[str, Any] | None, first: int
    ) -> Iterator[tuple[Any, tuple[int, Turn]]]:
        num_processes = max(1, self.num_workers)
        places = [None] * num_processes if position is None else list(position["processes"])
        for batch, process, round_end in batches:
            if round_end is None:
                continue
            first += 1
            if round_end.place is not None:
                places[process] = round_end.place
                position = {"processes": list(places), "next": (process + 1) % num_processes}
                self._positions.append((first, position))
            yield batch, (round_end.num_round, round_end.turn)


def _with_shares(
    batches: Iterator[tuple[Any, tuple[int, Turn]]], split: BatchSplit
) -> Iterator[tuple[Any, Share]]:
    """Micro-batches and their shares, which differ from one to the next in the last round and where turns do."""
    known: tuple[int, Turn] | None = None
    share = Share(0, 0)
    for batch, at in batches:
        if at != known:
            share, known = split.share_of_turn(*at), at
        yield batch, share


def _draw_like_torch() -> None:
    """Draw what torch's loader draws at the start of an iteration, for the seeds of its processes."""
    torch.empty((), dtype=torch.int64).random_()


def _after_torchs_draw(began: HostRandomState | None) -> HostRandomState | None:
    """The random state of a pass that began with another one, when torch's loader has drawn from it."""
    if began is None:
        return None
    with drawing_from(began):
        _draw_like_torch()
        return HostRandomState({**began.states, **HostRandomState.now().states})


class KeptLoader(NamedTuple):
    """A loader whose processes live on between two passes, and what it was made from."""

    loader: RankDataLoader
    dataset: Any
    collate: Callable[[list[Any]], Any]
    batch_size: int

    def is_for(self, dataset: Any, collate: Callable[[list[Any]], Any], batch_size: int) -> bool:
        """Whether a loader that is made from these objects would be the same."""
        return self.dataset is dataset and self.collate is collate and self.batch_size == batch_size


def build_loader(
    dataset: Dataset[Any],
    *,
    args: TrainingArguments,
    collate: Callable[[list[Any]], Any],
    batch_size: int,
    sampler: Sampler[int] | None,
    training: bool,
    scatter: Scatter | None = None,
) -> RankDataLoader:
    """Build this rank's loader.

    Args:
        dataset: Map-style or iterable.
        args: Resolved (on a rank) or not yet (on a driver, or before a launcher's rank trains).
        collate: Makes a batch from a list of samples.
        batch_size: Size of a micro-batch on one rank [samples].
        sampler: Order of a map-style dataset; None keeps its own order. A plain ``RandomSampler`` (or
            ``LengthGroupedSampler``) becomes a seeded one, because ranks must agree on the order.
        training: Whether to seed the loader's processes per rank.
        scatter: With it rank 0 reads for all ranks and distributes; None: each rank reads by itself.
    """
    # On a driver, training data are counted as on a rank: scripts derive steps from the length. Data that a driver
    # evaluates by itself are whole.
    is_of_rank = args.is_resolved or training or is_launched_rank(os.environ)
    rank, world_size = (args.process_index, args.world_size) if is_of_rank else (0, 1)
    dispatches = scatter is not None and world_size > 1
    dealing = dealing_of(args) if training else None
    split = BatchSplit(
        batch_size=batch_size,
        rank=rank,
        world_size=world_size if dealing is None else dealing.parts,
        drop_last=args.dataloader_drop_last,
        fills_up=fills_up(args),
        takes_rounds=dispatches,
        dealing=dealing,
    )
    draws = Draws(args.seed if args.dataloader_num_workers > 0 or dealing is not None else None)
    options: dict[str, Any] = {
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and args.device.type != "cpu",
        "persistent_workers": args.dataloader_persistent_workers,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
        "prefetch_factor": args.dataloader_prefetch_factor,
        # Predictions belong to the samples at their places, so the order of an evaluation is that of the data.
        "in_order": args.dataloader_in_order or not training,
        "device": args.device,
        "keep": (args.gradient_accumulation_steps if dealing is None else dealing.full_turns) + 1,
        "scatter": scatter if dispatches else None,
        "draws": draws,
        "own": OwnGenerators(dataset=dataset, collator=collate, sampler=sampler),
    }
    if isinstance(dataset, IterableDataset):
        stream = RankStream(dataset, split, draws)
        if args.dataloader_persistent_workers:
            stream.share_clock()
        placed = PlacedCollate(collate, draws)
        of_items = CollateItems(CollateRound(placed, split) if dispatches else placed)
        return RankDataLoader(stream, batch_size=split.taken_size, collate_fn=of_items, **options)
    if training:
        options["worker_init_fn"] = partial(seed_worker, num_workers=args.dataloader_num_workers, rank=rank)
    if isinstance(sampler, BatchRebalanceSampler):
        batches: Any = BalancedBatches(sampler, seed=data_seed(args))
    else:
        batches = RankBatchSampler(seeded(sampler, dataset, args), split)
    return RankDataLoader(dataset, batch_sampler=batches, collate_fn=collate, **options)


def dealing_of(args: TrainingArguments) -> Dealing | None:
    """How the micro-batches of a step are dealt out to the ranks there are; None where their number is fixed."""
    if not args.is_elastic:
        return None
    assert args.max_workers is not None
    return Dealing(
        rank=args.process_index,
        world_size=args.world_size,
        parts=args.max_workers,
        accumulation=args.gradient_accumulation_steps,
    )


def seeded(sampler: Sampler[int] | None, dataset: Dataset[Any], args: TrainingArguments) -> Sampler[int]:
    """Return a sampler with the same order on all ranks.

    Args:
        sampler: A sampler of torch, transformers or the user; None keeps the dataset's order.
        dataset: A map-style dataset.
        args: For the data seed.
    """
    if sampler is None:
        return SequentialSampler(dataset)  # pyright: ignore[reportArgumentType]
    if type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None:
        return SeededRandomSampler(sampler.data_source, data_seed(args))
    if type(sampler) is LengthGroupedSampler and sampler.generator is None:
        return LengthGrouped(sampler.lengths, batch_size=sampler.batch_size, seed=data_seed(args))
    return sampler
