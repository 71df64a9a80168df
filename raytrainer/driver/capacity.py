"""How many workers, with which resources: from the arguments and from what the cluster has.

A request that a cluster can never meet is refused before anything starts, with a list of what is there. A cluster that
may grow is asked for nodes and given some time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError

logger = logging.getLogger(__name__)

Node = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """The workers of a group and what each one gets."""

    num_workers: int
    use_gpu: bool
    resources_per_worker: dict[str, float]
    shared_cores: int | None = None
    """Cores that a worker may use although it reserves none, because another process reserved them for it."""

    @property
    def num_threads(self) -> int | None:
        """CPU threads of a worker; None when it has no whole core."""
        return self.shared_cores or int(self.resources_per_worker.get("CPU", 0)) or None

    @property
    def each(self) -> str:
        """What a worker gets, in words."""
        if self.shared_cores:
            return "a share of the cores of this process"
        return listed(self.resources_per_worker)


def plan_workers(args: TrainingArguments, nodes: Sequence[Node]) -> Allocation:
    """Fill in what the arguments leave open.

    Args:
        args: ``num_workers``, ``use_gpu``, ``use_cpu``, ``resources_per_worker``.
        nodes: Nodes of the cluster, as ``ray.nodes()`` gives them.
    """
    resources = [_resources(node) for node in nodes if node.get("Alive", True)]
    num_gpus = int(sum(have.get("GPU", 0) for have in resources))
    asked = dict(cast("dict[str, float] | None", args.resources_per_worker) or {})
    use_gpu = args.use_gpu
    if use_gpu is None:
        use_gpu = not args.use_cpu and (num_gpus > 0 or asked.get("GPU", 0) > 0)
    num_workers = args.max_workers or (max(1, num_gpus) if use_gpu else 1)
    if use_gpu:
        asked.setdefault("GPU", 1)
        asked.setdefault("CPU", 1)
    else:
        asked.setdefault("CPU", fair_share(num_workers, [int(have.get("CPU", 0)) for have in resources]))
    return Allocation(
        num_workers=num_workers,
        use_gpu=bool(use_gpu),
        resources_per_worker={name: float(amount) for name, amount in asked.items() if amount},
    )


def fair_share(num_workers: int, cores_per_node: Sequence[int]) -> int:
    """The largest number of cores that each of the workers can have at the same time; at least 1."""
    share = max(cores_per_node, default=1)
    while share > 1 and sum(cores // share for cores in cores_per_node) < num_workers:
        share -= 1
    return max(1, share)


def room_for(
    resources_per_worker: dict[str, float],
    nodes: Sequence[Node],
    *,
    strategy: str = "PACK",
    labels: dict[str, str] | None = None,
) -> int:
    """How many workers fit on the nodes when nothing else runs there.

    Args:
        resources_per_worker: Amount of each resource that a worker needs.
        nodes: Nodes of the cluster, as ``ray.nodes()`` gives them.
        strategy: Ray's placement strategy.
        labels: Labels that a node must have.
    """
    fits = [
        min(
            (
                int(_resources(node).get(name, 0) / amount + 1e-9)
                for name, amount in resources_per_worker.items()
            ),
            default=0,
        )
        for node in nodes
        if node.get("Alive", True) and _has_labels(node, labels or {})
    ]
    if strategy == "STRICT_PACK":
        return max(fits, default=0)
    if strategy == "STRICT_SPREAD":
        return sum(1 for fit in fits if fit > 0)
    return sum(fits)


def check_capacity(
    args: TrainingArguments,
    allocation: Allocation,
    *,
    may_grow: bool,
    nodes: Callable[[], Sequence[Node]],
    ask_for: Callable[[list[dict[str, float]]], None] = lambda _: None,
    is_growing: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make sure that the workers can run at all.

    Args:
        args: ``placement_strategy``, ``accelerator_type``, ``label_selector``, ``cluster_timeout_s``.
        allocation: What the workers need.
        may_grow: Whether nodes may still come.
        nodes: Gives the nodes of the cluster as they are now.
        ask_for: Asks an autoscaler for room.
        is_growing: Whether nodes are being started. That time does not count.
        clock: Seconds of a clock that never goes back.
        sleep: Waits.

    Raises:
        ConfigurationError: If there is no room and the cluster cannot grow, or did not grow in time.
    """
    needed, labels = needed_by(args, allocation)
    deadline = clock() + args.cluster_timeout_s
    has_asked = False
    while True:
        here = nodes()
        room = room_for(needed, here, strategy=args.placement_strategy, labels=labels)
        if room >= allocation.num_workers:
            return
        if may_grow and is_growing():
            deadline = clock() + args.cluster_timeout_s
        if not may_grow or clock() >= deadline:
            raise ConfigurationError(_no_room(args, allocation, room, here, waited=may_grow))
        if not has_asked:
            has_asked = True
            logger.warning("Waiting for the cluster to grow to %d workers ...", allocation.num_workers)
            ask_for([allocation.resources_per_worker] * allocation.num_workers)
        sleep(1.0)


