"""How large the default share of a worker is where something else runs: what is free, or one core each.

What the arguments name stays as it is. A trainer that runs within an actor or a task, such as a trial of Ray Tune, and
finds nothing free gives its workers the cores that its own process reserved: that process waits while they work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver.capacity import Allocation, Node, needed_by, room_for


def share_beside_others(args: TrainingArguments, whole: Allocation, free: Sequence[Node]) -> Allocation:
    """The allocation for a cluster in which something else runs.

    Args:
        args: What the user left open: ``num_workers``, ``resources_per_worker``.
        whole: The allocation for a cluster in which nothing else runs.
        free: The nodes, with what is free on them.

    Returns:
        What fits now, if a smaller default makes it fit; else the least that the arguments allow, to be waited for.
        One worker per GPU stays one per GPU: with none free, all are waited for.
    """
    asked = args.resources_per_worker or {}
    if whole.use_gpu:
        num_free = _room(args, whole, free)
        is_open = args.num_workers is None and num_free > 0
        return replace(whole, num_workers=min(num_free, whole.num_workers)) if is_open else whole
    if "CPU" in asked:
        return whole
    share = whole
    while share.resources_per_worker.get("CPU", 0) > 1 and _room(args, share, free) < share.num_workers:
        cores = share.resources_per_worker["CPU"] - 1
        share = replace(share, resources_per_worker=share.resources_per_worker | {"CPU": cores})
    return share


def share_of_own(
    args: TrainingArguments,
    whole: Allocation,
    free: Sequence[Node],
    own: dict[str, float],
    node_resource: str,
) -> Allocation | None:
    """Workers that use the cores of the actor or task in which the trainer runs; None if they need not or may not.

    Args:
        args: What the user left open.
        whole: The allocation for a cluster in which nothing else runs.
        free: The nodes, with what is free on them.
        own: What this process reserved.
        node_resource: Ray's name for the node of this process, of which workers need a trace to run there.
    """
    is_open = not (whole.use_gpu or args.resources_per_worker or args.accelerator_type or args.label_selector)
    is_open = is_open and (args.placement_strategy != "STRICT_SPREAD" or whole.num_workers == 1)
    least = replace(whole, resources_per_worker={"CPU": 1.0})
    if not is_open or own.get("CPU", 0) <= 0 or _room(args, least, free) >= whole.num_workers:
        return None
    return replace(
        whole,
        resources_per_worker={node_resource: 0.001},
        shared_cores=max(1, int(own["CPU"]) // whole.num_workers),
    )


def room_without(
    args: TrainingArguments, wanted: Allocation, nodes: Sequence[Node], own: dict[str, float], node_id: str
) -> int:
    """How many workers fit if all ends but the actor or task in which the trainer runs, which waits for them.

    Args:
        args: Where workers may be placed.
        wanted: What each worker needs.
        nodes: The nodes, with all that they have.
        own: What this process reserved.
        node_id: The node of this process.
    """
    left: list[Node] = []
    for node in nodes:
        have: dict[str, float] = node.get("Resources") or {}
        if node.get("NodeID") == node_id:
            have = {name: amount - own.get(name, 0.0) for name, amount in have.items()}
        left.append({**node, "Resources": have})
    return _room(args, wanted, left)


def _room(args: TrainingArguments, wanted: Allocation, nodes: Sequence[Node]) -> int:
    needed, labels = needed_by(args, wanted)
    return room_for(needed, nodes, strategy=args.placement_strategy, labels=labels)
