"""Ray Train's synchronization actor is started when it is used, and not before."""

from __future__ import annotations

import importlib
import pickle
from typing import Any

import pytest

from raytrainer.driver import sync_on_use
from raytrainer.driver.sync_on_use import SynchronizesOnUse, synchronize_on_use

GROUP: Any = importlib.import_module("ray.train.v2._internal.execution.worker_group.worker_group")
STATE: Any = importlib.import_module("ray.train.v2._internal.execution.worker_group.state")


class Actors:
    """Takes the place of the actor's class, and counts its actors."""

    def __init__(self) -> None:
        self.options_of: list[dict[str, Any]] = []
        self.arguments_of: list[dict[str, Any]] = []

    def options(self, **options: Any) -> Actors:
        self.options_of.append(options)
        return self

    def remote(self, **arguments: Any) -> Actors:
        self.arguments_of.append(arguments)
        return self

    def reset(self) -> str:
        return "reset"


@pytest.fixture
def actors(monkeypatch) -> Actors:
    found = Actors()
    monkeypatch.setattr(sync_on_use, "SynchronizationActor", found)
    monkeypatch.setattr(GROUP, "SynchronizationActor", GROUP.SynchronizationActor)
    monkeypatch.setattr(STATE, "_shutdown_sync_actor", STATE._shutdown_sync_actor)
    return found


def made() -> SynchronizesOnUse:
    synchronize_on_use()
    return GROUP.SynchronizationActor.options(label_selector={"node": "a"}).remote(timeout_s=5.0)


def test_no_actor_is_started_with_the_workers_and_ended_with_them(actors):
    actor = made()
    STATE._shutdown_sync_actor(actor)
    assert actors.arguments_of == []


def test_workers_that_use_it_start_one_actor_under_one_name_as_ray_train_would(actors):
    here = made()
    there = pickle.loads(pickle.dumps(here))
    assert [one.reset() for one in (here, here, there)] == ["reset"] * 3
    assert actors.arguments_of == [{"timeout_s": 5.0}] * 2, "each process looks it up once"
    assert actors.options_of[0] == actors.options_of[1]
    assert actors.options_of[0].items() >= {"label_selector": {"node": "a"}, "get_if_exists": True}.items()
    assert actors.options_of[0]["name"] != SynchronizesOnUse({}, {})._options["name"]


def test_an_actor_that_ray_train_started_itself_is_ended_as_before(actors, monkeypatch):
    ended: list[object] = []
    monkeypatch.setattr(STATE, "_shutdown_sync_actor", ended.append)
    synchronize_on_use()
    STATE._shutdown_sync_actor("its handle")
    assert ended == ["its handle"]
