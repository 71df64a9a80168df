"""A worker group without Ray: the trainer travels in transport form, and is set up a second time in this process.

Tasks, changes and results are pickled as they are for Ray workers. ``restart`` does what the death of a worker does.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.in_process import LocalRuntime
from raytrainer.wire.pickling import pack, unpack
from raytrainer.wire.spec import ship
from raytrainer.worker.session import Session


class SameProcessGroup:
    """Has what ``Workers`` needs of a ``WorkerGroup``."""

    made: ClassVar[list[SameProcessGroup]] = []
    num_workers = 1
    gets_sigterm = False
    """The script is told to end while a task runs."""

    def __init__(self, trainer: Any, args: Any, on_event: Any, **of_trials: Any) -> None:
        self.shipped = ship(trainer)
        self.on_event = on_event
        self.notes: list[str] = []
        self.is_open = True
        self.is_busy = False
        self.got_sigterm = self.gets_sigterm
        self.allocation = SimpleNamespace(num_workers=self.num_workers)
        self.applied: list[int] = []
        """Versions of the changes that were applied, in order."""
        self.made.append(self)

    def start(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.session = Session(unpack(self.shipped), LocalRuntime(self.on_event))
        self.version = 0

    def call(
        self,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        task_id: str,
        context: Any,
        version: int,
        changes: Sequence[Any],
    ) -> Any:
        for change in changes:
            if change.version > self.version:
                self.applied.append(change.version)
                self.session.change(change.parts[0])
        self.version = version
        args, kwargs = unpack(pack((args, kwargs or {})))
        value = unpack(pack(self.session.run(method, args, kwargs, context=context)))
        self.version += 1
        return value

    def final_weights(self) -> Any:
        return unpack(pack(self.session.final_weights()))

    def end(self) -> None:
        self.is_open = False

    kill = end


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> list[SameProcessGroup]:
    """Trainers with ``num_workers=1`` run on such groups; those that were made."""
    made: ClassVar[list[SameProcessGroup]] = []
    monkeypatch.setattr(SameProcessGroup, "made", made)
    monkeypatch.setattr("raytrainer.driver.workers.WorkerGroup", SameProcessGroup)
    monkeypatch.setattr(ray_calls, "put", lambda value: unpack(pack(value)))
    return made
