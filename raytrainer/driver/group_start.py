"""How the workers of a group are started: a Ray, room for them, a control actor, and Ray Train's run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from raytrainer.arguments.launched import collective_backend
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.control.client import ControlClient
from raytrainer.driver.capacity import Allocation, ask_autoscaler, check_capacity, plan_workers
from raytrainer.driver.cluster import connect, will_be_private
from raytrainer.driver.elastic_room import ElasticRoom
from raytrainer.driver.elastic_size import least_of, num_fitting
from raytrainer.driver.fit_thread import FitThread
from raytrainer.driver.fork_server import imports_of_workers, start_fork_server
from raytrainer.driver.holders import new_name
from raytrainer.driver.lost_room import LostRoom
from raytrainer.driver.moving import Moving
from raytrainer.driver.own_raylet import OwnRaylet, own_raylet
from raytrainer.driver.ray_tables import is_growing, read_drained, usable_nodes
from raytrainer.driver.ray_view import RayView, this_place
from raytrainer.driver.reservation import Reservation, reserve
from raytrainer.driver.trial_room import TrialRoom, borrow, claim_output_dir, current_room, is_trial_function
from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.ray_calls import Ref
from raytrainer.telemetry.events import Note
from raytrainer.telemetry.startup import here
from raytrainer.wire.preparations import Preparations
from raytrainer.wire.spec import Shipped, with_sources
from raytrainer.worker.config import WorkerConfig


@dataclass(frozen=True, kw_only=True)
class StartedGroup:
    """What exists while a group lives."""

    control: ControlClient
    fit: FitThread
    reservation: Reservation
    lost_room: LostRoom | None
    """None where ``moving`` looks for another room when this one is lost."""
    moving: Moving
    raylet: OwnRaylet
    is_one_machine: bool
    """Workers find the files of the driver."""
    trainer: Ref[Shipped]
    """The trainer in transport form, which lives as long as this reference."""
    coordinator: object | None
    """Handle that keeps Ray's coordinator alive, where there is one."""

    def end(self) -> None:
        """Give back what stays when the workers have ended; does not wait."""
        self.reservation.release()
        self.control.end()


