"""A node is lost while workers run there, with fake tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raytrainer.driver.capacity import Allocation
from raytrainer.driver.lost_room import LostRoom
from raytrainer.driver.ray_tables import GroupRow, Tables
from raytrainer.errors import PlacementError
from tests.driver.test_capacity import make_args, node


class Lab:
    """A room, tables that say whether it is placed, and a clock."""

    def __init__(self) -> None:
        self.is_placed = True
        self.now_s = 0.0
        self.num_reads = 0
        self.notes: list[str] = []
        reservation: Any = SimpleNamespace(
            room=SimpleNamespace(id="1"),
            allocation=Allocation(num_workers=2, use_gpu=False, resources_per_worker={"CPU": 1.0}),
        )
        self.lost = LostRoom(
            make_args(placement_timeout_s=30.0),
            reservation,
            read_tables=self.tables,
            holders_of=lambda _: ["train.py (pid 7 on box): 2 CPU, busy"],
            show=lambda note: self.notes.append(note.text),
            clock=lambda: self.now_s,
        )

    def tables(self) -> Tables:
        self.num_reads += 1
        row = GroupRow(id="1", name="", job="01", is_placed=self.is_placed, bundles=[{"CPU": 1.0}] * 2)
        return Tables(nodes=[node(cpu=2)], groups=[row])

    def look_until(self, now_s: float) -> None:
        while self.now_s < now_s:
            self.now_s += 1.0
            self.lost.look()


def test_room_that_is_there_costs_a_look_now_and_then():
    lab = Lab()
    lab.look_until(50)
    assert lab.num_reads == 10
    assert lab.notes == []


def test_room_that_is_lost_is_waited_for_with_notes_and_in_the_end_an_error():
    lab = Lab()
    lab.look_until(50)
    lab.is_placed = False
    with pytest.raises(PlacementError, match=r"train\.py"):
        lab.look_until(200)
    assert lab.now_s == 85
    assert [note[:19] for note in lab.notes] == ["waiting for 2 worke"]


def test_each_loss_has_its_own_time():
    lab = Lab()
    for _ in range(3):
        lab.is_placed = False
        lab.look_until(lab.now_s + 25)
        lab.is_placed = True
        lab.look_until(lab.now_s + 10)
    assert len(lab.notes) == 3
