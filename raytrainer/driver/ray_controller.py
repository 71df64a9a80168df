"""What Ray Train's controller does differently here: who decides about restarts, and where workers run.

**The control actor decides whether failed workers are started again.** Ray Train has a failure policy of its own, which
counts failures over the life of a worker group and knows neither checkpoints nor calls. This one reports which
processes ended, and passes the answer on. So ``max_failures`` is counted in one place.

**Workers run in a placement group that exists already** (``driver/room.py``), where Ray Train would create another.
Which one, the control actor says at each start of workers; while it has none, Ray Train tries again.

**On a Ray of one machine no autoscaler is asked**, which would need a process of its own.

The controller imports this module, which must stay free of torch: that import takes more than a second.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any, cast

import ray.exceptions
from ray.train import FailureConfig, PreemptionError, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle

from raytrainer.control.spared import spare_this_process
from raytrainer.driver.forks_on_nodes import ForksOnNodes
from raytrainer.driver.ray_deaths import deaths_in
from raytrainer.driver.room import Room, nodes_of
from raytrainer.driver.sync_on_use import synchronize_on_use
from raytrainer.runtimes import ray_calls
from raytrainer.wire.failure_record import WorkerDeaths

logger = logging.getLogger(__name__)

ANSWER_S = 30.0
"""How long the control actor may take."""
LINGER_S = 30.0
"""How long a controller stays that nobody ends any more."""
ROOM_S = 2.0
"""How long one attempt to start workers waits for a room. Meanwhile the controller answers nobody."""


class AskControl(DefaultFailurePolicy):
    """Decides as the control actor says; failures to start the workers are still Ray's to judge.

    Args:
        control: Handle of the control actor.
    """

    def __init__(self, control: Any) -> None:
        super().__init__(FailureConfig())
        self._control = control

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if not isinstance(training_failed_error, WorkerGroupError | PreemptionError):
            return super().make_decision(training_failed_error)
        is_preemption = isinstance(training_failed_error, PreemptionError)
        deaths = (
            WorkerDeaths(causes={}, was_preempted=True) if is_preemption else deaths_in(training_failed_error)
        )
        try:
            call = self._control.report_deaths.remote(deaths)
            may_restart: bool = ray_calls.get(call, ANSWER_S)
        except ray.exceptions.RayActorError:
            return FailureDecision.RAISE  # The driver has ended.
        except ray.exceptions.RayError:
            # Restarted workers ask again before they do anything.
            logger.warning("The control actor did not answer.", exc_info=True)
            return FailureDecision.RETRY
        return FailureDecision.RETRY if may_restart else FailureDecision.RAISE


class RoomIsThere(FixedScalingPolicy):
    """Starts as many workers as the room has, and asks nobody for it.

    On a Ray that nothing joins there is no autoscaler, and without this policy's requests the process that would
    collect them is not started.
    """

    def after_controller_start(self, train_run_context: object) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class _Kept(DefaultPlacementGroupHandle):
    """A placement group that its owner removes, and not the worker group that runs in it."""

    def shutdown(self) -> None:
        pass


def _room(control: Any, num_workers: int) -> Room:
    """Where workers are to run.

    Args:
        control: Handle of the control actor.
        num_workers: For Ray Train's message.

    Raises:
        WorkerGroupStartupTimeoutError: If there is no room yet. Ray Train tries again.
    """
    room: object = ray_calls.get(control.room.remote(ROOM_S), ANSWER_S)
    if not isinstance(room, Room):
        raise WorkerGroupStartupTimeoutError(num_workers=num_workers)
    return room


def leave_with(control: Any) -> None:
    """End this process when the control actor has died. Blocks until then.

    A controller that outlives its driver is ended by the control actor. If both have died, nobody is left to do it.

    Args:
        control: Handle of the control actor.
    """
    while True:
        time.sleep(LINGER_S)
        try:
            ray_calls.get(control.snapshot.remote(), ANSWER_S)
        except ray.exceptions.ActorDiedError:
            os._exit(0)
        except ray.exceptions.RayError:
            logger.debug("The control actor did not answer.", exc_info=True)


def group_in_room(control: Any, forks: ForksOnNodes | None) -> type[WorkerGroup]:
    """Make the class of worker groups that run in the room that a control actor names.

    Args:
        control: Handle of the control actor.
        forks: What workers that are started again are forked from; None if Ray starts them, or all are forked.
    """

    class GroupInRoom(WorkerGroup):
        _room: Room
        _runtime_env: dict[str, Any]

        def _create_placement_group(self, *_: object, **__: object) -> DefaultPlacementGroupHandle:
            num_workers = self._worker_group_context.num_workers
            room = _room(control, num_workers)
            if room.num_workers not in (None, num_workers):
                raise WorkerGroupStartupTimeoutError(
                    num_workers=num_workers
                )  # It has just become another one.
            self._room = room
            return _Kept(room.group)

        def _start_impl(self, *args: Any, **kwargs: Any) -> None:
            # Asked before they are there: the next attempt is theirs.
            has_begun = control.next_step.remote() if forks is not None else None
            super()._start_impl(*args, **kwargs)
            if forks is not None:
                forks.follow(self.get_workers(), self._runtime_env, has_begun)

        def _get_worker_runtime_env(self, custom_runtime_env: Any) -> dict[str, Any]:
            given = cast("dict[str, Any]", super()._get_worker_runtime_env(custom_runtime_env))
            environment = dict(given)
            python = forks.python_on(nodes_of(self._room)) if forks is not None else None
            if python is not None:
                environment["py_executable"] = python
            self._runtime_env = environment
            return environment

        def _create_workers(
            self,
            num_workers: int,
            *args: Any,
            placement_group_bundle_indices: list[int] | None = None,
            **kwargs: Any,
        ) -> Any:
            # Those that Ray Train names are of workers that it replaces, so they are ours already.
            indices = placement_group_bundle_indices or [
                self._room.bundle_of(one) for one in range(num_workers)
            ]
            return super()._create_workers(
                num_workers, *args, placement_group_bundle_indices=indices, **kwargs
            )

    return GroupInRoom


def controller_for(control: Any, forks: ForksOnNodes | None = None) -> type:
    """Make the class of a controller whose workers run in the room that a control actor names.

    Args:
        control: Handle of the control actor.
        forks: What workers that are started again are forked from; None if Ray starts them, or all are forked.
    """

    class ControllerInRoom(TrainController):
        worker_group_cls = group_in_room(control, forks)

        def __init__(self, **arguments: Any) -> None:
            spare_this_process()
            synchronize_on_use()
            # It blocks in its event loop on purpose.
            os.environ.setdefault("RAY_WARN_BLOCKING_GET_INSIDE_ASYNC", "0")
            super().__init__(**arguments)

        async def run(self) -> None:
            try:
                await super().run()
            finally:
                threading.Thread(target=leave_with, args=(control,), daemon=True).start()

        def _start_worker_group(self, num_workers: int, resources_per_worker: dict[str, float]) -> None:
            room = _room(control, num_workers)
            try:
                super()._start_worker_group(room.num_workers or num_workers, resources_per_worker)
            except Exception as error:
                if _room(control, num_workers).id == room.id:
                    raise
                # The driver took the room back, and Ray's errors about that are not among those that it tries again.
                raise WorkerGroupStartupTimeoutError(num_workers=num_workers) from error

    return ControllerInRoom
