"""Ray Train's run, with the parts of it that are not public.

Each of them is optional: on a Ray that no longer has it, the public behavior remains, and a run starts or ends later.

* Ray Train starts helper processes that a run without Ray datasets never uses, and one that gives back the placement
  group of a controller that died; ours ends with who reserved it. That process complains each second where the cluster
  has no dashboard, and on two cores a process costs a second or two.
* The control actor decides about restarts. Without that, Ray Train counts ``max_failures`` over the life of a group.
* The controller waits until the autoscaling coordinator, another process, is up. Both can start at the same time. On a
  Ray of one machine it is not asked, and not started.
* The controller's handle is the only way to end a run at once.
* Workers run in a placement group that was reserved before. Without that, it is given back, and Ray Train tries for one
  of its own, for ever.
"""

from __future__ import annotations

import importlib
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import ray
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.control.actor import NAMESPACE
from raytrainer.driver import ray_threads
from raytrainer.driver.capacity import Allocation
from raytrainer.driver.cluster import not_inherited
from raytrainer.driver.fork_server import ForkServer, starts_plain_python
from raytrainer.driver.rendezvous import Rendezvous
from raytrainer.driver.reservation import Reservation
from raytrainer.runtimes import ray_calls
from raytrainer.worker.config import WorkerConfig
from raytrainer.worker.main import work

logger = logging.getLogger(__name__)

_UNUSED = frozenset({"DatasetsCallback"})
_UNUSED_WITH_OWN_ROOM = _UNUSED | {"PlacementGroupCleanerCallback"}

ABORT_TIMEOUT_S = 15.0
"""How long the controller may take to end its workers, before it is ended itself."""


class Fit(TorchTrainer):
    """A ``TorchTrainer`` that starts fewer processes and can be ended.

    Args:
        control: Handle of the control actor.
        reservation: Where workers run.
        name: Of the controller, if it outlives this process until the control actor ends it; None if it ends with this
            process.
        is_one_machine: Nothing joins this Ray, and no autoscaler is asked for room.
        imports: What workers that are started again have imported; None if they are not forked on their nodes.
        arguments: Those of ``TorchTrainer``.
    """

    def __init__(
        self,
        *,
        control: Any,
        reservation: Reservation,
        name: str | None,
        is_one_machine: bool,
        imports: Sequence[str] | None,
        **arguments: Any,
    ) -> None:
        self._control = control
        self._imports = imports
        self._name = name
        self._reservation = reservation
        self._is_one_machine = is_one_machine
        self._controller: Any = None
        self._after_end: Callable[[], None] | None = None
        self._is_killed = False
        super().__init__(**arguments)

    def end_now(self, then: Callable[[], None]) -> None:
        """End the workers and free what they hold. Returns at once.

        Args:
            then: Called in another thread when they have ended.
        """
        self._after_end = then
        if self._controller is not None:
            ray_threads.start(lambda: self._abort(then), "raytrainer-abort")

    def kill(self) -> None:
        """End the controller, and with it the workers that it owns; if it has not begun, as soon as it has."""
        self._is_killed = True
        ray_calls.kill(self._controller)

    def _abort(self, then: Callable[[], None]) -> None:
        try:
            # A controller that is just starting workers answers when it is done with that.
            ray_calls.is_ready(self._controller.abort.remote(), ABORT_TIMEOUT_S)
            ray_calls.kill(self._controller)
        except Exception:  # Ray has ended, and the workers with it.
            logger.debug("Could not end the controller.", exc_info=True)
        finally:
            then()

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        unused = _UNUSED_WITH_OWN_ROOM if _has_own_controller() else _UNUSED
        return [callback for callback in callbacks if type(callback).__name__ not in unused]

    def _initialize_and_run_controller(self, **arguments: object) -> Any:
        try:
            from raytrainer.driver.forks_on_nodes import ForksOnNodes
            from raytrainer.driver.ray_controller import AskControl, RoomIsThere, controller_for
        except ImportError:
            self._reservation.release()
            return super()._initialize_and_run_controller(**arguments)
        # On the driver's node, because that node's end is the end of both.
        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        environment = not_inherited(
            {name: os.environ[name] for name in os.environ if name.startswith("RAY_TRAIN_")}
        )
        forks = None if self._imports is None else ForksOnNodes(self._imports)
        controller_class = cast("Any", ray.remote(cast("Any", controller_for(self._control, forks))))
        outlives = {} if self._name is None else {"name": self._name, "namespace": NAMESPACE}
        options: Any = controller_class.options(
            num_cpus=0,
            scheduling_strategy=here,
            # Without variables of its own it runs in a process that Ray has started already.
            runtime_env={"env_vars": environment} if environment else None,
            lifetime="detached" if outlives else None,
            **outlives,
        )
        arguments["failure_policy"] = AskControl(self._control)
        if self._is_one_machine:
            arguments["scaling_policy"] = RoomIsThere(self.scaling_config)
        self._controller = options.remote(**arguments)
        if self._is_killed:
            self.kill()
        elif self._after_end is not None:
            self.end_now(self._after_end)
        ray.get(self._controller.run.remote())
        return ray.get(self._controller.get_result.remote())


