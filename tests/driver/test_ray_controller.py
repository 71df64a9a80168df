"""How many workers Ray Train's controller starts, and when it tries again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import TrainController

from raytrainer.driver import ray_controller
from raytrainer.driver.ray_controller import controller_for
from raytrainer.driver.room import Room
from raytrainer.runtimes import ray_calls


def room(name: str, num_workers: int | None = None) -> Room:
    group: Any = SimpleNamespace(id=SimpleNamespace(hex=lambda: name))
    return Room(group=group, num_workers=num_workers)


class Lab:
    """A controller whose control actor names one room after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *rooms: Room | None, fails: bool = False) -> None:
        self.rooms = list(rooms)
        self.started: list[int] = []
        self.fails = fails
        control = SimpleNamespace(room=SimpleNamespace(remote=lambda _: self.rooms.pop(0)))
        monkeypatch.setattr(ray_calls, "get", lambda found, *_: found)
        monkeypatch.setattr(TrainController, "_start_worker_group", self.begin)
        kind: Any = controller_for(control)
        self.controller = object.__new__(kind)

    def begin(self, num_workers: int, resources: dict[str, float]) -> None:
        self.started.append(num_workers)
        if self.fails:
            raise ValueError("the placement group is gone")

    def start(self) -> None:
        self.controller._start_worker_group(2, {"CPU": 1.0})


@pytest.mark.parametrize(("size", "number"), [(None, 2), (1, 1), (3, 3)])
def test_as_many_workers_are_started_as_the_room_is_for(monkeypatch, size, number):
    lab = Lab(monkeypatch, room("a", size))
    lab.start()
    assert lab.started == [number]


def test_controller_leaves_when_its_control_actor_has_died(monkeypatch):
    answers: list[Exception | None] = [
        None,
        ray.exceptions.GetTimeoutError(),
        ray.exceptions.ActorDiedError(),
    ]

    def get(*_: object) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(ray_calls, "get", get)
    monkeypatch.setattr(ray_controller, "LINGER_S", 0.0)
    monkeypatch.setattr(ray_controller.os, "_exit", leave)
    control = SimpleNamespace(snapshot=SimpleNamespace(remote=lambda: None))
    with pytest.raises(SystemExit, match="0"):
        ray_controller.leave_with(control)
    assert answers == []


def test_without_a_room_ray_train_tries_again(monkeypatch):
    lab = Lab(monkeypatch, None)
    with pytest.raises(WorkerGroupStartupTimeoutError):
        lab.start()
    assert lab.started == []


@pytest.mark.parametrize(
    ("now", "raised"),
    [
        (None, WorkerGroupStartupTimeoutError),
        (room("b", 1), WorkerGroupStartupTimeoutError),
        (room("a", 2), ValueError),
    ],
)
def test_start_that_fails_is_tried_again_if_the_room_was_taken_back(monkeypatch, now, raised):
    lab = Lab(monkeypatch, room("a", 2), now, fails=True)
    with pytest.raises(raised):
        lab.start()
