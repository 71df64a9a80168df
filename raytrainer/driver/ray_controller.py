"""What Ray Train's controller does differently here: who decides about restarts, and where workers of a trial run.

**The control actor decides whether failed workers are started again.** Ray Train has a failure policy of its own, which
counts failures over the life of a worker group and knows neither checkpoints nor calls. This one reports which
processes ended, and passes the answer on. So ``max_failures`` is counted in one place.

**Workers of a trial run in the placement group of the trial** (``trial_room``), where Ray Train would create another.

The controller imports this module, which must stay free of torch: that import takes more than a second.
"""

from __future__ import annotations

import logging
from typing import Any

import ray.exceptions
from ray.train import FailureConfig, PreemptionError, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle

from raytrainer.driver.ray_deaths import deaths_in
from raytrainer.driver.trial_room import TrialRoom
from raytrainer.runtimes import ray_calls
from raytrainer.wire.failure_record import WorkerDeaths

logger = logging.getLogger(__name__)

ANSWER_S = 30.0
"""How long the control actor may take."""


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


class _BorrowedGroup(DefaultPlacementGroupHandle):
    """A placement group that belongs to someone else, who removes it."""

    def shutdown(self) -> None:
        pass


def in_room(room: TrialRoom) -> type:
    """Make a controller whose workers run in the placement group of a trial."""

    class RoomWorkerGroup(WorkerGroup):
        def _create_placement_group(self, *_: object) -> DefaultPlacementGroupHandle:
            return _BorrowedGroup(room.group)

        def _create_workers(self, num_workers: int, placement_group: Any, *args: Any, **kwargs: Any) -> Any:
            indices = kwargs.pop("placement_group_bundle_indices", None)
            kwargs["placement_group_bundle_indices"] = [
                room.bundle_of(worker) for worker in (range(num_workers) if indices is None else indices)
            ]
            return super()._create_workers(num_workers, placement_group, *args, **kwargs)

    class RoomController(TrainController):
        worker_group_cls = RoomWorkerGroup

    return RoomController
