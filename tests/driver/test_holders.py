"""Who holds what, in words, by fake tables."""

from __future__ import annotations

import os
import socket

from raytrainer.driver.holders import TrainerName, holders, new_name, read_name, unlisted
from raytrainer.driver.ray_tables import ActorRow, GroupRow, JobRow, Tables

CLUSTER = Tables(
    nodes=[{"NodeID": "a", "Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}],
    free={"a": {"CPU": 1.0}},
    groups=[
        GroupRow(id="1", name="", job="01", is_placed=True, bundles=[{"CPU": 2.0}, {"CPU": 2.0}]),
        GroupRow(
            id="2",
            name=str(TrainerName(control="raytrainer-ab12", program="train.py", pid=7, host="box")),
            job="02",
            is_placed=True,
            bundles=[{"GPU": 1.0, "CPU": 1.0}] * 2,
        ),
        GroupRow(id="3", name="mine", job="03", is_placed=False, bundles=[{"CPU": 9.0}]),
    ],
    actors=[
        ActorRow(class_name="Server", name="api", job="01", pid=5, resources={"CPU": 3.0}),
        ActorRow(class_name="Idle", name="", job="01", pid=6, resources={}),
        ActorRow(class_name="Trial", name="", job="09", pid=os.getpid(), resources={"CPU": 0.5}),
    ],
    jobs={"01": JobRow(pid=4, entrypoint="python serve.py")},
)


def test_holders_are_named_the_largest_first():
    assert holders(CLUSTER, waiting="3", idle_s={"raytrainer-ab12": 42.0}.get) == [
        "train.py (pid 7 on box): 2 x 1 CPU, 1 GPU, idle for 42 s",
        "running tasks, or what Ray's tables do not list: 5.5 CPU",
        "placement group '1' of python serve.py (pid 4): 2 x 2 CPU",
        "actor Server 'api' (pid 5) of python serve.py (pid 4): 3 CPU",
        "the actor in which this trainer runs (Trial): 0.5 CPU",
    ]


def test_trainer_that_has_a_task_is_busy():
    assert "busy" in holders(CLUSTER, waiting="3", idle_s=lambda _: None)[0]


def test_rest_is_what_no_table_lists():
    assert unlisted(CLUSTER) == {"CPU": 5.5}


def test_tables_that_could_not_be_read_name_nobody_wrongly():
    assert holders(Tables(), waiting="3", idle_s=lambda _: None) == []


def test_name_of_a_placement_group_says_whose_it_is(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/some/where/ipykernel_launcher.py"])
    name = new_name()
    assert read_name(str(name)) == name
    assert (name.program, name.pid, name.host) == ("a notebook", os.getpid(), socket.gethostname())
    assert name.is_here
    more = read_name(str(name.for_more_workers))
    assert more is not None
    assert (more.control, more.is_here) == (name.control, True)
    assert str(more) != str(name)
    assert read_name("a group of somebody else") is None
