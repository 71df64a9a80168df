"""Ray, as a trainer sees it that waits for room: placement groups, tables, and other trainers of the cluster.

A worker group that waits for its next task holds what another trainer may be waiting for. Those of this process are
ended. Those of other processes are asked through their control actors; their workers leave as they do when no task has
come for long, nothing is lost, and their trainer starts new ones when it needs them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast

import ray
import ray.exceptions
import ray.util
from ray.util.placement_group import PlacementGroup, placement_group

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.control.actor import NAMESPACE
from raytrainer.driver.capacity import Allocation, needed_by
from raytrainer.driver.holders import TrainerName, holders, read_name
from raytrainer.driver.ray_tables import Tables, read_tables, reserved_by_this_process
from raytrainer.driver.reservation import Place
from raytrainer.driver.room import group_id, remove
from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.ray_calls import Ref

logger = logging.getLogger(__name__)

ANSWER_S = 2.0
"""How long another trainer's control actor may take."""
IDLE_S = 10.0
"""Workers of another process that have had no task for that long are asked to leave: a script that goes from
``train()`` to ``evaluate()`` keeps them."""


MakeGroup = Callable[[list[dict[str, float]], dict[str, Any]], PlacementGroup]


class RayView:
    """Waits for one placement group after the other, each for all workers of a trainer.

    Args:
        args: Where workers may be placed.
        name: Of the trainer.
        end_idle: Ends idle workers of this process.
        make_group: Asks Ray for a placement group: ``(bundles, options)``; the group ends with this process by default.
    """

    def __init__(
        self,
        args: TrainingArguments,
        name: TrainerName,
        end_idle: Callable[[], None],
        make_group: MakeGroup | None = None,
    ) -> None:
        self._make_group = make_group or _make_group
        self._args = args
        self._name = str(name)
        self._end_idle = end_idle
        self._group: PlacementGroup | None = None
        self._ready: Ref[object] | None = None

    def begin(self, allocation: Allocation) -> PlacementGroup:
        bundle, labels = needed_by(self._args, allocation)
        number = allocation.num_workers
        where: dict[str, Any] = {"bundle_label_selector": [labels] * number} if labels else {}
        options = {"strategy": self._args.placement_strategy, "name": self._name, **where}
        self._group = self._make_group([bundle] * number, options)
        return self._group

    def is_there(self, timeout_s: float) -> bool:
        assert self._group is not None
        # Not group.wait(): a task that waits like this gives its CPU to others meanwhile.
        self._ready = self._ready or cast("Ref[object]", self._group.ready())
        if not ray_calls.is_ready(self._ready, timeout_s):
            return False
        ready, self._ready = self._ready, None
        try:
            ray_calls.get(ready, ANSWER_S)
        except ray.exceptions.RayError:
            logger.debug("Ray's answer about a placement group was an error.", exc_info=True)
            time.sleep(timeout_s)
            return False  # The next call asks again.
        return True

    def cancel(self, group: PlacementGroup) -> None:
        self._group = self._ready = None
        remove(group)

    def tables(self) -> Tables:
        return read_tables()

    def make_room(self, tables: Tables) -> None:
        self._end_idle()
        for group in tables.groups:
            trainer = read_name(group.name)
            if trainer is not None and not trainer.is_here and group.is_placed:
                _ask(trainer.control, "close_if_idle_for", IDLE_S)

    def holders(self, tables: Tables, waiting: PlacementGroup) -> list[str]:
        return holders(tables, waiting=group_id(waiting), idle_s=lambda name: _ask(name, "idle_for_s"))


def _make_group(bundles: list[dict[str, float]], options: dict[str, Any]) -> PlacementGroup:
    return placement_group(bundles, **options)


def this_place() -> Place:
    """Where this process runs in Ray."""
    return Place(
        node=ray.get_runtime_context().get_node_id(),
        resource=f"node:{ray.util.get_node_ip_address()}",
        own=reserved_by_this_process(),
    )


def _ask(control: str, method: str, *args: float) -> Any:
    """The answer of another trainer's control actor; None if it has ended or does not answer."""
    try:
        actor = cast("Any", ray.get_actor(control, namespace=NAMESPACE))
        return ray_calls.get(getattr(actor, method).remote(*args), ANSWER_S)
    except Exception:
        logger.debug("%s did not answer.", control, exc_info=True)
        return None
