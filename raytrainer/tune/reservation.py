"""What a trial reserves: nothing for its own process, which waits, and one bundle for each worker.

Tune reserves all bundles of a trial at once and begins it when it has them. So no trial holds CPUs for which another
one waits, however many workers they have, and as many trials run at once as the cluster has room for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import ray
from ray.tune import PlacementGroupFactory
from ray.tune.search.sample import Categorical, Integer

from raytrainer.arguments.elastic import check_fixed
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.arguments.varied import with_values
from raytrainer.driver.capacity import Node, ask_autoscaler, check_capacity, plan_workers
from raytrainer.driver.cluster import connect
from raytrainer.errors import ConfigurationError
from raytrainer.tune.options import SweepOptions
from raytrainer.tune.space import SearchSpace

_OF_WORKERS = ("num_workers", "use_gpu", "resources_per_worker", "use_cpu")


def resources(args: TrainingArguments) -> PlacementGroupFactory:
    """What a trial with these arguments reserves, for ``ray.tune.with_resources``.

    Args:
        args: ``num_workers``, ``use_gpu``, ``resources_per_worker``, ``placement_strategy``. By default a trial has one
            worker, and a worker gets one CPU, or one GPU and one CPU, so that many trials run at once.

    Raises:
        ConfigurationError: If the cluster can never have that much, or the number of workers may change.
    """
    check_fixed(
        args, "a trial of a sweep", "Ray Tune reserves room for all workers at once, before the trial begins"
    )
    cluster = connect(args.ray_address)
    args = with_values(args, {"num_workers": args.max_workers or 1})
    if args.resources_per_worker is None:
        args.resources_per_worker = {"CPU": 1}
    list_nodes: Callable[[], list[Node]] = ray.nodes
    allocation = plan_workers(args, list_nodes())
    check_capacity(
        args, allocation, may_grow=not cluster.is_private, nodes=list_nodes, ask_for=ask_autoscaler
    )
    bundles: list[dict[str, float]] = [
        dict(allocation.resources_per_worker) for _ in range(allocation.num_workers)
    ]
    return PlacementGroupFactory([{}, *bundles], strategy=args.placement_strategy)


def trial_resources(
    args: TrainingArguments, space: SearchSpace, options: SweepOptions
) -> PlacementGroupFactory | Callable[[dict[str, Any]], PlacementGroupFactory]:
    """What the trials of a sweep reserve; a function of the trial if its number of workers varies.

    Raises:
        ConfigurationError: If the cluster can never have what a trial needs.
    """
    if isinstance(options.resources_per_trial, PlacementGroupFactory):
        return options.resources_per_trial
    if options.resources_per_trial is not None:
        args = with_values(args, {"resources_per_worker": _per_worker(args, options.resources_per_trial)})
    varied = [name for name in _OF_WORKERS if name in space.samplers]
    if not varied and space.suggest is None:
        return resources(args)
    for values in _largest(space):
        resources(with_values(args, values))

    def of_trial(config: dict[str, Any]) -> PlacementGroupFactory:
        return resources(with_values(args, {name: config[name] for name in _OF_WORKERS if name in config}))

    return of_trial


def _largest(space: SearchSpace) -> list[dict[str, Any]]:
    """The numbers of workers that a trial may have."""
    sampler = space.samplers.get("num_workers")
    if isinstance(sampler, Categorical):
        return [{"num_workers": one} for one in cast("list[int]", sampler.categories)]
    if isinstance(sampler, Integer):
        return [{"num_workers": cast("int", sampler.upper) - 1}]
    if isinstance(sampler, Mapping):
        return [{"num_workers": one} for one in cast("Mapping[str, list[int]]", sampler)["grid_search"]]
    return [] if sampler is None else [{"num_workers": sampler}]


def _per_worker(args: TrainingArguments, per_trial: object) -> dict[str, float]:
    """Divide what a trial gets among its workers."""
    if not isinstance(per_trial, Mapping):
        raise ConfigurationError(
            f"resources_per_trial is a {type(per_trial).__name__}; expected a dict such as {{'cpu': 4, 'gpu': 1}}, for "
            "all workers of a trial together."
        )
    names = {"cpu": "CPU", "gpu": "GPU"}
    num_workers = args.max_workers or 1
    found = cast("Mapping[str, float]", per_trial)
    return {names.get(name.lower(), name): amount / num_workers for name, amount in found.items()}
