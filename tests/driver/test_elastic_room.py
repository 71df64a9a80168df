"""The number of workers follows the room in a cluster, with a model of Ray and of the workers."""

from __future__ import annotations

from typing import Any

import pytest

from raytrainer.control.state import Update
from raytrainer.driver.capacity import plan_workers
from raytrainer.driver.elastic_room import ElasticRoom
from raytrainer.driver.ray_tables import DrainedNode, GroupRow, Tables
from raytrainer.driver.reservation import Place, reserve
from raytrainer.errors import PlacementError
from raytrainer.runtimes.base import Command
from raytrainer.telemetry.events import Note, StepDone, TrainEnded, TrainStarted
from tests.driver.test_capacity import make_args, node

HOST = Place(node="head", resource="node:1.2.3.4", own={})


class Group:
    """A placement group."""

    def __init__(self, name: str, bundles: list[dict[str, float]]) -> None:
        self.name, self.bundles = name, bundles
        self.nodes: list[str] = []
        self.was_asked = False

    @property
    def id(self) -> Any:
        return self

    def hex(self) -> str:
        return self.name


class Cluster:
    """Nodes with one CPU each. A placement group is placed as a whole, as soon as it fits."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.groups: list[Group] = []
        self.num_made = 0
        self.drained: list[str] = []

    def free(self) -> list[str]:
        taken = [place for group in self.groups for place in group.nodes]
        return [name for name in self.names if name not in (*taken, *self.drained)]

    def begin(self, bundles: list[dict[str, float]]) -> Group:
        self.num_made += 1
        group = Group(str(self.num_made), bundles)
        self.groups.append(group)
        self.place()
        return group

    def place(self) -> None:
        for group in self.groups:
            if not group.nodes and len(self.free()) >= len(group.bundles):
                group.nodes = self.free()[: len(group.bundles)]

    def kill(self, name: str) -> None:
        self.names.remove(name)
        for group in self.groups:
            if name in group.nodes:
                group.nodes = []

    def tables(self) -> Tables:
        self.place()
        return Tables(
            nodes=[{**node(cpu=1), "NodeID": name} for name in self.names if name not in self.drained],
            free={name: {"CPU": 1.0} for name in self.free()},
            groups=[
                GroupRow(
                    id=group.name,
                    name="",
                    job="01",
                    is_placed=bool(group.nodes),
                    bundles=group.bundles,
                    nodes=group.nodes,
                )
                for group in self.groups
            ],
            can_grow=False,
        )


class FakeView:
    """One user of the cluster."""

    def __init__(self, cluster: Cluster, lab: Lab) -> None:
        self.cluster, self.lab = cluster, lab
        self.group: Group | None = None

    def begin(self, allocation: Any) -> Any:
        self.group = self.cluster.begin([dict(allocation.resources_per_worker)] * allocation.num_workers)
        return self.group

    def is_there(self, timeout_s: float) -> bool:
        assert self.group is not None
        self.cluster.place()
        if not self.group.nodes:
            self.lab.now_s += timeout_s
        if not self.group.was_asked and timeout_s == 0.0:
            self.group.was_asked = True
            return False  # Ray answers by a task, which takes a moment to start.
        return bool(self.group.nodes)

    def cancel(self, group: Any) -> None:
        if group in self.cluster.groups:
            self.cluster.groups.remove(group)

    def tables(self) -> Tables:
        return self.cluster.tables()

    def make_room(self, tables: Tables) -> None:
        pass

    def holders(self, tables: Tables, waiting: Any) -> list[str]:
        return ["someone"]


class Lab:
    """A run, its cluster and a clock. The workers do a step each second, and leave when they are asked to."""

    def __init__(self, *names: str, workers: Any = (1, 2), steps: int = 10_000, **options: Any) -> None:
        self.cluster = Cluster(*names)
        self.now_s, self.steps, self.step, self.attempt = 0.0, steps, 0, 0
        self.notes: list[str] = []
        self.room: Any = None
        self.commands: list[Command] = []
        self.trains = False
        self.leaves = True
        self.args = make_args(num_workers=workers, resources_per_worker={"CPU": 1.0}, **options)
        view = FakeView(self.cluster, self)
        whole = plan_workers(self.args, self.cluster.tables().nodes)
        self.reservation = reserve(self.args, whole, view, HOST, show=self.show, clock=self.clock)
        self.elastic = ElasticRoom(
            self.args,
            self.reservation,
            self,
            view,
            more=FakeView(self.cluster, self),
            read_drained=lambda: [
                DrainedNode(id=name, address=name, goes_at_s=0.0) for name in self.cluster.drained
            ],
            show=self.show,
            clock=self.clock,
        )
        self.set_room(self.reservation.room)

    def clock(self) -> float:
        return self.now_s

    def show(self, note: Any) -> None:
        assert isinstance(note, Note)
        self.notes.append(note.text)

    # ---- the control actor --------------------------------------------------------------------------------------

    def send_command(self, command: Command) -> None:
        self.commands.append(command)

    def set_room(self, room: Any) -> None:
        self.room = room

    # ---- time passes --------------------------------------------------------------------------------------------

    def run_until(self, now_s: float) -> None:
        while self.now_s < now_s:
            self.now_s += 1.0
            self.tick()

    def tick(self) -> None:
        events: list[object] = []
        is_placed = self.room is not None and bool(self.room.group.nodes)
        has_left = False
        if is_placed and self.commands and self.leaves:
            self.commands.clear()
            self.trains, self.room, has_left = False, None, True
        elif is_placed and not self.trains:
            self.trains = True
            self.attempt += 1
            events.append(
                TrainStarted(
                    max_steps=self.steps, first_step=self.step, num_epochs=1, attempt=self.attempt, rows=[]
                )
            )
        elif is_placed:
            self.step += 1
            left = float(self.steps - self.step)
            events.append(
                StepDone(step=self.step, max_steps=self.steps, epoch=0.0, samples_per_s=[], eta_s=left)
            )
        else:
            self.trains = False
        self.elastic.follow(Update(events=events, attempt=self.attempt, needs_room=has_left))
        self.elastic.look()

    @property
    def size(self) -> int | None:
        """How many workers Ray Train is to start."""
        return None if self.room is None else self.room.num_workers

    def kill(self, name: str) -> None:
        self.cluster.kill(name)


def test_cluster_with_room_for_all_is_used_at_once_and_looked_at_quietly():
    lab = Lab("a", "b")
    lab.run_until(100)
    assert (lab.size, lab.notes, lab.commands) == (2, [], [])


def test_run_begins_with_fewer_workers_after_the_time_and_says_what_it_waited_for():
    lab = Lab("a")
    assert (lab.size, lab.now_s) == (1, 20)
    assert lab.notes[0].startswith(
        "waiting for 2 workers with 1 CPU each (PACK), for 6 s; after 20 s as many are taken as have room, at least 1."
    )
    assert lab.notes[-1] == (
        "no room for 2 workers with 1 CPU each came within 20 s (elastic_timeout_s): training on 1, in batches of the "
        "same size, until there is more"
    )


def test_run_begins_with_as_many_workers_as_there_is_room_for():
    assert Lab("a", "b", workers=(1, 3)).size == 2


def test_node_that_is_lost_is_waited_for_and_then_gone_without():
    lab = Lab("a", "b")
    lab.run_until(30)
    lab.kill("b")
    lab.run_until(33)
    assert lab.size is None
    lab.run_until(50)
    assert lab.size is None, "a replacement may still come"
    lab.run_until(60)
    assert lab.size == 1
    assert lab.notes[-2].startswith("no room for 2 workers")
    assert lab.notes[-1] == "resized 2 -> 1 workers at step 29"


def test_what_is_waited_for_is_as_many_as_before():
    lab = Lab("a", "b", "c", workers=(1, 4))
    lab.run_until(30)
    lab.kill("c")
    lab.run_until(60)
    assert lab.size == 2
    assert lab.notes[-2].startswith("no room for 3 workers")


def test_replacement_that_comes_in_time_keeps_the_number():
    lab = Lab("a", "b")
    lab.run_until(30)
    lab.kill("b")
    lab.run_until(40)
    lab.cluster.names.append("c")
    lab.run_until(45)
    assert lab.size == 2
    assert not [note for note in lab.notes if "resized" in note or "no room" in note]


def test_below_the_least_number_it_waits_as_long_as_any_run():
    lab = Lab("a", "b", "c", workers=(2, 3))
    lab.run_until(30)
    lab.kill("b")
    lab.kill("c")
    with pytest.raises(PlacementError, match="No room for 2 workers"):
        lab.run_until(200)
    assert 90 <= lab.now_s <= 95, "60 s of placement_timeout_s after the loss"


def test_drained_node_that_nothing_replaces_is_gone_without():
    lab = Lab("a", "b")
    lab.run_until(30)
    lab.cluster.drained.append("b")
    lab.run_until(33)
    assert (lab.size, lab.step) == (None, 30), "the ranks have left"
    lab.run_until(60)
    assert lab.size == 1
    assert lab.notes[-1] == "resized 2 -> 1 workers at step 30"


def test_node_that_joins_is_used_at_a_step_boundary():
    lab = Lab("a")
    lab.run_until(50)
    lab.cluster.names.append("b")
    lab.run_until(60)
    assert lab.size == 2
    assert (
        "there is room for 2 workers: training saves after its current step, and goes on with them"
        in lab.notes
    )
    assert lab.notes[-1] == "resized 1 -> 2 workers at step 33"
    assert len(lab.cluster.groups) == 1, "what was kept for the second worker was given back"


def test_run_grows_by_as_many_as_there_is_room_for():
    lab = Lab("a", workers=(1, 4))
    lab.run_until(50)
    lab.cluster.names += ["b", "c"]
    lab.run_until(60)
    assert lab.size == 3
    lab.cluster.names += ["d", "e"]
    lab.run_until(100)
    assert (lab.size, lab.cluster.free()) == (4, ["e"])


@pytest.mark.parametrize("when", ["too soon", "too late", "others wait"])
def test_run_does_not_grow_when_it_does_not_pay(when: str):
    lab = Lab("a", steps=10 if when == "too late" else 10_000)
    lab.run_until(22 if when == "too soon" else 60)
    lab.cluster.names.append("b")
    if when == "others wait":
        lab.cluster.begin([{"CPU": 1.0}, {"CPU": 1.0}])
    lab.run_until(lab.now_s + (15 if when == "too soon" else 60))
    assert (lab.size, lab.commands, len(lab.cluster.free())) == (1, [], 1)


def test_node_that_comes_and_goes_does_not_keep_a_run_from_training():
    lab = Lab("a")
    for _ in range(20):
        lab.cluster.names.append("b")
        lab.run_until(lab.now_s + 10)
        lab.kill("b")
        lab.run_until(lab.now_s + 10)
    assert len([note for note in lab.notes if "resized" in note]) <= 400 / 20
    assert lab.step > 100


def test_room_is_kept_while_the_ranks_save_and_given_back_when_training_ends_first():
    lab = Lab("a")
    lab.leaves = False  # a long save
    lab.run_until(50)
    lab.cluster.names.append("b")
    lab.run_until(60)
    assert set(lab.commands) == {Command.MOVE}
    assert lab.cluster.free() == [], "nobody else takes it meanwhile"
    lab.elastic.follow(Update(events=[TrainEnded(step=9)], result=object()))  # pyright: ignore[reportArgumentType]
    assert lab.cluster.free() == ["b"]
    assert lab.size == 1


def test_room_that_is_kept_for_more_workers_is_given_back_with_the_rest(monkeypatch: pytest.MonkeyPatch):
    lab = Lab("a")
    lab.leaves = False
    lab.run_until(50)
    lab.cluster.names.append("b")
    lab.run_until(60)
    monkeypatch.setattr("raytrainer.driver.reservation.remove", lab.cluster.groups.remove)
    lab.reservation.release()
    assert lab.cluster.free() == ["a", "b"]


def test_an_update_that_is_late_does_not_give_up_the_new_room():
    lab = Lab("a")
    lab.run_until(50)
    lab.cluster.names.append("b")
    lab.run_until(53)
    attempt = lab.attempt
    lab.run_until(60)
    assert lab.size == 2
    room = lab.room
    lab.elastic.follow(Update(attempt=attempt, needs_room=True))
    assert lab.room is room
    assert room.group.nodes == ["a", "b"]


def test_strictly_spread_workers_grow_onto_other_nodes_alone():
    lab = Lab("a", placement_strategy="STRICT_SPREAD")
    lab.run_until(50)
    lab.cluster.names.append("b")
    lab.run_until(60)
    assert lab.size == 2
