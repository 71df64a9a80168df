"""What a rank of a worker group takes from the control actor, which is a stand-in here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray.train

from raytrainer.runtimes import ray_calls, ray_worker
from raytrainer.runtimes.base import Command
from raytrainer.runtimes.ray_worker import RayRuntime


class Calls:
    """Answers of the control actor, which come when the test says so."""

    def __init__(self) -> None:
        self.open: list[dict[str, Any]] = []

    def remote(self, known: int, wait_s: float) -> dict[str, Any]:
        self.open.append({"known": known})
        return self.open[-1]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[RayRuntime, Calls]:
    context = SimpleNamespace(
        get_world_rank=lambda: 0,
        get_local_rank=lambda: 0,
        get_world_size=lambda: 1,
        get_local_world_size=lambda: 1,
    )
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(RayRuntime, "open_group", lambda self, timeout_s: None)
    monkeypatch.setattr(ray_worker, "COMMAND_INTERVAL_S", 0.0)
    monkeypatch.setattr(ray_calls, "is_ready", lambda call: "answer" in call)
    monkeypatch.setattr(ray_calls, "get", lambda call: call["answer"])
    calls = Calls()
    return RayRuntime(SimpleNamespace(command=calls), timeout_s=1.0), calls


def test_what_was_asked_of_one_task_does_not_stop_the_next(made: tuple[RayRuntime, Calls]) -> None:
    runtime, calls = made
    runtime.start_task(0)
    assert runtime.command() is Command.NONE
    (asked,) = calls.open
    asked["answer"] = int(Command.STOP)  # It came when the task had ended already.
    runtime.start_task(0)
    assert runtime.command() is Command.NONE
    assert runtime.command() is Command.NONE


def test_what_is_asked_of_a_task_stops_it(made: tuple[RayRuntime, Calls]) -> None:
    runtime, calls = made
    runtime.start_task(0)
    runtime.command()
    calls.open[0]["answer"] = int(Command.STOP_AFTER_SAVE)
    assert runtime.command() is Command.STOP_AFTER_SAVE
