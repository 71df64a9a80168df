"""The driver's way to the control actor: plain calls with types and time limits."""

from __future__ import annotations

import contextlib
from typing import Any

from raytrainer.control.actor import ControlActor
from raytrainer.control.state import Update
from raytrainer.runtimes.base import Command
from raytrainer.wire.messages import Task

ANSWER_S = 30.0
"""How long the actor may take for what it answers at once; it starts in one or two seconds."""


class ControlClient:
    """Starts the control actor of a group, on this node, and talks to it.

    Args:
        num_workers: Of the group.
        max_failures: How often the workers may be started again.
        idle_timeout_s: How long they wait for a task.
    """

    def __init__(self, *, num_workers: int, max_failures: int, idle_timeout_s: float) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor_class: Any = ray.remote(ControlActor)
        # Each rank waits in at most three calls at a time, the driver in two.
        options = actor_class.options(
            num_cpus=0, max_concurrency=4 * num_workers + 16, scheduling_strategy=here
        )
        self.actor: Any = options.remote(max_failures=max_failures, idle_timeout_s=idle_timeout_s)

    def submit(self, task: Task) -> bool:
        """Give the workers a task; False when they have left."""
        return self._get(self.actor.submit.remote(task))

    def begin_update(self, next_event: int, wait_s: float) -> Any:
        """Ask for what is new; the reference to an ``Update``, or to None after ``wait_s``."""
        return self.actor.update.remote(next_event, wait_s)

    def finish_update(self, call: Any) -> Update | None:
        """The answer to a call that is ready."""
        return self._get(call)

    def snapshot(self) -> Update:
        """How things stand."""
        return self._get(self.actor.snapshot.remote())

    def send_command(self, command: Command) -> None:
        """Ask something of the running task; does not wait."""
        self.actor.set_command.remote(int(command))

    def close(self) -> bool:
        """No more tasks; False while one is running, or when the actor does not answer."""
        import ray.exceptions

        try:
            return self._get(self.actor.close.remote())
        except ray.exceptions.RayError:
            return False

    def send_abandon(self, reason: str) -> None:
        """End it, whatever runs; does not wait."""
        with contextlib.suppress(Exception):
            self.actor.abandon.remote(reason)

    def parked(self, wait_s: float) -> Any:
        """What rank 0 left, in transport form, waiting for workers that are leaving; None if nothing."""
        import ray.exceptions

        try:
            return self._get(self.actor.parked.remote(wait_s), ANSWER_S + wait_s)
        except ray.exceptions.RayError:
            return None

    def end(self) -> None:
        """End the actor, and with it all that was left there; does not wait."""
        import ray

        with contextlib.suppress(Exception):  # It is gone already, or Ray is.
            ray.kill(self.actor)

    def _get(self, call: Any, timeout_s: float = ANSWER_S) -> Any:
        import ray

        return ray.get(call, timeout=timeout_s)
