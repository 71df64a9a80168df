"""Workers are moved off a node that is drained, with a fake Ray and a fake control actor."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from raytrainer.control.state import Update
from raytrainer.driver.capacity import Allocation
from raytrainer.driver.moving import Moving
from raytrainer.driver.ray_tables import DrainedNode, GroupRow, Tables
from raytrainer.driver.reservation import Reservation
from raytrainer.driver.room import Room
from raytrainer.runtimes.base import Command

GOES_AT_S = 1_800_000_000.0
OURS = DrainedNode(id="b", address="10.0.0.2", goes_at_s=GOES_AT_S)


def group(name: str) -> Any:
    """In place of a placement group."""
    return SimpleNamespace(id=SimpleNamespace(hex=lambda: name))


class Lab:
    """A room on nodes a and b, what is asked of the workers, and a clock."""

    def __init__(self, *, is_own: bool = True) -> None:
        self.drained: list[DrainedNode] = []
        self.now_s = 0.0
        self.notes: list[str] = []
        self.commands: list[Command] = []
        self.rooms: list[str] = []
        self.given_up: list[str] = []
        self.has_room = False
        allocation = Allocation(num_workers=2, use_gpu=False, resources_per_worker={"CPU": 1.0})
        self.reservation = Reservation(Room(group=group("old")), allocation)
        self.reservation.is_own = is_own
        self.moving = Moving(
            self.reservation,
            self,
            self,
            read_drained=lambda: self.drained,
            show=lambda note: self.notes.append(note.text),
            clock=lambda: self.now_s,
        )

    def send_command(self, command: Command) -> None:
        self.commands.append(command)

    def set_room(self, room: Room) -> None:
        self.rooms.append(room.id)

    def begin(self, allocation: Allocation) -> Any:
        assert allocation == self.reservation.allocation
        return group("new")

    def is_there(self, timeout_s: float) -> bool:
        assert timeout_s == 0.0, "the driver's thread also waits for Ctrl-C"
        return self.has_room

    def cancel(self, given_up: Any) -> None:
        self.given_up.append(given_up.id.hex())

    def tables(self) -> Tables:
        row = GroupRow(id="old", name="", job="01", is_placed=True, bundles=[{}, {}], nodes=["a", "b"])
        return Tables(groups=[row])

    def make_room(self, tables: Tables) -> None:
        raise AssertionError

    def holders(self, tables: Tables, waiting: Any) -> list[str]:
        raise AssertionError

    def look_for(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 0.2
            self.moving.look()


def test_a_drain_of_a_node_with_workers_makes_them_save_and_leave_and_is_told_once():
    lab = Lab()
    lab.look_for(5)
    assert lab.commands == []
    lab.drained = [OURS]
    lab.look_for(5)
    assert set(lab.commands) == {Command.MOVE}
    until = time.strftime("%H:%M:%S", time.localtime(GOES_AT_S))
    assert lab.notes == [
        f"Node 10.0.0.2, where workers run, is drained until {until}. Training saves after its current step, and goes "
        "on elsewhere."
    ]


def test_a_drain_without_a_deadline_names_none():
    lab = Lab()
    lab.drained = [DrainedNode(id="b", address="10.0.0.2", goes_at_s=0.0)]
    lab.look_for(2)
    (note,) = lab.notes
    assert note.startswith("Node 10.0.0.2, where workers run, is drained. ")


def test_a_drain_of_another_node_changes_nothing():
    lab = Lab()
    lab.drained = [DrainedNode(id="c", address="10.0.0.3", goes_at_s=GOES_AT_S)]
    lab.look_for(5)
    assert lab.commands == []
    assert lab.notes == []


def test_workers_that_left_get_another_room_when_it_is_there():
    lab = Lab()
    lab.moving.follow(Update(attempt=0, needs_room=True))
    lab.moving.follow(Update(attempt=0, needs_room=True))
    assert lab.given_up == ["old"]
    lab.look_for(30)
    assert lab.rooms == []
    lab.has_room = True
    lab.look_for(1)
    assert lab.rooms == ["new"]
    assert lab.reservation.room.id == "new", "the room that is watched, and given back in the end"


def test_a_room_that_is_borrowed_is_kept():
    lab = Lab(is_own=False)
    lab.drained = [OURS]
    lab.look_for(5)
    assert lab.commands == []
    lab.moving.follow(Update(attempt=0, needs_room=True))
    assert lab.given_up == []
    assert lab.rooms == ["old"]
