"""When Ray Train's synchronization actor starts: when a worker first uses it.

Ray Train starts one with each start of its workers, for its ``report()`` and its collectives. Ranks here agree over
torch.distributed, so most runs never call it. It is a process that imports Ray Train on the cores on which the workers
import theirs, and 100 MB for as long as they live. A user's code in a worker may call it, and then it is there.

Workers import this module, which must stay free of torch.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable
from typing import Any, Self

from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor

from raytrainer.control.actor import NAMESPACE

_WORKER_GROUP = "ray.train.v2._internal.execution.worker_group.worker_group"
_STATE = "ray.train.v2._internal.execution.worker_group.state"


class SynchronizesOnUse:
    """Stands for the handle of a synchronization actor, in the controller and in the workers that get it.

    The worker that is first owns the actor, so it ends with the workers that it synchronizes.

    Args:
        options: Of the actor, as Ray Train gives them.
        arguments: Of its constructor.
    """

    def __init__(self, options: dict[str, Any], arguments: dict[str, Any]) -> None:
        self._options = {
            **options,
            "name": f"raytrainer-sync-{uuid.uuid4().hex[:12]}",
            "namespace": NAMESPACE,
            "get_if_exists": True,
        }
        self._arguments = arguments
        self._actor: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_actor": None}

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):  # while it is unpickled there is nothing to look up
            raise AttributeError(method)
        if self._actor is None:
            actor_class: Any = SynchronizationActor
            self._actor = actor_class.options(**self._options).remote(**self._arguments)
        return getattr(self._actor, method)


class _Class:
    """Stands for the actor's class where Ray Train makes one."""

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        self._options = options or {}

    def options(self, **options: Any) -> Self:
        return type(self)(options)

    def remote(self, **arguments: Any) -> SynchronizesOnUse:
        return SynchronizesOnUse(self._options, arguments)


def synchronize_on_use() -> None:
    """In the controller's process: start synchronization actors when they are used, and not with the workers.

    Where this Ray's Train makes or ends them elsewhere, they start as Ray Train starts them.
    """
    group, state = importlib.import_module(_WORKER_GROUP), importlib.import_module(_STATE)
    if hasattr(group, "SynchronizationActor") and hasattr(state, "_shutdown_sync_actor"):
        vars(group)["SynchronizationActor"] = _Class()
        vars(state)["_shutdown_sync_actor"] = _ended_by(vars(state)["_shutdown_sync_actor"])


def _ended_by(end: Callable[[Any], None]) -> Callable[[Any], None]:
    def end_if_started(actor: Any) -> None:
        if not isinstance(actor, SynchronizesOnUse):
            end(actor)

    return end_if_started
