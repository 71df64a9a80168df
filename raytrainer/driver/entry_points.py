"""Where a call on a trainer runs: in this process, in a process group, or on Ray workers.

The methods that a user calls are entry points. On a trainer that is set up in this process they just run. On a driver's
trainer they run on the workers, overrides included, so that a user's ``evaluate`` has what it would have in one
process: a model, an accelerator, loaders.
"""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raytrainer.arguments.launched import is_launched_rank
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.runtimes.base import Runtime
    from raytrainer.trainer_protocol import TrainerProtocol
    from raytrainer.worker.session import Session

ENTRY_POINTS = frozenset({"train", "evaluate", "predict", "evaluation_loop"})


def entry_point(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method run where the trainer's model is."""
    if getattr(method, "_is_entry_point", False):
        return method

    @functools.wraps(method)
    def call(self: Any, *args: object, **kwargs: object) -> Any:
        if self._process.session is not None:
            rebind_arguments(self)
            with self._process.call_of(method.__name__):
                return method(self, *args, **kwargs)
        return self._launch(method.__name__, args, kwargs)

    call._is_entry_point = True  # pyright: ignore[reportAttributeAccessIssue]
    return call


def wrap_overrides(cls: type) -> None:
    """Make the entry points that a subclass overrides entry points again."""
    for name in ENTRY_POINTS & set(vars(cls)):
        method = vars(cls)[name]
        if callable(method):
            setattr(cls, name, entry_point(method))


def rebind_arguments(trainer: TrainerProtocol) -> None:
    """Follow what the user changed in the arguments of a trainer that is set up in this process.

    Raises:
        ConfigurationError: If they are not valid, ask for another number of processes, or for what would have no
            effect any more.
    """
    from raytrainer.worker.changed_settings import follow_changes
    from raytrainer.worker.setup import placement_of

    args, num_ranks = trainer.args, trainer._runtime.world_size
    # Those of Ray workers were checked on the driver.
    if trainer._process.run is None and trainer._process.renderer is not None:
        args.check()
    if args.num_workers != 0 and not args.allows_workers(num_ranks):
        raise ConfigurationError(
            f"num_workers={args.num_workers}, but this trainer was set up before that for {num_ranks} process"
            f"{'es' if num_ranks > 1 else ''}, where its model is. Make a new Trainer to train on other workers."
        )
    if not args.is_resolved:
        args.resolve(placement_of(args, trainer._runtime))
    session = trainer._process.session
    if session is not None and trainer._process.run is None:  # within a run its own arguments count
        session.settings = follow_changes(trainer, session.settings)


def runs_in_this_process(args: TrainingArguments) -> bool:
    """Whether the loop of a trainer runs here: asked for, or a launcher made this process a rank.

    Raises:
        ConfigurationError: If the launcher's number of processes is not the number that was asked for.
    """
    if is_launched_rank(os.environ):
        launched = int(os.environ["WORLD_SIZE"])
        if args.num_workers != 0 and not args.allows_workers(launched):
            raise ConfigurationError(
                f"num_workers={args.num_workers}, but a launcher started {launched} processes (WORLD_SIZE). Start as "
                "many processes as workers, or leave num_workers out."
            )
        return True
    return args.num_workers == 0


def open_local_session(trainer: TrainerProtocol) -> Session:
    """Set a trainer up in this process, alone or as a rank of a launcher's group."""
    from raytrainer.callbacks.defaults import shown_by
    from raytrainer.driver.run_records import recorder_here
    from raytrainer.driver.traced_calls import CallTraces
    from raytrainer.random_state import kept
    from raytrainer.runtimes.in_process import LocalRuntime
    from raytrainer.runtimes.process_group import ProcessGroupRuntime
    from raytrainer.worker.session import Session

    with kept():  # rich draws from the generator that the trainer has seeded, when it is imported
        from raytrainer.telemetry.console import Renderer

    renderer = Renderer(shown=lambda: shown_by(trainer.callback_handler.callbacks))
    runtime: Runtime
    record = recorder_here(lambda: trainer.args, lambda: runtime)

    def on_event(event: object) -> None:
        event = record(event)
        renderer.handle(event)
        traces.handle(event)

    traces = CallTraces(lambda: trainer.args, lambda: runtime.run_id, on_event)
    is_rank = is_launched_rank(os.environ)
    if not is_rank or os.environ.get("RANK", "0") == "0":
        trainer._process.traces = traces
    runtime = ProcessGroupRuntime(on_event, trainer.args) if is_rank else LocalRuntime(on_event)
    trainer._process.renderer = renderer
    return Session(trainer, runtime)


def new_run_id() -> str:
    """A name that no other ``train()`` call has."""
    return uuid.uuid4().hex[:12]
