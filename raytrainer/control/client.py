"""The driver's access to the control actor: plain calls with types and time limits."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import ray
import ray.exceptions
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytrainer.control.actor import NAMESPACE, ControlActor
from raytrainer.control.state import Update
from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.base import Command
from raytrainer.runtimes.ray_calls import Ref
from raytrainer.wire.messages import Ranks, Task

if TYPE_CHECKING:
    from raytrainer.wire.pickling import Shipped

T = TypeVar("T")

ANSWER_S = 30.0
"""How long the actor may take for an answer that needs no waiting; it starts in one or two seconds."""


class ControlClient:
    """Starts the control actor of a group, on this node, and talks to it.

    Args:
        num_workers: Size of the group.
        max_failures: Restarts of the workers that each call may use; -1 for no limit.
        idle_timeout_s: How long workers wait for a task before they leave [s].
        name: Of the actor.
        controller: Name of Ray Train's controller, if workers outlive this process until they have saved; None if
            they end with it.
    """

    def __init__(
        self,
        *,
        num_workers: int,
        max_failures: int,
        idle_timeout_s: float,
        name: str,
        controller: str | None = None,
    ) -> None:
        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor_class: Any = ray.remote(ControlActor)
        # Each rank waits in at most three calls at a time, the driver in two, Ray Train's controller in one.
        options = actor_class.options(
            num_cpus=0,
            max_concurrency=4 * num_workers + 16,
            scheduling_strategy=here,
            name=name,
            namespace=NAMESPACE,
            lifetime=None if controller is None else "detached",
        )
        self.actor: Any = options.remote(max_failures=max_failures, idle_timeout_s=idle_timeout_s)
        self._held: Ref[None] | None = None
        if controller is not None:
            self._held = self.actor.hold.remote()
            self.actor.outlive_driver.remote([self._held], name, controller)

    def make_room(self, bundles: list[dict[str, float]], options: dict[str, Any]) -> PlacementGroup:
        """Ask Ray for a placement group that outlives this process as the actor does."""
        return _answer(self.actor.make_room.remote(bundles, options))

    def submit(self, task: Task) -> bool:
        """Give the workers a task; False when they have left."""
        return _answer(self.actor.submit.remote(task))

    def begin_update(self, next_event: int, wait_s: float) -> Ref[Update | None]:
        """Ask for what is new; the answer is None after ``wait_s`` without news."""
        return self.actor.update.remote(next_event, wait_s)

    def finish_update(self, call: Ref[Update | None]) -> Update | None:
        """The answer to a call that is ready."""
        return _answer(call)

    def snapshot(self) -> Update:
        """How things stand."""
        return _answer(self.actor.snapshot.remote())

    def send_command(self, command: Command) -> None:
        """Ask something of the running task; does not wait."""
        self.actor.set_command.remote(int(command))

    def decide(self, step: int, command: Command) -> None:
        """Let the running task go on from the evaluation at a step, or ask something of it; does not wait."""
        self.actor.decide.remote(step, int(command))

    def ask_places(self) -> None:
        """Ask all ranks where they are; does not wait."""
        self.actor.ask_places.remote()

    def places(self) -> Ranks:
        """What the ranks have answered until now."""
        return _answer(self.actor.places.remote())

    def end_hung(self, attempt: int, how: str) -> None:
        """End ranks that stand still; does not wait.

        Args:
            attempt: Start of the workers.
            how: How they stand still.
        """
        self.actor.end_hung.remote(attempt, how)

    def set_room(self, room: object) -> None:
        """Say where workers run when they are started next; does not wait.

        Args:
            room: What Ray Train's controller gets when it asks.
        """
        self.actor.set_room.remote(room)

    def set_hub_token(self, token: str | None) -> None:
        """Give rank 0 what it uploads with when it asks next; does not wait."""
        self.actor.set_hub_token.remote(token)

    def close(self) -> bool:
        """Take no further task; False while one is running, or when the actor does not answer."""
        try:
            return _answer(self.actor.close.remote())
        except ray.exceptions.RayError:
            return False

    def send_abandon(self, reason: str) -> None:
        """End the group, whatever is running; does not wait."""
        with contextlib.suppress(Exception):
            self.actor.abandon.remote(reason)

    def final_weights(self, wait_s: float) -> Shipped | None:
        """The weights that the workers left, in transport form; waits for workers that are leaving.

        None if they left nothing, or if the actor does not answer.
        """
        try:
            return _answer(self.actor.final_weights.remote(wait_s), ANSWER_S + wait_s)
        except ray.exceptions.RayError:
            return None

    def end(self) -> None:
        """End the actor, and with it all that was left there; does not wait."""
        ray_calls.kill(self.actor)


def _answer(call: Ref[T], timeout_s: float = ANSWER_S) -> T:
    return ray_calls.get(call, timeout_s)
