"""The function that Ray Train calls on every worker, at every start and restart.

A worker sets the trainer up once, then runs one task after the other until the group closes. It returns normally even
when a failure ended the run, because Ray starts the workers again when one of them raises. So it raises only when the
control actor wants that.

This module is imported while the workers start, so it imports heavy packages where they are needed.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import ray
import ray.exceptions

from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.base import WorkersMove
from raytrainer.runtimes.ray_calls import Ref
from raytrainer.storage.stage import discard_stage
from raytrainer.telemetry.events import Busy
from raytrainer.telemetry.startup import here, process_began
from raytrainer.told import log_told
from raytrainer.wire.failure_record import record_failure
from raytrainer.wire.messages import Answer, Joined, NextTrainer, Task, TaskResult, Watch
from raytrainer.wire.preparations import call_all
from raytrainer.worker.config import WorkerConfig
from raytrainer.worker.last_words import end_output
from raytrainer.worker.process_group import disconnect_peers, prepare_process
from raytrainer.worker.rank_log import RankLog
from raytrainer.worker.session_directory import directory_for_copies
from raytrainer.worker.stacks import place_of, this_process

if TYPE_CHECKING:
    from raytrainer.runtimes.ray_worker import RayRuntime
    from raytrainer.wire.pickling import Shipped

T = TypeVar("T")

logger = logging.getLogger(__name__)

LONG_POLL_S = 20.0
"""How long one call waits in the control actor before it is made again."""
STUCK_S = 5.0
"""How long a rank may go on after the run has ended, before its process is ended."""
LEAVE_S = 30.0
"""How much longer rank 0 may, if it leaves weights after a failure; as long as the driver waits for them."""


def work(config: dict[str, Any]) -> None:
    """All ranks: run the tasks of a worker group. Ray Train calls this."""
    _Worker(config["worker"]).work()


class _DriverGoneError(Exception):
    """The control actor has ended, and so has the driver."""


def _ask(call: Ref[T]) -> T:
    """The answer of the control actor. Only here does the end of an actor mean that the driver has ended."""
    try:
        return ray_calls.get(call)
    except ray.exceptions.RayActorError as error:
        raise _DriverGoneError from error


class WorkerSession(Protocol):
    """What ``open_session`` returns."""

    @property
    def step(self) -> int | None:
        """Optimizer steps that are done, if the running task counts steps."""
        ...

    def run(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, restarted: bool, **more: object
    ) -> object:
        """All ranks: run a task.

        Args:
            method: Name of the trainer's method.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            restarted: Whether an earlier attempt began the task.
            **more: What else the driver sends for this method.

        Returns:
            The value that rank 0 sends to the driver.
        """
        ...

    def change(self, change: Any) -> None:
        """All ranks, before a task: take over what has changed on the driver's trainer.

        Args:
            change: Parts of the trainer in transport form.
        """
        ...

    def final_weights(self) -> object | None:
        """All ranks, before the workers leave: what rank 0 leaves for the driver."""
        ...

    def weights_held(self) -> object | None:
        """Rank 0, after a failure: what ``final_weights`` returns, if it takes no other rank; None otherwise."""
        ...

    def close(self) -> None:
        """The workers are about to end."""
        ...


class _Worker:
    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._control = config.control
        self._session: WorkerSession | None = None
        self._trainer_number = 0
        self._runtime: RayRuntime | None = None
        self._log = RankLog()
        self._rank = 0
        self._attempt: int | None = None
        """None until rank 0 has joined."""
        self._method: str | None = None
        self._version = 0
        """Of the trainer in this process; 0 as it was sent at first."""
        self._is_done = threading.Event()
        self._leaves_weights = False
        """After a failure."""
        self._thread = threading.get_ident()

    def work(self) -> None:
        try:
            here.has_driver = True
            here.add("until Ray calls it", process_began())
            with here.phase("process group"):
                self._rank = prepare_process(self._config)
            here.process = f"rank {self._rank}"
            if self._join():
                threading.Thread(target=self._watch, name="raytrainer-watch", daemon=True).start()
                self._open()
                while self._do_next():
                    pass
        except _DriverGoneError:
            end_output()  # the driver's end is that of Ray, too, unless it is a cluster
            log_told(logger, "The driver is gone.", level=logging.INFO)
        except WorkersMove:
            self._move()
            raise RuntimeError(f"rank {self._rank} leaves for other workers") from None
        except BaseException as error:  # noqa: BLE001  also sys.exit() in a user's code
            if self._report(error) is Answer.RETRY:
                # Not the error itself: Ray may be unable to pickle it, and the driver has its record already.
                raise RuntimeError(f"rank {self._rank} failed with {type(error).__name__}") from None
            disconnect_peers(STUCK_S)
            self._leave_after_failure()
        finally:
            self._is_done.set()
            if self._runtime is not None:
                self._runtime.close()
            discard_stage()

    # ---- start --------------------------------------------------------------------------------------------------

    def _join(self) -> bool:
        from raytrainer.runtimes.ray_worker import RayRuntime

        self._runtime = RayRuntime(self._control, timeout_s=self._config.timeout_s)
        answer: Joined | None = _ask(self._control.join.remote()) if self._rank == 0 else None
        joined = self._runtime.broadcast(answer)
        assert joined is not None
        self._attempt = here.attempt = joined.attempt
        self._runtime.start_attempt(joined.attempt)
        if joined.is_over:
            return False
        if self._rank == 0:
            self._runtime.emit(Busy(what="the set-up of the workers"))
        self._log.begin(self._config.output_dir, self._runtime)
        return True

    def _open(self, next_trainer: NextTrainer | None = None) -> None:
        """All ranks: set up the trainer of a task in place of the one that is there."""
        self._learn_token()
        call_all(self._config.preparations.before)
        shipped: Ref[Shipped] = self._config.trainer[0] if next_trainer is None else next_trainer.shipped[0]
        self._trainer_number = 0 if next_trainer is None else next_trainer.number
        output_dir = self._config.output_dir if next_trainer is None else next_trainer.output_dir
        assert self._runtime is not None
        self._log.begin(output_dir, self._runtime)
        self._version = 0
        if self._session is not None:
            self._session.close()
            self._session = None  # Its model goes before the next one comes.
        module, _, function = self._config.open_session.partition(":")
        open_session = getattr(importlib.import_module(module), function)
        with here.phase("trainer received"):
            trainer = self._receive(shipped)
        with here.phase("set up"):
            self._session = open_session(trainer, self._runtime)
        call_all(self._config.preparations.after)

    def _receive(self, reference: Ref[Shipped]) -> Any:
        from raytrainer.wire.spec import receive_on_worker

        return receive_on_worker(ray_calls.get(reference), directory_for_copies())

    def _learn_token(self) -> None:
        """Rank 0: learn what it uploads with, before it reads what the driver has sent."""
        from raytrainer.wire.hub_token import learn_token

        if self._rank == 0:
            learn_token(_ask(self._control.hub_token.remote()))

    # ---- tasks --------------------------------------------------------------------------------------------------

    def _do_next(self) -> bool:
        call: Ref[Task | Answer | None] = self._control.next_task.remote(
            self._rank, self._attempt, LONG_POLL_S
        )
        answer = _ask(call)
        if answer is None:
            return True
        if isinstance(answer, Task):
            self._run(answer)
            return True
        if answer is Answer.LEAVE:
            self._leave()
        end_output()
        return False

    def _run(self, task: Task) -> None:
        from raytrainer.wire.pickling import Shipped, pack
        from raytrainer.wire.spec import find_modules_of

        self._learn_token()
        if (0 if task.trainer is None else task.trainer.number) != self._trainer_number:
            self._open(task.trainer)
        session, runtime = self._session, self._runtime
        assert session is not None
        assert runtime is not None
        assert task.payload is not None
        self._method = task.method
        for change in task.changes:
            if change.version > self._version:
                parts = ray_calls.get(change.parts[0])
                if isinstance(parts, Shipped):
                    find_modules_of(parts, directory_for_copies())
                session.change(parts)
        self._version = task.version
        args, kwargs, context = self._receive(task.payload[0])
        runtime.start_task(task.restarts, is_decided_by_driver=task.is_decided_by_driver)
        runtime.run_id = task.task_id
        more = {} if context is None else {"context": context}
        value = session.run(task.method, args, kwargs, restarted=task.restarts > 0, **more)
        if self._rank == 0:
            try:
                shipped = pack(value)
            except Exception as error:
                raise TypeError(
                    f"{task.method}() returned a {type(value).__qualname__} that cannot be sent to the driver "
                    f"({type(error).__name__}: {error}). Return plain values, arrays or tensors."
                ) from error
            runtime.flush()
            _ask(self._control.finish.remote(TaskResult(task_id=task.task_id, payload=shipped)))
        self._method = None
        self._version += 1

    def _leave(self) -> None:
        """Leave the trained weights for the driver. An error here is not worth a restart."""
        session, runtime = self._session, self._runtime
        assert session is not None
        assert runtime is not None
        try:
            # All ranks: sharded weights are gathered.
            weights = session.final_weights()
            end_output()  # the driver may end this process as soon as rank 0 has left them
            if self._rank == 0 and weights is not None:
                runtime.store_final_weights(weights)
            session.close()
            self._log.share()
            discard_stage()
            # All ranks, before rank 0 says that they are done: from then on the driver may end any of them.
            runtime.barrier()
        except Exception as error:
            logger.exception("Could not leave the trained weights for the driver.")
            self._log.write_traceback(error)
        finally:
            if self._rank == 0:
                runtime.flush()
                _ask(self._control.leave.remote())

    def _move(self) -> None:
        """All ranks, when they have saved: tell the control actor. The caller raises, so that Ray starts others."""
        session, runtime = self._session, self._runtime
        assert session is not None
        assert runtime is not None
        with contextlib.suppress(Exception):
            runtime.flush()
            assert self._attempt is not None
            ray_calls.get(self._control.move.remote(self._attempt, session.step))
            # Ray ends all workers when it sees that one of them raised; what rank 0 has to send comes first.
            runtime.barrier()
        self._log.share()

    # ---- failure ------------------------------------------------------------------------------------------------

    def _report(self, error: BaseException) -> Answer:
        self._log.write_traceback(error)
        step = None
        with contextlib.suppress(Exception):
            step = self._session.step if self._session is not None else None
        record = record_failure(
            error,
            rank=self._rank,
            attempt=self._attempt,
            step=step,
            method=self._method,
            log_file=self._log.location,
        )
        try:
            if self._runtime is not None:
                self._runtime.flush()
            return _ask(self._control.fail.remote(record))
        except (_DriverGoneError, ray.exceptions.RayError):
            return Answer.STOP  # The driver is gone, and nobody would use restarted workers.

    def _leave_after_failure(self) -> None:
        """Rank 0: leave weights that the failed task did not change, for the driver, which waits for that."""
        if self._rank != 0 or self._runtime is None:
            return
        try:
            held = self._session is not None and self._method not in (None, "train")
            self._leaves_weights = held
            weights = self._session.weights_held() if held and self._session is not None else None
            if weights is not None:
                self._runtime.store_final_weights(weights)
        except Exception as error:  # noqa: BLE001  the failure of the task is what counts
            self._log.write_traceback(error)
        with contextlib.suppress(ray.exceptions.RayError, _DriverGoneError):
            _ask(self._control.leave.remote())

    def _tell_place(self, request: int) -> None:
        self._control.tell_place.remote(self._attempt, request, place_of(self._thread, self._rank))
        self._log.write_stacks()

    def _watch(self) -> None:
        """Say where this rank is when the driver asks.

        At last end a rank that is stuck after the end of its run, for instance in a collective with a dead peer.
        """
        node_id: str = ray.get_runtime_context().get_node_id()
        known = 0
        while not self._is_done.is_set():
            process = this_process(self._rank, node_id, self._log.file)
            try:
                call: Ref[Watch | None] = self._control.watch.remote(
                    process, self._attempt, known, LONG_POLL_S
                )
                watch = ray_calls.get(call)
                if watch is not None and watch.is_over:
                    break
                if watch is not None:
                    known = watch.request
                    self._tell_place(known)
            except ray.exceptions.RayError:
                break
        is_done = self._is_done.wait(STUCK_S)
        if not is_done and self._leaves_weights:
            is_done = self._is_done.wait(LEAVE_S)
        if not is_done:
            time.sleep(0.1)  # for text that is being written to stderr
            os._exit(1)
