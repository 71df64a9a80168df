"""Waiting for room, with a fake Ray."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from raytrainer.driver import reservation
from raytrainer.driver.capacity import plan_workers
from raytrainer.driver.ray_tables import Tables
from raytrainer.driver.reservation import Place, reserve
from raytrainer.errors import PlacementError
from tests.driver.test_capacity import make_args, node

HOST = Place(node="a", resource="node:1.2.3.4", own={})


@dataclass
class FakeGroup:
    """In place of a placement group."""

    allocation: Any
    is_removed: bool = False


@dataclass
class FakeRay:
    """One node; each round of the wait takes two seconds."""

    cores: int = 4
    free: list[int] = field(default_factory=list)
    """Cores that are free in each round; the last one stays."""
    grows: int = 0
    """Rounds in which nodes are being started."""
    can_grow: bool = False
    now_s: float = 0.0
    round: int = 0
    asked: list[FakeGroup] = field(default_factory=list)

    def clock(self) -> float:
        return self.now_s

    def begin(self, allocation: Any) -> Any:
        self.asked.append(FakeGroup(allocation))
        return self.asked[-1]

    def is_there(self, timeout_s: float) -> bool:
        wanted = self.asked[-1].allocation
        needed = wanted.resources_per_worker.get("CPU", 0) * wanted.num_workers
        if needed <= self._free_now():
            return True
        self.now_s += timeout_s
        self.round += 1
        return False

    def cancel(self, group: Any) -> None:
        group.is_removed = True

    def tables(self) -> Tables:
        there = {**node(cpu=self.cores), "NodeID": "a"}
        return Tables(
            nodes=[there],
            free={"a": {"CPU": float(self._free_now())}},
            is_growing=self.round <= self.grows,
            can_grow=self.can_grow,
        )

    def make_room(self, tables: Tables) -> None:
        pass

    def holders(self, tables: Tables, waiting: Any) -> list[str]:
        return ["train.py (pid 7 on box): 4 CPU, busy"]

    def _free_now(self) -> int:
        return self.free[min(self.round, len(self.free) - 1)]


def wait(fake, args=None, place=HOST, notes=None):
    args = args or make_args(num_workers=1)
    whole = plan_workers(args, fake.tables().nodes)
    notes = [] if notes is None else notes
    return reserve(args, whole, fake, place, show=lambda note: notes.append(note.text), clock=fake.clock)


def test_idle_cluster_gives_everything_at_once_and_says_nothing():
    fake, notes = FakeRay(free=[4]), []
    assert wait(fake, notes=notes).allocation.resources_per_worker == {"CPU": 4.0}
    assert (fake.now_s, notes) == (0, [])


def test_beside_others_a_worker_takes_what_is_free_and_says_so():
    fake, notes = FakeRay(free=[3]), []
    assert wait(fake, notes=notes).allocation.resources_per_worker == {"CPU": 3.0}
    assert fake.asked[0].is_removed
    assert not fake.asked[1].is_removed
    assert notes == [
        "others hold CPUs of this cluster: each worker gets 3 CPU of at most 4 CPU. Set resources_per_worker to wait "
        "for more"
    ]


def test_full_cluster_is_waited_for_with_a_note_that_names_the_holder():
    fake, notes = FakeRay(free=[0] * 10 + [1]), []
    assert wait(fake, notes=notes).allocation.resources_per_worker == {"CPU": 1.0}
    assert notes[0] == (
        "waiting for 1 worker with 1 CPU each (PACK), for 6 s of at most 60 s. The cluster has 4 CPU; free: 0 CPU. "
        "Taken by: train.py (pid 7 on box): 4 CPU, busy"
    )
    assert len(notes) == 2


def test_wait_ends_in_an_error_that_says_who_holds_what_and_asks_no_more():
    fake = FakeRay(free=[0])
    with pytest.raises(PlacementError) as caught:
        wait(fake)
    assert str(caught.value).splitlines() == [
        "No room for 1 worker with 1 CPU each (PACK) was free within placement_timeout_s=60 s.",
        "The cluster has 4 CPU; free: 0 CPU. Taken by:",
        "  - train.py (pid 7 on box): 4 CPU, busy",
        "Wait for them to end, end them (trainer.end() ends a trainer's idle workers), ask for fewer workers or for "
        "less per worker (num_workers, resources_per_worker), or raise placement_timeout_s.",
    ]
    assert fake.now_s == 60
    assert all(group.is_removed for group in fake.asked)


def test_cluster_that_starts_nodes_is_waited_for_longer():
    fake = FakeRay(free=[0] * 90 + [1], grows=80, can_grow=True)
    assert wait(fake).allocation.num_workers == 1
    assert fake.now_s == 180


def test_actor_that_keeps_what_its_workers_need_is_told_at_once():
    fake = FakeRay(cores=1, free=[0])
    place = replace(HOST, own={"CPU": 1.0})
    with pytest.raises(PlacementError, match=r"can ever be free: the actor or task .* reserved 1 CPU itself"):
        wait(fake, make_args(num_workers=1, resources_per_worker={"CPU": 1}), place)
    assert fake.now_s == reservation.ROUND_S


def test_actor_in_a_cluster_that_may_grow_waits_for_it():
    fake = FakeRay(cores=1, free=[0], can_grow=True)
    place = replace(HOST, own={"CPU": 1.0})
    with pytest.raises(PlacementError, match="can ever be free"):
        wait(fake, make_args(num_workers=1, resources_per_worker={"CPU": 1}, cluster_timeout_s=20.0), place)
    assert fake.now_s == 20


def test_actor_without_free_cores_shares_its_own_with_its_workers():
    fake, notes = FakeRay(cores=2, free=[0]), []
    room = wait(fake, place=replace(HOST, own={"CPU": 2.0}), notes=notes)
    assert room.allocation.resources_per_worker == {"node:1.2.3.4": 0.001}
    assert room.allocation.num_threads == 2
    assert notes == [
        "no CPU is free for workers (num_workers=1), so they use those that the actor or task of this trainer "
        "reserved (2 CPU)"
    ]


def test_room_that_this_process_gives_back_is_waited_for(monkeypatch):
    freed = {"id"}
    monkeypatch.setattr(reservation, "_being_freed", freed)
    fake = FakeRay(free=[0, 0, 4])
    assert wait(fake).allocation.resources_per_worker == {"CPU": 4.0}
    assert len(fake.asked) == 1


def test_interrupted_wait_asks_no_more():
    fake = FakeRay(free=[0])

    def interrupt(_: Tables) -> None:
        raise KeyboardInterrupt

    fake.make_room = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        wait(fake)
    assert fake.asked[-1].is_removed