def _has_own_controller() -> bool:
    """Whether this Ray has what our controller is made of; otherwise Ray Train reserves room of its own."""
    try:
        importlib.import_module("raytrainer.driver.ray_controller")
    except ImportError:
        return False
    return True


_DETERMINISTIC = {
    "CUDA_LAUNCH_BLOCKING": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":16:8",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
}
"""What ``full_determinism`` needs in the environment of a worker before it touches its GPU; Ray Train has it do that
before it calls the training function."""


def worker_environment(
    args: TrainingArguments, allocation: Allocation, here: Mapping[str, str]
) -> dict[str, str]:
    """Variables that a worker has from its start.

    Args:
        args: Whether the workers are deterministic.
        allocation: What each worker gets.
        here: The environment of this process.
    """
    environment = dict(_DETERMINISTIC) if args.full_determinism else {}
    if allocation.shared_cores:
        # Ray sets this variable to the number of CPUs that a process reserves: 1 for such a worker, and all of them for
        # this process, unless the user has set it to less.
        threads = here.get("OMP_NUM_THREADS", "")
        number = min(int(threads), allocation.shared_cores) if threads.isdigit() else allocation.shared_cores
        environment["OMP_NUM_THREADS"] = str(number)
    return environment


def make_fit(
    args: TrainingArguments,
    reservation: Reservation,
    storage_path: str,
    config: WorkerConfig,
    *,
    name: str | None,
    is_one_machine: bool,
    forks: ForkServer | None,
    imports: Sequence[str] | None,
) -> Fit:
    """Create the run that keeps a group of workers, without starting it.

    Args:
        args: Where workers are placed, how often they are restarted, whether they are deterministic.
        reservation: Where workers run: how many, and what each one gets.
        storage_path: A directory for Ray Train; nothing is stored there.
        config: What each worker reads first.
        name: Of the controller, if it outlives this process.
        is_one_machine: Nothing joins this Ray.
        forks: What workers are forked from.
        imports: What workers that are started again have imported, where they are forked on their own nodes.
    """
    allocation = reservation.allocation
    environment = worker_environment(args, allocation, os.environ)
    runtime: dict[str, Any] = {"env_vars": environment} if environment else {}
    is_plain = starts_plain_python(ray.get_runtime_context().runtime_env)
    if forks is not None and is_plain:
        runtime["py_executable"] = forks.py_executable
    rendezvous: Any = Rendezvous(config.backend, saves_on_sigterm=args.enable_jit_checkpoint)
    return Fit(
        name=name,
        is_one_machine=is_one_machine,
        imports=imports if is_plain else None,
        control=config.control,
        reservation=reservation,
        train_loop_per_worker=work,
        train_loop_config={"worker": config},
        scaling_config=ScalingConfig(
            # What an autoscaler is asked for; how many start, the room says.
            num_workers=args.max_workers or allocation.num_workers,
            use_gpu=allocation.use_gpu,
            resources_per_worker=allocation.resources_per_worker,
            placement_strategy=args.placement_strategy,
            accelerator_type=args.accelerator_type,
            label_selector=cast("dict[str, str] | None", args.label_selector),
        ),
        run_config=RunConfig(
            name=f"raytrainer-{uuid.uuid4().hex[:8]}",
            storage_path=storage_path,
            failure_config=FailureConfig(max_failures=args.max_failures),
            worker_runtime_env=runtime or None,
            # Ray Train's own messages about failures would only repeat ours.
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
        torch_config=rendezvous,
    )


def start_coordinator() -> object | None:
    """Start the process that Ray Train's controller waits for, and return its handle, to be kept until then."""
    try:
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        return get_or_create_autoscaling_coordinator()
    except Exception:  # Then the controller starts it.
        logger.debug("Could not start the autoscaling coordinator early.", exc_info=True)
        return None