def needed_by(
    args: TrainingArguments, allocation: Allocation
) -> tuple[dict[str, float], dict[str, str] | None]:
    """What a node must have for each worker, and the labels that it must have."""
    needed = dict(allocation.resources_per_worker)
    if args.accelerator_type:
        needed.setdefault(f"accelerator_type:{args.accelerator_type}", 0.001)
    return needed, cast("dict[str, str] | None", args.label_selector)


def _no_room(
    args: TrainingArguments, allocation: Allocation, room: int, nodes: Sequence[Node], *, waited: bool
) -> str:
    there = [
        f"{node.get('NodeManagerAddress', '?')}: {listed(_resources(node))}"
        for node in nodes
        if node.get("Alive", True)
    ]
    shown = "; ".join(there[:4]) + (f"; and {len(there) - 4} more nodes" if len(there) > 4 else "")
    time_s = f" after waiting {args.cluster_timeout_s:g} s for it to grow" if waited else ""
    advice = "Ask for fewer workers or for fewer resources per worker"
    if allocation.use_gpu and not any(_resources(node).get("GPU") for node in nodes):
        advice = (
            "There is no GPU: leave use_gpu out to train on CPUs, or set ray_address to a cluster with GPUs"
        )
    return (
        f"{wish(args, allocation)} were asked for, and the cluster has room for {room}{time_s}. It has "
        f"{shown or 'no node'}. {advice}."
    )


def wish(args: TrainingArguments, allocation: Allocation) -> str:
    """What workers are asked for, in words."""
    extra = f" with accelerator {args.accelerator_type}" if args.accelerator_type else ""
    extra += f" on nodes with labels {args.label_selector}" if args.label_selector else ""
    number = allocation.num_workers
    return f"{number} worker{'s' if number > 1 else ''} with {allocation.each} each{extra} ({args.placement_strategy})"


def _resources(node: Node) -> dict[str, float]:
    return node.get("Resources") or {}


def _has_labels(node: Node, labels: dict[str, str]) -> bool:
    """Compares plain values only; what else Ray's selectors can express is left to Ray."""
    have: dict[str, str] = node.get("Labels") or {}
    simple = {
        name: value for name, value in labels.items() if value.replace("-", "").replace("_", "").isalnum()
    }
    return all(have.get(name) == value for name, value in simple.items())


def listed(resources: Mapping[str, float]) -> str:
    """Amounts of resources in words."""
    named = {name: amount for name, amount in resources.items() if name in ("CPU", "GPU") or _is_custom(name)}
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(named.items())) or "nothing"


def _is_custom(name: str) -> bool:
    return not name.startswith(("node:", "memory", "object_store_memory"))


def ask_autoscaler(bundles: list[dict[str, float]]) -> None:
    """Ask Ray's autoscaler, if there is one, for room."""
    from ray.autoscaler import sdk

    try:
        sdk.request_resources(bundles=bundles)
    except Exception:  # Then the cluster grows when the workers wait, or not at all.
        logger.debug("Could not ask the autoscaler.", exc_info=True)
