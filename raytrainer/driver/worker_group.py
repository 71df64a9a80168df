"""A standing worker group: started once, given one task after the other, ended when nobody needs it.

The driver's thread that calls ``call`` waits in short slices, so that Ctrl-C is heard, and hands the workers' events to
whoever renders them. ``TorchTrainer.fit()`` runs beside it in a thread of its own, for as long as the group lives.

Ray Train insists on a storage directory, and nothing is ever stored in it: checkpoints are committed in ``output_dir``
by the workers themselves. It is a temporary directory of the driver's machine, where Ray's controller is, and it goes
with the group.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raytrainer.control.client import ControlClient
from raytrainer.control.state import Phase, Update
from raytrainer.driver import open_groups as registry
from raytrainer.driver.capacity import Allocation, ask_autoscaler, check_capacity, plan_workers
from raytrainer.driver.cluster import Cluster, connect
from raytrainer.driver.deadline import Patience
from raytrainer.driver.failure_message import Failure, training_failed
from raytrainer.driver.worker_options import GroupOptions
from raytrainer.errors import GroupClosedError, RayTrainerError, TrainingFailed
from raytrainer.runtimes.base import Command
from raytrainer.runtimes.in_process import interrupts
from raytrainer.telemetry.events import Note
from raytrainer.wire.messages import Task
from raytrainer.wire.spec import Shipped, receive, ship

logger = logging.getLogger(__name__)

SLICE_S = 0.2
"""How long the driver's thread waits before it looks whether something else happened."""
LONG_POLL_S = 10.0
"""How long one call waits in the control actor before it is made again."""
MORE_RECORDS_S = 1.0
"""After a failure ended the run: how long other ranks may say that theirs came first."""
END_TIMEOUT_S = 30.0
"""How long workers may take to leave."""

STOP_NOTE = "stopping after a checkpoint; press Ctrl-C again to stop now"


@dataclass(kw_only=True)
class _Started:
    """What lives while the group does."""

    cluster: Cluster
    control: ControlClient
    trainer: Any
    allocation: Allocation
    storage: str
    fit: Any
    thread: threading.Thread
    coordinator: object
    began: float = field(default_factory=time.monotonic)


