"""How many workers an elastic run is to have: the largest number for a while, then as many as there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver.capacity import Allocation, Node, needed_by, room_for


def fewer_after(
    waited_s: float, args: TrainingArguments, wanted: Allocation, free: Sequence[Node]
) -> Allocation:
    """What to wait for. A number of workers that is fixed stays as it is.

    Args:
        waited_s: For how long room has been waited for [s].
        args: The bounds, and for how long all of ``wanted`` are waited for.
        wanted: What is wanted at first.
        free: The nodes, with what is free on them.
    """
    if not args.is_elastic or waited_s < args.elastic_timeout_s:
        return wanted
    least = least_of(args, wanted).num_workers
    fitting = min(wanted.num_workers, num_fitting(args, wanted, free))
    return replace(wanted, num_workers=max(least, fitting))


def least_of(args: TrainingArguments, allocation: Allocation) -> Allocation:
    """What a run needs at least."""
    if not args.is_elastic or args.min_workers is None:
        return allocation
    return replace(allocation, num_workers=min(args.min_workers, allocation.num_workers))


def num_fitting(args: TrainingArguments, each: Allocation, nodes: Sequence[Node]) -> int:
    """How many workers fit on nodes, by what ``nodes`` have as resources; at most the largest number.

    Args:
        args: The largest number, and where workers may be placed.
        each: What each worker gets.
        nodes: The nodes.
    """
    needed, labels = needed_by(args, each)
    room = room_for(needed, nodes, strategy=args.placement_strategy, labels=labels)
    return room if args.max_workers is None else min(room, args.max_workers)