def start_group(
    args: TrainingArguments,
    trainer: Shipped | StartedGroup,
    *,
    open_session: str,
    preparations: Preparations,
    make_room: Callable[[], None],
    show: Callable[[object], None],
    room: TrialRoom | None = None,
    on_end: Callable[[], None],
) -> StartedGroup:
    """Join or start Ray, wait for room, and begin to start the workers. Does not wait for them.

    Args:
        args: How many workers with what, and how they are restarted.
        trainer: The trainer in transport form; or the group that had it and has ended, whose place this one takes.
        open_session: ``module:function`` that sets the trainer up on a worker.
        preparations: What a worker calls before it unpacks the trainer, and when it has set it up.
        make_room: Ends idle workers of this process.
        show: Renders a note.
        room: Where workers run within a trial of Ray Tune.
        on_end: Called in another thread when Ray Train's run has ended.

    Raises:
        ConfigurationError: If no Ray answers, or the cluster is too small.
        PlacementError: If others hold the room for too long.
    """
    # Its imports take as long as the start of Ray.
    forks = None
    modules = trainer.modules if isinstance(trainer, Shipped) else ()
    # What workers do before they unpack anything exchanges names of modules, which nobody may have imported before.
    may_fork = args.fork_workers and not preparations.before
    if may_fork and will_be_private(args.ray_address):
        forks = start_fork_server(modules)
    here.add("script", here.last)
    with here.phase("joins Ray"):
        cluster = connect(args.ray_address)
    # Ray Train takes seconds to import; `connect` does that while it waits for Ray's processes.
    from raytrainer.driver.ray_train import make_fit, start_coordinator

    coordinator = None if cluster.is_private else start_coordinator()
    name = new_name()
    if room is None and is_trial_function():
        claim_output_dir(str(args.output_dir))
        room = current_room()
    borrowed = borrow(args, room) if room is not None else None
    whole = (
        borrowed.allocation
        if borrowed is not None
        else _whole(args, trainer, may_grow=not cluster.is_private, show=show)
    )
    # A trial's workers end with it, as Ray Tune wants it, and those on a Ray of this process with that.
    outlives = borrowed is None and not cluster.is_private
    control = ControlClient(
        num_workers=args.max_workers or whole.num_workers,
        max_failures=args.max_failures,
        idle_timeout_s=args.worker_idle_timeout_s,
        name=name.control,
        controller=name.controller if outlives else None,
    )
    make_group = control.make_room if outlives else None
    try:
        view = RayView(args, name, make_room, make_group)
        with here.phase("waits for room"):
            reservation = borrowed or reserve(args, whole, view, this_place(), show=show)
    except BaseException:
        control.end()
        raise
    try:
        allocation = reservation.allocation
        control.set_room(reservation.room)
        stored = _stored(trainer, is_private=cluster.is_private)
        config = WorkerConfig(
            control=control.actor,
            trainer=[stored],
            open_session=open_session,
            output_dir=absolute_output_dir(args.output_dir),
            num_threads=allocation.num_threads,
            use_gpu=allocation.use_gpu,
            backend=collective_backend(args, use_gpu=allocation.use_gpu),
            timeout_s=float(args.ddp_timeout),
            directory=os.getcwd() if cluster.is_private else None,
            preparations=preparations,
        )
        fit = FitThread(
            lambda storage: make_fit(
                args,
                reservation,
                storage,
                config,
                name=name.controller if outlives else None,
                is_one_machine=cluster.is_private,
                forks=forks,
                imports=imports_of_workers(modules) if may_fork and outlives else None,
            ),
            on_end,
        )
    except BaseException:
        reservation.release()
        control.end()
        raise
    return StartedGroup(
        control=control,
        fit=fit,
        reservation=reservation,
        lost_room=None if args.is_elastic else _lost_room(args, reservation, view, show),
        moving=ElasticRoom(
            args,
            reservation,
            control,
            view,
            more=RayView(args, name.for_more_workers, make_room, make_group),
            read_drained=read_drained,
            show=show,
        )
        if args.is_elastic
        else Moving(reservation, control, view, read_drained=read_drained, show=show),
        raylet=own_raylet(),
        is_one_machine=cluster.is_private,
        trainer=stored,
        coordinator=coordinator,
    )


def _stored(trainer: Shipped | StartedGroup, *, is_private: bool) -> Ref[Shipped]:
    """The trainer where workers find it; on a cluster with what they import from the driver's machine."""
    if isinstance(trainer, StartedGroup):
        return trainer.trainer
    return ray_calls.put(trainer if is_private else with_sources(trainer))


def _lost_room(
    args: TrainingArguments, reservation: Reservation, view: RayView, show: Callable[[object], None]
) -> LostRoom:
    return LostRoom(
        args,
        reservation,
        read_tables=view.tables,
        holders_of=lambda tables: view.holders(tables, reservation.room.group),
        show=show,
    )


def _whole(
    args: TrainingArguments,
    trainer: Shipped | StartedGroup,
    *,
    may_grow: bool,
    show: Callable[[object], None],
) -> Allocation:
    """The workers, as if nothing else ran in the cluster, once it has that much; or what they had before."""
    if isinstance(trainer, StartedGroup) and not args.is_elastic:
        return trainer.reservation.allocation
    whole = plan_workers(args, usable_nodes())
    check_capacity(
        args,
        least_of(args, whole),
        may_grow=may_grow,
        nodes=usable_nodes,
        ask_for=ask_autoscaler,
        is_growing=is_growing,
    )
    if args.is_elastic and not may_grow:
        whole = replace(whole, num_workers=num_fitting(args, whole, usable_nodes()))
        if whole.num_workers != args.max_workers:
            show(Note(text=_no_more_text(args, whole), level="warning"))
    return whole


def _no_more_text(args: TrainingArguments, allocation: Allocation) -> str:
    return (
        f"this Ray is one machine with room for {allocation.num_workers} of {args.max_workers} workers with "
        f"{allocation.each} each, and nothing joins it: training on {allocation.num_workers}, in batches of the same "
        "size"
    )


def absolute_output_dir(path: str | os.PathLike[str] | None) -> str | None:
    """A path or URI that means the same in a process with another working directory."""
    if path is None or "://" in str(path):
        return None if path is None else str(path)
    return os.path.abspath(path)