class WorkerGroup:
    """The workers of one trainer.

    Args:
        trainer: What is shipped to the workers, once; packed now, so that what cannot be shipped is refused before
            any Ray starts.
        options: How the group is started and kept.
        on_event: Gets the workers' events, in the thread that calls.

    Raises:
        ConfigurationError: If the trainer cannot be shipped.
    """

    def __init__(self, trainer: object, options: GroupOptions, on_event: Callable[[object], None]) -> None:
        self._options = options
        self._on_event = on_event
        self._shipped: Shipped | None = ship(trainer)
        self._started: _Started | None = None
        self._lock = threading.Lock()
        self._is_busy = False
        self._is_ended = False
        self._has_called = False
        self._fit_error: BaseException | None = None
        self._fit_is_over = threading.Event()
        self._next_event = 0
        self._parked: Any = None
        """What rank 0 left, in transport form, once its actor has ended."""
        self._finalizer = registry.end_with(trainer, _Ender(self))

    @property
    def is_open(self) -> bool:
        """The workers are there, or on their way, and take tasks."""
        return self._started is not None and not self._is_ended and not self._fit_is_over.is_set()

    @property
    def is_busy(self) -> bool:
        """A task is running."""
        return self._is_busy

    @property
    def allocation(self) -> Allocation:
        """What the workers have."""
        assert self._started is not None
        return self._started.allocation

    # ---- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Join or start Ray, check that there is room, and begin to start the workers. Does not wait for them.

        Raises:
            ConfigurationError: If no Ray answers, or the cluster has no room.
        """
        assert self._started is None, "A group is started once."
        registry.enter(self)
        args = self._options.args
        cluster = connect(args.ray_address)
        import ray

        from raytrainer.driver.ray_train import make_fit, start_coordinator

        coordinator = start_coordinator()
        allocation = plan_workers(args, ray.nodes())
        check_capacity(
            args,
            allocation,
            may_grow=not cluster.is_private,
            nodes=ray.nodes,
            ask_for=ask_autoscaler,
        )
        control = ControlClient(
            num_workers=allocation.num_workers,
            max_failures=args.max_failures,
            idle_timeout_s=args.worker_idle_timeout_s,
        )
        trainer = ray.put(self._shipped)
        self._shipped = None
        storage = tempfile.mkdtemp(prefix="raytrainer-")
        config = self._options.for_workers(cluster, control.actor, trainer, allocation)
        try:
            fit = make_fit(args, allocation, storage, config, is_private_cluster=cluster.is_private)
        except BaseException:
            shutil.rmtree(storage, ignore_errors=True)
            raise
        thread = threading.Thread(target=self._fit, args=(fit,), name="raytrainer-fit", daemon=True)
        self._started = _Started(
            cluster=cluster,
            control=control,
            trainer=trainer,
            allocation=allocation,
            storage=storage,
            fit=fit,
            thread=thread,
            coordinator=coordinator,
        )
        thread.start()

    def end(self, *, wait: bool = True) -> None:
        """Let the workers hand over what they hold, and leave. Ends at once whatever is busy or stuck."""
        started = self._started
        if started is None or self._is_ended:
            self._forget()
            return
        # Workers that never came, or that are busy or stuck, have nothing to hand over.
        if started.control.close() and wait and started.control.snapshot().attempt >= 0:
            started.control.parked(END_TIMEOUT_S)
        # All that is worth waiting for has happened; Ray Train's own end takes seconds, and nobody needs it.
        self.kill()

    def kill(self) -> None:
        """End the workers now. What they hold is lost, apart from what was parked, which stays with this object."""
        import ray

        started = self._started
        if started is not None and not self._is_ended and ray.is_initialized():
            self._parked = started.control.parked(0.0)
            if self._fit_is_over.is_set():
                started.control.end()
            else:
                started.control.send_abandon("ended by the driver")
                # After the workers, whose last words are for it.
                started.fit.end_now(then=started.control.end)
        self._is_ended = True
        self._finalizer.detach()
        self._forget()

    def parked(self, timeout_s: float = END_TIMEOUT_S) -> Any:
        """What rank 0 left for the driver: its last ``park``, or the session's ``farewell``. None if nothing.

        Waits for workers that are leaving, but not for those that are not.
        """
        if self._started is not None and not self._is_ended:
            self._parked = self._started.control.parked(0.0 if self._fit_is_over.is_set() else timeout_s)
        return receive(self._parked) if self._parked is not None else None

    # ---- calls --------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        task_id: str | None = None,
        context: object | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Run a task on all ranks and return what rank 0 returned.

        In the main thread, the first Ctrl-C (or SIGTERM) asks the workers to save and stop, and the call returns
        what they return; the second one ends the workers and raises ``KeyboardInterrupt``.

        Args:
            method: Handed to ``session.run`` on each rank.
            args: Its arguments.
            kwargs: Its keyword arguments.
            task_id: Names the task over all of its attempts; the runtime's ``run_id``. Made up by default.
            context: Handed to ``session.run`` as ``context=``, unless it is None.
            timeout: Ends the group when there is no result in time [s].

        Raises:
            ConfigurationError: If the arguments cannot be shipped.
            GroupClosedError: If the workers have left.
            TrainingFailed: If the task failed for good; the group has ended.
        """
        if not self.is_open and (self._has_called or self._fit_error is None):
            raise GroupClosedError("The workers have left.")
        with self._lock:
            self._is_busy = True
            try:
                return self._call(
                    method, (args, kwargs or {}, context), task_id or uuid.uuid4().hex[:12], timeout
                )
            except BaseException as error:
                # Nobody waits for the task any more, so nobody must go on with it.
                if not isinstance(error, GroupClosedError | TrainingFailed) or self._is_ended:
                    self.kill()
                raise
            finally:
                self._is_busy = False
                self._has_called = True

    def _call(self, method: str, payload: tuple[Any, ...], task_id: str, timeout: float | None) -> Any:
        import ray
        import ray.exceptions

        started = self._started
        assert started is not None
        shipped = ray.put(ship(payload, "arguments"))
        try:
            is_taken = started.control.submit(Task(task_id=task_id, method=method, payload=[shipped]))
        except ray.exceptions.RayError as error:
            raise GroupClosedError("The control actor has ended.") from error
        if not is_taken:
            raise GroupClosedError("The workers have left.")
        wants_stop = threading.Event()
        with interrupts(wants_stop.set):
            return self._wait(started, method, wants_stop, timeout)

    def _wait(
        self, started: _Started, method: str, wants_stop: threading.Event, timeout: float | None
    ) -> Any:
        patience = Patience(timeout)
        for update in self._updates(started, patience):
            if update is not None:
                self._render(update)
                if update.result is not None:
                    return receive(update.result.payload)
                if update.phase is not Phase.OPEN or self._fit_is_over.is_set():
                    raise self._failed(started, method, update)
            if wants_stop.is_set():
                wants_stop.clear()
                started.control.send_command(Command.STOP_AFTER_SAVE)
                self._show(Note(text=STOP_NOTE, level="warning"))
            if patience.is_time_to_ask_for_workers():
                self._say_waiting(started)
        self.kill()
        raise TrainingFailed(f"{method}() gave no result within {timeout:g} s, so its workers were ended.")

    def _updates(self, started: _Started, patience: Patience) -> Iterator[Update | None]:
        """What is new, and None at least every ``SLICE_S``; ends when the time is up."""
        import ray

        call: Any = None
        while not patience.is_over():
            if call is None:
                call = started.control.begin_update(self._next_event, LONG_POLL_S)
            if ray.wait([call], timeout=SLICE_S)[0]:
                done, call = call, None
                yield started.control.finish_update(done)
            elif self._fit_is_over.is_set():
                yield started.control.snapshot()
            else:
                yield None

    def _say_waiting(self, started: _Started) -> None:
        import ray

        if started.control.snapshot().attempt >= 0:
            return
        free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
        need = started.allocation
        self._show(
            Note(
                text=f"still waiting for {need.num_workers} workers with {need.resources_per_worker} each; free in the "
                f"cluster: {free}",
                level="warning",
            )
        )

    def _render(self, update: Update) -> None:
        self._next_event = update.next_event
        for event in update.events:
            self._show(event)

    def _show(self, event: object) -> None:
        try:
            self._on_event(event)
        except Exception:  # A picture is never worth a run.
            logger.warning("Could not show %r.", type(event).__name__, exc_info=True)

    # ---- failure ------------------------------------------------------------------------------------------------

    def _failed(self, started: _Started, method: str, update: Update) -> RayTrainerError:
        """The exception for a task whose group has ended; ends what is left of the group."""
        import ray.exceptions

        if update.phase is Phase.FATAL:
            # Ranks fail within moments of each other, and the first to say so need not be the first to fail.
            time.sleep(MORE_RECORDS_S if started.allocation.num_workers > 1 else 0.1)
        else:
            self._fit_is_over.wait(END_TIMEOUT_S)
        with contextlib.suppress(ray.exceptions.RayError):
            update = started.control.snapshot()
        output_dir = self._options.args.output_dir
        failure = Failure(
            records=[record for record in update.failures if record.attempt == update.attempt],
            method=method,
            reason=update.reason,
            fit_error=self._fit_error,
            last_checkpoint=update.last_commit.path if update.last_commit is not None else None,
            log_dir=str(Path(output_dir) / "logs") if output_dir else None,
            max_failures=self._options.args.max_failures,
            num_attempts=max(1, update.attempt + 1),
        )
        self.kill()
        return training_failed(failure)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _fit(self, fit: Any) -> None:
        try:
            fit.fit()
        except BaseException as error:  # noqa: BLE001  it belongs to the thread that calls
            self._fit_error = error
        finally:
            self._fit_is_over.set()
            self._forget()

    def _forget(self) -> None:
        registry.leave(self)
        if self._started is not None:
            shutil.rmtree(self._started.storage, ignore_errors=True)


class _Ender:
    """Ends a group whose trainer is gone, without waiting: it runs wherever garbage happens to be collected."""

    def __init__(self, group: WorkerGroup) -> None:
        self._group = group

    def __call__(self) -> None:
        threading.Thread(target=self._group.kill, name="raytrainer-end", daemon=True).start()
