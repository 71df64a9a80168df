"""How the workers of a group are started: a Ray, room for them, a control actor, and Ray Train's run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import ray

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.control.client import ControlClient
from raytrainer.driver.capacity import Allocation, Node, ask_autoscaler, check_capacity, plan_workers
from raytrainer.driver.cluster import connect
from raytrainer.driver.fit_thread import FitThread
from raytrainer.driver.trial_room import TrialRoom, claim_output_dir, plan_in_trial, room_of_trial_function
from raytrainer.runtimes import ray_calls
from raytrainer.wire.preparations import Preparations
from raytrainer.wire.spec import Shipped, with_sources
from raytrainer.worker.main import WorkerConfig


@dataclass(frozen=True, kw_only=True)
class StartedGroup:
    """What exists while a group lives."""

    control: ControlClient
    fit: FitThread
    allocation: Allocation
    is_one_machine: bool
    """Workers find the files of the driver."""
    kept: tuple[object, ...]
    """Handles that keep what the workers need alive: the shipped trainer, Ray's coordinator."""


def start_group(
    args: TrainingArguments,
    shipped: Shipped,
    *,
    open_session: str,
    preparations: Preparations,
    room: TrialRoom | None = None,
    on_end: Callable[[], None],
) -> StartedGroup:
    """Join or start Ray, check that there is room, and begin to start the workers. Does not wait for them.

    Args:
        args: How many workers with what, and how they are restarted.
        shipped: The trainer in transport form.
        open_session: ``module:function`` that sets the trainer up on a worker.
        preparations: What a worker calls before it unpacks the trainer, and when it has set it up.
        room: Where workers run within a trial of Ray Tune.
        on_end: Called in another thread when Ray Train's run has ended.

    Raises:
        ConfigurationError: If no Ray answers, or the cluster has no room.
    """
    cluster = connect(args.ray_address)
    # Ray Train takes seconds to import; `connect` does that while it waits for Ray's processes.
    from raytrainer.driver.ray_train import make_fit, start_coordinator

    coordinator = start_coordinator()
    list_nodes: Callable[[], list[Node]] = ray.nodes
    if room is None and (room := room_of_trial_function()) is not None:
        claim_output_dir(str(args.output_dir))
    if room is not None:
        allocation = plan_in_trial(args, room)  # Ray Tune has made sure that there is room.
    else:
        allocation = plan_workers(args, list_nodes())
        check_capacity(
            args, allocation, may_grow=not cluster.is_private, nodes=list_nodes, ask_for=ask_autoscaler
        )
    control = ControlClient(
        num_workers=allocation.num_workers,
        max_failures=args.max_failures,
        idle_timeout_s=args.worker_idle_timeout_s,
    )
    trainer = ray_calls.put(shipped if cluster.is_private else with_sources(shipped))
    config = WorkerConfig(
        control=control.actor,
        trainer=[trainer],
        open_session=open_session,
        output_dir=absolute_output_dir(args.output_dir),
        num_threads=allocation.num_threads,
        use_gpu=allocation.use_gpu,
        backend=_collective_backend(args, use_gpu=allocation.use_gpu),
        timeout_s=float(args.ddp_timeout),
        directory=os.getcwd() if cluster.is_private else None,
        preparations=preparations,
    )
    fit = FitThread(
        lambda storage: make_fit(
            args, allocation, storage, config, room=room, is_private_cluster=cluster.is_private
        ),
        on_end,
    )
    return StartedGroup(
        control=control,
        fit=fit,
        allocation=allocation,
        is_one_machine=cluster.is_private,
        kept=(trainer, coordinator),
    )


def _collective_backend(args: TrainingArguments, *, use_gpu: bool) -> str:
    if args.ddp_backend:
        return args.ddp_backend
    if not use_gpu:
        return "gloo"
    # With CPU offload, the norm of the gradients is reduced in CPU memory.
    return "cpu:gloo,cuda:nccl" if args.sharding is not None and args.sharding.cpu_offload else "nccl"


def absolute_output_dir(path: str | os.PathLike[str] | None) -> str | None:
    """A path or URI that means the same in a process with another working directory."""
    if path is None or "://" in str(path):
        return None if path is None else str(path)
    return os.path.abspath(path)
